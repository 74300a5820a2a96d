//! One call to WeChat for any number of callers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use wxtoken::wechat::sandbox::Line;

use super::{ACCESS_TOKEN, Stage, history};
use crate::support::database::on_every_database;
use crate::support::wait::eventually;

on_every_database! {
    async fn two_hundred_first_readers_share_one_call(db: TestDatabase) {
        let stage = Stage::set(&db).await;
        stage.register("wx1", "stable", &json!({ "latency_ms": { "min": 500, "max": 500 } })).await;
        let readers: Vec<_> = (0..200)
            .map(|_| {
                let admin = stage.admin.clone();
                tokio::spawn(async move { admin.token("wx1", ACCESS_TOKEN).await })
            })
            .collect();
        let mut values = Vec::new();
        for reader in readers {
            let reply = reader.await.expect("no panic").expect_status(200);
            values.push(reply.body["value"].as_str().expect("a string").to_owned());
        }
        values.dedup();
        assert_eq!(values.len(), 1, "everybody has the same token");
        assert_eq!(stage.sandbox.calls("wx1").len(), 1);
        assert_eq!(history(&stage.admin, "wx1").await.len(), 1);
    }

    async fn three_hundred_reports_of_a_dead_token_cost_one_probe_and_one_mint(db: TestDatabase) {
        for (appid, mode, line) in [("wx1", "stable", Line::Stable), ("wx2", "plain", Line::Plain)] {
            let stage = Stage::set(&db).await;
            stage.register(appid, mode, &json!({ "latency_ms": { "min": 100, "max": 200 } })).await;
            let dead = Arc::new(stage.value(appid).await);
            stage.sandbox.kill(appid, line);
            let before = stage.sandbox.witness(appid, ACCESS_TOKEN);
            let reports: Vec<_> = (0..300)
                .map(|_| {
                    let (admin, dead) = (stage.admin.clone(), Arc::clone(&dead));
                    tokio::spawn(async move { admin.report(appid, ACCESS_TOKEN, &dead).await })
                })
                .collect();
            for report in reports {
                let reply = report.await.expect("no panic").expect_status(200);
                let verdict = reply.body["verdict"].as_str().expect("a string");
                assert!(["replaced", "already_replaced"].contains(&verdict), "{verdict}");
                let fresh = reply.body["token"]["value"].as_str().expect("a string");
                assert!(stage.sandbox.accepts(fresh));
            }
            let after = stage.sandbox.witness(appid, ACCESS_TOKEN);
            assert_eq!(after.probes - before.probes, 1, "{mode}");
            assert_eq!(after.mints - before.mints, 1, "{mode}");
            assert_eq!(after.calls - before.calls, 1, "{mode}");
            let rows = history(&stage.admin, appid).await;
            let outcomes: Vec<_> = rows.iter().map(|row| row["outcome"].as_str().unwrap_or_default()).collect();
            assert_eq!(outcomes, ["success", "foreign_refresh", "success"], "{mode}");
        }
    }

    async fn a_report_of_a_living_token_costs_one_probe_for_ten_seconds(db: TestDatabase) {
        let stage = Stage::set(&db).await;
        stage.register("wx1", "stable", &json!({})).await;
        let value = stage.value("wx1").await;
        for _ in 0..20 {
            let reply = stage.admin.report("wx1", ACCESS_TOKEN, &value).await.expect_status(200);
            assert_eq!(reply.body["verdict"], "still_valid");
            assert_eq!(reply.body["token"]["value"].as_str(), Some(value.as_str()));
        }
        assert_eq!(stage.sandbox.witness("wx1", ACCESS_TOKEN).probes, 1);
        let reply = stage.admin.report("wx1", ACCESS_TOKEN, "84_never_seen").await.expect_status(200);
        assert_eq!(reply.body["verdict"], "already_replaced");
        assert_eq!(stage.sandbox.witness("wx1", ACCESS_TOKEN).probes, 1, "no call for a value that is not current");
    }

    async fn a_spent_budget_is_a_clear_answer(db: TestDatabase) {
        let stage = Stage::set_with(&db, |server| server.env("WXTOKEN_FORCED_PER_DAY", "1")).await;
        // WeChat goes on naming the dead token, so that only a forced refresh brings another.
        stage.register("wx1", "stable", &json!({ "stable_returns_withdrawn": true })).await;
        let first = stage.value("wx1").await;
        stage.sandbox.kill("wx1", Line::Stable);
        let reply = stage.admin.report("wx1", ACCESS_TOKEN, &first).await.expect_status(200);
        assert_eq!(reply.body["verdict"], "replaced");
        let second = stage.value("wx1").await;
        stage.sandbox.kill("wx1", Line::Stable);
        let calls = stage.sandbox.calls("wx1").len();
        for _ in 0..20 {
            let reply = stage.admin.report("wx1", ACCESS_TOKEN, &second).await.expect_status(429);
            assert_eq!(reply.code(), "budget_exhausted");
            assert!(!reply.header("retry-after").is_empty());
        }
        let spent = stage.sandbox.calls("wx1").len() - calls;
        assert_eq!(spent, 2, "a probe and one ordinary call, whatever callers do");
    }

    async fn a_ticket_waits_for_its_access_token_and_has_a_refused_one_repaired(db: TestDatabase) {
        let stage = Stage::set(&db).await;
        stage.sandbox.account("wx1", &json!({ "latency_ms": { "min": 100, "max": 100 } }));
        super::register(&stage.admin, "wx1", "stable", json!(["jsapi_ticket"])).await;
        let ticket = super::value(&stage.admin, "wx1", "jsapi_ticket").await;
        assert!(stage.sandbox.accepts(&ticket));
        assert_eq!(stage.sandbox.witness("wx1", ACCESS_TOKEN).calls, 1);
        assert_eq!(stage.sandbox.witness("wx1", "jsapi_ticket").calls, 1);
        stage.sandbox.kill("wx1", Line::Stable);
        // The ticket call finds the access token refused; nobody reported it.
        stage.admin.refresh("wx1", "jsapi_ticket", false).await.expect_status(502);
        let admin = &stage.admin;
        eventually(Duration::from_secs(20), "the repair", async || {
            let value = admin.token("wx1", ACCESS_TOKEN).await.body["value"].as_str()?.to_owned();
            let rows = history(admin, "wx1").await;
            let last_ticket = rows.iter().rfind(|row| row["token_type"] == "jsapi_ticket")?;
            (stage.sandbox.accepts(&value) && last_ticket["outcome"] == "unchanged").then_some(())
        })
        .await;
        let kept = super::value(admin, "wx1", "jsapi_ticket").await;
        assert_eq!(kept, ticket, "a failed fetch keeps the good ticket");
    }

    async fn fifty_readers_who_need_more_time_share_one_call(db: TestDatabase) {
        let stage = Stage::set(&db).await;
        let short = json!({ "lifetime_seconds": 8, "overlap_seconds": 8, "latency_ms": { "min": 200, "max": 200 } });
        stage.register("wx1", "plain", &short).await;
        let path = "/v1/accounts/wx1/tokens/access_token";
        eventually(Duration::from_secs(20), "less than half of the life", async || {
            let left = stage.admin.get(path).await.body["expires_in"].as_i64()?;
            (left == 3).then_some(())
        })
        .await;
        let before = stage.sandbox.calls("wx1").len();
        let readers: Vec<_> = (0..50)
            .map(|_| {
                let admin = stage.admin.clone();
                tokio::spawn(async move { admin.get(&format!("{path}?min_ttl=4")).await.expect_status(200) })
            })
            .collect();
        for reader in readers {
            let left = reader.await.expect("no panic").body["expires_in"].as_i64().expect("a number");
            assert!(left >= 4, "{left} s are left");
        }
        assert_eq!(stage.sandbox.calls("wx1").len() - before, 1);
    }
}
