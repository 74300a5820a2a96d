//! `check`: one call to WeChat, and what an admin should do about its answer.

use reqwest::Method;
use serde_json::{Value, json};

use super::{House, members};
use crate::support::api::Reply;
use crate::support::database::{Kind, TestDatabase};
use crate::support::sandbox::SECRET;

impl House {
    async fn check(&self, appid: &str) -> Value {
        let path = format!("/v1/accounts/{appid}/check");
        let reply = Reply::of(self.admin.request(Method::POST, &path)).await.expect_status(200);
        assert_eq!(reply.header("cache-control"), "no-store");
        assert!(reply.body["latency_ms"].is_u64() && reply.body["ok"].is_boolean(), "{}", reply.text);
        assert!(!reply.text.contains(SECRET));
        reply.body
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_account_passes_in_both_modes_and_keeps_its_token() {
    let house = House::open().await;
    for (appid, mode) in [("wx1", "stable"), ("wx2", "plain")] {
        house.register(appid, json!({ "mode": mode })).await;
        let value = house.value(appid).await;
        let before = house.sandbox.calls(appid).len();
        let checked = house.check(appid).await;
        assert_eq!((members(&checked), &checked["ok"]), (vec!["latency_ms", "ok"], &json!(true)), "{checked}");
        assert_eq!(house.sandbox.calls(appid).len(), before + 1, "one call");
        assert_eq!(house.value(appid).await, value, "a check ends no good token");
    }
    let unknown = house.admin.post("/v1/accounts/wx3/check", &json!({})).await;
    unknown.expect_problem(404, "unknown_account");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_named() {
    let house = House::open().await;
    house.sandbox.account("wx1", &json!({ "secret": "ffffffffffffffffffffffffffffffff" }));
    house.register("wx1", json!({})).await;
    let checked = house.check("wx1").await;
    assert_eq!((&checked["ok"], &checked["errcode"]), (&json!(false), &json!(40_125)), "{checked}");
    assert!(checked["hint"].as_str().is_some_and(|hint| hint.contains("AppSecret")), "{checked}");
    assert!(checked["egress_ip"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_allowed_is_named() {
    let house = House::open().await;
    house.sandbox.account("wx1", &json!({ "whitelist": ["10.1.2.3"] }));
    house.register("wx1", json!({})).await;
    let checked = house.check("wx1").await;
    assert_eq!((&checked["ok"], &checked["errcode"]), (&json!(false), &json!(40_164)), "{checked}");
    assert_eq!(checked["egress_ip"], "127.0.0.1", "{checked}");
    assert!(checked["hint"].as_str().is_some_and(|hint| hint.contains("127.0.0.1")), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wechat_that_cannot_be_reached_is_told_from_a_refusal() {
    let database = TestDatabase::create(Kind::Sqlite).await;
    let house = House::with(database, |server| server.wechat("http://127.0.0.1:9")).await;
    house.register("wx1", json!({})).await;
    let checked = house.check("wx1").await;
    assert_eq!((&checked["ok"], &checked["errcode"]), (&json!(false), &Value::Null), "{checked}");
    assert!(checked["hint"].is_string() && checked["egress_ip"].is_null(), "{checked}");
    assert!(checked["errmsg"].as_str().is_some_and(|errmsg| errmsg.contains("connect")), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_account_is_not_checked() {
    let house = House::open().await;
    house.register("wx1", json!({ "enabled": false })).await;
    let reply = house.admin.post("/v1/accounts/wx1/check", &json!({})).await;
    reply.expect_problem(409, "account_disabled");
    assert!(house.sandbox.calls("wx1").is_empty());
}
