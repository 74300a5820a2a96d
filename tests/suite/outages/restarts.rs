//! The database is restarted again and again, by its administrator and by kill -9 in turn.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{ACCESS_TOKEN, RECOVERY, Scene, tell};
use crate::promises::history;
use crate::support::api::Api;
use crate::support::database::Kind;
use crate::support::own_server::OwnServer;
use crate::support::wait::eventually;

const STABLE: [&str; 6] = ["wxa", "wxb", "wxc", "wxd", "wxe", "wxf"];
const PLAIN: [&str; 6] = ["wxu", "wxv", "wxw", "wxx", "wxy", "wxz"];
/// Seconds. Short enough for refreshes between most restarts.
const STABLE_LIFETIME: usize = 16;
/// Seconds. A plain token is refreshed in its last quarter: there must be room for a claim that a restart cuts off, whose lease runs out,
/// and for the restart.
const PLAIN_LIFETIME: usize = 60;
const BETWEEN_ORDERS: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn restarts_fail_no_read_on_postgres() {
    restarted(Kind::Postgres, Duration::from_secs(25), Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_fail_no_read_on_mysql() {
    restarted(Kind::Mysql, Duration::from_secs(25), Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes five minutes: tests/run.sh five_minutes -- --ignored"]
async fn restarts_for_five_minutes_fail_no_read_on_postgres() {
    restarted(Kind::Postgres, Duration::from_secs(300), Duration::from_secs(15)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes five minutes: tests/run.sh five_minutes -- --ignored"]
async fn restarts_for_five_minutes_fail_no_read_on_mysql() {
    restarted(Kind::Mysql, Duration::from_secs(300), Duration::from_secs(15)).await;
}

async fn restarted(kind: Kind, span: Duration, every: Duration) {
    let database = OwnServer::start(kind).await;
    let scene = Scene::set(&database.url(), 2).await;
    // The lives differ, so that refreshes meet the restarts at every point.
    for (number, (stable, plain)) in STABLE.into_iter().zip(PLAIN).enumerate() {
        let living = |lifetime| json!({ "lifetime_seconds": lifetime + number, "overlap_seconds": lifetime / 2 });
        scene.register(stable, "stable", &living(STABLE_LIFETIME)).await;
        scene.register(plain, "plain", &living(PLAIN_LIFETIME)).await;
    }
    let accounts = [STABLE, PLAIN].concat();
    let readers = scene.read(&accounts);
    let orders = tokio::spawn(order_refreshes(scene.servers[1].admin()));
    let began = Instant::now();
    let mut restarts = 0_u32;
    while began.elapsed() < span {
        if restarts.is_multiple_of(2) {
            database.restart().await;
        } else {
            database.restart_after_kill_9().await;
        }
        restarts += 1;
        tokio::time::sleep_until(began + every * restarts).await;
    }
    orders.abort();
    let reads = readers.finish().await;
    reads.assert_no_failure();
    let dead = reads.assert_dead_for_a_moment();
    tell(&format!(
        "{kind:?}: {restarts} restarts in {:?}, {} reads, none failed; {dead} brought a value that had just ended",
        began.elapsed(),
        reads.0.len()
    ));
    for appid in accounts {
        is_well(&scene, appid).await;
    }
    assert!(database.connections().await <= 32, "two instances hold {} connections", database.connections().await);
}

/// Orders plain refreshes without a pause: a restart finds some of them at every step.
async fn order_refreshes(admin: Api) {
    for appid in PLAIN.iter().cycle() {
        // What comes of it is for the readers to say.
        admin.refresh(appid, ACCESS_TOKEN, false).await;
        tokio::time::sleep(BETWEEN_ORDERS).await;
    }
}

/// The account is fresh, and no call of its left the history without a row. A claim that a restart cut off has one too, with or
/// without a call.
async fn is_well(scene: &Scene, appid: &str) {
    let admin = scene.admin();
    eventually(RECOVERY, "every account to be healthy", async || {
        let account = admin.get(&format!("/v1/accounts/{appid}")).await.expect_status(200);
        (account.body["health"] == "healthy").then_some(())
    })
    .await;
    eventually(RECOVERY, "a row for each call", async || {
        let calls = scene.sandbox.calls(appid);
        let rows = history(&admin, appid).await;
        let known = rows.iter().filter(|row| row["outcome"] != "lost").count();
        let settled = calls.iter().all(|call| call.ended_ms.is_some());
        (settled && (known..=rows.len()).contains(&calls.len())).then_some(())
    })
    .await;
    if PLAIN.contains(&appid) {
        assert_eq!(scene.sandbox.witness(appid, ACCESS_TOKEN).most_in_flight, 1, "{appid}");
    }
}
