//! Targets that are emptied, restarted, frozen or written to by others.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{AT_ONCE, BOUND, LOOK_BOUND, Stage, has, value};
use crate::support::cache_server::{CacheKind, CacheServer};
use crate::support::proxy::{Fault, Proxy};
use crate::support::wait::eventually;

/// A target that is down is tried again after 30 s at most.
const BACK_BOUND: Duration = Duration::from_secs(40);
const KEY: &str = "access_token_wx1";

/// A mirror of `wx1` under [`KEY`] on each kind of server.
async fn mirrored(stage: &Stage, kind: CacheKind) -> (CacheServer, serde_json::Value) {
    let server = CacheServer::start(kind).await;
    let order = json!({ "format": "plain", "target": server.target(), "key": "access_token_{appid}" });
    let mirror = stage.mirror("wx1", &order).await;
    let token = value(&stage.admin, "wx1", "access_token").await;
    has(&server, KEY, &token, BOUND).await;
    (server, mirror)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_target_is_filled_again() {
    let stage = Stage::set().await;
    let token = stage.register("wx1", &["access_token"]).await;
    let mut servers = Vec::new();
    for kind in [CacheKind::Redis, CacheKind::Memcached] {
        let (server, mirror) = mirrored(&stage, kind).await;
        server.flush().await;
        assert_eq!(server.get(KEY).await, None);
        has(&server, KEY, &token, LOOK_BOUND).await;
        server.kill_9();
        stage.has_state(&mirror, "failing", LOOK_BOUND).await;
        let verbose = stage.verbose().await;
        assert!(verbose.contains("are as they should be; 1 failing\n"), "{verbose}");
        assert!(!verbose.contains("127.0.0.1"), "it is open to anybody: {verbose}");
        server.start_again().await;
        has(&server, KEY, &token, BACK_BOUND).await;
        let health = stage.has_state(&mirror, "ok", BOUND).await;
        assert_eq!(health["failing_since"], serde_json::Value::Null);
        assert!(health["last_error"].as_str().is_some_and(|error| !error.is_empty()), "what it was is still told");
        servers.push(server);
    }
    let said = stage.server.output();
    for words in ["cannot be written; tried again", "can be written again"] {
        assert_eq!(said.matches(words).count(), 2, "once for each: {said}");
    }
    assert!(stage.verbose().await.contains("mirrors: 2 of 2 are as they should be\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_target_delays_nothing_and_recovers_by_itself() {
    let stage = Stage::set().await;
    stage.register("wx1", &["access_token"]).await;
    let (frozen, first) = mirrored(&stage, CacheKind::Redis).await;
    let (cache, second) = mirrored(&stage, CacheKind::Memcached).await;
    let (sound, third) = mirrored(&stage, CacheKind::Redis).await;
    frozen.freeze();
    cache.freeze();
    let mut last = String::new();
    for _ in 0..10 {
        let began = Instant::now();
        last = stage.rotate("wx1").await;
        // In plain mode an order that comes within a second of the one before it waits for its turn.
        assert!(began.elapsed() < Duration::from_millis(1_900), "a refresh took {:?}", began.elapsed());
        has(&sound, KEY, &last, AT_ONCE).await;
        let asked = Instant::now();
        assert_eq!(value(&stage.admin, "wx1", "access_token").await, last);
        assert!(asked.elapsed() < Duration::from_millis(500), "a read took {:?}", asked.elapsed());
    }
    for mirror in [&first, &second] {
        let health = stage.has_state(mirror, "failing", LOOK_BOUND).await;
        assert_eq!(health["last_error"], "it did not answer within 2 s");
    }
    assert_eq!(stage.health(&third).await["state"], "ok");
    let verbose = stage.verbose().await;
    assert!(verbose.contains("mirrors: 1 of 3 are as they should be; 2 failing\n"), "{verbose}");
    stage.admin.get("/readyz").await.expect_status(200);
    frozen.thaw();
    cache.thaw();
    for server in [&frozen, &cache] {
        has(server, KEY, &last, BACK_BOUND).await;
    }
    for mirror in [&first, &second] {
        stage.has_state(mirror, "ok", BOUND).await;
    }
}

/// A look at a slow target with many mirrors takes long; what changes meanwhile does not wait for its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_overtakes_a_long_look() {
    let stage = Stage::set().await;
    let redis = CacheServer::start(CacheKind::Redis).await;
    let proxy = Proxy::start(([127, 0, 0, 1], redis.port()).into());
    let target = format!("redis://{}", proxy.address());
    let order = |number: usize| json!({ "format": "plain", "target": target, "key": format!("{number}:{{appid}}") });
    for account in 0..3 {
        let appid = format!("wxslow{account}");
        stage.register(&appid, &["access_token"]).await;
        for number in 0..20 {
            stage.mirror(&appid, &order(number)).await;
        }
    }
    stage.register("wx1", &["access_token"]).await;
    let key = "0:wx1";
    let mirror = stage.mirror("wx1", &order(0)).await;
    stage.has_state(&mirror, "ok", BOUND).await;
    proxy.set(Fault::Delay(Duration::from_millis(100)));
    // 61 mirrors at 0.2 s and more: a look takes 12 s at least.
    let looked = stage.health(&mirror).await["last_checked_at"].clone();
    eventually(LOOK_BOUND * 3, "a slow look", async || {
        (stage.health(&mirror).await["last_checked_at"] != looked).then_some(())
    })
    .await;
    for _ in 0..4 {
        let token = stage.rotate("wx1").await;
        has(&redis, key, &token, AT_ONCE * 3).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_wrote_is_respected_for_a_while_and_then_replaced() {
    let stage = Stage::set().await;
    stage.register("wx1", &["access_token"]).await;
    let mut servers = Vec::new();
    for kind in [CacheKind::Redis, CacheKind::Memcached] {
        let (server, _) = mirrored(&stage, kind).await;
        let began = Instant::now();
        server.set(KEY, "perhaps-newer").await;
        // It is looked at at once.
        let token = stage.rotate("wx1").await;
        has(&server, KEY, &token, LOOK_BOUND + Duration::from_secs(4)).await;
        assert!(began.elapsed() >= Duration::from_secs(3), "after {:?}", began.elapsed());
        assert!(server.seconds_left(KEY).await > 7_000, "and it ends");
        // One that was there before is known for what it is.
        let next = stage.rotate("wx1").await;
        has(&server, KEY, &next, AT_ONCE).await;
        server.set(KEY, &token).await;
        has(&server, KEY, &next, LOOK_BOUND).await;
        servers.push(server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_stays_too_long_or_not_long_enough_is_put_right() {
    let stage = Stage::set().await;
    let token = stage.register("wx1", &["access_token"]).await;
    let (redis, mirror) = mirrored(&stage, CacheKind::Redis).await;
    for command in [&["PERSIST", KEY][..], &["EXPIRE", KEY, "100000"], &["EXPIRE", KEY, "60"]] {
        assert_eq!(redis.ask(command).await.as_deref(), Some("1"));
        eventually(LOOK_BOUND, "the right time", async || {
            (7_000..=7_200).contains(&redis.seconds_left(KEY).await).then_some(())
        })
        .await;
        assert_eq!(redis.get(KEY).await.as_deref(), Some(token.as_str()));
    }
    redis.ask(&["DEL", KEY]).await;
    redis.ask(&["LPUSH", KEY, "a list"]).await;
    let health = stage.has_state(&mirror, "failing", LOOK_BOUND).await;
    assert!(health["last_error"].as_str().is_some_and(|error| error.contains("no string")), "{health}");
    redis.ask(&["DEL", KEY]).await;
    has(&redis, KEY, &token, LOOK_BOUND).await;
    stage.has_state(&mirror, "ok", BOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_account_is_not_written_and_a_removed_mirror_leaves_nothing() {
    let stage = Stage::set().await;
    stage.register("wx1", &["access_token"]).await;
    for kind in [CacheKind::Redis, CacheKind::Memcached] {
        let (server, mirror) = mirrored(&stage, kind).await;
        let token = value(&stage.admin, "wx1", "access_token").await;
        let account = "/v1/accounts/wx1";
        stage.admin.patch(account, &json!({ "enabled": false })).await.expect_status(200);
        stage.has_state(&mirror, "pending", LOOK_BOUND).await;
        assert_eq!(server.get(KEY).await.as_deref(), Some(token.as_str()), "it ends by itself");
        server.flush().await;
        assert_eq!(server.get(KEY).await, None);
        stays_empty(&server).await;
        stage.admin.patch(account, &json!({ "enabled": true })).await.expect_status(200);
        // Switching it on has the token fetched anew.
        eventually(LOOK_BOUND, "the account's token", async || {
            let token = value(&stage.admin, "wx1", "access_token").await;
            (server.get(KEY).await == Some(token)).then_some(())
        })
        .await;
        let path = format!("{account}/mirrors/{}", mirror["id"].as_str().expect("an id"));
        stage.admin.delete(&path).await.expect_status(204);
        let gone = async || server.get(KEY).await.is_none().then_some(());
        eventually(AT_ONCE, "the key to go", gone).await;
        stage.admin.delete(&path).await.expect_problem(404, "unknown_mirror");
        stays_empty(&server).await;
    }
}

/// Nobody writes there for as long as it takes until everybody must have looked.
async fn stays_empty(server: &CacheServer) {
    let looked = Instant::now();
    while looked.elapsed() < LOOK_BOUND {
        assert_eq!(server.get(KEY).await, None);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_told_and_nothing_secret_is() {
    let stage = Stage::set().await;
    let token = stage.register("wx1", &["access_token"]).await;
    let redis = CacheServer::start_with_password().await;
    let mut mirrors = Vec::new();
    for target in [redis.shown(), redis.shown().replace("://", "://:CANARY@")] {
        let order = json!({ "format": "easywechat", "target": target, "secret": format!("CANARY-{}", mirrors.len()) });
        mirrors.push(stage.mirror("wx1", &order).await);
    }
    for mirror in &mirrors {
        let health = stage.has_state(mirror, "failing", LOOK_BOUND).await;
        assert!(health["last_error"].as_str().is_some_and(|error| error.contains("password")), "{health}");
    }
    let listed = stage.admin.get("/v1/accounts/wx1/mirrors").await.expect_status(200).text;
    for text in [listed, stage.verbose().await, stage.server.output()] {
        assert!(!text.contains("CANARY") && !text.contains(redis.password()) && !text.contains(&token), "{text}");
    }
}
