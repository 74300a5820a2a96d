//! kill -9 at every place of a refresh, twenty times each, in both modes, on each database.

use std::time::Duration;

use serde_json::{Value, json};
use wxtoken::wechat::sandbox::Line;

use super::watch::Watch;
use super::{ACCESS_TOKEN, history, register, value};
use crate::support::database::on_every_database;
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::Server;
use crate::support::sandbox::TestSandbox;
use crate::support::wait::eventually;

const KILLS: usize = 20;
pub(super) const APPID: &str = "wx1";
/// Seconds. In stable mode a token can be replaced when less than the overlap is left; that begins later than the lease of a lost claim
/// ends, as it does at WeChat, so that the recovery gets the token that was lost.
const OVERLAP: u64 = 60;
const LIFETIME: u64 = OVERLAP + 5;
/// The lease is two and a half times as long.
const CALL_TIMEOUT: &str = "1s";
/// Milliseconds. WeChat processes a call half of this after it came, so that a test can judge what it read before a recovery ends it.
const LATENCY: u32 = 300;
pub(super) const BOUND: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    BeforeTheCall,
    DuringTheCall,
    BeforeTheSettle,
    AfterTheSettle,
}

on_every_database! {
    async fn killed_before_the_call(db: TestDatabase) {
        in_both_modes(&db, Place::BeforeTheCall).await;
    }

    async fn killed_during_the_call(db: TestDatabase) {
        in_both_modes(&db, Place::DuringTheCall).await;
    }

    async fn killed_after_the_answer_and_before_the_settle(db: TestDatabase) {
        in_both_modes(&db, Place::BeforeTheSettle).await;
    }

    async fn killed_after_the_settle(db: TestDatabase) {
        in_both_modes(&db, Place::AfterTheSettle).await;
    }
}

async fn in_both_modes(db: &TestDatabase, place: Place) {
    let plain = TestDatabase::create(db.kind()).await;
    tokio::join!(kill_and_restart(db, place, "stable"), kill_and_restart(&plain, place, "plain"));
}

async fn kill_and_restart(db: &TestDatabase, place: Place, mode: &str) {
    let sandbox = TestSandbox::start().await;
    sandbox.account(APPID, &json!({ "lifetime_seconds": LIFETIME, "overlap_seconds": OVERLAP, "latency_ms": { "min": LATENCY, "max": LATENCY } }));
    let mut armed = start(db, &sandbox, fail_point(place, 1)).await;
    stop_at(&armed, &sandbox, place, 0, async |server| {
        register(&server.admin(), APPID, mode, json!([ACCESS_TOKEN])).await;
    })
    .await;
    for kill in 1..=KILLS {
        armed.kill_9();
        let calls_before = sandbox.calls(APPID).len();
        // The restarted server recovers first, which passes the point once; it is armed for the refresh after that.
        let passes = if place == Place::AfterTheSettle { 1 } else { 2 };
        armed = start(db, &sandbox, fail_point(place, passes)).await;
        let admin = armed.admin();
        if kill > 1 || place == Place::AfterTheSettle {
            let reply = admin.token(APPID, ACCESS_TOKEN).await.expect_status(200);
            let served = reply.body["value"].as_str().expect("a string");
            let judged = sandbox.sandbox.judge(served);
            assert!(
                judged.accepted,
                "{mode}, {place:?}, kill {kill}: a dead token was served: {judged:?}, {:#?}, {:#?}\n{}",
                sandbox.calls(APPID),
                history(&admin, APPID).await,
                armed.output()
            );
        }
        let served = value(&admin, APPID, ACCESS_TOKEN).await;
        assert!(sandbox.accepts(&served));
        recovered(&armed, place, kill).await;
        let extra = sandbox.calls(APPID).len() - calls_before;
        assert!(
            extra <= 1,
            "{mode}, {place:?}, kill {kill}: {extra} calls to recover: {:#?}\n{}",
            &sandbox.calls(APPID)[calls_before..],
            armed.output()
        );
        if kill < KILLS {
            until_a_call_mints(&sandbox, mode).await;
            stop_at(&armed, &sandbox, place, kill, async |server| {
                let admin = server.admin();
                tokio::spawn(async move {
                    // The server is killed while this waits.
                    let _ = admin.request(reqwest::Method::POST, REFRESH).send().await;
                });
            })
            .await;
        }
    }
    assert_nothing_is_broken(&armed, &sandbox, place).await;
}

