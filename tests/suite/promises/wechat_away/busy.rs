//! WeChat answers -1 for some seconds around the full hour, to everybody.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::support::database::on_every_database;

const ACCOUNTS: usize = 10;
/// A quarter of it, less up to a quarter of that, is left for a refresh: 15 s at least, in which three attempts fit.
const LIFETIME: u64 = 80;
const OVERLAP: u64 = 20;
const BUSY_ANSWERS: usize = 2;

on_every_database! {
    async fn a_busy_hour_is_bridged_by_the_old_tokens(db: TestDatabase) {
        let stage = Stage::set(&db).await;
        let appids: Vec<_> = (0..ACCOUNTS).map(|number| format!("wx{number:02}")).collect();
        let at_wechat = json!({ "lifetime_seconds": LIFETIME, "overlap_seconds": OVERLAP });
        for (number, appid) in appids.iter().enumerate() {
            stage.register(appid, if number % 2 == 0 { "stable" } else { "plain" }, &at_wechat).await;
        }
        let mut first = Vec::new();
        for appid in &appids {
            first.push(stage.value(appid).await);
            stage.sandbox.faults(appid, &json!([{ "kind": "busy", "times": BUSY_ANSWERS }]));
        }
        let readers: Vec<_> = appids.iter().map(|appid| stage.reader(appid, ACCESS_TOKEN)).collect();
        for (appid, first) in appids.iter().zip(&first) {
            eventually(Duration::from_secs(LIFETIME + 5), "another token before the first one ends", async || {
                let value = stage.value(appid).await;
                (value != *first).then_some(())
            })
            .await;
        }
        for (appid, reader) in appids.iter().zip(readers) {
            reader.end().await.assert_flawless(appid);
        }
        let mut pauses = BTreeSet::new();
        for appid in &appids {
            let calls = stage.sandbox.calls(appid);
            assert_eq!(calls.len(), 1 + BUSY_ANSWERS + 1, "{appid}: {calls:#?}");
            for pair in calls[1..].windows(2) {
                let pause = pair[1].at_ms - pair[0].at_ms;
                assert!(pause >= 1_000, "{appid} was asked for again after {pause} ms");
                pauses.insert(pause / 100);
            }
            stage.one_row_for_each_call(appid).await;
            assert_eq!(stage.token_health(appid).await["health"], "healthy");
        }
        // The scheduler looks every second, which rounds the pauses.
        assert!(pauses.len() >= 2, "the accounts drift apart: {pauses:?}");
    }
}
