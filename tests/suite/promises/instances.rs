//! Two instances on one database.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use wxtoken::domain::timestamp::Timestamp;

use super::{ACCESS_TOKEN, history, register, value};
use crate::support::api::Api;
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::Server;
use crate::support::sandbox::TestSandbox;
use crate::support::wait::eventually;

const ACCOUNTS: usize = 200;
const WATCHED: usize = 20;
const SPAN: Duration = Duration::from_secs(60);
const LIFETIME: Duration = Duration::from_secs(8);
const STALENESS_BOUND: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_the_work_and_what_they_fetch_on_postgres() {
    two_instances(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_the_work_and_what_they_fetch_on_mysql() {
    two_instances(Kind::Mysql).await;
}

/// What a watcher of one instance saw.
#[derive(Default)]
struct Watched {
    /// When each version of a token had first been served, by account.
    first: BTreeMap<(usize, i64), Instant>,
    /// Every read: the account, when it was sent, and the version that came.
    reads: Vec<(usize, Instant, i64)>,
}

async fn two_instances(kind: Kind) {
    let db = TestDatabase::create(kind).await;
    let sandbox = TestSandbox::start().await;
    let start = || Server::builder().database(&db).wechat(sandbox.url()).start();
    let servers = [start().await, start().await];
    let appids: Vec<_> = (0..ACCOUNTS).map(|number| format!("wx{number:03}")).collect();
    for (number, appid) in appids.iter().enumerate() {
        sandbox.account(appid, &json!({ "lifetime_seconds": LIFETIME.as_secs(), "overlap_seconds": 3 }));
        let mode = if number % 2 == 0 { "stable" } else { "plain" };
        register(&servers[number % 2].admin(), appid, mode, json!([ACCESS_TOKEN])).await;
    }
    for server in &servers {
        for appid in &appids {
            value(&server.admin(), appid, ACCESS_TOKEN).await;
        }
    }
    let watchers = servers.each_ref().map(|server| {
        let (admin, sandbox) = (server.admin(), sandbox.sandbox.clone());
        let watched = appids[..WATCHED].to_vec();
        tokio::spawn(async move { watch(&admin, &sandbox, &watched).await })
    });
    let mut seen = Vec::new();
    for watcher in watchers {
        seen.push(watcher.await.expect("every read was served, and alive"));
    }
    assert_each_serves_what_the_other_fetched(&seen[0], &seen[1]);
    let mut instances = BTreeMap::<String, u32>::new();
    for appid in &appids {
        let rows = history(&servers[0].admin(), appid).await;
        assert_one_refresh_for_each_expiry(&sandbox, appid, &rows);
        for row in rows {
            assert_eq!(row["outcome"], "success", "{appid}: {row}");
            *instances.entry(row["instance"].as_str().expect("a name").to_owned()).or_default() += 1;
        }
    }
    assert_eq!(instances.len(), 2, "both instances refreshed: {instances:?}");
}

async fn watch(admin: &Api, sandbox: &wxtoken::wechat::sandbox::Sandbox, appids: &[String]) -> Watched {
    let mut watched = Watched::default();
    let began = Instant::now();
    while began.elapsed() < SPAN {
        for (number, appid) in appids.iter().enumerate() {
            let sent = Instant::now();
            let reply = admin.token(appid, ACCESS_TOKEN).await.expect_status(200);
            let value = reply.body["value"].as_str().expect("a string");
            assert!(sandbox.judge(value).accepted, "{appid} was served a dead token");
            let version = reply.body["version"].as_i64().expect("a number");
            watched.first.entry((number, version)).or_insert_with(Instant::now);
            watched.reads.push((number, sent, version));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    watched
}

/// No read that was sent more than the bound after one instance had served a version may get an older one from the other.
fn assert_each_serves_what_the_other_fetched(one: &Watched, other: &Watched) {
    let mut worst = Duration::ZERO;
    for (here, there) in [(one, other), (other, one)] {
        for &(number, sent, version) in &there.reads {
            let newer = here.first.range((number, version + 1)..=(number, i64::MAX)).map(|(_, at)| *at).min();
            worst = worst.max(newer.map_or(Duration::ZERO, |at| sent.saturating_duration_since(at)));
        }
    }
    assert!(worst <= STALENESS_BOUND, "the other instance served an old version {worst:?} later");
}

/// A token is due in the last quarter of its life, so two calls for one expiry would be sent closer together than three quarters of it.
fn assert_one_refresh_for_each_expiry(sandbox: &TestSandbox, appid: &str, rows: &[Value]) {
    assert!(rows.len() > 6, "{appid} was refreshed {} times only", rows.len());
    let calls = sandbox.calls(appid).len();
    assert!(
        calls.abs_diff(rows.len()) <= 1,
        "{appid}: {calls} calls and {} rows, one of which may be on its way",
        rows.len()
    );
    let sent: Vec<_> = rows.iter().map(sent_at).collect();
    for pair in sent.windows(2) {
        let apart = pair[1].since(pair[0]);
        assert!(apart >= LIFETIME * 3 / 4, "{appid} was refreshed twice within {apart:?}");
    }
    assert_eq!(sandbox.witness(appid, ACCESS_TOKEN).most_in_flight, 1, "{appid}");
}

fn sent_at(row: &Value) -> Timestamp {
    row["started_at"].as_str().and_then(Timestamp::parse_rfc3339).expect("a time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_everywhere_within_five_seconds() {
    for kind in [Kind::Postgres, Kind::Mysql] {
        let db = TestDatabase::create(kind).await;
        let sandbox = TestSandbox::start().await;
        let start = || Server::builder().database(&db).wechat(sandbox.url()).start();
        let servers = [start().await, start().await];
        let admin = servers[0].admin();
        sandbox.account("wx1", &json!({}));
        register(&admin, "wx1", "stable", json!([ACCESS_TOKEN])).await;
        let made = admin.post("/v1/keys", &json!({ "name": "shop", "role": "service", "accounts": ["wx1"] })).await;
        let made = made.expect_status(201);
        let key = made.body["key"].as_str().expect("shown once");
        let elsewhere = servers[1].admin().with_key(key);
        value(&elsewhere, "wx1", ACCESS_TOKEN).await;
        let id = made.body["id"].as_str().expect("an id");
        admin.delete(&format!("/v1/keys/{id}")).await.expect_status(204);
        admin.with_key(key).token("wx1", ACCESS_TOKEN).await.expect_status(401);
        eventually(Duration::from_secs(5), "the revocation to arrive", async || {
            (elsewhere.token("wx1", ACCESS_TOKEN).await.status == 401).then_some(())
        })
        .await;
    }
}

/// How the calls for each account ended, oldest first.
async fn outcomes(admin: &Api, appids: &[String]) -> Vec<Vec<String>> {
    let mut outcomes = Vec::new();
    for appid in appids {
        let rows = history(admin, appid).await;
        outcomes.push(rows.iter().map(|row| row["outcome"].as_str().expect("a word").to_owned()).collect());
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_cut_off_from_wechat_leaves_the_tokens_to_its_peer() {
    let db = TestDatabase::create(Kind::Postgres).await;
    let sandbox = TestSandbox::start().await;
    let good = Server::builder().database(&db).wechat(sandbox.url()).start().await;
    let appids: Vec<_> = (0..60).map(|number| format!("wx{number:03}")).collect();
    for appid in &appids {
        sandbox.account(appid, &json!({ "lifetime_seconds": 28, "overlap_seconds": 10 }));
        register(&good.admin(), appid, "stable", json!([ACCESS_TOKEN])).await;
    }
    for appid in &appids {
        value(&good.admin(), appid, ACCESS_TOKEN).await;
    }
    // Its WeChat is a port where nobody listens.
    let cut_off = Server::builder().database(&db).start().await;
    eventually(Duration::from_secs(120), "two refreshes of every token", async || {
        appids.iter().all(|appid| sandbox.witness(appid, ACCESS_TOKEN).mints > 2).then_some(())
    })
    .await;
    for appid in &appids {
        let minted: Vec<_> = sandbox.calls(appid).iter().filter(|call| call.minted).map(|call| call.at_ms).collect();
        let in_time = minted.windows(2).all(|pair| pair[1] - pair[0] < 28_000);
        assert!(in_time, "{appid} came to its end: {minted:?}, {:?}", history(&good.admin(), appid).await);
    }
    let outcomes = outcomes(&good.admin(), &appids).await;
    let failed = outcomes.iter().flatten().filter(|outcome| *outcome == "failure").count();
    assert!((3..120).contains(&failed), "{failed} calls found no connection");
    for (appid, outcomes) in appids.iter().zip(&outcomes) {
        assert!(
            !outcomes.windows(3).any(|three| three.iter().all(|outcome| outcome == "failure")),
            "{appid}: {outcomes:?}"
        );
    }
    assert!(cut_off.output().contains("WeChat is out of reach"), "{}", cut_off.output());
    assert!(cut_off.admin().get("/readyz?verbose").await.text.contains("wechat: not reached"));
}
