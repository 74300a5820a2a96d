//! Hosts whose clocks are wrong or are set: the time that counts is the database's, and it goes on steadily.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use wxtoken::clock::Clock;
use wxtoken::domain::timestamp::Timestamp;

use super::watch::{Reader, Watch};
use super::{ACCESS_TOKEN, history, register, value};
use crate::support::clock::HostClock;
use crate::support::database::{Kind, TestDatabase, on_both_servers};
use crate::support::own_server::OwnServer;
use crate::support::process::Server;
use crate::support::sandbox::TestSandbox;
use crate::support::wait::eventually;

const HOUR: i64 = 3_600_000;
/// Seconds. A token is due in the last quarter of its life.
const LIFETIME: i64 = 16;
/// Seconds. In stable mode WeChat mints only in this last part of a life.
const OVERLAP: i64 = 6;
const ACCOUNTS: usize = 8;
/// Three lives, and what a busy machine adds.
const BOUND: Duration = Duration::from_secs(90);
/// How far two clocks that agree are read apart on a busy machine, in milliseconds.
const TOLERANCE: i64 = 500;
/// The clock is measured once a minute; the rest is for a busy machine.
const MEASURED_WITHIN: Duration = Duration::from_secs(80);
/// What a measurement puts right of a difference that is not followed at once.
const STEP: i64 = 1_000;

/// An instance on a host with a clock of its own.
struct Host {
    clock: HostClock,
    server: Server,
}

impl Host {
    async fn start(db: &TestDatabase, sandbox: &TestSandbox, hours_off: i32) -> Self {
        let clock = HostClock::new(hours_off);
        let server = Server::builder().database(db).wechat(sandbox.url()).under(&clock).start().await;
        Self { clock, server }
    }
}

/// How the clock of an instance stands, in milliseconds, as it tells operators: how far it is ahead of its host's, and how far the
/// database's was ahead of it when that was last read.
async fn reading(server: &Server) -> (i64, i64) {
    let told = server.admin().get("/readyz?verbose").await.expect_status(200).text;
    let line = told.lines().find(|line| line.starts_with("clock: ")).unwrap_or_else(|| panic!("no clock: {told}"));
    let mut numbers = line.split(' ').filter(|word| word.starts_with(['+', '-'])).flat_map(str::parse);
    let mut next = || numbers.next().unwrap_or_else(|| panic!("two numbers are missing: {line}"));
    (next(), next())
}

fn is_about(found: i64, expected: i64) -> bool {
    (found - expected).abs() <= TOLERANCE
}

on_both_servers! {
    async fn wrong_clocks_of_hosts_change_nothing_and_setting_them_neither(db: TestDatabase) {
        let sandbox = TestSandbox::start().await;
        let hosts = [Host::start(&db, &sandbox, -2).await, Host::start(&db, &sandbox, 2).await];
        for (host, hours) in hosts.iter().zip([2, -2]) {
            let (ahead, gap) = reading(&host.server).await;
            assert!(is_about(ahead, hours * HOUR) && gap == 0, "{ahead} {gap}");
            let output = host.server.output();
            assert!(output.contains("this host's clock differs from the database's by"), "{output}");
        }
        let appids: Vec<_> = (0..ACCOUNTS).map(|number| format!("wx{number}")).collect();
        for (number, appid) in appids.iter().enumerate() {
            sandbox.account(appid, &json!({ "lifetime_seconds": LIFETIME, "overlap_seconds": OVERLAP }));
            let mode = if number % 2 == 0 { "stable" } else { "plain" };
            register(&hosts[number % 2].server.admin(), appid, mode, json!([ACCESS_TOKEN])).await;
        }
        for host in &hosts {
            for appid in &appids {
                value(&host.server.admin(), appid, ACCESS_TOKEN).await;
            }
        }
        let readers = read(&sandbox, &appids, &hosts);
        minted(&sandbox, &appids, 2).await;
        assert_one_true_end(&sandbox, &appids, &hosts).await;
        // Two hours on for one host and two hours back for the other: both are right now, and what counts stays the same.
        for host in &hosts {
            host.clock.set(0);
            eventually(HostClock::DELAY * 10, "the host's clock to be set", async || is_about(reading(&host.server).await.0, 0).then_some(())).await;
        }
        assert_one_true_end(&sandbox, &appids, &hosts).await;
        minted(&sandbox, &appids, 4).await;
        assert_one_true_end(&sandbox, &appids, &hosts).await;
        for reader in readers {
            reader.end().await.assert_flawless(&format!("{:?}", db.kind()));
        }
        assert_refreshed_in_their_window(&sandbox, &appids, &hosts).await;
    }
}

/// Waits until WeChat has minted so many values for each account.
async fn minted(sandbox: &TestSandbox, appids: &[String], mints: usize) {
    eventually(BOUND, "the refreshes of every token", async || {
        appids.iter().all(|appid| minted_at(sandbox, appid).len() >= mints).then_some(())
    })
    .await;
}

/// When WeChat minted, by the true time.
fn minted_at(sandbox: &TestSandbox, appid: &str) -> Vec<i64> {
    sandbox.calls(appid).iter().filter(|call| call.minted).map(|call| call.at_ms).collect()
}

fn read(sandbox: &TestSandbox, appids: &[String], hosts: &[Host]) -> Vec<Reader> {
    let watch = |appid: &String| {
        let watch = Watch::new(sandbox, appid, ACCESS_TOKEN);
        hosts.iter().map(|host| watch.read(&host.server.admin())).collect::<Vec<_>>()
    };
    appids.iter().flat_map(watch).collect()
}

