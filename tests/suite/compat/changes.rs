//! What a call is changed into on its way to WeChat, and who may send one.

use reqwest::Method;
use serde_json::{Value, json};
use wxtoken::wechat::sandbox::CallKind;

use super::{APPID, Shop, refused};
use crate::support::api::{Api, Reply};
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::Server;
use crate::support::sandbox::{SECRET, TestSandbox};

#[tokio::test]
async fn a_call_keeps_its_method_query_headers_and_body() {
    let shop = Shop::open().await;
    let token = shop.token().await;
    for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let path = format!("//cgi-bin//echo/a_b-c.json?x=%E4%B8%AD+1&access_token={token}&y=&z=a%26b");
        let request = shop.admin.keyless(method.clone(), &path).body("{\"a\": 1.10}\u{4e2d}");
        let request =
            request.header("content-type", "application/json").header("x-custom", "1").header("x-custom", "2");
        let request = request.header("accept-encoding", "gzip").header("user-agent", "SDK/1").header("te", "trailers");
        let reply = Reply::of(request).await.expect_status(200);
        let seen = &reply.body;
        assert_eq!(seen["method"], method.as_str());
        assert_eq!(seen["path"], "/cgi-bin/echo/a_b-c.json");
        assert_eq!(seen["query"], format!("x=%E4%B8%AD+1&access_token={token}&y=&z=a%26b"));
        assert_eq!(seen["body"], "{\"a\": 1.10}\u{4e2d}");
        let headers = &seen["headers"];
        assert_eq!((&headers["content-type"], &headers["user-agent"]), (&json!("application/json"), &json!("SDK/1")));
        assert!(headers["x-custom"].to_string().contains('2'), "{headers}");
        assert_eq!(headers["accept-encoding"], "identity");
        assert_eq!((&headers["te"], &headers["connection"]), (&Value::Null, &Value::Null));
        assert!(shop.sandbox.url().ends_with(headers["host"].as_str().expect("a host")));
        assert_eq!((reply.header("x-wxtoken-version"), reply.header("x-wxtoken-retried")), ("1", "false"));
    }
}

#[tokio::test]
async fn the_token_before_the_present_one_is_replaced_and_any_other_refused() {
    let shop = Shop::open().await;
    let oldest = shop.token().await;
    for version in ["2", "3"] {
        let previous = shop.admin.token(APPID, "access_token").await.body["value"].as_str().expect("text").to_owned();
        shop.admin.refresh(APPID, "access_token", true).await.expect_status(200);
        let present = shop.admin.token(APPID, "access_token").await.body["value"].as_str().expect("text").to_owned();
        let reply = shop.get(&format!("/cgi-bin/echo/x?access_token={previous}")).await;
        assert_eq!(reply.body["query"], format!("access_token={present}"), "{}", reply.text);
        assert_eq!(reply.header("x-wxtoken-version"), version);
    }
    refused(&shop.get(&format!("/cgi-bin/echo/x?access_token={oldest}")).await, 40_001, "invalid credential");
    assert!(shop.calls_of(CallKind::Probe).is_empty(), "a stale token is no reason to ask WeChat");
}

#[tokio::test]
async fn a_virtual_secret_becomes_the_real_one_wherever_it_stands() {
    let shop = Shop::open().await;
    let key = &shop.key;
    let codes = format!("appid={APPID}&secret={key}&js_code=c1&grant_type=authorization_code");
    let session = shop.get(&format!("/sns/jscode2session?{codes}")).await;
    assert!(session.body["openid"].is_string(), "{}", session.text);
    let oauth = format!("secret={key}&appid={APPID}&code=c1&grant_type=authorization_code");
    let user = shop.get(&format!("/sns/oauth2/access_token?{oauth}")).await;
    let user_token = user.body["access_token"].as_str().unwrap_or_else(|| panic!("{}", user.text));
    let openid = user.body["openid"].as_str().expect("an openid");
    let info = shop.get(&format!("/sns/userinfo?access_token={user_token}&openid={openid}")).await;
    assert_eq!(info.body["openid"], openid, "a user's token passes as it is: {}", info.text);
    assert_eq!(info.header("x-wxtoken-version"), "");
    let renewal = user.body["refresh_token"].as_str().expect("a token");
    let renewal = format!("appid={APPID}&grant_type=refresh_token&refresh_token={renewal}");
    let renewed = shop.get(&format!("/sns/oauth2/refresh_token?{renewal}")).await;
    assert!(renewed.body["access_token"].is_string(), "{}", renewed.text);
    for (path, body) in [
        ("/cgi-bin/clear_quota/v2", json!({ "appid": APPID, "appsecret": key }).to_string()),
        ("/cgi-bin/clear_quota/v2", format!(" {{\n \"appsecret\": \"{key}\",\n \"appid\": \"{APPID}\" }}")),
        (&format!("/cgi-bin/clear_quota/v2?appid={APPID}&appsecret={key}"), String::new()),
    ] {
        let reply = shop.post(path, body).await;
        assert_eq!(reply.body["errcode"], 0, "{}", reply.text);
    }
    let bearer = shop.admin.with_key(key);
    let session = bearer.get(&format!("/wx/{APPID}/sns/jscode2session?js_code=c2&grant_type=authorization_code")).await;
    assert!(session.body["openid"].is_string(), "{}", session.text);
    assert!(!shop.server.output().contains(SECRET));
}