/// In stable mode WeChat names the same token again until its last minutes; a refresh before that would mint nothing.
async fn until_a_call_mints(sandbox: &TestSandbox, mode: &str) {
    if mode == "plain" {
        return;
    }
    eventually(BOUND, "the token's last minutes", async || {
        let state = sandbox.sandbox.state(APPID)?;
        let stable = state.lines.iter().find(|line| line.line == Line::Stable)?;
        (stable.current.as_ref()?.remaining_ms < OVERLAP * 1_000).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_instances_serve_no_value_that_a_recovery_ends_on_postgres() {
    recover_under_readers(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_instances_serve_no_value_that_a_recovery_ends_on_mysql() {
    recover_under_readers(Kind::Mysql).await;
}

/// In plain mode the mint that follows a lost one ends the value that is served, at once: everybody must have heard of it by then.
async fn recover_under_readers(kind: Kind) {
    let db = TestDatabase::create(kind).await;
    let sandbox = TestSandbox::start().await;
    sandbox.account(APPID, &json!({}));
    let mut living = Vec::new();
    for _ in 0..3 {
        living.push(start(&db, &sandbox, None).await);
    }
    register(&living[0].admin(), APPID, "plain", json!([ACCESS_TOKEN])).await;
    for server in &living {
        value(&server.admin(), APPID, ACCESS_TOKEN).await;
    }
    let watch = Watch::new(&sandbox, APPID, ACCESS_TOKEN);
    let readers: Vec<_> = living.iter().map(|server| watch.read(&server.admin())).collect();
    for kill in 1..=5 {
        let armed = start(&db, &sandbox, fail_point(Place::BeforeTheSettle, 1)).await;
        let mints = sandbox.witness(APPID, ACCESS_TOKEN).mints;
        stop_at(&armed, &sandbox, Place::BeforeTheSettle, kill, async |server| {
            let admin = server.admin();
            tokio::spawn(async move { admin.request(reqwest::Method::POST, REFRESH).send().await.is_ok() });
        })
        .await;
        armed.kill_9();
        recovered(&living[0], Place::BeforeTheSettle, kill).await;
        assert_eq!(sandbox.witness(APPID, ACCESS_TOKEN).mints, mints + 2, "the lost one and the one after it");
    }
    for (number, reader) in readers.into_iter().enumerate() {
        reader.end().await.assert_flawless(&format!("{kind:?}, instance {number}"));
    }
}

pub(super) const REFRESH: &str = "/v1/accounts/wx1/tokens/access_token/refresh";

pub(super) async fn start(db: &TestDatabase, sandbox: &TestSandbox, fail_point: Option<String>) -> Server {
    let builder = Server::builder().database(db).wechat(sandbox.url()).env("WXTOKEN_CALL_TIMEOUT", CALL_TIMEOUT);
    match fail_point {
        Some(name) => builder.fail_point(&name).start().await,
        None => builder.start().await,
    }
}

fn fail_point(place: Place, passes: u32) -> Option<String> {
    match place {
        Place::BeforeTheCall => Some(format!("before_call:{passes}")),
        Place::DuringTheCall => None,
        Place::BeforeTheSettle => Some(format!("before_settle:{passes}")),
        Place::AfterTheSettle => Some(format!("after_settle:{passes}")),
    }
}

/// Starts a refresh and waits until it stands at the place.
async fn stop_at(
    server: &Server,
    sandbox: &TestSandbox,
    place: Place,
    kill: usize,
    refresh: impl AsyncFnOnce(&Server),
) {
    let calls = sandbox.calls(APPID).len();
    if place == Place::DuringTheCall {
        // In turn: WeChat has not begun with the call, and WeChat has minted and the answer is on its way.
        let kind = if kill.is_multiple_of(2) { "hang_before" } else { "hang_after" };
        sandbox.faults(APPID, &json!([{ "kind": kind, "times": 1 }]));
    }
    refresh(server).await;
    eventually(BOUND, "the refresh to reach its place", async || {
        let there = match place {
            Place::DuringTheCall => sandbox.calls(APPID).len() > calls,
            _ => server.output().contains("fail point"),
        };
        there.then_some(())
    })
    .await;
}

/// Waits until the lost claim was made again. After the settle there is nothing to recover.
async fn recovered(server: &Server, place: Place, kill: usize) {
    if place == Place::AfterTheSettle {
        return;
    }
    let admin = server.admin();
    eventually(BOUND, "the recovery", async || {
        let rows = history(&admin, APPID).await;
        let lost = rows.iter().filter(|row| row["outcome"] == "lost").count();
        let last = rows.last()?;
        (lost == kill && last["outcome"] != "lost").then_some(())
    })
    .await;
}

async fn assert_nothing_is_broken(server: &Server, sandbox: &TestSandbox, place: Place) {
    let admin = server.admin();
    let account = admin.get("/v1/accounts/wx1").await.expect_status(200);
    assert_eq!(account.body["health"], "healthy", "{}", account.text);
    let rows = history(&admin, APPID).await;
    let of = |outcome: &str| rows.iter().filter(|row| row["outcome"] == outcome).count();
    let token = admin.token(APPID, ACCESS_TOKEN).await.expect_status(200);
    assert_eq!(token.body["version"], json!(of("success")), "{place:?}: every version has its row");
    assert_eq!(of("lost") + of("success"), rows.len(), "{place:?}: {:?}", outcomes(&rows));
    let expected_lost = if place == Place::AfterTheSettle { 0 } else { KILLS };
    assert_eq!(of("lost"), expected_lost, "{place:?}");
    let calls = sandbox.calls(APPID).len();
    assert!(calls <= rows.len(), "{place:?}: {calls} calls and {} rows", rows.len());
    assert_eq!(sandbox.witness(APPID, ACCESS_TOKEN).most_in_flight, 1, "{place:?}");
}

fn outcomes(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["outcome"].as_str().unwrap_or_default()).collect()
}
