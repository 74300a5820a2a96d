//! A PostgreSQL primary is killed, and its streaming standby takes its place behind the same address.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{RECOVERY, Scene, away, tell};
use crate::promises;
use crate::support::database::Kind;
use crate::support::own_server::OwnServer;
use crate::support::proxy::Proxy;
use crate::support::sandbox::SECRET;
use crate::support::wait::eventually;

/// Something is refreshed in every second, before the primary dies and afterwards.
const ACCOUNTS: [&str; 10] = ["wxa", "wxb", "wxc", "wxd", "wxe", "wxf", "wxg", "wxh", "wxi", "wxj"];
/// How long an operator, or a machine in his place, takes to notice and to promote.
const UNTIL_PROMOTED: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_fails_no_read_and_loses_no_account() {
    let primary = OwnServer::start(Kind::Postgres).await;
    let standby = primary.standby().await;
    let (proxy, url) = Proxy::in_front_of(&primary.url());
    let scene = Scene::set(&url, 2).await;
    for (number, appid) in ACCOUNTS.iter().enumerate() {
        // A plain token must outlive the time until the promotion, wherever in its life that comes.
        let (mode, lifetime) = if number % 2 == 0 { ("stable", 10 + number) } else { ("plain", 30 + number) };
        scene.register(appid, mode, &json!({ "lifetime_seconds": lifetime, "overlap_seconds": lifetime / 2 })).await;
    }
    primary.replicated().await;
    let readers = scene.read(&ACCOUNTS);
    primary.kill_9();
    proxy.lead_to(standby.address());
    let died = Instant::now();
    // The address leads to a server that takes no changes yet.
    away::takes_no_changes(&scene.admin(), "wxa").await;
    tokio::time::sleep_until(died + UNTIL_PROMOTED).await;
    standby.promote().await;
    let promoted = Instant::now();
    let (settled, before) = ("SELECT COUNT(*) FROM wx_refresh_history WHERE outcome = 'success'", ACCOUNTS.len());
    let known = standby.number(settled).await;
    assert!(known >= i64::try_from(before).expect("few"));
    eventually(RECOVERY, "the first refresh on the new primary", async || {
        (standby.number(settled).await > known).then_some(())
    })
    .await;
    tell(&format!("first refresh on the new primary {:?} after its promotion", promoted.elapsed()));
    for appid in ACCOUNTS {
        let path = format!("/v1/accounts/{appid}");
        eventually(RECOVERY, "every account to be healthy", async || {
            let account = scene.admin().get(&path).await.expect_status(200);
            (account.body["health"] == "healthy").then_some(())
        })
        .await;
    }
    let account = json!({ "appid": "wxnew", "secret": SECRET });
    scene.sandbox.account("wxnew", &json!({}));
    scene.admin().create_account(&account).await.expect_status(201);
    for server in &scene.servers {
        promises::value(&server.admin(), "wxnew", super::ACCESS_TOKEN).await;
    }
    readers.finish().await.assert_all_served();
}