#[tokio::test]
async fn a_path_with_the_account_needs_no_token() {
    let shop = Shop::open().await;
    let present = shop.token().await;
    let bearer = shop.admin.with_key(&shop.key);
    let reply = bearer.get(&format!("/wx/{APPID}/cgi-bin/echo/x?a=1")).await;
    assert_eq!(reply.body["query"], format!("a=1&access_token={present}"), "{}", reply.text);
    assert_eq!(reply.body["headers"]["authorization"], Value::Null, "our key stays here");
    let reply = bearer.get(&format!("/wx/{APPID}/cgi-bin/echo/x?access_token={present}")).await;
    assert_eq!(reply.body["query"], format!("access_token={present}"));
    let given = bearer.get(&format!("/wx/{APPID}/cgi-bin/echo/x?access_token=foreign")).await;
    refused(&given, 40_001, "invalid credential");
    refused(&shop.get(&format!("/wx/{APPID}/cgi-bin/echo/x")).await, 41_001, "access_token missing");
    refused(&shop.admin.with_key("wxt_s_no").get(&format!("/wx/{APPID}/cgi-bin/echo/x")).await, 40_001, "invalid cred");
    refused(&bearer.get("/wx/wxother/cgi-bin/echo/x").await, 40_013, "invalid appid");
}

#[tokio::test]
async fn what_shows_nothing_of_ours_goes_nowhere() {
    let shop = Shop::open().await;
    shop.token().await;
    let before = shop.sandbox.sandbox.log(0, None).len();
    let key = &shop.key;
    for (path, errcode) in [
        ("/cgi-bin/menu/get", 41_001),
        ("/cgi-bin/menu/get?access_token=84_somebody_elses", 40_001),
        ("/cgi-bin/menu/get?access_token=", 40_001),
        ("/sns/jscode2session?appid=wxforeign&secret=0123456789abcdef0123456789abcdef&js_code=x", 40_125),
        ("/sns/oauth2/refresh_token?appid=wxforeign&refresh_token=x", 40_013),
        (&format!("/sns/jscode2session?appid=wxforeign&secret={key}&js_code=x"), 40_013),
        (&format!("/sns/jscode2session?secret={key}&js_code=x"), 41_002),
        (&format!("/cgi-bin/component/api_component_token?appid={APPID}"), 41_001),
    ] {
        refused(&shop.get(path).await, errcode, "");
    }
    let foreign = json!({ "appid": "wxforeign", "appsecret": "0123456789abcdef0123456789abcdef" }).to_string();
    refused(&shop.post("/cgi-bin/clear_quota/v2", foreign).await, 40_125, "invalid appsecret");
    assert_eq!(shop.sandbox.sandbox.log(0, None).len(), before, "WeChat heard of none of them");
}

