//! The database is away for longer than the tokens live. In stable mode asking WeChat takes nothing from anybody, so the supply goes on; in
//! plain mode every mint ends the value that others may hold, so nobody mints without the row.

use std::time::Duration;

use tokio::time::Instant;
use wxtoken::wechat::sandbox::Line;

use super::{ACCESS_TOKEN, RECOVERY, Read, Reads, SHORT_LIFE, Scene, short_lived};
use crate::promises::history;
use crate::support::database::Kind;
use crate::support::own_server::OwnServer;
use crate::support::wait::eventually;

/// Two lives and more.
const OUTAGE: Duration = Duration::from_secs(22);

#[tokio::test(flavor = "multi_thread")]
async fn the_supply_of_one_instance_goes_on_without_postgres() {
    outlived(Kind::Postgres, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supply_of_two_instances_goes_on_without_postgres() {
    outlived(Kind::Postgres, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supply_of_one_instance_goes_on_without_mysql() {
    outlived(Kind::Mysql, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supply_of_two_instances_goes_on_without_mysql() {
    outlived(Kind::Mysql, 2).await;
}

async fn outlived(kind: Kind, instances: usize) {
    let database = OwnServer::start(kind).await;
    let scene = Scene::set(&database.url(), instances).await;
    scene.register("wxstable", "stable", &short_lived()).await;
    scene.register("wxplain", "plain", &short_lived()).await;
    let readers = scene.read(&["wxstable", "wxplain"]);
    scene.quiet(&["wxstable", "wxplain"], SHORT_LIFE).await;
    database.kill_9();
    let gone = Instant::now();
    let calls = || ["wxstable", "wxplain"].map(|appid| scene.sandbox.calls(appid).len());
    let before = calls();
    tokio::time::sleep(OUTAGE).await;
    let [stable, plain] = calls();
    let back = Instant::now();
    assert_eq!(plain, before[1], "a plain token was minted without its row");
    let asked = stable - before[0];
    let lives = usize::try_from(OUTAGE.as_secs()).expect("few") / SHORT_LIFE as usize;
    // Each instance asks for itself, once in the last quarter of each life and once more where the first was too early for a new value.
    assert!((lives..=3 * lives * instances).contains(&asked), "{asked} calls in {lives} lives");
    database.start_again().await;
    for server in &scene.servers {
        eventually(RECOVERY, "a plain token again", async || {
            (server.admin().token("wxplain", ACCESS_TOKEN).await.status == 200).then_some(())
        })
        .await;
    }
    for appid in ["wxstable", "wxplain"] {
        scene.has_one_row_for_each_call(appid).await;
    }
    // Most were fetched ahead, without a reader who had to wait for them.
    let rows = history(&scene.admin(), "wxstable").await;
    let during = &rows[before[0]..before[0] + asked];
    let ahead = during.iter().filter(|row| row["trigger"] == "schedule").count();
    assert!(ahead * 2 >= asked, "{during:#?}");
    scene.stored_the_newest("wxstable", Line::Stable).await;
    scene.stored_the_newest("wxplain", Line::Plain).await;
    let reads = readers.finish().await;
    let (stable, plain) = reads.0.into_iter().partition(|read| read.appid == "wxstable");
    Reads(stable).assert_all_served();
    assert_plain_ends(&plain, gone, back);
}

/// A plain token is served while it lives, and then its end is said clearly.
fn assert_plain_ends(reads: &[Read], gone: Instant, back: Instant) {
    let mut refused = 0;
    for read in reads {
        if read.served() {
            assert!(read.accepted, "a dead token was served: {read:?}");
        } else {
            assert!(read.sent > gone && read.sent < back + RECOVERY, "{read:?}");
            assert_eq!(read.reply.status, 503, "{read:?}");
            let wait: u64 = read.reply.header("retry-after").parse().expect("seconds");
            assert!((1..=60).contains(&wait), "{read:?}");
            refused += 1;
        }
    }
    assert!(refused > 0, "the outage was longer than a life");
    let soon = gone + Duration::from_secs(u64::from(SHORT_LIFE) / 4);
    assert!(reads.iter().filter(|read| read.sent > gone && read.sent < soon).all(Read::served), "it lived then");
}
