//! Ten instances on one database, a thousand tokens that live for 20 s, and kill -9 all the time.
//!
//! ```text
//! tests/run.sh --release ten_instances_lose_nothing_to_kills -- --ignored --nocapture --test-threads=1
//! ```
//!
//! runs for ten minutes on each server (`WXTOKEN_CROWD_SECONDS` sets another time) and prints its figures.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wxtoken::wechat::sandbox::{CallKind, Sandbox};

use super::{ACCESS_TOKEN, register};
use crate::store::raw::Raw;
use crate::support::api::Api;
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::Server;
use crate::support::sandbox::TestSandbox;
use crate::support::wait::eventually;

const INSTANCES: usize = 10;
const ACCOUNTS: usize = 1_000;
/// Seconds. A quarter of it is the lead; as at WeChat, a token is honoured a little longer than that after its successor came.
const LIFETIME: u64 = 20;
const OVERLAP: u64 = 6;
/// A token is due after 15 to 16.25 s of its life, 15.625 s on the average.
const MEAN_TURN: f64 = 15.625;
const BETWEEN_READS: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes; see the head of this file"]
async fn ten_instances_lose_nothing_to_kills_on_postgres() {
    crowd(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes; see the head of this file"]
async fn ten_instances_lose_nothing_to_kills_on_mysql() {
    crowd(Kind::Mysql).await;
}

/// A place for one instance after another.
struct Place {
    server: tokio::sync::Mutex<Server>,
    /// A read that fails while this is not set was cut off by a kill.
    alive: AtomicBool,
    api: Mutex<Api>,
}

/// What the readers found.
#[derive(Default)]
struct Found {
    reads: AtomicU64,
    slowest_ms: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Found {
    fn note(&self, wrong: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(wrong);
    }
}

#[expect(clippy::print_stdout, reason = "its figures are what it is run for")]
async fn crowd(kind: Kind) {
    let span = Duration::from_secs(seconds());
    let database = TestDatabase::create(kind).await;
    let sandbox = TestSandbox::start().await;
    let appids: Arc<Vec<_>> = Arc::new((0..ACCOUNTS).map(|number| format!("wx{number:04}")).collect());
    let mut places = Vec::new();
    for _ in 0..INSTANCES {
        let server = start(&database, &sandbox).await;
        let (alive, api) = (AtomicBool::new(true), Mutex::new(server.admin()));
        places.push(Arc::new(Place { server: tokio::sync::Mutex::new(server), alive, api }));
    }
    furnish(&places[0], &sandbox, &appids).await;
    for place in &places {
        knows_everything(place).await;
    }
    let (found, stop) = (Arc::new(Found::default()), CancellationToken::new());
    let readers: Vec<_> = places
        .iter()
        .map(|place| {
            let (place, found, stop) = (Arc::clone(place), Arc::clone(&found), stop.clone());
            tokio::spawn(read(place, sandbox.sandbox.clone(), Arc::clone(&appids), found, stop))
        })
        .collect();
    let (began, calls_before) = (Instant::now(), calls(&sandbox));
    let kills = kill_at_random(&places, &database, &sandbox, began + span).await;
    let (lasted, calls_made) = (began.elapsed(), calls(&sandbox) - calls_before);
    stop.cancel();
    for reader in readers {
        reader.await.expect("a reader reads to the end");
    }
    for place in &places {
        place.server.lock().await.terminate();
    }
    for place in &places {
        place.server.lock().await.wait_exit(Duration::from_secs(20)).await;
    }
    #[expect(clippy::cast_precision_loss, reason = "there are thousands of calls")]
    let (made, ideal) = (calls_made as f64, ACCOUNTS as f64 * lasted.as_secs_f64() / MEAN_TURN);
    let gaps = gaps(&sandbox);
    let rows = rows(kind, &database).await;
    let found = Arc::into_inner(found).expect("the readers have ended");
    let wrong = found.wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{kind:?}: {lasted:?}, {kills} kills, {} reads, the slowest {} ms, {} wrong; {made} calls, {:.3} of the ideal; longest turn {} ms; rows {rows:?}",
        found.reads.into_inner(),
        found.slowest_ms.into_inner(),
        wrong.len(),
        made / ideal,
        gaps,
    );
    assert!(wrong.is_empty(), "{} reads went wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    assert!(made <= ideal * 1.05, "{made} calls where {ideal:.0} are ideal");
    assert!(gaps < LIFETIME * 1_000, "a token was refreshed only after {gaps} ms");
    assert_rows_are_calls(&rows, calls(&sandbox));
}

fn seconds() -> u64 {
    let value = std::env::var_os("WXTOKEN_CROWD_SECONDS");
    value.map_or(600, |value| value.to_str().and_then(|text| text.parse().ok()).expect("a number of seconds"))
}

async fn start(database: &TestDatabase, sandbox: &TestSandbox) -> Server {
    let server = Server::builder().database(database).wechat(sandbox.url());
    // A claim that dies is free again after 1.25 s, which leaves time for another in the last quarter of a life.
    server
        .env("WXTOKEN_CALL_TIMEOUT", "500ms")
        .env("WXTOKEN_SCAN_INTERVAL", "250ms")
        .env("WXTOKEN_LOG", "error")
        .start()
        .await
}

async fn furnish(place: &Place, sandbox: &TestSandbox, appids: &[String]) {
    let admin = place.server.lock().await.admin();
    for (number, appid) in appids.iter().enumerate() {
        let latency = json!({ "min": 20, "max": 100 });
        sandbox.account(
            appid,
            &json!({ "lifetime_seconds": LIFETIME, "overlap_seconds": OVERLAP, "latency_ms": latency }),
        );
        register(&admin, appid, if number % 2 == 0 { "stable" } else { "plain" }, json!([ACCESS_TOKEN])).await;
    }
    eventually(Duration::from_secs(60), "every token to be fetched", async || {
        (sandbox.sandbox.witnesses().iter().filter(|witness| witness.mints > 0).count() == appids.len()).then_some(())
    })
    .await;
}

/// Waits until an instance has heard of every account: what was registered a moment ago at another it need not know.
async fn knows_everything(place: &Place) {
    let server = place.server.lock().await;
    eventually(Duration::from_secs(20), "an instance to know every account", async || {
        let verbose = server.admin().get("/readyz?verbose").await.text;
        verbose.contains(&format!("accounts: {ACCOUNTS}\n")).then_some(())
    })
    .await;
}

async fn read(
    place: Arc<Place>,
    sandbox: Sandbox,
    appids: Arc<Vec<String>>,
    found: Arc<Found>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        tokio::time::sleep(BETWEEN_READS).await;
        if !place.alive.load(Ordering::SeqCst) {
            continue;
        }
        let api = place.api.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let appid = &appids[rand::rng().random_range(0..appids.len())];
        let (path, asked) = (format!("/v1/accounts/{appid}/tokens/{ACCESS_TOKEN}"), Instant::now());
        let answered = api.request(reqwest::Method::GET, &path).send().await;
        // What a kill cut off is no answer.
        let answer = match answered {
            Ok(answer) => {
                let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap_or_default());
                (status, serde_json::from_str::<serde_json::Value>(&text).ok())
            }
            Err(_) => (0, None),
        };
        if answer.0 != 200 && !place.alive.load(Ordering::SeqCst) {
            continue;
        }
        found.reads.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        found.slowest_ms.fetch_max(took, Ordering::Relaxed);
        match answer {
            (200, Some(body)) => {
                let value = body["value"].as_str().unwrap_or_default();
                if !sandbox.judge(value).accepted {
                    found.note(format!(
                        "{appid}: a dead token, version {}, expires in {}",
                        body["version"], body["expires_in"]
                    ));
                }
            }
            (status, body) => found.note(format!("{appid}: {status} after {took} ms: {body:?}")),
        }
    }
}

/// Kills an instance every 3 to 8 s and starts another in its place 0 to 3 s later.
async fn kill_at_random(places: &[Arc<Place>], database: &TestDatabase, sandbox: &TestSandbox, end: Instant) -> u32 {
    let mut kills = 0;
    loop {
        let pause = Duration::from_millis(rand::rng().random_range(3_000..8_000));
        if Instant::now() + pause > end {
            tokio::time::sleep_until(end).await;
            return kills;
        }
        tokio::time::sleep(pause).await;
        let place = &places[rand::rng().random_range(0..places.len())];
        place.alive.store(false, Ordering::SeqCst);
        place.server.lock().await.kill_9();
        kills += 1;
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..3_000))).await;
        let server = start(database, sandbox).await;
        *place.api.lock().unwrap_or_else(PoisonError::into_inner) = server.admin();
        *place.server.lock().await = server;
        place.alive.store(true, Ordering::SeqCst);
    }
}