#[tokio::test]
async fn a_key_calls_the_paths_that_its_rules_allow() {
    let shop = Shop::open().await;
    let rules = json!({ "accounts": [APPID], "allow_paths": ["/cgi-bin/echo/*", "/sns/*"], "deny_paths": ["/cgi-bin/echo/secret*"] });
    let limited = shop.admin.with_key(&shop.service_key(&rules).await);
    let may = async |path: &str| limited.get(&format!("/wx/{APPID}{path}")).await.body["errcode"] == 0;
    assert!(may("/cgi-bin/echo/a").await);
    assert!(!may("/cgi-bin/menu/get").await);
    let denied = limited.get(&format!("/wx/{APPID}/CGI-BIN/ECHO/SECRETS")).await;
    refused(&denied, 48_001, "api unauthorized");
    // A bare token could be anybody's who reaches the account: the other key may call everything.
    let token = shop.token().await;
    shop.echo(&format!("/cgi-bin/echo/secrets?access_token={token}")).await;
    let keys = shop.admin.get("/v1/keys").await.body;
    let items = keys["items"].as_array().expect("a list");
    let free =
        items.iter().find(|key| key["role"] == "service" && key["allow_paths"] == json!([])).expect("it is there");
    let id = free["id"].as_str().expect("an id");
    shop.admin.delete(&format!("/v1/keys/{id}")).await.expect_status(204);
    let denied = shop.get(&format!("/cgi-bin/echo/secrets?access_token={token}")).await;
    refused(&denied, 48_001, "api unauthorized");
    shop.echo(&format!("/cgi-bin/echo/a?access_token={token}")).await;
    let bad = json!({ "name": "x", "role": "service", "accounts": ["*"], "allow_paths": ["menu"] });
    shop.admin.post("/v1/keys", &bad).await.expect_problem(422, "invalid_field");
}

#[tokio::test]
async fn a_token_that_wechat_refuses_is_repaired_and_the_call_made_again() {
    for errcode in [40_001, 40_014, 42_001] {
        let shop = Shop::open().await;
        let token = shop.token().await;
        shop.kill();
        let (probes, mints) = shop.spent();
        // WeChat says it in one of three ways; what it says to the probe is what decides.
        let fault = json!([{ "kind": "errcode", "errcode": errcode, "calls": ["business"], "times": 1 }]);
        shop.sandbox.faults(APPID, &fault);
        let path = format!("/cgi-bin/echo/x?access_token={token}");
        let reply = shop.post(&path, "{\"n\": 1}").await;
        assert_eq!((&reply.body["errcode"], &reply.body["body"]), (&json!(0), &json!("{\"n\": 1}")), "{}", reply.text);
        assert_eq!((reply.header("x-wxtoken-version"), reply.header("x-wxtoken-retried")), ("2", "true"));
        let after = shop.spent();
        assert_eq!((after.0 - probes, after.1 - mints), (1, 1), "{errcode}");
        assert_eq!(shop.get(&path).await.header("x-wxtoken-retried"), "false");
    }
}

#[tokio::test]
async fn a_refusal_that_is_not_the_tokens_fault_goes_back_and_costs_ever_fewer_probes() {
    let shop = Shop::open().await;
    let token = shop.token().await;
    let fault = json!([{ "kind": "errcode", "errcode": 40_001, "errmsg": "no permission", "calls": ["business"], "times": 20 }]);
    shop.sandbox.faults(APPID, &fault);
    for _ in 0..20 {
        let reply = shop.get(&format!("/cgi-bin/echo/forbidden?access_token={token}")).await;
        assert_eq!((&reply.body["errcode"], reply.header("x-wxtoken-retried")), (&json!(40_001), "false"));
    }
    let (probes, mints) = shop.spent();
    assert!(probes <= 3 && mints == 1, "{probes} {mints}");
    // Another path is heard at once.
    shop.kill();
    let reply = shop.get(&format!("/cgi-bin/echo/x?access_token={token}")).await;
    assert_eq!((&reply.body["errcode"], reply.header("x-wxtoken-retried")), (&json!(0), "true"), "{}", reply.text);
}

#[tokio::test]
async fn an_answer_that_only_looks_like_a_refusal_passes_unchanged() {
    let shop = Shop::open().await;
    let token = shop.token().await;
    // The echo repeats what was sent: a text with the code in it, not a code.
    let reply = shop.post(&format!("/cgi-bin/echo/x?access_token={token}"), "{\"errcode\":40001}").await;
    assert_eq!((&reply.body["errcode"], reply.header("x-wxtoken-retried")), (&json!(0), "false"));
    assert!(shop.calls_of(CallKind::Probe).is_empty());
}

