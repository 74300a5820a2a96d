//! WeChat has answered, and the answer cannot be stored: it is served all the same, and stored when that is possible.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;
use wxtoken::wechat::sandbox::Line;

use super::{ACCESS_TOKEN, LEASE, Scene, tell};
use crate::promises::history;
use crate::support::database::Kind;
use crate::support::own_server::OwnServer;
use crate::support::proxy::{Fault, Proxy};
use crate::support::wait::eventually;

/// Milliseconds: time to cut the connection while WeChat works.
const LATENCY: u32 = 700;
const BOUND: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_answer_that_cannot_be_stored_is_served_and_stored_later_on_postgres() {
    stored_later(Kind::Postgres, "plain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_answer_that_cannot_be_stored_is_served_and_stored_later_on_mysql() {
    stored_later(Kind::Mysql, "plain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stable_answer_that_cannot_be_stored_is_served_and_stored_later_on_postgres() {
    stored_later(Kind::Postgres, "stable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stable_answer_that_cannot_be_stored_is_served_and_stored_later_on_mysql() {
    stored_later(Kind::Mysql, "stable").await;
}

async fn stored_later(kind: Kind, mode: &str) {
    let database = OwnServer::start(kind).await;
    let (proxy, url) = Proxy::in_front_of(&database.url());
    let scene = Scene::set(&url, 1).await;
    scene.register("wx1", mode, &json!({})).await;
    let admin = scene.admin();
    let line = if mode == "plain" { Line::Plain } else { Line::Stable };
    let old = scene.newest("wx1", line);
    let readers = scene.read(&["wx1"]);
    scene.sandbox.account("wx1", &json!({ "latency_ms": { "min": LATENCY, "max": LATENCY } }));
    let path = format!("/v1/accounts/wx1/tokens/{ACCESS_TOKEN}/refresh");
    let order = admin.request(Method::POST, &path).header("content-type", "application/json");
    // What this is answered with is not the matter here.
    let ordered = tokio::spawn(order.body(json!({ "force": true }).to_string()).send());
    eventually(BOUND, "the call", async || (scene.sandbox.calls("wx1").len() == 2).then_some(())).await;
    proxy.set(Fault::Cut);
    let cut = Instant::now();
    let newest = eventually(BOUND, "the new value to be served", async || {
        let newest = scene.newest("wx1", line);
        let reply = admin.token("wx1", ACCESS_TOKEN).await;
        (newest != old && reply.body["value"] == newest).then_some(newest)
    })
    .await;
    tell(&format!("{kind:?}, {mode}: served {:?} after the cut, with {LATENCY} ms of WeChat in that", cut.elapsed()));
    // Past the end of the lease: nobody may take a claim for lost whose answer waits to be stored.
    tokio::time::sleep_until(cut + LEASE * 2).await;
    proxy.heal();
    scene.has_one_row_for_each_call("wx1").await;
    // A claim that was taken for lost would be made again by now.
    tokio::time::sleep(LEASE).await;
    let rows = history(&admin, "wx1").await;
    let outcomes: Vec<_> = rows.iter().map(|row| row["outcome"].as_str().unwrap_or_default()).collect();
    assert_eq!(outcomes, ["success", "success"], "{rows:#?}\n{}", scene.servers[0].output());
    assert_eq!(scene.sandbox.calls("wx1").len(), 2);
    assert_eq!(scene.newest("wx1", line), newest);
    scene.stored_the_newest("wx1", line).await;
    readers.finish().await.assert_all_served();
    ordered.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_value_is_not_served_on_though_that_cannot_be_stored_on_postgres() {
    refused_meanwhile(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_value_is_not_served_on_though_that_cannot_be_stored_on_mysql() {
    refused_meanwhile(Kind::Mysql).await;
}

async fn refused_meanwhile(kind: Kind) {
    let database = OwnServer::start(kind).await;
    let (proxy, url) = Proxy::in_front_of(&database.url());
    let scene = Scene::set(&url, 1).await;
    scene.register("wx1", "stable", &json!({})).await;
    let admin = scene.admin();
    let refused = scene.newest("wx1", Line::Stable);
    scene.sandbox.kill("wx1", Line::Stable);
    scene.sandbox.account("wx1", &json!({ "latency_ms": { "min": LATENCY, "max": LATENCY } }));
    let reported = tokio::spawn({
        let (admin, refused) = (admin.clone(), refused.clone());
        async move { admin.report("wx1", ACCESS_TOKEN, &refused).await.status }
    });
    eventually(BOUND, "the probe", async || (scene.sandbox.calls("wx1").len() == 2).then_some(())).await;
    proxy.set(Fault::Cut);
    eventually(BOUND, "a value that WeChat accepts", async || {
        let reply = admin.token("wx1", ACCESS_TOKEN).await;
        reply.body["value"].as_str().filter(|value| scene.sandbox.accepts(value)).map(drop)
    })
    .await;
    assert!([200, 503].contains(&reported.await.expect("it is answered").as_u16()));
    proxy.heal();
    scene.has_one_row_for_each_call("wx1").await;
    scene.stored_the_newest("wx1", Line::Stable).await;
}
