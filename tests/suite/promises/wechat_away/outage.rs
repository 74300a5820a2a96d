//! WeChat is away for several lifetimes of its tokens.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::support::database::on_every_database;

const LIFETIME: u64 = 10;
const AWAY: Duration = Duration::from_secs(4 * LIFETIME);
/// The shortest pause between two attempts is a second. Most are much longer: the usual figure is about seven.
const MOST_CALLS: usize = 40;

const TOKENS: [(&str, &str); 4] =
    [("wxstable", ACCESS_TOKEN), ("wxstable", JSAPI_TICKET), ("wxplain", ACCESS_TOKEN), ("wxplain", JSAPI_TICKET)];
const AFFLICTED: [&str; 2] = ["wxstable", "wxplain"];

on_every_database! {
    async fn no_dead_token_is_served_while_wechat_is_away_and_all_are_fresh_soon_after(db: TestDatabase) {
        let stage = Stage::set(&db).await;
        for appid in AFFLICTED {
            register_short(&stage, appid).await;
            register_short(&stage, &other(appid)).await;
        }
        let readers = TOKENS.map(|(appid, kind)| stage.reader(appid, kind));
        let others = TOKENS.map(|(appid, kind)| stage.reader(&other(appid), kind));
        stay_away(&stage).await;
        come_back(&stage).await;
        for ((appid, kind), reader) in TOKENS.into_iter().zip(readers) {
            let (seen, who) = (reader.end().await, format!("{kind} of {appid}"));
            seen.assert_never_dead(&who);
            assert!(!seen.refused.is_empty() && seen.reads > seen.refused.len(), "{who}");
            assert_told_when_to_come_again(seen, &who);
        }
        for ((appid, kind), reader) in TOKENS.into_iter().zip(others) {
            let (seen, who) = (reader.end().await, format!("{kind} beside {appid}"));
            seen.assert_never_dead(&who);
            // A new ticket can be had only when the old one has ended at WeChat, which is a moment after it has ended here.
            assert!(seen.refused.len() * 10 < seen.reads, "{who}: {} of {} reads", seen.refused.len(), seen.reads);
            if kind == ACCESS_TOKEN {
                seen.assert_flawless(&who);
            }
        }
        for appid in AFFLICTED {
            stage.one_row_for_each_call(appid).await;
        }
    }
}

/// An account of the same mode that WeChat goes on answering.
fn other(appid: &str) -> String {
    format!("{appid}_other")
}

async fn register_short(stage: &Stage, appid: &str) {
    let short = json!({
        "lifetime_seconds": LIFETIME, "overlap_seconds": 4, "latency_ms": { "min": 100, "max": 100 },
        "ticket_lifetime_seconds": LIFETIME, "ticket_overlap_seconds": 2,
    });
    stage.sandbox.account(appid, &short);
    let mode = if appid.starts_with("wxplain") { "plain" } else { "stable" };
    register(&stage.admin, appid, mode, json!([ACCESS_TOKEN, JSAPI_TICKET])).await;
    value(&stage.admin, appid, JSAPI_TICKET).await;
}

async fn stay_away(stage: &Stage) {
    let calls = |appid, kind| usize::try_from(stage.sandbox.witness(appid, kind).calls).expect("few");
    let before = TOKENS.map(|(appid, kind)| calls(appid, kind));
    for appid in AFFLICTED {
        // Every kind of "away" by turns; none of these calls is processed.
        let by_turns = ["busy", "http_502", "close_before"].map(|kind| json!({ "kind": kind, "probability": 0.5 }));
        let [busy, bad_gateway, closed] = by_turns;
        stage.sandbox.faults(appid, &json!([busy, bad_gateway, closed, { "kind": "system_error" }]));
    }
    tokio::time::sleep(AWAY).await;
    for ((appid, kind), before) in TOKENS.into_iter().zip(before) {
        let made = calls(appid, kind) - before;
        measured(&format!("{made} calls for the {kind} of {appid} in {AWAY:?}"));
        assert!(made <= MOST_CALLS, "{appid}: {made} calls");
        let reply = stage.admin.token(appid, kind).await.expect_problem(503, "no_valid_token");
        assert!(!reply.header("retry-after").is_empty());
    }
}

async fn come_back(stage: &Stage) {
    for appid in AFFLICTED {
        assert_eq!(stage.token_health(appid).await["health"], "down");
        stage.sandbox.faults(appid, &json!([]));
    }
    let back = Instant::now();
    for (appid, kind) in TOKENS {
        eventually(FRESH_AGAIN, &format!("the {kind} of {appid}"), async || {
            (stage.admin.token(appid, kind).await.status == 200).then_some(())
        })
        .await;
        let took = back.elapsed();
        measured(&format!("the {kind} of {appid} was fresh {took:?} after WeChat's return"));
        assert!(took <= FRESH_AGAIN, "{took:?}");
    }
}