#[tokio::test]
async fn no_credential_of_ours_is_sent_to_wechat() {
    // An operator may choose an admin key that does not look like ours.
    let chosen = "correct-horse-battery-staple-0123456789";
    let database = TestDatabase::create(Kind::Sqlite).await;
    let sandbox = TestSandbox::start().await;
    let server =
        Server::builder().database(&database).wechat(sandbox.url()).env("WXTOKEN_ADMIN_KEY", chosen).start().await;
    sandbox.account(APPID, &json!({}));
    let admin = Api::new(&server.base_url(), chosen);
    admin.create_account(&json!({ "appid": APPID, "secret": SECRET })).await.expect_status(201);
    let reply = admin.get(&format!("/wx/{APPID}/cgi-bin/echo/x")).await;
    assert_eq!(reply.body["headers"]["authorization"], Value::Null, "{}", reply.text);
    let token = admin.token(APPID, "access_token").await.body["value"].as_str().expect("text").to_owned();
    refused(&admin.get(&format!("/cgi-bin/echo/x?access_token={token}")).await, 40_035, "invalid parameter");
    let key = admin.create_key(&json!({ "name": "x", "role": "service", "accounts": [APPID] })).await;
    let service = admin.with_key(&key);
    let calls = sandbox.sandbox.log(0, None).len();
    let body = json!({ "appid": APPID, "appsecret": key }).to_string();
    let quota = service.request(Method::POST, &format!("/wx/{APPID}/cgi-bin/clear_quota/v2")).body(body);
    refused(&Reply::of(quota).await, 40_035, "invalid parameter");
    let form =
        admin.keyless(Method::POST, &format!("/cgi-bin/echo/x?access_token={token}")).body(format!("a=1&secret={key}"));
    refused(&Reply::of(form).await, 40_035, "invalid parameter");
    refused(
        &Reply::of(admin.keyless(Method::GET, &format!("/sns/userinfo?access_token={key}"))).await,
        40_001,
        "invalid cred",
    );
    let hidden = format!("{{\"appid\":\"{APPID}\",\"secret\":\"\\u0077{}\",\"note\":\"{key}\"}}", &key[1..]);
    let hidden = admin.keyless(Method::POST, "/cgi-bin/echo/x").body(hidden);
    refused(&Reply::of(hidden).await, 47_001, "data format error");
    assert_eq!(sandbox.sandbox.log(0, None).len(), calls, "WeChat heard of none of them");
}

#[tokio::test]
async fn nothing_that_might_mint_is_passed_on() {
    let shop = Shop::open().await;
    shop.token().await;
    let calls = shop.sandbox.sandbox.log(0, None).len();
    let query = format!("appid={APPID}&secret={}", shop.key);
    for path in ["/cgi-bin/token/x", "/cgi-bin/token,", "/cgi-bin/stable_token/x", "/cgi-bin/Token.json"] {
        refused(&shop.get(&format!("{path}?grant_type=client_credential&{query}")).await, 40_066, "invalid url");
    }
    let elsewhere = shop.get(&format!("/cgi-bin/gettoken?grant_type=client_credential&{query}")).await;
    refused(&elsewhere, 40_066, "invalid url");
    let body = json!({ "grant_type": "client_credential", "appid": APPID, "secret": shop.key }).to_string();
    refused(&shop.post("/cgi-bin/gettoken", body).await, 40_066, "invalid url");
    let traced = shop.admin.with_key(&shop.key).request(Method::TRACE, &format!("/wx/{APPID}/cgi-bin/echo/x"));
    refused(&Reply::of(traced).await, 40_035, "invalid parameter");
    assert_eq!(shop.sandbox.sandbox.log(0, None).len(), calls, "WeChat heard of none of them");
}

#[tokio::test]
async fn rules_hold_for_tickets_slashes_and_after_a_revocation() {
    let shop = Shop::with(&json!({ "token_types": ["jsapi_ticket"] }), |server| server).await;
    let token = shop.token().await;
    let keys = shop.admin.get("/v1/keys").await.body;
    let free =
        keys["items"].as_array().expect("a list").iter().find(|key| key["role"] == "service").expect("it is there");
    let rules = json!({ "name": "x", "role": "service", "accounts": [APPID], "deny_paths": ["/cgi-bin/menu/delete", "/cgi-bin/ticket/*"] });
    let made = shop.admin.post("/v1/keys", &rules).await.expect_status(201).body;
    let limited = shop.admin.with_key(made["key"].as_str().expect("shown once"));
    refused(&limited.get(&format!("/wx/{APPID}/cgi-bin/menu/delete/")).await, 48_001, "api unauthorized");
    refused(
        &limited.get(&format!("/wx/{APPID}/cgi-bin/ticket/getticket?type=jsapi")).await,
        48_001,
        "api unauthorized",
    );
    shop.admin.delete(&format!("/v1/keys/{}", free["id"].as_str().expect("an id"))).await.expect_status(204);
    let ticket = format!("/cgi-bin/ticket/getticket?type=jsapi&access_token={token}");
    refused(&shop.get(&ticket).await, 48_001, "api unauthorized");
    // A token does not open more when the key that it was given to is gone.
    shop.admin.delete(&format!("/v1/keys/{}", made["id"].as_str().expect("an id"))).await.expect_status(204);
    refused(&shop.get(&format!("/cgi-bin/menu/delete?access_token={token}")).await, 48_001, "api unauthorized");
}

