//! Changes to an account while its tokens are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use wxtoken::wechat::sandbox::CallKind;

use super::{BOUND, House};
use crate::support::database::on_every_database;
use crate::support::sandbox::SECRET;
use crate::support::wait::eventually;

on_every_database! {
    async fn a_change_of_mode_mints_on_the_other_line_and_goes_on_serving(db: TestDatabase) {
        let house = House::on(db).await;
        house.register("wx1", json!({})).await;
        let mut value = house.value("wx1").await;
        let (done, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let reader = tokio::spawn({
            let (admin, sandbox) = (house.admin.clone(), house.sandbox.sandbox.clone());
            let (done, reads) = (Arc::clone(&done), Arc::clone(&reads));
            async move {
                while !done.load(Ordering::Relaxed) {
                    let reply = admin.token("wx1", "access_token").await.expect_status(200);
                    let judged = sandbox.judge(reply.body["value"].as_str().expect("a string"));
                    assert!(judged.accepted, "a dead token was served: {judged:?}");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for (mode, endpoint) in [("plain", CallKind::Token), ("stable", CallKind::StableToken)] {
            let calls = house.sandbox.calls("wx1").len();
            let path = "/v1/accounts/wx1";
            let changed = house.admin.patch(path, &json!({ "mode": mode })).await.expect_status(200);
            assert_eq!(changed.body["mode"], mode);
            let fresh = eventually(BOUND, "a token of the other line", async || {
                Some(house.value("wx1").await).filter(|fresh| *fresh != value)
            })
            .await;
            let made: Vec<_> = house.sandbox.calls("wx1").split_off(calls).iter().map(|call| call.call).collect();
            assert_eq!(made, [endpoint], "{mode}");
            assert!(house.sandbox.accepts(&fresh));
            value = fresh;
        }
        done.store(true, Ordering::Relaxed);
        reader.await.expect("every read was answered with a good token");
        assert!(reads.load(Ordering::Relaxed) > 10);
    }

    async fn a_new_secret_is_not_undone_by_the_failure_of_a_call_with_the_old_one(db: TestDatabase) {
        let house = House::on(db).await;
        house.sandbox.account("wx1", &json!({ "latency_ms": { "min": 700, "max": 700 } }));
        let wrong = json!({ "appid": "wx1", "secret": "ffffffffffffffffffffffffffffffff" });
        house.admin.create_account(&wrong).await.expect_status(201);
        eventually(BOUND, "a call in flight", async || {
            house.sandbox.calls("wx1").iter().any(|call| call.ended_ms.is_none()).then_some(())
        })
        .await;
        house.admin.patch("/v1/accounts/wx1", &json!({ "secret": SECRET })).await.expect_status(200);
        assert!(house.sandbox.calls("wx1").iter().all(|call| call.ended_ms.is_none()), "the old call is still under way");
        eventually(BOUND, "the failure of the old call in the history", async || {
            let page = house.admin.refreshes("appid=wx1&outcome=failure").await.expect_status(200).body;
            (super::items(&page).len() == 1).then_some(())
        })
        .await;
        // The backoff of a wrong secret is a minute: within seconds the token comes only if the edit stands.
        eventually(Duration::from_secs(8), "a token with the new secret", async || {
            (house.admin.token("wx1", "access_token").await.status == 200).then_some(())
        })
        .await;
        house.has_health("wx1", "healthy").await;
        let codes: Vec<_> = house.sandbox.calls("wx1").iter().map(|call| call.errcode).collect();
        assert_eq!(codes, [Some(40_125), Some(0)], "one call with the old secret, one with the new");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_account_is_not_brought_back_by_its_call_in_flight() {
    let house = House::open().await;
    house.sandbox.account("wx1", &json!({ "latency_ms": { "min": 500, "max": 500 } }));
    house.register("wx1", json!({})).await;
    eventually(BOUND, "a call in flight", async || {
        house.sandbox.calls("wx1").iter().any(|call| call.ended_ms.is_none()).then_some(())
    })
    .await;
    house.admin.delete("/v1/accounts/wx1").await.expect_status(204);
    eventually(BOUND, "the end of the call", async || {
        house.sandbox.calls("wx1").iter().all(|call| call.ended_ms.is_some()).then_some(())
    })
    .await;
    // The history row says that the answer was settled.
    eventually(BOUND, "its history row", async || {
        let page = house.admin.refreshes("appid=wx1").await.expect_status(200).body;
        (super::items(&page).len() == 1).then_some(())
    })
    .await;
    house.admin.token("wx1", "access_token").await.expect_problem(404, "unknown_account");
    house.admin.get("/v1/accounts/wx1").await.expect_problem(404, "unknown_account");
    assert_eq!(house.sandbox.calls("wx1").len(), 1);
}
