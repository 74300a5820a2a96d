//! Several instances with one target.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::{AT_ONCE, BOUND, LOOK_BOUND, has, rotate, value};
use crate::store::raw::Raw;
use crate::support::cache_server::{CacheKind, CacheServer};
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::Server;
use crate::support::proxy::{Fault, Proxy};
use crate::support::sandbox::TestSandbox;
use crate::support::wait::eventually;

const KEY: &str = "wx:access_token:wx1";
const ROUNDS: usize = 30;

/// Everything that stood under a key, in order.
async fn watch(server: Arc<CacheServer>, key: String, stop: Arc<AtomicBool>) -> Vec<Option<String>> {
    let mut seen: Vec<Option<String>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let found = server.get(&key).await;
        if seen.last() != Some(&found) {
            seen.push(found);
        }
    }
    seen
}

/// Once a value has been replaced it never comes back.
#[tokio::test(flavor = "multi_thread")]
async fn two_instances_never_put_an_older_token_over_a_newer_one() {
    let (database, sandbox) = (TestDatabase::create(Kind::Postgres).await, TestSandbox::start().await);
    let start = || Server::builder().database(&database).wechat(sandbox.url()).start();
    let servers = [start().await, start().await];
    let admins = servers.each_ref().map(Server::admin);
    sandbox.account("wx1", &json!({}));
    super::super::promises::register(&admins[0], "wx1", "plain", json!(["access_token"])).await;
    let mut values = vec![value(&admins[0], "wx1", "access_token").await];
    let mut watchers = Vec::new();
    let stop = Arc::new(AtomicBool::new(false));
    for (kind, order) in [
        (CacheKind::Redis, json!({ "format": "wxjava" })),
        (CacheKind::Memcached, json!({ "format": "plain", "key": KEY })),
    ] {
        let target = Arc::new(CacheServer::start(kind).await);
        let mut order = order;
        order["target"] = target.target().into();
        admins[0].post("/v1/accounts/wx1/mirrors", &order).await.expect_status(201);
        has(&target, KEY, &values[0], BOUND).await;
        let watching = tokio::spawn(watch(Arc::clone(&target), KEY.to_owned(), Arc::clone(&stop)));
        watchers.push((target, watching));
    }
    for round in 0..ROUNDS {
        // The other one is frozen now and then, and wakes up with an old view.
        let sleeper = (round % 5 == 0).then(|| &servers[(round + 1) % 2]);
        sleeper.inspect(|server| server.stop());
        values.push(rotate(&admins[round % 2], "wx1").await);
        for (target, _) in &watchers {
            has(target, KEY, &values[round + 1], AT_ONCE).await;
        }
        if let Some(server) = sleeper {
            tokio::time::sleep(Duration::from_millis(700)).await;
            values.push(rotate(&admins[round % 2], "wx1").await);
            values.swap_remove(round + 1);
            server.cont();
        }
        // The next order is for the instance that must have heard of this one.
        let (next, latest) = (&admins[(round + 1) % 2], values.last().expect("it was pushed").clone());
        eventually(Duration::from_secs(3), "the other instance to hear of it", async || {
            (value(next, "wx1", "access_token").await == latest).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for (_, watching) in watchers {
        let seen = watching.await.expect("it watched");
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "a value came back: {seen:?}");
        assert!(seen.iter().all(Option::is_some) && seen.len() >= ROUNDS, "{} values", seen.len());
    }
}

/// An instance without the database is behind for as long as that lasts, not for some seconds.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_the_database_puts_no_older_token_over_a_newer_one() {
    let (database, sandbox) = (TestDatabase::create(Kind::Postgres).await, TestSandbox::start().await);
    let (proxy, url) = Proxy::in_front_of(database.url());
    let builder = || Server::builder().database(&database).wechat(sandbox.url());
    let cut_off = builder().env("DATABASE_URL", &url).start().await;
    let sound = builder().start().await;
    let admin = sound.admin();
    sandbox.account("wx1", &json!({}));
    super::super::promises::register(&admin, "wx1", "plain", json!(["access_token"])).await;
    let first = value(&admin, "wx1", "access_token").await;
    let redis = Arc::new(CacheServer::start(CacheKind::Redis).await);
    let order = json!({ "format": "wxjava", "target": redis.target() });
    admin.post("/v1/accounts/wx1/mirrors", &order).await.expect_status(201);
    eventually(LOOK_BOUND, "a look by the instance that will be cut off", async || {
        let listed = cut_off.admin().get("/v1/accounts/wx1/mirrors").await.expect_status(200).body;
        (listed["items"][0]["health"]["state"] == "ok").then_some(())
    })
    .await;
    proxy.set(Fault::Cut);
    let stop = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch(Arc::clone(&redis), KEY.to_owned(), Arc::clone(&stop)));
    let mut values = vec![first.clone()];
    for _ in 0..3 {
        values.push(rotate(&admin, "wx1").await);
        has(&redis, KEY, values.last().expect("it was pushed"), AT_ONCE).await;
        // Long enough for a look by the other one, and another when it has waited.
        tokio::time::sleep(LOOK_BOUND).await;
    }
    assert_eq!(value(&cut_off.admin(), "wx1", "access_token").await, first, "it has heard of nothing");
    assert!(proxy.struck_by(Fault::Cut) > 0);
    proxy.heal();
    let latest = values.last().expect("it was pushed");
    eventually(BOUND, "it to hear of the latest", async || {
        (value(&cut_off.admin(), "wx1", "access_token").await == *latest).then_some(())
    })
    .await;
    // Now it may replace what nobody knows.
    sound.terminate();
    redis.set(KEY, "nobody's").await;
    has(&redis, KEY, latest, LOOK_BOUND + Duration::from_secs(4)).await;
    stop.store(true, Ordering::Relaxed);
    let seen: Vec<_> = watching.await.expect("it watched").into_iter().flatten().collect();
    values.extend(["nobody's".to_owned(), latest.clone()]);
    assert_eq!(seen, values);
}

