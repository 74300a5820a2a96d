//! WeChat has done what was asked, and its answer is lost.

use std::time::Duration;

use serde_json::{Value, json};
use wxtoken::wechat::sandbox::Line;

use super::*;
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::Server;

const LOST: [&str; 5] = ["hang_after", "reset_after", "close_after", "truncated_body", "http_504"];
/// Two calls within the deadline of one second, the first backoff and what the machine adds.
const BOUND: Duration = Duration::from_secs(20);
/// Within this an instance serves what another has fetched.
const STALENESS_BOUND: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_costs_one_more_call_and_nobody_is_left_with_a_dead_token_on_postgres() {
    lose_answers(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_costs_one_more_call_and_nobody_is_left_with_a_dead_token_on_mysql() {
    lose_answers(Kind::Mysql).await;
}

async fn lose_answers(kind: Kind) {
    let db = TestDatabase::create(kind).await;
    let sandbox = TestSandbox::start().await;
    let start = || Server::builder().database(&db).wechat(sandbox.url()).env("WXTOKEN_CALL_TIMEOUT", "1s").start();
    let servers = [start().await, start().await];
    let trials = ["plain", "stable"].into_iter().flat_map(|mode| LOST.map(|fault| (mode, fault)));
    let (sandbox, servers) = (&sandbox, &servers);
    futures_util::future::join_all(trials.map(|(mode, fault)| lose(sandbox, servers, mode, fault))).await;
}

async fn lose(sandbox: &TestSandbox, servers: &[Server; 2], mode: &str, fault: &str) {
    let appid = format!("wx_{mode}_{fault}");
    let [one, other] = servers.each_ref().map(Server::admin);
    sandbox.account(&appid, &json!({ "latency_ms": { "min": 200, "max": 200 } }));
    register(&one, &appid, mode, json!([ACCESS_TOKEN])).await;
    let good = value(&one, &appid, ACCESS_TOKEN).await;
    value(&other, &appid, ACCESS_TOKEN).await;
    let watch = Watch::new(sandbox, &appid, ACCESS_TOKEN);
    let readers = [&one, &other].map(|api| watch.read(api));
    let lost = json!({ "kind": fault, "calls": ["token", "stable_token"], "times": 1, "processed": true });
    sandbox.faults(&appid, &json!([lost]));
    one.refresh(&appid, ACCESS_TOKEN, false).await.expect_status(502);
    eventually(BOUND, &format!("what WeChat honours to be served for {appid}"), async || {
        for api in [&one, &other] {
            let account = api.get(&format!("/v1/accounts/{appid}")).await;
            let served = api.token(&appid, ACCESS_TOKEN).await;
            let newest = newest(sandbox, &appid, mode);
            if account.body["health"] != "healthy" || served.body["value"] != newest {
                return None;
            }
        }
        Some(())
    })
    .await;
    let rows = history(&one, &appid).await;
    let outcomes: Vec<_> = rows.iter().filter_map(|row| row["outcome"].as_str()).collect();
    let witness = sandbox.witness(&appid, ACCESS_TOKEN);
    if mode == "plain" {
        assert_eq!(outcomes, ["success", "failure", "still_valid", "success"], "{appid}");
        assert_eq!((witness.calls, witness.mints, witness.probes), (3, 3, 1), "{appid}");
    } else {
        assert_eq!(outcomes, ["success", "failure", "unchanged"], "{appid}");
        assert_eq!((witness.calls, witness.mints, witness.probes), (2 + 1, 1, 0), "{appid}");
        assert_eq!(newest(sandbox, &appid, mode), good);
    }
    for reader in readers {
        let seen = reader.end().await;
        assert!(seen.refused.is_empty(), "{appid}: {:?}", seen.refused.first());
        let dead = seen.longest_dead(None);
        measured(&format!("{appid}: a dead value was served for {dead:?} at most"));
        assert!(dead < STALENESS_BOUND, "{appid}: {dead:?}");
    }
}

fn newest(sandbox: &TestSandbox, appid: &str, mode: &str) -> Value {
    let wanted = if mode == "plain" { Line::Plain } else { Line::Stable };
    let state = sandbox.sandbox.state(appid).expect("the account is there");
    let line = state.lines.into_iter().find(|line| line.line == wanted).expect("every line is shown");
    line.current.map_or(Value::Null, |current| Value::from(current.value))
}
