//! Reading, reporting and refreshing tokens.

use reqwest::Method;
use serde_json::{Value, json};
use wxtoken::wechat::sandbox::Line;

use super::{House, assert_wait, is_time, members, text};
use crate::support::api::Reply;

const TOKEN: [&str; 7] = ["appid", "expires_at", "expires_in", "fingerprint", "token_type", "value", "version"];
const PATH: &str = "/v1/accounts/wx1/tokens/access_token";

fn assert_is_token(token: &Value, token_type: &str) {
    assert_eq!(members(token), TOKEN);
    assert_eq!((&token["appid"], &token["token_type"]), (&json!("wx1"), &json!(token_type)));
    assert!(token["value"].is_string() && token["version"].is_u64() && is_time(&token["expires_at"]), "{token}");
    assert!(token["expires_in"].as_u64().is_some_and(|left| left <= 7_200), "{token}");
    let fingerprint = text(&token["fingerprint"]);
    assert!(fingerprint.len() == 16 && !text(&token["value"]).contains(&fingerprint), "{token}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_its_members_and_headers_on_every_way() {
    let house = House::open().await;
    house.register("wx1", json!({ "token_types": ["jsapi_ticket"] })).await;
    for token_type in ["access_token", "jsapi_ticket"] {
        let path = format!("/v1/accounts/wx1/tokens/{token_type}");
        for path in [&path, &format!("{path}?min_ttl=1"), &path] {
            let reply = house.admin.get(path).await.expect_status(200);
            assert_is_token(&reply.body, token_type);
            assert!(house.sandbox.accepts(&text(&reply.body["value"])));
            assert_eq!(reply.header("content-type"), "application/json");
            assert_eq!(reply.header("cache-control"), "no-store");
            let tag = format!("\"{}-{}\"", reply.body["version"], text(&reply.body["fingerprint"]));
            assert_eq!(reply.header("etag"), tag);
            let head = Reply::of(house.admin.request(Method::HEAD, path)).await.expect_status(200);
            assert_eq!((head.text.as_str(), head.header("etag")), ("", tag.as_str()));
            for known in [&tag, &format!("W/{tag}"), &format!("\"x\", {tag}")] {
                let request = house.admin.request(Method::GET, path).header("if-none-match", known);
                let known = Reply::of(request).await.expect_status(304);
                assert_eq!((known.text.as_str(), known.header("etag")), ("", tag.as_str()));
                assert_eq!(known.header("cache-control"), "no-store");
            }
            let request = house.admin.request(Method::GET, path).header("if-none-match", "\"0-0\"");
            Reply::of(request).await.expect_status(200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_says_why() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    house.admin.token("wx1", "jsapi_ticket").await.expect_problem(404, "token_type_not_kept");
    house.admin.token("wx1", "access_tokens").await.expect_problem(404, "unknown_token_type");
    house.admin.token("wx1", "ACCESS_TOKEN").await.expect_problem(404, "unknown_token_type");
    house.admin.token("wx2", "access_token").await.expect_problem(404, "unknown_account");
    house.admin.token("WX1", "access_token").await.expect_problem(404, "unknown_account");
    for (query, status, code) in [
        ("min_ttl=0", 422, "invalid_field"),
        ("min_ttl=7201", 422, "invalid_field"),
        ("min_ttl=-1", 400, "invalid_request"),
        ("min_ttl=1e3", 400, "invalid_request"),
        ("min_ttl=", 400, "invalid_request"),
        ("min_ttl=1&min_ttl=2", 400, "invalid_request"),
        ("min_ttl=99999999999999999999999", 400, "invalid_request"),
        ("ttl=1", 400, "invalid_request"),
    ] {
        house.admin.get(&format!("{PATH}?{query}")).await.expect_problem(status, code);
    }
    house.admin.patch("/v1/accounts/wx1", &json!({ "enabled": false })).await.expect_status(200);
    house.admin.token("wx1", "access_token").await.expect_problem(409, "account_disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn min_ttl_mints_only_where_a_longer_life_is_to_be_had() {
    let house = House::open().await;
    // A life of 8 s is all overlap: every call of the stable line mints.
    house.sandbox.account("wx1", &json!({ "lifetime_seconds": 8, "overlap_seconds": 300 }));
    house.register("wx1", json!({})).await;
    let first = house.admin.token("wx1", "access_token").await.expect_status(200).body;
    let longer = super::eventually(super::BOUND, "a token with more life", async || {
        let token = house.admin.get(&format!("{PATH}?min_ttl=7200")).await.expect_status(200).body;
        (token["version"] != first["version"]).then_some(token)
    })
    .await;
    assert!(longer["expires_in"].as_u64() >= first["expires_in"].as_u64() && longer["value"] != first["value"]);
    // A stable token with two hours left has no longer one behind it, whatever is asked.
    house.register("wx2", json!({})).await;
    let value = house.value("wx2").await;
    for _ in 0..20 {
        let reply = house.admin.get("/v1/accounts/wx2/tokens/access_token?min_ttl=7200").await.expect_status(200);
        assert_eq!(reply.body["value"], value.as_str());
    }
    assert_eq!(house.sandbox.calls("wx2").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_has_one_of_three_verdicts() {
    let house = House::open().await;
    house.register("wx1", json!({ "token_types": ["jsapi_ticket"] })).await;
    let first = house.value("wx1").await;
    let report = async |value: &str, verdict: &str| {
        let reply = house.admin.report("wx1", "access_token", value).await.expect_status(200);
        assert_eq!(members(&reply.body), ["token", "verdict"]);
        assert_eq!(reply.body["verdict"], verdict, "{}", reply.text);
        assert_eq!(reply.header("cache-control"), "no-store");
        assert_is_token(&reply.body["token"], "access_token");
        text(&reply.body["token"]["value"])
    };
    assert_eq!(report("84_somebody_elses", "already_replaced").await, first);
    // It is fetched with the first value, which must live for that.
    let ticket = text(&house.admin.token("wx1", "jsapi_ticket").await.expect_status(200).body["value"]);
    house.sandbox.kill("wx1", Line::Stable);
    let second = report(&first, "replaced").await;
    assert!(second != first && house.sandbox.accepts(&second));
    assert_eq!(report(&first, "already_replaced").await, second);
    assert_eq!(report(&second, "still_valid").await, second);
    for (body, status, code) in [
        (json!({}), 400, "invalid_request"),
        (json!({ "value": 1 }), 400, "invalid_request"),
        (json!({ "value": null }), 400, "invalid_request"),
        (json!({ "value": "" }), 422, "invalid_field"),
        (json!({ "value": "a b" }), 422, "invalid_field"),
        (json!({ "value": "x".repeat(2_049) }), 422, "invalid_field"),
        (json!({ "value": "x", "why": "y" }), 400, "invalid_request"),
    ] {
        house.admin.post(&format!("{PATH}/report"), &body).await.expect_problem(status, code);
    }
    house.admin.report("wx1", "wx_card_ticket", "x").await.expect_problem(404, "token_type_not_kept");
    house.admin.report("wx2", "access_token", "x").await.expect_problem(404, "unknown_account");
    let reply = house.admin.report("wx1", "jsapi_ticket", &ticket).await.expect_status(200);
    assert_is_token(&reply.body["token"], "jsapi_ticket");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_tells_its_outcome_and_force_has_a_budget() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    let first = house.value("wx1").await;
    let path = format!("{PATH}/refresh");
    let empty = Reply::of(house.admin.request(Method::POST, &path)).await.expect_status(200);
    assert_eq!(members(&empty.body), ["outcome", "token"]);
    assert_eq!((&empty.body["outcome"], &empty.body["token"]["value"]), (&json!("unchanged"), &json!(first)));
    assert_eq!(empty.header("cache-control"), "no-store");
    house.admin.refresh("wx1", "access_token", false).await.expect_status(200);
    let forced = house.admin.refresh("wx1", "access_token", true).await.expect_status(200).body;
    assert_eq!((&forced["outcome"], &forced["token"]["version"]), (&json!("success"), &json!(2)));
    assert_is_token(&forced["token"], "access_token");
    assert_ne!(forced["token"]["value"], first.as_str());
    let calls = house.sandbox.calls("wx1").len();
    let spent = house.admin.refresh("wx1", "access_token", true).await.expect_problem(429, "budget_exhausted");
    assert_wait(spent.header("retry-after"), 30);
    assert!(is_time(&spent.body["retry_at"]), "{}", spent.text);
    assert_eq!(house.sandbox.calls("wx1").len(), calls, "no call beyond the budget");
    assert_eq!(house.value("wx1").await, text(&forced["token"]["value"]), "the good token stays");
    for body in [json!({ "force": "true" }), json!({ "force": null }), json!({ "forced": true }), json!([])] {
        house.admin.post(&path, &body).await.expect_problem(400, "invalid_request");
    }
    house.admin.refresh("wx1", "jsapi_ticket", false).await.expect_problem(404, "token_type_not_kept");
    house.admin.refresh("wx2", "access_token", false).await.expect_problem(404, "unknown_account");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_wechat_refuses_is_explained_and_keeps_the_token() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    let value = house.value("wx1").await;
    house.sandbox.account("wx1", &json!({ "state": "account_frozen" }));
    let reply = house.admin.refresh("wx1", "access_token", false).await.expect_problem(502, "refresh_failed");
    assert_eq!(members(&reply.body["upstream"]), ["errcode", "errmsg", "hint"]);
    assert_eq!(reply.body["upstream"]["errcode"], 50_007);
    assert_eq!(house.value("wx1").await, value);
    let request = house.admin.request(Method::POST, &format!("{PATH}/refresh")).header("accept-language", "zh-CN");
    let chinese = Reply::of(request).await.expect_problem(502, "refresh_failed");
    assert_ne!(chinese.body["upstream"]["hint"], reply.body["upstream"]["hint"], "hints speak the caller's language");
}
