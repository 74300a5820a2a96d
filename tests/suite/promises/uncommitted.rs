//! kill -9 where something is written and not committed: a claim, and the schema.

use std::time::Duration;

use serde_json::json;
use wxtoken::store::migrate::latest;

use super::crashes::{APPID, BOUND, REFRESH, start};
use super::{ACCESS_TOKEN, history, register, value};
use crate::store::raw::Raw;
use crate::support::database::{Kind, TestDatabase, on_every_database};
use crate::support::process::Server;
use crate::support::proxy::{Fault, Proxy};
use crate::support::sandbox::TestSandbox;
use crate::support::wait::eventually;

const KILLS: usize = 3;
/// Steps of the schema after which the program is killed, one after the other on the same database.
const STEPS: [i64; 3] = [1, 4, 7];

on_every_database! {
    async fn killed_before_a_claim_is_committed(db: TestDatabase) {
        let plain = TestDatabase::create(db.kind()).await;
        tokio::join!(kill_in_claims(&db, "stable"), kill_in_claims(&plain, "plain"));
    }

    async fn killed_between_two_steps_of_the_schema(db: TestDatabase) {
        for step in STEPS {
            let armed = Server::builder().database(&db).fail_point(&format!("after_migration_step:{step}")).spawn();
            stands(&armed, "after_migration_step").await;
            armed.kill_9();
            let mut raw = Raw::connect(db.kind(), db.url()).await;
            assert_eq!(raw.one("SELECT COUNT(*) FROM wx_migrations").await, step.to_string());
        }
        is_completed(&db).await;
    }
}

/// Nothing happened: what another claims then is the first call, and nothing was lost or spent.
async fn kill_in_claims(db: &TestDatabase, mode: &str) {
    let sandbox = TestSandbox::start().await;
    sandbox.account(APPID, &json!({}));
    for kill in 0..KILLS {
        let armed = start(db, &sandbox, Some("before_claim_commit".to_owned())).await;
        if kill == 0 {
            register(&armed.admin(), APPID, mode, json!([ACCESS_TOKEN])).await;
        } else {
            let admin = armed.admin();
            // The server is killed while this waits.
            tokio::spawn(async move { admin.request(reqwest::Method::POST, REFRESH).send().await.is_ok() });
        }
        stands(&armed, "before_claim_commit").await;
        let other = instead_of(&armed, db, &sandbox, kill).await;
        value(&other.admin(), APPID, ACCESS_TOKEN).await;
        if kill > 0 {
            other.admin().refresh(APPID, ACCESS_TOKEN, false).await.expect_status(200);
        }
        let calls = kill + 1;
        assert_eq!(sandbox.calls(APPID).len(), calls, "{mode}");
        let rows = history(&other.admin(), APPID).await;
        let is_answered = |outcome: &serde_json::Value| outcome == "success" || outcome == "unchanged";
        assert!(rows.len() == calls && rows.iter().all(|row| is_answered(&row["outcome"])), "{mode}: {rows:#?}");
        let mut raw = Raw::connect(db.kind(), db.url()).await;
        let spent = raw.rows("SELECT generation, calls_today, in_doubt FROM wx_token").await;
        let count = Some(calls.to_string());
        assert_eq!(spent[0][..2], [count.clone(), count], "{mode}: {spent:?}");
        assert!(matches!(spent[0][2].as_deref(), Some("0" | "f")), "{mode}: {spent:?}");
        other.kill_9();
    }
}

/// Kills the server that stands in a claim, and gives one that goes on in its place. It runs already when that can be; what is
/// being claimed is not its to claim as long as the other one lives.
async fn instead_of(armed: &Server, db: &TestDatabase, sandbox: &TestSandbox, calls: usize) -> Server {
    let beside = if db.kind() == Kind::Sqlite { None } else { Some(start(db, sandbox, None).await) };
    assert_eq!(sandbox.calls(APPID).len(), calls, "somebody called before the claim was committed");
    armed.kill_9();
    match beside {
        Some(other) => other,
        None => start(db, sandbox, None).await,
    }
}

async fn stands(server: &Server, place: &str) {
    let reached = format!("fail point {place} reached");
    eventually(BOUND, "the place", async || server.output().contains(&reached).then_some(())).await;
}

/// The next start completes the schema and serves.
async fn is_completed(db: &TestDatabase) {
    let server = Server::builder().database(db).start().await;
    let account = json!({ "appid": APPID, "secret": "x", "enabled": false });
    server.admin().create_account(&account).await.expect_status(201);
    let mut raw = Raw::connect(db.kind(), db.url()).await;
    assert_eq!(raw.one("SELECT COUNT(*) FROM wx_migrations").await, latest().to_string());
    assert_eq!(raw.one("SELECT COUNT(*) FROM wx_report_accounts").await, "1");
}

/// MySQL commits a step's statement by itself, so that a step can be there and not be noted as done.
#[tokio::test(flavor = "multi_thread")]
async fn killed_inside_a_step_of_the_schema_on_mysql() {
    let db = TestDatabase::create(Kind::Mysql).await;
    let (proxy, url) = Proxy::in_front_of(db.url());
    proxy.set(Fault::Delay(Duration::from_millis(100)));
    let armed = Server::builder().env("DATABASE_URL", &url).spawn();
    let mut raw = Raw::connect(Kind::Mysql, db.url()).await;
    let table = "SELECT COUNT(*) FROM information_schema.tables \
                 WHERE table_schema = DATABASE() AND table_name = 'wx_token'";
    eventually(BOUND, "the second step's table", async || (raw.one(table).await == "1").then_some(())).await;
    // The program has not heard yet that the table is made, and what it says now does not arrive.
    proxy.set(Fault::Stall);
    armed.kill_9();
    let done = raw.rows("SELECT version, success FROM wx_migrations ORDER BY version").await;
    assert_eq!(done, [[Some("1".to_owned()), Some("1".to_owned())], [Some("2".to_owned()), Some("0".to_owned())]]);
    drop(proxy);
    is_completed(&db).await;
}
