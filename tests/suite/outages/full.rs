//! The disk is full: no file can be written any more. A limit on the one process stands for it, which needs neither root nor a disk of
//! one's own; the answers of the system differ (`EFBIG` for `ENOSPC`), and what SQLite makes of them is the same to its callers.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, SqliteConnection};
use wxtoken::wechat::sandbox::Line;

use super::{ACCESS_TOKEN, RECOVERY, SHORT_LIFE, Scene, away, short_lived};
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::ServerBuilder;
use crate::support::wait::eventually;

/// Two lives, within which each token is fetched twice.
const OUTAGE: Duration = Duration::from_secs(2 * SHORT_LIFE as u64);
const APPIDS: [&str; 2] = ["wxstable", "wxplain"];

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_no_read_and_loses_nothing() {
    let database = TestDatabase::create(Kind::Sqlite).await;
    let scene = Scene::set_with(database.url(), 1, ServerBuilder::outliving_limits).await;
    scene.register("wxstable", "stable", &short_lived()).await;
    scene.register("wxplain", "plain", &short_lived()).await;
    let admin = scene.admin();
    let readers = scene.read(&APPIDS);
    scene.quiet(&APPIDS, SHORT_LIFE).await;
    let before = APPIDS.map(|appid| scene.sandbox.calls(appid).len());
    scene.servers[0].limit_files(Some(0));
    away::takes_no_changes(&admin, "wxstable").await;
    for path in ["/v1/accounts/wxstable", "/v1/refreshes", "/livez", "/readyz"] {
        admin.get(path).await.expect_status(200);
    }
    for (appid, before) in APPIDS.iter().zip(before) {
        eventually(OUTAGE, "a second call: what is due is fetched, stored or not", async || {
            (scene.sandbox.calls(appid).len() > before + 1).then_some(())
        })
        .await;
    }
    scene.servers[0].limit_files(None);
    eventually(RECOVERY, "a change", async || {
        let reply = admin.patch("/v1/accounts/wxstable", &json!({ "name": "another" })).await;
        (reply.status == 200).then_some(())
    })
    .await;
    for appid in APPIDS {
        scene.has_one_row_for_each_call(appid).await;
    }
    readers.finish().await.assert_all_served();
    scene.servers[0].kill_9();
    assert_eq!(check(&database).await, "ok");
    // The file is locked while an instance has it: this one comes after it.
    let next = scene.builder().start().await;
    for (appid, line) in APPIDS.into_iter().zip([Line::Stable, Line::Plain]) {
        eventually(RECOVERY, "the newest value to be stored", async || {
            let reply = next.admin().token(appid, ACCESS_TOKEN).await;
            (reply.body["value"] == scene.newest(appid, line)).then_some(())
        })
        .await;
    }
}

async fn check(database: &TestDatabase) -> String {
    let mut connection = SqliteConnection::connect(database.url()).await.expect("the file opens");
    sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.expect("it can be checked")
}
