//! Tokens and tickets in WeChat's shapes.

use reqwest::Method;
use serde_json::json;
use wxtoken::wechat::sandbox::CallKind;

use super::{APPID, Shop, access_token, refused, token_path};
use crate::support::api::Reply;
use crate::support::process::{ADMIN_KEY, Server};
use crate::support::sandbox::SECRET;

#[tokio::test]
async fn every_way_of_asking_brings_the_same_token() {
    let shop = Shop::open().await;
    let value = shop.admin.token(APPID, "access_token").await.expect_status(200).body["value"].clone();
    let key = &shop.key;
    let query = format!("grant_type=client_credential&appid={APPID}&secret={key}");
    for path in ["/cgi-bin/token", "//cgi-bin/token", "/cgi-bin//token/", "/token", "/any/prefix/token", "//token"] {
        let reply = shop.get(&format!("{path}?{query}")).await.expect_status(200);
        assert_eq!(reply.body["access_token"], value, "{path}: {}", reply.text);
        let seconds = reply.body["expires_in"].as_u64().expect("a number");
        assert!((7_100..=7_200).contains(&seconds), "{path}: {seconds}");
        assert_eq!(reply.body.as_object().expect("an object").len(), 2, "{}", reply.text);
        assert_eq!(reply.header("content-type"), "application/json; encoding=utf-8");
        assert_eq!(reply.header("cache-control"), "no-store");
    }
    let body = json!({ "grant_type": "client_credential", "appid": APPID, "secret": key });
    for path in ["/cgi-bin/stable_token", "//cgi-bin//stable_token"] {
        assert_eq!(shop.post(path, body.to_string()).await.body["access_token"], value, "{path}");
    }
    let bearer = shop.admin.with_key(key);
    for path in [format!("/wx/{APPID}/cgi-bin/token"), format!("/wx/{APPID}/cgi-bin/stable_token")] {
        assert_eq!(bearer.get(&path).await.body["access_token"], value, "{path}");
    }
    assert_eq!(shop.calls_of(CallKind::StableToken).len(), 1, "all but the first were answered from memory");
}

#[tokio::test]
async fn tickets_of_all_types_come_from_the_view() {
    let types = json!(["jsapi_ticket", "wx_card_ticket", "app_login_ticket"]);
    let shop = Shop::with(&json!({ "token_types": types }), |server| server).await;
    let token = shop.token().await;
    let bearer = shop.admin.with_key(&shop.key);
    for (kind, token_type) in [("jsapi", "jsapi_ticket"), ("wx_card", "wx_card_ticket"), ("2", "app_login_ticket")] {
        let value = shop.admin.token(APPID, token_type).await.expect_status(200).body["value"].clone();
        let calls = shop.calls_of(CallKind::Ticket).len();
        let path = format!("/cgi-bin/ticket/getticket?type={kind}");
        for reply in [
            shop.get(&format!("{path}&access_token={token}")).await,
            shop.get(&format!("/{path}&access_token={token}")).await,
            bearer.get(&format!("/wx/{APPID}{path}")).await,
        ] {
            assert_eq!((&reply.body["errcode"], &reply.body["errmsg"]), (&json!(0), &json!("ok")), "{}", reply.text);
            assert_eq!(reply.body["ticket"], value, "{kind}");
            assert!(reply.body["expires_in"].as_u64().is_some_and(|seconds| (1_500..=7_200).contains(&seconds)));
        }
        assert_eq!(shop.calls_of(CallKind::Ticket).len(), calls, "{kind}: answered from memory");
    }
    let unknown = shop.get(&format!("/cgi-bin/ticket/getticket?type=x&access_token={token}")).await;
    refused(&unknown, 40_097, "invalid args");
    refused(&shop.get("/cgi-bin/ticket/getticket?type=jsapi").await, 41_001, "access_token missing");
    refused(&shop.get("/cgi-bin/ticket/getticket?type=jsapi&access_token=x").await, 40_001, "invalid credential");
}

