//! The database is put back to an older copy while instances run.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use wxtoken::wechat::sandbox::Line;

use super::{ACCESS_TOKEN, RECOVERY, SHARED_WITHIN, Scene, tell};
use crate::support::database::Kind;
use crate::support::own_server::OwnServer;
use crate::support::process::Server;
use crate::support::sandbox::SECRET;
use crate::support::wait::eventually;

const OLD: [&str; 2] = ["wxstable", "wxplain"];
/// Seconds. What is left of a young token's life must do for the time that the server takes to be restored.
const LIFETIME: u32 = 12;
const LIFE: Duration = Duration::from_secs(LIFETIME as u64);

#[tokio::test(flavor = "multi_thread")]
async fn instances_follow_a_database_that_went_back_on_postgres() {
    restored(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_follow_a_database_that_went_back_on_mysql() {
    restored(Kind::Mysql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_the_copy_has_lost_is_served_on_and_stored_again_on_postgres() {
    remembered(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_the_copy_has_lost_is_served_on_and_stored_again_on_mysql() {
    remembered(Kind::Mysql).await;
}

/// In plain mode the value of the copy is dead although its life is not over.
async fn remembered(kind: Kind) {
    let database = OwnServer::start(kind).await;
    let scene = Scene::set(&database.url(), 2).await;
    scene.register("wxplain", "plain", &json!({ "lifetime_seconds": 600, "overlap_seconds": 5 })).await;
    database.stop().await;
    let copy = database.copy();
    database.start_again().await;
    let before = scene.newest("wxplain", Line::Plain);
    eventually(RECOVERY, "a refresh that the copy does not know", async || {
        (scene.admin().refresh("wxplain", ACCESS_TOKEN, false).await.status == 200).then_some(())
    })
    .await;
    let younger = scene.newest("wxplain", Line::Plain);
    for server in &scene.servers {
        eventually(SHARED_WITHIN, "both instances to serve the younger value", async || {
            (server.admin().token("wxplain", ACCESS_TOKEN).await.body["value"] == *younger).then_some(())
        })
        .await;
    }
    let readers = scene.read(&["wxplain"]);
    eventually(RECOVERY, "the value of the copy to be dead", async || (!scene.sandbox.accepts(&before)).then_some(()))
        .await;
    database.stop().await;
    database.restore(&copy);
    database.start_again().await;
    scene.stored_the_newest("wxplain", Line::Plain).await;
    readers.finish().await.assert_all_served();
    assert_eq!(scene.newest("wxplain", Line::Plain), younger, "nothing was minted for it");
}

async fn restored(kind: Kind) {
    let database = OwnServer::start(kind).await;
    let scene = Scene::set(&database.url(), 2).await;
    let short = json!({ "lifetime_seconds": LIFETIME, "overlap_seconds": 6 });
    scene.register("wxstable", "stable", &short).await;
    scene.register("wxplain", "plain", &short).await;
    database.stop().await;
    let copy = database.copy();
    let copied = Instant::now();
    database.start_again().await;
    let readers = scene.read(&OLD);
    go_on(&scene).await;
    // The values of the copy are over, as those of one from yesterday are.
    tokio::time::sleep_until(copied + LIFE).await;
    scene.quiet(&OLD, LIFETIME).await;
    database.stop().await;
    database.restore(&copy);
    database.start_again().await;
    let back = Instant::now();
    for server in &scene.servers {
        eventually(LIFE + RECOVERY, "the account that the copy does not know to go", async || {
            (server.admin().token("wxnew", ACCESS_TOKEN).await.status == 404).then_some(())
        })
        .await;
    }
    tell(&format!("{kind:?}: what the copy does not know was gone {:?} after the return", back.elapsed()));
    // The rows of the copy are the truth now, and every instance gives out what the refreshes from there on bring.
    let following = OLD.iter().flat_map(|appid| scene.servers.iter().map(|server| gets_another(server, appid)));
    futures_util::future::join_all(following).await;
    let ordered = scene.admin().refresh("wxplain", ACCESS_TOKEN, false).await.expect_status(200);
    let elsewhere = scene.servers[1].admin();
    eventually(SHARED_WITHIN, "the other instance to serve it", async || {
        let reply = elsewhere.token("wxplain", ACCESS_TOKEN).await.expect_status(200);
        (reply.body["version"] == ordered.body["token"]["version"]).then_some(())
    })
    .await;
    for appid in OLD {
        let account = scene.admin().get(&format!("/v1/accounts/{appid}")).await.expect_status(200);
        assert_eq!(account.body["health"], "healthy", "{}", account.text);
    }
    readers.finish().await.assert_all_served();
}

/// Moves the database on beyond its copy: the rows of the old accounts count on, and there is a new one.
async fn go_on(scene: &Scene) {
    let admin = scene.admin();
    eventually(RECOVERY, "a new account", async || {
        scene.sandbox.account("wxnew", &json!({}));
        let account = json!({ "appid": "wxnew", "secret": SECRET });
        (admin.create_account(&account).await.status == 201).then_some(())
    })
    .await;
    for server in &scene.servers {
        crate::promises::value(&server.admin(), "wxnew", ACCESS_TOKEN).await;
    }
    for appid in OLD {
        eventually(LIFE * 2, "a refresh that the copy does not know", async || {
            let version = admin.token(appid, ACCESS_TOKEN).await.expect_status(200).body["version"].as_i64();
            (version >= Some(2)).then_some(())
        })
        .await;
    }
}

/// Waits until an instance serves another value than now.
async fn gets_another(server: &Server, appid: &str) {
    let api = server.admin();
    let value = async || api.token(appid, ACCESS_TOKEN).await.expect_status(200).body["value"].clone();
    let now = value().await;
    eventually(LIFE * 2, "another value", async || (value().await != now).then_some(())).await;
}
