//! An instance stops for a while, as a paused virtual machine does, and goes on where it was.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use wxtoken::wechat::sandbox::Line;

use super::watch::Watch;
use super::{ACCESS_TOKEN, history, measured, register, value};
use crate::support::api::Api;
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::Server;
use crate::support::sandbox::TestSandbox;
use crate::support::wait::{eventually, within};

const CALL_TIMEOUT: &str = "1s";
/// Two and a half deadlines.
const LEASE: Duration = Duration::from_millis(2_500);
/// In stable mode WeChat mints only in the overlap, the last 60 s of a life.
const OVERLAP: u64 = 60;
const LIFETIME: u64 = OVERLAP + 5;
/// What the product promises for a pause beyond the lease.
const CONVERGED: Duration = Duration::from_secs(30);
/// Within this an instance serves what another has fetched.
const STALENESS_BOUND: Duration = Duration::from_secs(2);
const BOUND: Duration = Duration::from_secs(40);

const ACCOUNTS: usize = 8;
const ROUNDS: usize = 4;

/// Two instances on one database.
struct Pair {
    kind: Kind,
    sandbox: TestSandbox,
    servers: [Server; 2],
    _db: TestDatabase,
}

impl Pair {
    async fn start(kind: Kind) -> Self {
        let db = TestDatabase::create(kind).await;
        let sandbox = TestSandbox::start().await;
        let start = || {
            let server = Server::builder().database(&db).wechat(sandbox.url());
            server.env("WXTOKEN_CALL_TIMEOUT", CALL_TIMEOUT).start()
        };
        let servers = [start().await, start().await];
        Self { kind, sandbox, servers, _db: db }
    }

    async fn register(&self, appid: &str, mode: &str, at_wechat: &Value) {
        self.sandbox.account(appid, at_wechat);
        register(&self.servers[0].admin(), appid, mode, json!([ACCESS_TOKEN])).await;
        for server in &self.servers {
            value(&server.admin(), appid, ACCESS_TOKEN).await;
        }
    }

    fn latency(&self, appid: &str, millis: u64) {
        self.sandbox.account(appid, &json!({ "latency_ms": { "min": millis, "max": millis } }));
    }

    /// The newest value at WeChat.
    fn newest(&self, appid: &str) -> String {
        let state = self.sandbox.sandbox.state(appid).expect("the account is there");
        let line = if appid.contains("plain") { Line::Plain } else { Line::Stable };
        let line = state.lines.into_iter().find(|state| state.line == line).expect("it was asked for tokens");
        line.current.expect("it was given one").value
    }

    /// Whether both instances serve one value that WeChat accepts, in plain mode its newest, and every call has its row.
    async fn is_settled(&self, appid: &str) -> bool {
        let calls = self.sandbox.calls(appid);
        let rows = history(&self.servers[0].admin(), appid).await;
        let called = rows.iter().filter(|row| row["outcome"] != "lost" && !was_unsent(row)).count();
        if calls.iter().any(|call| call.ended_ms.is_none()) || called != calls.len() {
            return false;
        }
        let mut served = Vec::new();
        for server in &self.servers {
            let reply = server.admin().token(appid, ACCESS_TOKEN).await;
            served.push(reply.body["value"].as_str().unwrap_or_default().to_owned());
        }
        let good = served[0] == served[1] && self.sandbox.accepts(&served[0]);
        good && (appid.contains("stable") || served[0] == self.newest(appid))
    }

    async fn settled(&self, appid: &str) {
        if within(BOUND, async || self.is_settled(appid).await.then_some(())).await.is_none() {
            let [one, other] = self.servers.each_ref().map(Server::output);
            let (kind, calls) = (self.kind, self.sandbox.calls(appid));
            panic!("{appid} is not settled on {kind:?} after {BOUND:?}: {calls:#?}\n{one}\n{other}");
        }
    }
}

/// A pause can cut a connection that is being made.
fn was_unsent(row: &Value) -> bool {
    row["errmsg"].as_str().is_some_and(|errmsg| errmsg.starts_with("connecting to WeChat failed"))
}

/// Orders a refresh of which nobody waits for the answer: the server may be paused before it gives one.
fn order(admin: &Api, appid: &str) {
    let request = admin.request(Method::POST, &format!("/v1/accounts/{appid}/tokens/{ACCESS_TOKEN}/refresh"));
    tokio::spawn(async move { request.send().await.is_ok() });
}

