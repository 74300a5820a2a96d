//! Minutes in which nothing goes wrong must look like it.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{ACCESS_TOKEN, Stage, history};
use crate::support::database::{Kind, TestDatabase, on_every_database};

const SPAN: Duration = Duration::from_secs(60);
const LIFETIME: u32 = 8;
const READ_EVERY: Duration = Duration::from_millis(50);

on_every_database! {
    async fn with_eight_second_lifetimes_no_dead_token_is_served_for_a_minute(db: TestDatabase) {
        let stage = Stage::set(&db).await;
        let short = json!({ "lifetime_seconds": LIFETIME, "overlap_seconds": 3, "latency_ms": { "min": 50, "max": 300 } });
        stage.register("wxstable", "stable", &short).await;
        stage.register("wxplain", "plain", &short).await;
        for appid in ["wxstable", "wxplain"] {
            stage.value(appid).await;
        }
        let readers = ["wxstable", "wxplain"].map(|appid| {
            let (admin, sandbox) = (stage.admin.clone(), stage.sandbox.sandbox.clone());
            tokio::spawn(async move {
                let began = Instant::now();
                let mut reads = 0_u32;
                while began.elapsed() < SPAN {
                    let reply = admin.token(appid, ACCESS_TOKEN).await.expect_status(200);
                    let value = reply.body["value"].as_str().expect("a string");
                    let judged = sandbox.judge(value);
                    assert!(judged.accepted, "{appid} was served a dead token: {judged:?}");
                    reads += 1;
                    tokio::time::sleep(READ_EVERY).await;
                }
                reads
            })
        });
        for reader in readers {
            assert!(reader.await.expect("no dead token, no failed read") > 500);
        }
        for appid in ["wxstable", "wxplain"] {
            let witness = stage.sandbox.witness(appid, ACCESS_TOKEN);
            assert_eq!(witness.most_in_flight, 1, "{appid}");
            // The ideal is one mint for each life less its lead of two seconds, and the first one.
            let ideal = SPAN.as_secs_f64() / f64::from(LIFETIME - 2) + 1.0;
            let mints = f64::from(u32::try_from(witness.mints).expect("few"));
            assert!(mints <= ideal * 1.3, "{appid}: {mints} mints where {ideal:.1} would do");
            assert_history_equals_log(&stage, appid).await;
        }
    }
}

/// One history row for each call, the calls of one in the order of the other. The server is asked until both agree, because a call may
/// be between the two.
async fn assert_history_equals_log(stage: &Stage, appid: &str) {
    crate::support::wait::eventually(Duration::from_secs(5), "one history row for each call", async || {
        let calls = stage.sandbox.calls(appid);
        let rows = history(&stage.admin, appid).await;
        let settled = calls.iter().all(|call| call.ended_ms.is_some());
        (settled && calls.len() == rows.len()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_explained_and_not_hammered() {
    let db = TestDatabase::create(Kind::Sqlite).await;
    let stage = Stage::set(&db).await;
    stage.register("wx1", "stable", &json!({ "secret": "ffffffffffffffffffffffffffffffff" })).await;
    stage.register("wx2", "stable", &json!({})).await;
    stage.value("wx2").await;
    for _ in 0..50 {
        let reply = stage.admin.token("wx1", ACCESS_TOKEN).await.expect_status(503);
        assert_eq!(reply.code(), "no_valid_token");
        assert_eq!(reply.body["upstream"]["errcode"], 40_125);
        let hint = reply.body["upstream"]["hint"].as_str().expect("a string");
        assert!(hint.contains("AppSecret"), "{hint}");
        let seconds: u32 = reply.header("retry-after").parse().expect("seconds");
        assert!((1..=60).contains(&seconds));
    }
    assert_eq!(stage.sandbox.calls("wx1").len(), 1);
    // An edit resets the backoff at once.
    let right = json!({ "secret": "ffffffffffffffffffffffffffffffff" });
    stage.admin.patch("/v1/accounts/wx1", &right).await.expect_status(200);
    stage.value("wx1").await;
    assert_eq!(stage.sandbox.calls("wx1").len(), 2);
}
