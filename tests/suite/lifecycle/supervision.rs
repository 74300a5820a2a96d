//! A part that breaks: it is named, begun again, and nobody else suffers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::database::{Kind, TestDatabase, on_every_database};
use crate::support::process::{Server, ServerBuilder};
use crate::support::proxy::{Fault, Proxy};
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

const BOUND: Duration = Duration::from_secs(20);
/// Without a turn for 10 s the scheduler counts as stuck.
const STUCK_BOUND: Duration = Duration::from_secs(25);

fn on(db: &TestDatabase, sandbox: &TestSandbox) -> ServerBuilder {
    // The lease is two and a half times as long as a call.
    Server::builder().database(db).wechat(sandbox.url()).env("WXTOKEN_CALL_TIMEOUT", "1s")
}

async fn register(admin: &Api, sandbox: &TestSandbox, appid: &str) {
    sandbox.account(appid, &json!({}));
    admin.create_account(&json!({ "appid": appid, "secret": SECRET })).await.expect_status(201);
}

async fn rows(admin: &Api, appid: &str) -> Vec<Value> {
    let page = admin.refreshes(&format!("appid={appid}&limit=100")).await.expect_status(200);
    page.body["items"].as_array().cloned().expect("a list")
}

async fn has_row(admin: &Api, appid: &str, member: &str, value: &str) {
    eventually(BOUND, "the history row", async || {
        rows(admin, appid).await.iter().any(|row| row[member] == value).then_some(())
    })
    .await;
}

async fn restarted(server: &Server, round: &str) {
    let line = format!("restarts: {round} 1\n");
    eventually(BOUND, "a round to begin again", async || {
        server.admin().get("/readyz?verbose").await.expect_status(200).text.contains(&line).then_some(())
    })
    .await;
}

/// The panic is in the log once, with its words.
async fn assert_logged(server: &Server, point: &str) {
    let words = format!("fail point {point}\n");
    // The lines come through a pipe.
    eventually(BOUND, "the panic's line", async || server.output().contains(&words).then_some(())).await;
    let output = server.output();
    let panics: Vec<_> = output.lines().filter(|line| line.contains("a panic at ")).collect();
    assert!(panics.len() == 1 && panics[0].ends_with(&format!("fail point {point}")), "{output}");
    assert!(!output.contains("panicked at"), "{output}");
}

on_every_database! {
    async fn a_scheduler_that_panics_begins_again(db: TestDatabase) {
        let sandbox = TestSandbox::start().await;
        let server = on(&db, &sandbox).fail_point("scheduler:3=panic").start().await;
        let admin = server.admin();
        restarted(&server, "scheduler").await;
        assert_logged(&server, "scheduler").await;
        register(&admin, &sandbox, "wx1").await;
        has_row(&admin, "wx1", "trigger", "schedule").await;
        admin.get("/livez").await.expect_status(200);
    }

    async fn a_panic_in_one_accounts_refresh_hits_no_other_and_is_made_good(db: TestDatabase) {
        let sandbox = TestSandbox::start().await;
        let server = on(&db, &sandbox).fail_point("before_call=panic").start().await;
        let admin = server.admin();
        register(&admin, &sandbox, "wx1").await;
        eventually(BOUND, "the panic", async || server.output().contains("fail point before_call").then_some(())).await;
        register(&admin, &sandbox, "wx2").await;
        admin.token("wx2", "access_token").await.expect_status(200);
        has_row(&admin, "wx1", "outcome", "lost").await;
        has_row(&admin, "wx1", "outcome", "success").await;
        admin.token("wx1", "access_token").await.expect_status(200);
        let recovered = rows(&admin, "wx1").await;
        assert!(recovered.iter().any(|row| row["outcome"] == "success" && row["trigger"] == "recovery"), "{recovered:?}");
        assert!(rows(&admin, "wx2").await.iter().all(|row| row["outcome"] == "success"));
        assert_eq!(sandbox.calls("wx1").len(), 1, "the call that panicked was never made");
        assert_logged(&server, "before_call").await;
        admin.get("/readyz?verbose").await.expect_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_panics_follows_the_database_again() {
    for kind in [Kind::Postgres, Kind::Mysql] {
        let (db, sandbox) = (TestDatabase::create(kind).await, TestSandbox::start().await);
        let server = on(&db, &sandbox).fail_point("follow:2=panic").start().await;
        let other = on(&db, &sandbox).start().await;
        restarted(&server, "view").await;
        assert_logged(&server, "follow").await;
        register(&other.admin(), &sandbox, "wx1").await;
        eventually(BOUND, "the other's account to arrive", async || {
            (server.admin().get("/v1/accounts/wx1").await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_scheduler_is_no_life_and_reads_go_on() {
    let (db, sandbox) = (TestDatabase::create(Kind::Sqlite).await, TestSandbox::start().await);
    let server = on(&db, &sandbox).fail_point("scheduler:4=hang").start().await;
    let admin = server.admin();
    register(&admin, &sandbox, "wx1").await;
    admin.token("wx1", "access_token").await.expect_status(200);
    let stuck = async || (admin.get("/livez").await.status == 503).then_some(());
    eventually(STUCK_BOUND, "the scheduler to be found stuck", stuck).await;
    assert_eq!(admin.get("/livez").await.text, "the scheduler is stuck\n");
    admin.token("wx1", "access_token").await.expect_status(200);
    admin.get("/readyz").await.expect_status(200);
    let turning = async || (admin.get("/livez").await.status == 200).then_some(());
    eventually(STUCK_BOUND, "the scheduler to turn again", turning).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_or_silent_is_no_stuck_scheduler() {
    let runs = [Kind::Postgres, Kind::Mysql]
        .into_iter()
        .flat_map(|kind| [Fault::Cut, Fault::BlackHole, Fault::Stall].map(|fault| lives_through(kind, fault)));
    futures_util::future::join_all(runs).await;
}

async fn lives_through(kind: Kind, fault: Fault) {
    let (db, sandbox) = (TestDatabase::create(kind).await, TestSandbox::start().await);
    let (proxy, url) = Proxy::in_front_of(db.url());
    let server = on(&db, &sandbox).env("DATABASE_URL", &url).start().await;
    let admin = server.admin();
    proxy.set(fault);
    let began = Instant::now();
    // Well beyond the 10 s after which a scheduler that does not turn counts as stuck.
    while began.elapsed() < Duration::from_secs(14) {
        let reply = admin.get("/livez").await;
        assert_eq!(reply.status, 200, "{kind:?}, {fault:?}, after {:?}: {}", began.elapsed(), reply.text);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(proxy.struck_by(fault) > 0, "{kind:?}, {fault:?}");
    proxy.heal();
    register_when_back(&admin, &sandbox).await;
}

async fn register_when_back(admin: &Api, sandbox: &TestSandbox) {
    sandbox.account("wx1", &json!({}));
    let account = json!({ "appid": "wx1", "secret": SECRET });
    eventually(BOUND, "the database to be used again", async || {
        (admin.create_account(&account).await.status == 201).then_some(())
    })
    .await;
    has_row(admin, "wx1", "trigger", "schedule").await;
}