/// A program from before there were mirrors removes an account and leaves its mirrors.
#[tokio::test(flavor = "multi_thread")]
async fn the_mirrors_of_an_account_that_an_older_program_removed_are_gone() {
    let (database, sandbox) = (TestDatabase::create(Kind::Postgres).await, TestSandbox::start().await);
    let server = Server::builder().database(&database).wechat(sandbox.url()).start().await;
    let admin = server.admin();
    let redis = CacheServer::start(CacheKind::Redis).await;
    for appid in ["wx1", "wx2"] {
        sandbox.account(appid, &json!({}));
        super::super::promises::register(&admin, appid, "plain", json!(["access_token"])).await;
    }
    let order = json!({ "format": "plain", "target": redis.target(), "key": KEY });
    admin.post("/v1/accounts/wx1/mirrors", &order).await.expect_status(201);
    has(&redis, KEY, &value(&admin, "wx1", "access_token").await, BOUND).await;
    let mut raw = Raw::connect(Kind::Postgres, database.url()).await;
    let sql = "UPDATE wx_account SET removed_at = changed_at, revision = revision + 1, secret_sealed = NULL WHERE appid = 'wx1'";
    raw.run(sql).await;
    let gone = async || redis.get(KEY).await.is_none().then_some(());
    eventually(LOOK_BOUND, "the key to go", gone).await;
    let verbose = admin.get("/readyz?verbose").await.expect_status(200).text;
    assert!(verbose.contains("mirrors: 0 of 0 are as they should be\n"), "{verbose}");
    // Nor does it keep the key from others.
    admin.post("/v1/accounts/wx2/mirrors", &order).await.expect_status(201);
    has(&redis, KEY, &value(&admin, "wx2", "access_token").await, AT_ONCE).await;
}

/// A row that does not open, in the midst of others.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_does_not_read_hides_no_other() {
    let (database, sandbox) = (TestDatabase::create(Kind::Postgres).await, TestSandbox::start().await);
    let server = Server::builder().database(&database).wechat(sandbox.url()).start().await;
    let admin = server.admin();
    sandbox.account("wx1", &json!({}));
    super::super::promises::register(&admin, "wx1", "plain", json!(["access_token"])).await;
    let mut made = Vec::new();
    for key in ["broken", "sound"] {
        let order = json!({ "format": "plain", "target": "redis://127.0.0.1:1", "key": key });
        made.push(admin.post("/v1/accounts/wx1/mirrors", &order).await.expect_status(201).body);
    }
    let broken = made[0]["id"].as_str().expect("an id");
    Raw::connect(Kind::Postgres, database.url())
        .await
        .run(&format!("UPDATE wx_mirror SET target_sealed = 'x' WHERE id = '{broken}'"))
        .await;
    let listed = admin.get("/v1/accounts/wx1/mirrors").await.expect_status(200).body;
    let ids: Vec<_> = listed["items"].as_array().expect("a list").iter().map(|item| &item["id"]).collect();
    assert_eq!(ids, [&made[1]["id"]]);
    assert!(server.output().contains("is left out of the list"));
    // It can be removed all the same.
    admin.delete(&format!("/v1/accounts/wx1/mirrors/{broken}")).await.expect_status(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_instance_fills_a_target_and_hears_of_new_and_removed_mirrors() {
    let (database, sandbox) = (TestDatabase::create(Kind::Mysql).await, TestSandbox::start().await);
    let redis = CacheServer::start(CacheKind::Redis).await;
    let start = || Server::builder().database(&database).wechat(sandbox.url()).start();
    let (first, second) = (start().await, start().await);
    sandbox.account("wx1", &json!({}));
    super::super::promises::register(&first.admin(), "wx1", "plain", json!(["access_token"])).await;
    let order = json!({ "format": "wxjava", "target": redis.target() });
    let made = first.admin().post("/v1/accounts/wx1/mirrors", &order).await.expect_status(201).body;
    let token = value(&first.admin(), "wx1", "access_token").await;
    has(&redis, KEY, &token, BOUND).await;
    let path = "/v1/accounts/wx1/mirrors";
    eventually(LOOK_BOUND, "the other instance to look at it", async || {
        let listed = second.admin().get(path).await.expect_status(200).body;
        (listed["items"][0]["health"]["state"] == "ok").then_some(())
    })
    .await;
    first.kill_9();
    redis.flush().await;
    has(&redis, KEY, &token, LOOK_BOUND).await;
    let next = rotate(&second.admin(), "wx1").await;
    has(&redis, KEY, &next, AT_ONCE).await;
    let first = start().await;
    let path = format!("{path}/{}", made["id"].as_str().expect("an id"));
    first.admin().delete(&path).await.expect_status(204);
    let gone = async || redis.get(KEY).await.is_none().then_some(());
    eventually(LOOK_BOUND, "the key to go", gone).await;
    // Both have heard of it: neither writes it again.
    let listening = tokio::time::Instant::now();
    eventually(LOOK_BOUND * 2, "a look by either", async || (listening.elapsed() > LOOK_BOUND).then_some(())).await;
    assert_eq!(redis.get(KEY).await, None);
}
