//! The words for how an account is doing, through its life.

use serde_json::{Value, json};

use super::{House, is_time};
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::ServerBuilder;

fn quick(server: ServerBuilder) -> ServerBuilder {
    server.env("WXTOKEN_SCAN_INTERVAL", "100ms").env("WXTOKEN_CALL_TIMEOUT", "5s")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_goes_through_every_health_there_is() {
    let house = House::with(TestDatabase::create(Kind::Sqlite).await, quick).await;
    let short = json!({ "lifetime_seconds": 4, "overlap_seconds": 300, "latency_ms": { "min": 1_000, "max": 1_000 } });
    house.sandbox.account("wx1", &short);
    let made = house.register("wx1", json!({})).await;
    assert_eq!(made["health"], "pending", "its first call is under way");
    house.sandbox.account("wx1", &json!({ "latency_ms": { "min": 0, "max": 0 } }));
    let healthy = house.has_health("wx1", "healthy").await;
    assert!(healthy["tokens"][0]["hint"].is_null() && healthy["tokens"][0]["consecutive_failures"] == 0, "{healthy}");

    house.sandbox.faults("wx1", &json!([{ "kind": "errcode", "errcode": 50_007, "errmsg": "user is limited" }]));
    let degraded = house.has_health("wx1", "degraded").await;
    assert_explained(&degraded["tokens"][0]);
    assert!(is_time(&degraded["tokens"][0]["valid_until"]));
    house.admin.token("wx1", "access_token").await.expect_status(200);
    let down = house.has_health("wx1", "down").await;
    assert_explained(&down["tokens"][0]);
    let reply = house.admin.token("wx1", "access_token").await.expect_problem(503, "no_valid_token");
    assert_eq!(reply.body["upstream"]["errcode"], 50_007);
    super::assert_wait(reply.header("retry-after"), 3_600);
    assert!(is_time(&reply.body["retry_at"]), "{}", reply.text);

    let disabled = house.admin.patch("/v1/accounts/wx1", &json!({ "enabled": false })).await.expect_status(200);
    assert_eq!(
        (&disabled.body["health"], &disabled.body["tokens"][0]["health"]),
        (&json!("disabled"), &json!("disabled"))
    );
    house.sandbox.faults("wx1", &json!([]));
    house.admin.patch("/v1/accounts/wx1", &json!({ "enabled": true })).await.expect_status(200);
    house.has_health("wx1", "healthy").await;
}

fn assert_explained(token: &Value) {
    assert_eq!((&token["last_errcode"], &token["last_outcome"]), (&json!(50_007), &json!("failure")), "{token}");
    assert!(token["hint"].is_string() && token["last_errmsg"].is_string(), "{token}");
    assert!(token["consecutive_failures"].as_u64() >= Some(1), "{token}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_as_well_as_its_worst_token() {
    let house = House::open().await;
    let no_tickets =
        json!([{ "kind": "errcode", "errcode": 48_001, "errmsg": "api unauthorized", "calls": ["ticket"] }]);
    house.sandbox.faults("wx1", &no_tickets);
    house.register("wx1", json!({ "token_types": ["jsapi_ticket"] })).await;
    let account = house.has_health("wx1", "down").await;
    let healths: Vec<_> = account["tokens"].as_array().expect("a list").iter().map(|token| &token["health"]).collect();
    assert_eq!(healths, ["healthy", "down"]);
    house.value("wx1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn liveness_and_readiness_need_no_key() {
    let house = House::open().await;
    let nobody = house.admin.with_key("");
    for path in ["/livez", "/healthz", "/readyz"] {
        let reply = nobody.get(path).await.expect_status(200);
        assert_eq!(reply.text, "ok\n");
        nobody.post(path, &json!({})).await.expect_problem(405, "method_not_allowed");
    }
    let verbose = nobody.get("/readyz?verbose").await.expect_status(200).text;
    for line in [
        "view: ",
        "database: reachable",
        "wechat: reachable",
        "accounts: 0",
        "scheduler: ",
        "clock: ",
        "unstored: 0",
        "version: ",
    ] {
        assert!(verbose.contains(line), "{verbose}");
    }
    nobody.get("/readyz?loud").await.expect_problem(400, "invalid_request");
}