/// Calls of every kind that the instances made.
fn calls(sandbox: &TestSandbox) -> u64 {
    sandbox.sandbox.witnesses().iter().map(|witness| witness.calls + witness.probes).sum()
}

/// The longest time in milliseconds between two calls that were to bring the same account a token, or from the last one to the end.
fn gaps(sandbox: &TestSandbox) -> u64 {
    let mut last = BTreeMap::<String, i64>::new();
    let (mut longest, mut end) = (0, 0);
    for entry in sandbox.sandbox.log(0, None) {
        end = entry.at_ms;
        if let (CallKind::Token | CallKind::StableToken, Some(appid)) = (entry.call, entry.appid)
            && let Some(before) = last.insert(appid, entry.at_ms)
        {
            longest = longest.max(entry.at_ms - before);
        }
    }
    let longest = last.values().fold(longest, |longest, at| longest.max(end - at));
    u64::try_from(longest).unwrap_or(0)
}

/// How many history rows there are of each outcome.
async fn rows(kind: Kind, database: &TestDatabase) -> BTreeMap<String, u64> {
    let mut raw = Raw::connect(kind, database.url()).await;
    let counted = raw.rows("SELECT outcome, CAST(COUNT(*) AS CHAR(20)) FROM wx_refresh_history GROUP BY outcome").await;
    let text = |cell: &Option<String>| cell.as_deref().map(str::trim).map(str::to_owned).expect("no NULLs here");
    counted.iter().map(|row| (text(&row[0]), text(&row[1]).parse().expect("a count"))).collect()
}

/// Every call has one row. A row `lost` stands for a claim that died, and whether its call was made nobody can know; the last claims of an instance
/// that was killed shortly before the end have no row yet.
fn assert_rows_are_calls(rows: &BTreeMap<String, u64>, calls: u64) {
    let lost = rows.get("lost").copied().unwrap_or(0);
    let settled = rows.values().sum::<u64>() - lost;
    assert!(settled <= calls, "{settled} rows of calls that ended, and {calls} calls");
    assert!(calls <= settled + lost + 5, "{calls} calls, and {settled} rows and {lost} lost claims");
}
