//! Registering an account with the token that is in use now.

use std::time::Duration;

use serde_json::{Value, json};
use wxtoken::wechat::sandbox::{CallKind, Line};

use super::{BOUND, House, items, text};
use crate::support::api::Reply;
use crate::support::database::{Kind, TestDatabase, on_every_database};
use crate::support::own_server::OwnServer;
use crate::support::process::Server;
use crate::support::proxy::{Fault, Proxy};
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

/// Seconds; a token is refreshed in the last quarter of its life.
const LIFETIME: u64 = 8;

impl House {
    /// A token that somebody else has fetched for this account.
    fn foreign(&self, appid: &str, line: Line) -> String {
        self.sandbox.account(appid, &json!({ "lifetime_seconds": LIFETIME, "overlap_seconds": 2 }));
        self.sandbox.sandbox.mint_foreign(appid, line).expect("the account is there").access_token
    }

    async fn adopt(&self, appid: &str, mode: &str, value: &str) -> Reply {
        self.admin.create_account(&order(appid, mode, value)).await
    }

    /// Outcomes and triggers, oldest first.
    async fn history(&self, appid: &str) -> Vec<(String, String)> {
        let page = self.admin.refreshes(&format!("appid={appid}")).await.expect_status(200).body;
        items(&page).iter().rev().map(|row| (text(&row["outcome"]), text(&row["trigger"]))).collect()
    }

    fn calls(&self, appid: &str) -> Vec<CallKind> {
        self.sandbox.calls(appid).iter().map(|call| call.call).collect()
    }
}

fn order(appid: &str, mode: &str, value: &str) -> Value {
    let adopt = json!({ "value": value, "expires_in": LIFETIME });
    json!({ "appid": appid, "secret": SECRET, "mode": mode, "adopt": adopt })
}

fn row(outcome: &str, trigger: &str) -> (String, String) {
    (outcome.to_owned(), trigger.to_owned())
}