/// Every instance says of every token that it ends when it does at WeChat, to the same millisecond.
async fn assert_one_true_end(sandbox: &TestSandbox, appids: &[String], hosts: &[Host]) {
    let now = Clock::new();
    for appid in appids {
        let (one, other, remaining) = eventually(BOUND, "both instances to serve the same value", async || {
            let one = hosts[0].server.admin().token(appid, ACCESS_TOKEN).await.body;
            let other = hosts[1].server.admin().token(appid, ACCESS_TOKEN).await.body;
            // A value that has just been replaced lives on for the rest of the overlap.
            let lines = sandbox.sandbox.state(appid).expect("the account is there").lines;
            let current =
                lines.into_iter().filter_map(|line| line.current).find(|current| one["value"] == current.value)?;
            (one["version"] == other["version"]).then_some((one, other, current.remaining_ms))
        })
        .await;
        assert_eq!(one["expires_at"], other["expires_at"], "{appid}");
        let end = now.now().as_millis() + i64::try_from(remaining).expect("it is short");
        let told = time(&one["expires_at"]).as_millis();
        // Expiry counts from the moment when the call was sent, in whole seconds.
        assert!(
            (end - 1_000 - TOLERANCE..=end + TOLERANCE).contains(&told),
            "{appid} ends at {end}, and not at {told}"
        );
    }
}

fn time(value: &Value) -> Timestamp {
    value.as_str().and_then(Timestamp::parse_rfc3339).unwrap_or_else(|| panic!("no time: {value}"))
}

/// By the true time no token was replaced before the last quarter of its life or after its end. Both instances did their part.
async fn assert_refreshed_in_their_window(sandbox: &TestSandbox, appids: &[String], hosts: &[Host]) {
    let window = LIFETIME * 750 - TOLERANCE..LIFETIME * 1_000;
    let mut instances = BTreeSet::new();
    for appid in appids {
        let minted = minted_at(sandbox, appid);
        assert!(minted.windows(2).all(|pair| window.contains(&(pair[1] - pair[0]))), "{appid}: {minted:?}");
        for row in history(&hosts[0].server.admin(), appid).await {
            assert_eq!(row["outcome"], "success", "{appid}: {row}");
            instances.insert(row["instance"].as_str().expect("a name").to_owned());
        }
        assert_eq!(sandbox.witness(appid, ACCESS_TOKEN).most_in_flight, 1, "{appid}");
    }
    assert_eq!(instances.len(), 2, "both instances refreshed: {instances:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_set_on_is_followed_within_a_minute() {
    let (ahead, gap, calls) = after_the_database_is_set(Kind::Postgres, 2).await;
    assert!(is_about(gap, 2 * HOUR) && is_about(ahead, 2 * HOUR), "{ahead} {gap}");
    assert_eq!(calls, 2, "the token seemed to be at its end and was fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_set_back_is_followed_in_steps() {
    let (ahead, gap, calls) = after_the_database_is_set(Kind::Mysql, -2).await;
    assert!(is_about(gap, -2 * HOUR) && is_about(ahead, -STEP) && calls == 1, "{ahead} {gap} {calls}");
}

/// Sets the clock of a server's host under an instance whose own host is right; see [`after_it_is_set`].
async fn after_the_database_is_set(kind: Kind, hours: i32) -> (i64, i64, usize) {
    let clock = HostClock::new(0);
    let database = OwnServer::start_under(kind, &clock).await;
    let sandbox = TestSandbox::start().await;
    let server = Server::builder().env("DATABASE_URL", &database.url()).wechat(sandbox.url()).start().await;
    after_it_is_set(&server, &sandbox, &clock, hours).await
}

/// On SQLite the database's clock is the one of this very host, and dead tokens must not come to life by it, nor living ones die.
#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_the_hosts_clock_is_followed_in_steps() {
    let (db, sandbox) = (TestDatabase::create(Kind::Sqlite).await, TestSandbox::start().await);
    let host = Host::start(&db, &sandbox, 0).await;
    let (ahead, gap, calls) = after_it_is_set(&host.server, &sandbox, &host.clock, 2).await;
    assert!(is_about(gap, 2 * HOUR) && is_about(ahead, STEP - 2 * HOUR) && calls == 1, "{ahead} {gap} {calls}");
}

/// Sets a clock while a token of two hours is read all the time. How the instance's clock stands after the next measurement, and how
/// often it has called WeChat by then.
async fn after_it_is_set(server: &Server, sandbox: &TestSandbox, clock: &HostClock, hours: i32) -> (i64, i64, usize) {
    let admin = server.admin();
    sandbox.account("wx1", &json!({}));
    register(&admin, "wx1", "stable", json!([ACCESS_TOKEN])).await;
    value(&admin, "wx1", ACCESS_TOKEN).await;
    let reader = Watch::new(sandbox, "wx1", ACCESS_TOKEN).read(&admin);
    let (ahead, gap) = reading(server).await;
    assert!(is_about(ahead, 0) && gap == 0, "{ahead} {gap}");
    clock.set(hours);
    let (ahead, gap) = eventually(MEASURED_WITHIN, "the next measurement", async || {
        let found = reading(server).await;
        (found.1 != 0).then_some(found)
    })
    .await;
    let token = admin.token("wx1", ACCESS_TOKEN).await.expect_status(200).body;
    assert!(token["expires_in"].as_i64() > Some(7_000), "{token}");
    reader.end().await.assert_flawless("while a clock is set");
    let output = server.output();
    assert!(output.contains("s off the time kept here; somebody set a clock"), "{output}");
    (ahead, gap, sandbox.calls("wx1").len())
}
