//! Every way in which WeChat can answer badly, while a token is valid.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{ACCESS_TOKEN, Stage};
use crate::support::database::{Kind, TestDatabase};
use crate::support::wait::eventually;

/// A lost answer is followed by a probe: two calls within the deadline below, and what the machine adds.
const DETECTION: Duration = Duration::from_secs(5);
/// Backoff grows to a minute, and some faults take the slower pace of what is not understood.
const STRUCK: Duration = Duration::from_secs(90);
const DEADLINE: &str = "600ms";
/// Each account writes to one SQLite file several times a second.
const AT_ONCE: usize = 12;

/// Body and transport faults. Those named `_after` come when WeChat has processed the call: in plain mode they mint a token that is lost.
const FAULTS: &[&str] = &[
    "busy",
    "system_error",
    "http_502",
    "http_504",
    "empty_body",
    "html",
    "truncated_json",
    "wrong_shape_array",
    "wrong_shape_null",
    "empty_token",
    "missing_token",
    "long_token",
    "reset_before",
    "reset_after",
    "close_before",
    "close_after",
    "hang_before",
    "hang_after",
    "slow_drip",
    "redirect",
    "huge_body",
    "invalid_utf8",
    "trailing_garbage",
    "duplicate_keys",
    "truncated_body",
    "false_gzip",
];

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_through_every_fault_and_recovery_needs_no_help() {
    let db = TestDatabase::create(Kind::Sqlite).await;
    let stage = Stage::set_with(&db, |server| server.env("WXTOKEN_CALL_TIMEOUT", DEADLINE)).await;
    let trap = std::net::TcpListener::bind("127.0.0.1:0").expect("a port can be bound");
    let elsewhere = format!("http://{}/", trap.local_addr().expect("it is bound"));
    for mode in ["stable", "plain"] {
        for fault in FAULTS {
            // An account for each fault, all at work at once.
            let appid = format!("wx_{mode}_{fault}");
            let long = json!({ "lifetime_seconds": 7_200, "overlap_seconds": 300 });
            stage.register(&appid, mode, &long).await;
        }
    }
    let trials = ["stable", "plain"].into_iter().flat_map(|mode| FAULTS.iter().map(move |fault| (mode, *fault)));
    let (stage, elsewhere) = (&stage, elsewhere.as_str());
    futures_util::stream::iter(trials)
        .for_each_concurrent(AT_ONCE, async |(mode, fault)| endure(stage, mode, fault, elsewhere).await)
        .await;
    trap.set_nonblocking(true).expect("a socket can be set so");
    assert!(trap.accept().is_err(), "a redirect was followed, and the AppSecret went with it");
}

/// One fault: it strikes a refresh, the good value survives and is served on; when it ends, the next attempt succeeds by itself.
async fn endure(stage: &Stage, mode: &str, fault: &str, elsewhere: &str) {
    let appid = format!("wx_{mode}_{fault}");
    let good = stage.value(&appid).await;
    let before = stage.sandbox.calls(&appid).len();
    stage.sandbox.faults(&appid, &json!([{ "kind": fault, "bytes": 2_000_000, "location": elsewhere }]));
    let reply = stage.admin.refresh(&appid, ACCESS_TOKEN, false).await;
    assert_eq!(reply.status, 502, "{appid}: {}", reply.text);
    let struck = || stage.sandbox.calls(&appid).iter().filter(|call| call.fault.is_some()).count();
    eventually(STRUCK, "the fault to strike again, by the row's own backoff", async || {
        serves_the_good_value_while_it_lives(stage, &appid, &good).await;
        (struck() >= 2).then_some(())
    })
    .await;
    stage.sandbox.faults(&appid, &Value::Array(Vec::new()));
    eventually(STRUCK, "recovery", async || {
        let account = stage.admin.get(&format!("/v1/accounts/{appid}")).await.expect_status(200);
        (account.body["health"] == "healthy").then_some(())
    })
    .await;
    assert!(stage.sandbox.calls(&appid).len() > before + 2);
}

/// The good value survives. In plain mode two answers that were lost after WeChat had minted end it there; it must not be served on for
/// long then, and no reader may be told that there is none while WeChat still accepts it.
async fn serves_the_good_value_while_it_lives(stage: &Stage, appid: &str, good: &str) {
    let lived_before = stage.sandbox.accepts(good);
    let reply = stage.admin.token(appid, ACCESS_TOKEN).await;
    if stage.sandbox.accepts(good) {
        assert_eq!((reply.status.as_u16(), reply.body["value"].as_str()), (200, Some(good)), "{appid}: {}", reply.text);
    } else if !lived_before && reply.body["value"].as_str() == Some(good) {
        eventually(DETECTION, "a dead value not to be served on", async || {
            let value = stage.admin.token(appid, ACCESS_TOKEN).await.body["value"].as_str().map(str::to_owned);
            (value.as_deref() != Some(good)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_before_the_request_are_survived_and_explained() {
    // A name that does not resolve, and TLS spoken to a listener that does not know it.
    let sandbox = crate::support::sandbox::TestSandbox::start().await;
    let tls_to_plain = sandbox.url().replace("http://127.0.0.1", "https://localhost");
    for (url, said) in [("https://wechat.invalid", "name"), (tls_to_plain.as_str(), "TLS")] {
        let db = TestDatabase::create(Kind::Sqlite).await;
        let server = crate::support::process::Server::builder().database(&db).wechat(url).start().await;
        super::register(&server.admin(), "wx1", "stable", json!(["access_token"])).await;
        let reply = server.admin().token("wx1", ACCESS_TOKEN).await.expect_status(503);
        assert!(reply.text.contains(said), "{url}: {}", reply.text);
        assert!(!reply.text.contains("secret="), "{}", reply.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_in_an_unusual_dress_are_read_and_those_without_a_lifetime_are_not() {
    let db = TestDatabase::create(Kind::Sqlite).await;
    let stage = Stage::set(&db).await;
    for mode in ["stable", "plain"] {
        for (number, dress) in [
            json!({ "content_type": "text_plain" }),
            json!({ "content_type": "html_gbk", "bom": true }),
            json!({ "content_type": "none", "expires_in_form": "string" }),
            json!({ "expires_in_form": "huge" }),
        ]
        .iter()
        .enumerate()
        {
            let appid = format!("wx_{mode}_dress{number}");
            stage.register(&appid, mode, dress).await;
            assert!(stage.sandbox.accepts(&stage.value(&appid).await), "{dress}");
            let left = stage.admin.token(&appid, ACCESS_TOKEN).await.body["expires_in"].as_i64().expect("a number");
            assert!((7_100..=7_200).contains(&left), "{dress}: {left} s");
        }
        for form in ["missing", "zero", "negative"] {
            let appid = format!("wx_{mode}_{form}");
            stage.register(&appid, mode, &json!({})).await;
            let good = stage.value(&appid).await;
            stage.sandbox.account(&appid, &json!({ "expires_in_form": form }));
            let reply = stage.admin.refresh(&appid, ACCESS_TOKEN, false).await.expect_status(502);
            assert!(reply.text.contains("expires_in is no lifetime"), "{}", reply.text);
            assert_eq!(stage.value(&appid).await, good, "{appid}");
            stage.sandbox.account(&appid, &json!({ "expires_in_form": "number" }));
            eventually(STRUCK, "recovery", async || {
                let account = stage.admin.get(&format!("/v1/accounts/{appid}")).await.expect_status(200);
                (account.body["health"] == "healthy").then_some(())
            })
            .await;
        }
    }
}