#[tokio::test]
async fn a_ticket_that_is_not_kept_is_wechats_to_give() {
    let shop = Shop::open().await;
    let token = shop.token().await;
    let reply = shop.get(&format!("/cgi-bin/ticket/getticket?type=jsapi&access_token={token}")).await;
    assert!(shop.sandbox.sandbox.judge(reply.body["ticket"].as_str().expect("a ticket")).accepted);
    assert_eq!(reply.header("x-wxtoken-version"), "1");
}

#[tokio::test]
async fn whoever_may_not_have_the_token_is_refused_in_wechats_words() {
    let shop = Shop::open().await;
    shop.register("wxother", &json!({})).await;
    let elsewhere = shop.service_key(&json!({ "accounts": ["wxother"] })).await;
    let powerless = shop.service_key(&json!({ "accounts": ["*"], "actions": ["history:read"] })).await;
    let made = shop.admin.post("/v1/keys", &json!({ "name": "x", "role": "service", "accounts": ["*"] })).await;
    let (id, revoked) = (made.body["id"].as_str().expect("an id"), made.body["key"].as_str().expect("a key"));
    shop.admin.delete(&format!("/v1/keys/{id}")).await.expect_status(204);
    let admin = shop.ask(ADMIN_KEY).await;
    refused(&admin, 40_125, "invalid appsecret, hint: [wxtoken: admin keys are refused here");
    refused(&shop.ask(SECRET).await, 40_125, "invalid appsecret rid:");
    refused(&shop.ask("wxt_s_nobody").await, 40_125, "invalid appsecret rid:");
    refused(&shop.ask(revoked).await, 40_125, "invalid appsecret rid:");
    refused(&shop.ask(&powerless).await, 48_001, "api unauthorized");
    // Neither answer tells whether the account exists.
    refused(&shop.ask(&elsewhere).await, 40_013, "invalid appid rid:");
    refused(&shop.get(&token_path("wxnobody", &elsewhere)).await, 40_013, "invalid appid rid:");
    refused(&shop.get(&token_path("wxnobody", SECRET)).await, 40_125, "invalid appsecret rid:");
    shop.admin.patch(&format!("/v1/accounts/{APPID}"), &json!({ "enabled": false })).await.expect_status(200);
    refused(&shop.ask(&shop.key).await, 50_002, "user limited");
}

#[tokio::test]
async fn an_account_that_wechat_refuses_is_busy_and_says_why() {
    let shop = Shop::open().await;
    shop.sandbox.account("wxwrong", &json!({ "secret": "another" }));
    shop.admin.create_account(&json!({ "appid": "wxwrong", "secret": SECRET })).await.expect_status(201);
    let key = shop.service_key(&json!({ "accounts": ["wxwrong"] })).await;
    let reply = shop.get(&token_path("wxwrong", &key)).await;
    refused(&reply, -1, "system error, hint: [wxtoken: there is no valid token");
    assert_eq!(reply.header("retry-after"), "1");
    assert!(!reply.text.contains(SECRET), "{}", reply.text);
}

#[tokio::test]
async fn our_own_paths_stay_ours() {
    let shop = Shop::open().await;
    shop.get("/livez").await.expect_status(200);
    shop.get("/nothing").await.expect_problem(404, "not_found");
    shop.get("/v1/nothing").await.expect_problem(404, "not_found");
    shop.get("/").await.expect_problem(404, "not_found");
    Reply::of(shop.admin.keyless(Method::POST, "/v1/accounts")).await.expect_problem(401, "invalid_key");
}

#[tokio::test]
async fn before_the_database_was_reached_wechat_is_busy() {
    let shop = Shop::open().await;
    let nowhere = "postgres://nobody@127.0.0.1:1/x";
    let waiting = Server::builder().env("DATABASE_URL", nowhere).start_listening().await;
    let reply = Reply::of(waiting.admin().keyless(Method::GET, &token_path(APPID, &shop.key))).await;
    refused(&reply, -1, "system error, hint: [wxtoken: the database has not been reached");
    assert_eq!(access_token(&shop.ask(&shop.key).await), shop.token().await);
}