on_every_database! {
    async fn a_living_token_is_served_on_and_replaced_only_when_that_is_due(db: TestDatabase) {
        let house = House::on(db).await;
        let value = house.foreign("wx1", Line::Plain);
        let made = house.adopt("wx1", "plain", &value).await.expect_status(201);
        assert_eq!(made.header("location"), "/v1/accounts/wx1");
        assert_eq!((&made.body["health"], &made.body["tokens"][0]["version"]), (&json!("healthy"), &json!(1)));
        assert!(!made.text.contains(&value));
        assert_eq!(house.history("wx1").await, [row("still_valid", "manual")]);
        let refresh_at = made.body["tokens"][0]["refresh_at"].clone();
        let mut reads = 0;
        let fresh = eventually(BOUND, "the first mint", async || {
            let token = house.admin.token("wx1", "access_token").await.expect_status(200).body;
            reads += 1;
            (token["value"] != value).then_some(token)
        })
        .await;
        assert!(reads > 2, "it was served until then");
        assert_eq!((&fresh["version"], house.sandbox.accepts(&text(&fresh["value"]))), (&json!(2), true));
        let calls = house.sandbox.calls("wx1");
        assert_eq!(calls.iter().map(|call| call.call).collect::<Vec<_>>(), [CallKind::Probe, CallKind::Token]);
        let minted_at = wxtoken::domain::timestamp::Timestamp::from_millis(calls[1].at_ms).to_rfc3339();
        assert!(minted_at >= text(&refresh_at), "minted at {minted_at}, due at {refresh_at}");
        assert_eq!(house.history("wx1").await, [row("still_valid", "manual"), row("success", "schedule")]);
    }

    async fn a_dead_token_is_not_taken_over_and_its_probe_is_recorded(db: TestDatabase) {
        let house = House::on(db).await;
        let value = house.foreign("wx1", Line::Plain);
        house.sandbox.kill("wx1", Line::Plain);
        let refused = house.adopt("wx1", "plain", &value).await.expect_problem(422, "token_refused");
        assert_eq!(refused.body["upstream"]["errcode"], 40001, "{}", refused.text);
        assert!(!refused.text.contains(&value));
        house.sandbox.faults("wx1", &json!([{ "kind": "reset_before" }]));
        house.adopt("wx1", "plain", &value).await.expect_problem(502, "refresh_failed");
        house.sandbox.faults("wx1", &json!([]));
        house.admin.get("/v1/accounts/wx1").await.expect_problem(404, "unknown_account");
        house.admin.token("wx1", "access_token").await.expect_problem(404, "unknown_account");
        assert!(items(&house.admin.get("/v1/accounts").await.body).is_empty());
        assert_eq!(house.history("wx1").await, [row("refused", "manual"), row("failure", "manual")]);
        assert_eq!(house.calls("wx1"), [CallKind::Probe, CallKind::Probe]);

        // The way out that the problem names.
        house.register("wx1", json!({ "mode": "plain" })).await;
        house.value("wx1").await;
        assert_eq!(house.calls("wx1").len(), 3);
    }

    async fn two_who_take_over_at_once_have_one_winner_and_one_row_for_each_probe(db: TestDatabase) {
        let house = House::on(db).await;
        let value = house.foreign("wx1", Line::Stable);
        house.sandbox.account("wx1", &json!({ "latency_ms": { "min": 100, "max": 100 } }));
        let plain = json!({ "appid": "wx1", "secret": SECRET });
        let tries = [order("wx1", "stable", &value), order("wx1", "stable", &value), plain].map(|order| {
            let admin = house.admin.clone();
            tokio::spawn(async move { admin.create_account(&order).await })
        });
        let mut won = 0;
        for reply in tries {
            let reply = reply.await.expect("no panic");
            if reply.status == 201 {
                won += 1;
            } else {
                reply.expect_problem(409, "account_exists");
            }
        }
        assert_eq!(won, 1);
        assert_eq!(house.value("wx1").await, value, "in stable mode WeChat names the same one to all");
        eventually(BOUND, "a row for each call", async || {
            let calls = house.sandbox.calls("wx1");
            (calls.iter().all(|call| call.ended_ms.is_some()) && calls.len() == house.history("wx1").await.len()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stable_token_is_asked_for_again_and_comes_back() {
    let house = House::open().await;
    let value = house.foreign("wx1", Line::Stable);
    house.adopt("wx1", "stable", &value).await.expect_status(201);
    assert_eq!(house.value("wx1").await, value);
    let asked = house.admin.refresh("wx1", "access_token", false).await.expect_status(200).body;
    assert_eq!((&asked["outcome"], &asked["token"]["value"]), (&json!("unchanged"), &json!(value)));
    assert_eq!(asked["token"]["version"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_fetched_with_the_token_that_was_taken_over() {
    let house = House::open().await;
    let value = house.foreign("wx1", Line::Plain);
    let mut order = order("wx1", "plain", &value);
    order["token_types"] = json!(["jsapi_ticket"]);
    house.admin.create_account(&order).await.expect_status(201);
    let ticket = house.admin.token("wx1", "jsapi_ticket").await.expect_status(200).body;
    assert!(house.sandbox.accepts(&text(&ticket["value"])));
    assert_eq!((house.calls("wx1"), house.value("wx1").await), (vec![CallKind::Probe, CallKind::Ticket], value));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_submitted_is_checked_and_not_repeated() {
    let house = House::open().await;
    house.sandbox.account("wx1", &json!({}));
    for (adopt, pointer) in [
        (json!({ "value": "", "expires_in": 60 }), "/adopt/value"),
        (json!({ "value": "can ary", "expires_in": 60 }), "/adopt/value"),
        (json!({ "value": "canary".repeat(400), "expires_in": 60 }), "/adopt/value"),
        (json!({ "value": "canary", "expires_in": 0 }), "/adopt/expires_in"),
        (json!({ "value": "canary", "expires_in": 7_201 }), "/adopt/expires_in"),
    ] {
        let order = json!({ "appid": "wx1", "secret": SECRET, "adopt": adopt });
        let reply = house.admin.create_account(&order).await.expect_problem(422, "invalid_field");
        assert_eq!(reply.body["errors"][0]["pointer"], pointer, "{}", reply.text);
        assert!(!reply.text.contains("canary") && !reply.text.contains("can ary"), "{}", reply.text);
    }
    for adopt in [json!("canary"), json!({ "value": "x" }), json!({ "value": "x", "expires_in": 1, "more": 1 })] {
        let order = json!({ "appid": "wx1", "secret": SECRET, "adopt": adopt });
        assert!(house.admin.create_account(&order).await.status.is_client_error());
    }
    assert!(house.sandbox.calls("wx1").is_empty());
    // Nobody is asked about an account that is there, or that the key does not reach.
    house.register("wx1", json!({})).await;
    house.value("wx1").await;
    let order = order("wx1", "stable", "84_x");
    house.admin.create_account(&order).await.expect_problem(409, "account_exists");
    let narrow = house.key(&json!(["wx2"]), &json!(["account:write"])).await;
    narrow.create_account(&order).await.expect_problem(403, "account_out_of_scope");
    assert_eq!(house.calls("wx1"), [CallKind::StableToken]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_lost_with_its_process_is_recorded_as_lost() {
    let database = TestDatabase::create(Kind::Sqlite).await;
    let house = House::with(database, |server| server.fail_point("before_adoption")).await;
    let value = house.foreign("wx1", Line::Plain);
    let (admin, order) = (house.admin.clone(), order("wx1", "plain", &value));
    let left = tokio::spawn({
        let order = order.clone();
        async move {
            admin
                .request(reqwest::Method::POST, "/v1/accounts")
                .header("content-type", "application/json")
                .body(order.to_string())
                .send()
                .await
        }
    });
    eventually(BOUND, "the probe", async || house.server.output().contains("before_adoption reached").then_some(()))
        .await;
    house.server.kill_9();
    drop(left.await);
    let again = Server::builder().database(&house.database).wechat(house.sandbox.url()).start().await;
    let house = House { admin: again.admin(), server: again, ..house };
    let lost = eventually(BOUND, "the row of the lost probe", async || {
        let history = house.history("wx1").await;
        (!history.is_empty()).then_some(history)
    })
    .await;
    assert_eq!(lost, [row("lost", "manual")]);
    house.admin.get("/v1/accounts/wx1").await.expect_problem(404, "unknown_account");
    house.admin.create_account(&order).await.expect_status(201);
    assert_eq!((house.value("wx1").await, house.calls("wx1")), (value, vec![CallKind::Probe; 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_whose_registration_cannot_be_stored_is_recorded_later_on_postgres() {
    recorded_later(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_whose_registration_cannot_be_stored_is_recorded_later_on_mysql() {
    recorded_later(Kind::Mysql).await;
}

/// The database goes away while WeChat is asked.
async fn recorded_later(kind: Kind) {
    let own = OwnServer::start(kind).await;
    let (proxy, url) = Proxy::in_front_of(&own.url());
    let sandbox = TestSandbox::start().await;
    let server = Server::builder().env("DATABASE_URL", &url).wechat(sandbox.url()).start().await;
    let (admin, database) = (server.admin(), TestDatabase::create(Kind::Sqlite).await);
    let house = House { sandbox, server, admin, database };
    let value = house.foreign("wx1", Line::Plain);
    house.sandbox.account("wx1", &json!({ "lifetime_seconds": 60, "latency_ms": { "min": 700, "max": 700 } }));
    let value = house.sandbox.sandbox.mint_foreign("wx1", Line::Plain).map_or(value, |minted| minted.access_token);
    let (admin, order) = (house.admin.clone(), order("wx1", "plain", &value));
    let asked = tokio::spawn({
        let order = order.clone();
        async move { admin.create_account(&order).await }
    });
    eventually(BOUND, "the probe", async || (house.calls("wx1").len() == 1).then_some(())).await;
    proxy.set(Fault::Cut);
    asked.await.expect("no panic").expect_problem(503, "database_unavailable");
    proxy.heal();
    let bound = Duration::from_secs(20);
    eventually(bound, "the row", async || {
        let page = house.admin.refreshes("appid=wx1").await;
        (page.status == 200 && !items(&page.body).is_empty()).then_some(())
    })
    .await;
    assert_eq!(house.history("wx1").await, [row("still_valid", "manual")]);
    house.admin.get("/v1/accounts/wx1").await.expect_problem(404, "unknown_account");
    house.admin.create_account(&order).await.expect_status(201);
    assert_eq!(house.history("wx1").await.len(), 2);
    assert_eq!((house.value("wx1").await, house.calls("wx1").len()), (value, 2));
}
