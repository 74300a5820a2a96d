//! The account's quota at WeChat is spent.

use std::time::Duration;

use serde_json::json;
use wxtoken::clock::Clock;
use wxtoken::domain::timestamp::Timestamp;

use super::*;
use crate::support::database::{Kind, TestDatabase};

const LIFETIME: u64 = 20;

/// Spends the quota of every call that brings a token; probes have one of their own.
fn spend(stage: &Stage, appid: &str, errcode: i64, times: Option<u32>) {
    let fault = json!({ "kind": "errcode", "errcode": errcode, "errmsg": "reach max api daily quota limit",
                        "calls": ["token", "stable_token"], "times": times });
    stage.sandbox.faults(appid, &json!([fault]));
}

fn mints(stage: &Stage, appid: &str) -> u64 {
    stage.sandbox.witness(appid, ACCESS_TOKEN).calls
}

/// Readers who want more time and callers who report, for a while. They cost no call for a token, and a probe in ten seconds at most.
async fn besiege(stage: &Stage, appid: &str, value: &str, until: impl AsyncFn() -> bool) {
    let (probes, began) = (stage.sandbox.witness(appid, ACCESS_TOKEN).probes, tokio::time::Instant::now());
    while !until().await {
        let reply = stage.admin.get(&format!("/v1/accounts/{appid}/tokens/access_token?min_ttl=7200")).await;
        if reply.status == 200 && reply.body["value"] == value {
            let report = stage.admin.report(appid, ACCESS_TOKEN, value).await;
            assert!(report.status == 200 || report.status == 503, "{}", report.text);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let probes = stage.sandbox.witness(appid, ACCESS_TOKEN).probes - probes;
    assert!(probes <= began.elapsed().as_secs() / 10 + 1, "{probes} probes in {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_day_is_waited_out_and_ended_by_an_admin_at_once() {
    // It is not to end during this test.
    let now = Clock::new().now();
    let left = now.next_beijing_midnight().since(now);
    if left < Duration::from_mins(2) {
        tokio::time::sleep(left).await;
    }
    let db = TestDatabase::create(Kind::Sqlite).await;
    let stage = Stage::set(&db).await;
    let short = json!({ "lifetime_seconds": LIFETIME, "overlap_seconds": 6, "latency_ms": { "min": 50, "max": 50 } });
    stage.register("wxother", "stable", &short).await;
    stage.value("wxother").await;
    let other = stage.reader("wxother", ACCESS_TOKEN);
    for mode in ["stable", "plain"] {
        stage.register(&format!("wx{mode}"), mode, &short).await;
    }
    tokio::join!(spent_day(&stage, "wxstable"), spent_day(&stage, "wxplain"));
    other.end().await.assert_flawless("the account whose quota is not spent");
}

async fn spent_day(stage: &Stage, appid: &str) {
    let good = stage.value(appid).await;
    let reader = stage.reader(appid, ACCESS_TOKEN);
    spend(stage, appid, 45_009, None);
    eventually(Duration::from_secs(LIFETIME), "the refusal", async || (mints(stage, appid) == 2).then_some(())).await;
    besiege(stage, appid, &good, async || stage.admin.token(appid, ACCESS_TOKEN).await.status != 200).await;
    // Whoever holds the ended value reports it, and hears that there is no other before midnight.
    for _ in 0..20 {
        let report = stage.admin.report(appid, ACCESS_TOKEN, &good).await.expect_problem(503, "no_valid_token");
        assert_eq!(report.body["upstream"]["errcode"], 45_009, "{}", report.text);
    }
    let rows = history(&stage.admin, appid).await;
    assert_eq!(mints(stage, appid), 2, "{appid}: nobody asked again for a token: {rows:#?}");
    let health = stage.token_health(appid).await;
    assert_eq!((&health["health"], &health["last_errcode"]), (&json!("down"), &json!(45_009)), "{health}");
    let due = health["refresh_at"].as_str().and_then(Timestamp::parse_rfc3339).expect("a time");
    let reply = stage.admin.token(appid, ACCESS_TOKEN).await.expect_problem(503, "no_valid_token");
    assert_eq!(reply.body["upstream"]["errcode"], 45_009);
    assert!(
        reply.body["upstream"]["hint"].as_str().is_some_and(|hint| hint.contains("midnight in Beijing")),
        "{}",
        reply.text
    );
    let midnight = Clock::new().now().next_beijing_midnight();
    assert!(due >= midnight && due <= midnight.plus(Duration::from_secs(60)), "{health}");
    assert_eq!(reply.body["retry_at"].as_str().and_then(Timestamp::parse_rfc3339), Some(due));
    assert!(reply.header("retry-after").parse().is_ok_and(|seconds: u64| seconds >= 50), "{:?}", reply.headers);
    // Nothing tells us that the quota is there again; an admin who knows need not wait.
    stage.sandbox.faults(appid, &json!([]));
    stage.admin.refresh(appid, ACCESS_TOKEN, false).await.expect_status(200);
    assert_eq!(stage.token_health(appid).await["health"], "healthy");
    let seen = reader.end().await;
    seen.assert_never_dead(appid);
    stage.one_row_for_each_call(appid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_minute_is_waited_out_with_the_token_that_there_is() {
    let db = TestDatabase::create(Kind::Sqlite).await;
    let stage = Stage::set(&db).await;
    stage.register("wx1", "stable", &json!({ "lifetime_seconds": 7_200, "overlap_seconds": 300 })).await;
    let good = stage.value("wx1").await;
    let reader = stage.reader("wx1", ACCESS_TOKEN);
    spend(&stage, "wx1", 45_011, Some(1));
    let reply = stage.admin.refresh("wx1", ACCESS_TOKEN, false).await.expect_status(502);
    assert_eq!(reply.body["upstream"]["errcode"], 45_011);
    let began = tokio::time::Instant::now();
    besiege(&stage, "wx1", &good, async || mints(&stage, "wx1") > 2 || began.elapsed() > Duration::from_secs(80)).await;
    let took = began.elapsed().as_secs();
    assert!((59..=75).contains(&took), "it was asked for again after {took} s");
    eventually(Duration::from_secs(10), "recovery", async || {
        (stage.token_health("wx1").await["health"] == "healthy").then_some(())
    })
    .await;
    reader.end().await.assert_flawless("wx1");
}