fn outcomes(rows: &[Value]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row["outcome"].as_str().unwrap_or_default()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_during_its_call_is_fenced_off_on_postgres() {
    tokio::join!(stop_during_the_call(Kind::Postgres, false), stop_during_the_call(Kind::Postgres, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_during_its_call_is_fenced_off_on_mysql() {
    tokio::join!(stop_during_the_call(Kind::Mysql, false), stop_during_the_call(Kind::Mysql, true));
}

const BOTH: [&str; 2] = ["wxplain", "wxstable"];

async fn stop_during_the_call(kind: Kind, after_the_answer: bool) {
    let pair = Pair::start(kind).await;
    for appid in BOTH {
        let short = json!({ "lifetime_seconds": LIFETIME, "overlap_seconds": OVERLAP });
        pair.register(appid, appid.trim_start_matches("wx"), &short).await;
    }
    eventually(BOUND, "the minutes in which stable mode mints", async || {
        let left = pair.sandbox.sandbox.judge(&pair.newest("wxstable")).remaining_ms;
        (left < OVERLAP * 1_000).then_some(())
    })
    .await;
    let watches = BOTH.map(|appid| Watch::new(&pair.sandbox, appid, ACCESS_TOKEN));
    let readers = watches.each_ref().map(|watch| pair.servers.each_ref().map(|server| watch.read(&server.admin())));
    pair.let_the_first_be_late(after_the_answer).await;
    let resumed = Instant::now();
    for appid in BOTH {
        pair.settled(appid).await;
        let took = resumed.elapsed();
        measured(&format!("{kind:?}, {appid}: converged {took:?} after SIGCONT"));
        assert!(took < CONVERGED, "{took:?}");
        pair.assert_fenced(appid).await;
    }
    for (appid, readers) in BOTH.into_iter().zip(readers) {
        for (number, reader) in readers.into_iter().enumerate() {
            let seen = reader.end().await;
            assert!(seen.refused.is_empty(), "{appid}: {:?}", seen.refused.first());
            let dead = seen.longest_dead((number == 0).then_some(resumed));
            measured(&format!("{kind:?}, {appid}, instance {number}: a dead value was served for {dead:?} at most"));
            assert!(dead < STALENESS_BOUND, "{appid}, instance {number}: {dead:?}");
        }
    }
}

impl Pair {
    /// The first instance is stopped during a call for each account. WeChat takes so long over these that it mints for the stopped instance
    /// after it has minted for the other one. The stopped one goes on before or after the answer was sent.
    async fn let_the_first_be_late(&self, after_the_answer: bool) {
        for appid in BOTH {
            // Half of it passes before WeChat mints: well beyond the lease and the other instance's refresh.
            self.latency(appid, 12_000);
            order(&self.servers[0].admin(), appid);
        }
        eventually(BOUND, "both calls to arrive", async || {
            BOTH.iter().all(|appid| self.sandbox.calls(appid).len() == 2).then_some(())
        })
        .await;
        self.servers[0].stop();
        let stopped = Instant::now();
        for appid in BOTH {
            self.latency(appid, 50);
        }
        for appid in BOTH {
            let calls = || self.sandbox.calls(appid);
            eventually(BOUND, "the other instance to take over", async || (calls().len() == 3).then_some(())).await;
            eventually(BOUND, "WeChat to do what the stopped instance asked", async || {
                let late = &calls()[1];
                (late.errcode == Some(0) && (!after_the_answer || late.ended_ms.is_some())).then_some(())
            })
            .await;
        }
        assert!(stopped.elapsed() > LEASE);
        self.servers[0].cont();
    }

    /// One call was superseded and none lost: the first one, the late one, the one in its place, and in plain mode the one that ends the doubt.
    async fn assert_fenced(&self, appid: &str) {
        let rows = history(&self.servers[1].admin(), appid).await;
        let counts = outcomes(&rows);
        assert_eq!((counts.get("superseded"), counts.get("lost")), (Some(&1), None), "{appid}: {rows:#?}");
        let calls = self.sandbox.calls(appid);
        assert_eq!(calls.len(), if appid == "wxplain" { 4 } else { 3 }, "{appid}: {calls:#?} {rows:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_at_any_moment_leave_one_value_on_postgres() {
    pause_at_random(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_at_any_moment_leave_one_value_on_mysql() {
    pause_at_random(Kind::Mysql).await;
}

/// Each round stops one instance while it refreshes several tokens, so that the stop strikes claims, calls and settles at once.
async fn pause_at_random(kind: Kind) {
    let seed: u64 = rand::random();
    measured(&format!("{kind:?}: the pauses have the seed {seed}"));
    let mut dice = StdRng::seed_from_u64(seed);
    let pair = Pair::start(kind).await;
    let appids: Vec<_> =
        (0..ACCOUNTS).map(|number| format!("wx{}{number}", if number % 2 == 0 { "plain" } else { "stable" })).collect();
    let short = json!({ "lifetime_seconds": LIFETIME, "overlap_seconds": OVERLAP });
    for (number, appid) in appids.iter().enumerate() {
        pair.register(appid, if number % 2 == 0 { "plain" } else { "stable" }, &short).await;
    }
    let mut longest = Duration::ZERO;
    for round in 0..ROUNDS {
        longest = longest.max(pair.pause_and_settle(&pair.servers[round % 2], &appids, &mut dice).await);
    }
    measured(&format!("{kind:?}: converged within {longest:?} of each SIGCONT"));
    assert!(longest < CONVERGED, "{longest:?}");
    let mut counts = BTreeMap::new();
    for appid in &appids {
        for (outcome, count) in outcomes(&history(&pair.servers[0].admin(), appid).await) {
            *counts.entry(outcome.to_owned()).or_insert(0) += count;
        }
    }
    measured(&format!("{kind:?}: {counts:?}"));
    assert!(counts.contains_key("superseded"), "no pause struck a call: {counts:?}");
}

impl Pair {
    /// Stops an instance at some moment of its refreshes; how long after it went on everything was settled.
    async fn pause_and_settle(&self, victim: &Server, appids: &[String], dice: &mut StdRng) -> Duration {
        for appid in appids {
            self.latency(appid, dice.random_range(100..9_000));
            order(&victim.admin(), appid);
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..400))).await;
        victim.stop();
        for appid in appids {
            self.latency(appid, 50);
        }
        tokio::time::sleep(LEASE + Duration::from_millis(dice.random_range(0..4_000))).await;
        victim.cont();
        let resumed = Instant::now();
        for appid in appids {
            self.settled(appid).await;
        }
        resumed.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_wakes_up_hands_out_no_token_that_ended_meanwhile_on_postgres() {
    wake_up(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_wakes_up_hands_out_no_token_that_ended_meanwhile_on_mysql() {
    wake_up(Kind::Mysql).await;
}

/// One instance sleeps through several lifetimes. What it remembers has ended by then, or somebody has replaced it long before its time, which
/// it cannot know before it has looked.
async fn wake_up(kind: Kind) {
    let pair = Pair::start(kind).await;
    let [sleeper, other] = &pair.servers;
    let ending = ["wxstable", "wxplain"];
    for appid in ending {
        let short = json!({ "lifetime_seconds": 8, "overlap_seconds": 3 });
        pair.register(appid, appid.trim_start_matches("wx"), &short).await;
    }
    pair.register("wxplain_replaced", "plain", &json!({ "overlap_seconds": 3 })).await;
    let remembered = value(&sleeper.admin(), "wxplain_replaced", ACCESS_TOKEN).await;
    let watches = ending.map(|appid| Watch::new(&pair.sandbox, appid, ACCESS_TOKEN));
    let replaced = Watch::new(&pair.sandbox, "wxplain_replaced", ACCESS_TOKEN);
    let others = watches.each_ref().map(|watch| watch.read(&other.admin()));
    sleeper.stop();
    other.admin().refresh("wxplain_replaced", ACCESS_TOKEN, false).await.expect_status(200);
    eventually(BOUND, "the end of what the sleeper remembers", async || {
        (!pair.sandbox.accepts(&remembered)).then_some(())
    })
    .await;
    for appid in ending {
        let calls = pair.sandbox.calls(appid).len();
        eventually(BOUND, "two more lifetimes", async || (pair.sandbox.calls(appid).len() > calls + 2).then_some(()))
            .await;
    }
    // They ask while it sleeps, and again and again when it is awake.
    let sleepers = watches.each_ref().map(|watch| watch.read(&sleeper.admin()));
    let asking = replaced.read(&sleeper.admin());
    tokio::time::sleep(Duration::from_millis(500)).await;
    sleeper.cont();
    let resumed = Instant::now();
    eventually(STALENESS_BOUND, "the sleeper to hear of the replacement", async || {
        let served = sleeper.admin().token("wxplain_replaced", ACCESS_TOKEN).await;
        (served.body["value"] != remembered.as_str()).then_some(())
    })
    .await;
    measured(&format!("{kind:?}: a replaced value was forgotten within {:?} of SIGCONT", resumed.elapsed()));
    assert!(asking.end().await.longest_dead(Some(resumed)) < STALENESS_BOUND);
    for appid in ending {
        let calls = pair.sandbox.calls(appid).len();
        eventually(BOUND, "the next refresh", async || (pair.sandbox.calls(appid).len() > calls).then_some(())).await;
    }
    for (appid, (sleeper, other)) in ending.into_iter().zip(sleepers.into_iter().zip(others)) {
        for reader in [sleeper, other] {
            reader.end().await.assert_flawless(appid);
        }
    }
}