#[tokio::test]
async fn a_token_that_another_instance_has_just_fetched_is_ours() {
    let database = TestDatabase::create(Kind::Postgres).await;
    let sandbox = TestSandbox::start().await;
    let start = async || {
        Server::builder().database(&database).wechat(sandbox.url()).env("WXTOKEN_FORCED_GAP", "1s").start().await
    };
    let (one, other) = (start().await, start().await);
    sandbox.account(APPID, &json!({ "force_gap_seconds": 1 }));
    one.admin().create_account(&json!({ "appid": APPID, "secret": SECRET })).await.expect_status(201);
    for _ in 0..3 {
        // The gap between two forced refreshes has to be over.
        let refreshed = crate::support::wait::eventually(super::BOUND, "a new token", async || {
            let reply = one.admin().refresh(APPID, "access_token", true).await;
            (reply.status == 200).then_some(reply.body)
        })
        .await;
        let value = refreshed["token"]["value"].as_str().expect("text");
        let path = format!("/cgi-bin/echo/x?access_token={value}");
        let reply = Reply::of(other.admin().keyless(Method::GET, &path)).await;
        assert_eq!(reply.body["errcode"], 0, "{}", reply.text);
    }
    let unknown = Reply::of(other.admin().keyless(Method::GET, "/cgi-bin/echo/x?access_token=nobodys")).await;
    refused(&unknown, 40_001, "invalid credential");
}

#[tokio::test]
async fn a_token_that_another_instance_replaced_meanwhile_is_put_in_without_a_question() {
    let database = TestDatabase::create(Kind::Postgres).await;
    let sandbox = TestSandbox::start().await;
    let start = async || {
        Server::builder().database(&database).wechat(sandbox.url()).env("WXTOKEN_FORCED_GAP", "1s").start().await
    };
    let (one, other) = (start().await, start().await);
    sandbox.account(APPID, &json!({ "force_gap_seconds": 1 }));
    one.admin().create_account(&json!({ "appid": APPID, "secret": SECRET })).await.expect_status(201);
    let first = one.admin().token(APPID, "access_token").await.body["value"].as_str().expect("text").to_owned();
    let path = format!("/cgi-bin/echo/x?access_token={first}");
    let call = || Reply::of(one.admin().keyless(Method::GET, &path));
    // This path has been refused for other reasons, so that its hints are not followed up for a while.
    sandbox.faults(APPID, &json!([{ "kind": "errcode", "errcode": 40_001, "calls": ["business"] }]));
    crate::support::wait::eventually(super::BOUND, "a pause of four seconds, after three questions", async || {
        assert_eq!(call().await.body["errcode"], 40_001);
        (sandbox.witness(APPID, "access_token").probes == 3).then_some(())
    })
    .await;
    sandbox.kill(APPID, wxtoken::wechat::sandbox::Line::Stable);
    sandbox.faults(APPID, &json!([{ "kind": "slow", "calls": ["business"], "times": 1, "ms": 1_500 }]));
    let replaced = async {
        // The call must be under way with the dead token first.
        crate::support::wait::eventually(super::BOUND, "the slow call", async || {
            sandbox.calls(APPID).iter().any(|entry| entry.ended_ms.is_none()).then_some(())
        })
        .await;
        other.admin().report(APPID, "access_token", &first).await.expect_status(200)
    };
    let (reply, report) = tokio::join!(call(), replaced);
    assert_eq!(report.body["verdict"], "replaced");
    assert_eq!((&reply.body["errcode"], reply.header("x-wxtoken-retried")), (&json!(0), "true"), "{}", reply.text);
}
