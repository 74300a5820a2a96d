//! The database answers, and takes no changes.

use std::time::Duration;

use serde_json::json;
use wxtoken::wechat::sandbox::Line;

use super::{RECOVERY, SHORT_LIFE, Scene, away, short_lived};
use crate::support::database::Kind;
use crate::support::own_server::OwnServer;
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_stops_changes_and_nothing_else() {
    let database = OwnServer::start(Kind::Mysql).await;
    let scene = Scene::set(&database.url(), 1).await;
    scene.register("wxstable", "stable", &short_lived()).await;
    scene.register("wxplain", "plain", &json!({})).await;
    let admin = scene.admin();
    let readers = scene.read(&["wxstable", "wxplain"]);
    database.execute("SET GLOBAL read_only = 1").await;
    away::takes_no_changes(&admin, "wxstable").await;
    admin.get("/v1/accounts/wxstable").await.expect_status(200);
    admin.get("/v1/refreshes").await.expect_status(200);
    admin.get("/livez").await.expect_status(200);
    // A database that takes no claims is as good as none: in stable mode the supply goes on.
    tokio::time::sleep(Duration::from_secs(u64::from(SHORT_LIFE) * 3 / 2)).await;
    database.execute("SET GLOBAL read_only = 0").await;
    eventually(RECOVERY, "a change", async || {
        let reply = admin.patch("/v1/accounts/wxstable", &json!({ "name": "another" })).await;
        (reply.status == 200).then_some(())
    })
    .await;
    scene.has_one_row_for_each_call("wxstable").await;
    scene.stored_the_newest("wxstable", Line::Stable).await;
    readers.finish().await.assert_all_served();
}
