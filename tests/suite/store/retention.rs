//! Old history rows go while refreshes go on.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use wxtoken::clock::Clock;
use wxtoken::domain::refresh::CallKind;
use wxtoken::store::db::Db;
use wxtoken::store::migrate::bring_up_to_date;

use super::fixture::{ACCESS, Home, TWO_HOURS, after, key, noon};
use super::raw::Raw;
use crate::support::database::{Kind, TestDatabase, on_every_database};
use crate::support::process::Server;
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

const DAY: Duration = Duration::from_hours(24);
const BATCH: u32 = 1_000;
const DIGITS: &str = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 \
                      UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";

/// Ten thousand rows, a second apart, of a hundred accounts; the first of them starts at `first`.
async fn write_rows(raw: &mut Raw, number: i64, first: i64) {
    let n = format!("(a.d + 10 * b.d + 100 * c.d + 1000 * e.d + {number})");
    raw.run(&format!(
        "INSERT INTO wx_refresh_history (id, appid, token_type, generation, call_kind, trigger_name, outcome, \
         started_at, duration_ms, expires_in, fingerprint, version, instance) \
         SELECT CAST({n} + 1000000000 AS CHAR(10)), 'wxgone', 'access_token', {n}, 'mint', 'schedule', 'success', \
         {first} + 1000 * ({n} - {number}), 120, 7200, '0123456789abcdef', 1, 'an-instance-with-a-usual-name' \
         FROM {DIGITS} a CROSS JOIN {DIGITS} b CROSS JOIN {DIGITS} c CROSS JOIN {DIGITS} e"
    ))
    .await;
}

async fn count(raw: &mut Raw) -> i64 {
    let sql = "SELECT COUNT(*) FROM wx_refresh_history WHERE appid = 'wxgone'";
    raw.one(sql).await.parse().expect("a number")
}

on_every_database! {
    async fn old_rows_go_in_batches_while_refreshes_go_on(database: TestDatabase) {
        let db = Db::open(database.url()).await.expect("it opens");
        bring_up_to_date(&db).await.expect("it works");
        db.close().await;
        drop(db);
        let mut raw = Raw::connect(database.kind(), database.url()).await;
        let now = Clock::new().now();
        for part in 0..4 {
            write_rows(&mut raw, part * 10_000, now.minus(DAY * 9).as_millis() + part * 10_000_000).await;
        }
        // These began within the last day and stay.
        write_rows(&mut raw, 40_000, now.minus(DAY / 2).as_millis()).await;
        let sandbox = TestSandbox::start().await;
        sandbox.account("wx1", &json!({ "lifetime_seconds": 8, "overlap_seconds": 3 }));
        let server = Server::builder().database(&database).wechat(sandbox.url()).env("WXTOKEN_HISTORY_DAYS", "1");
        let server = server.start().await;
        let account = json!({ "appid": "wx1", "secret": SECRET });
        server.admin().create_account(&account).await.expect_status(201);
        let mut seen = vec![count(&mut raw).await];
        eventually(Duration::from_secs(60), "the old rows to go", async || {
            let left = count(&mut raw).await;
            seen.push(left);
            (left == 10_000).then_some(())
        })
        .await;
        assert!(seen.is_sorted_by(|before, after| before >= after), "{seen:?}");
        seen.dedup();
        assert!(seen.len() > 5, "they went in batches: {seen:?}");
        eventually(Duration::from_secs(40), "refreshes", async || {
            let rows = server.admin().refreshes("appid=wx1&outcome=success").await.expect_status(200);
            (rows.body["items"].as_array().expect("a list").len() > 2).then_some(())
        })
        .await;
        let life = sandbox.calls("wx1").windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms).max();
        assert!(life.is_some_and(|life| life < 8_000), "no token came to its end: {life:?}");
        assert_eq!(count(&mut raw).await, 10_000);
    }

    async fn several_who_prune_at_once_remove_each_row_once(database: TestDatabase) {
        let home = Home::new(database).await;
        write_rows(&mut home.raw().await, 0, noon().as_millis()).await;
        let end = noon().plus(Duration::from_secs(8_000));
        let mut rivals = tokio::task::JoinSet::new();
        for number in 0..4 {
            let store = home.rival(&format!("rival-{number}")).await;
            rivals.spawn(async move {
                let mut removed = 0;
                for _ in 0..40 {
                    removed += store.prune_history(end, BATCH).await.expect("nobody stands in anybody's way");
                }
                removed
            });
        }
        assert_eq!(rivals.join_all().await.into_iter().sum::<u64>(), 8_000);
        assert_eq!(count(&mut home.raw().await).await, 2_000);
    }
}

/// The time of a claim and its settle, the median and the worst of two hundred.
async fn turns(home: &Home, first: u64) -> [Duration; 2] {
    let token = key("wx1", ACCESS);
    let mut times = Vec::new();
    for number in first..first + 200 {
        let began = Instant::now();
        let claim = home.claim(&token, CallKind::Mint, after(number)).await;
        let call = home.brought(&format!("value-{number}"), TWO_HOURS, after(number));
        home.settle(&claim, &call).await.expect("the claim holds");
        times.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    times.sort_unstable();
    [times[times.len() / 2], times[times.len() - 1]]
}

/// A measurement: the cost of a claim and its settle beside two million old rows that are being removed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of some minutes"]
#[expect(clippy::print_stdout, reason = "it prints what it measured")]
async fn millions_of_old_rows_do_not_slow_refreshes_down() {
    for kind in Kind::ALL {
        let home = Home::new(TestDatabase::create(kind).await).await;
        home.register("wx1", &[ACCESS], noon()).await;
        turns(&home, 0).await;
        let before = turns(&home, 1_000).await;
        let mut raw = home.raw().await;
        for part in 0..200 {
            write_rows(&mut raw, part * 10_000, noon().minus(DAY * 99).as_millis() + part * 10_000_000).await;
        }
        let store = Arc::clone(&home.store);
        let pruning = tokio::spawn(async move {
            while store.prune_history(noon(), BATCH).await.expect("it runs") == u64::from(BATCH) {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let during = turns(&home, 2_000).await;
        let began = Instant::now();
        home.store.prune_history(noon(), BATCH).await.expect("it runs");
        let batch = began.elapsed();
        let left = count(&mut raw).await;
        pruning.abort();
        println!(
            "{kind:?}: claim and settle, median and worst: {before:?} before, {during:?} during, {:.2} times; \
             a batch takes {batch:?}; {left} rows are left",
            during[0].as_secs_f64() / before[0].as_secs_f64()
        );
        assert!(during[0] < before[0] * 4, "{kind:?}");
    }
}
