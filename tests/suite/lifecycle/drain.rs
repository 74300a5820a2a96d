//! SIGTERM in the midst of everything, again and again: nothing that WeChat answered is lost, and nobody who was let in goes unanswered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::store::raw::Raw;
use crate::support::api::{Api, http_client};
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::{ADMIN_KEY, Server, ServerBuilder};
use crate::support::proxy::{Fault, Proxy};
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

const ROUNDS: u64 = 20;
const ACCOUNTS: usize = 12;
const READERS: usize = 3;
const ORDERS: usize = 3;
const BOUND: Duration = Duration::from_secs(20);
/// The limit of 15 s, the closing of the database, and a machine with other things to do.
const DRAIN_BOUND: Duration = Duration::from_secs(25);

fn appid(number: usize) -> String {
    format!("wx{number:02}")
}

async fn register(admin: &Api, sandbox: &TestSandbox, appid: &str, mode: &str, at_wechat: &Value) {
    sandbox.account(appid, at_wechat);
    let account = json!({ "appid": appid, "secret": SECRET, "mode": mode });
    admin.create_account(&account).await.expect_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_under_load_loses_no_answer_and_no_reader_on_postgres() {
    under_load(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_under_load_loses_no_answer_and_no_reader_on_mysql() {
    under_load(Kind::Mysql).await;
}

async fn under_load(kind: Kind) {
    let (db, sandbox) = (TestDatabase::create(kind).await, TestSandbox::start().await);
    let start = || Server::builder().database(&db).wechat(sandbox.url()).start();
    let mut server = start().await;
    let at_wechat = json!({ "lifetime_seconds": 20, "overlap_seconds": 10, "latency_ms": { "min": 10, "max": 120 } });
    for number in 0..ACCOUNTS {
        let mode = if number % 2 == 0 { "stable" } else { "plain" };
        register(&server.admin(), &sandbox, &appid(number), mode, &at_wechat).await;
    }
    let (mut reads, mut calls) = (0, 0);
    for round in 0..ROUNDS {
        for number in 0..ACCOUNTS {
            server.admin().token(&appid(number), "access_token").await.expect_status(200);
        }
        let load = Load::on(&server);
        // Every round meets the work at another place.
        tokio::time::sleep(Duration::from_millis(150 + (round * 137) % 600)).await;
        load.signalled.store(true, Ordering::SeqCst);
        server.terminate();
        let status = server.wait_exit(DRAIN_BOUND).await;
        assert_eq!(status.code(), Some(0), "round {round}: {}", server.output());
        assert!(!server.output().contains("abandoned"), "round {round}: {}", server.output());
        reads += load.end().await;
        calls = assert_each_call_has_its_row(&db, &sandbox, round).await;
        server = start().await;
    }
    // Few, for a machine with other things to do.
    assert!(reads > 10 * u32::try_from(ROUNDS).expect("few"), "{reads} reads only");
    assert!(calls > 3 * ACCOUNTS, "{calls} calls only");
}

/// Nobody calls now, so the two lists must agree.
async fn assert_each_call_has_its_row(db: &TestDatabase, sandbox: &TestSandbox, round: u64) -> usize {
    let mut raw = Raw::connect(db.kind(), db.url()).await;
    let mut all = 0;
    for number in 0..ACCOUNTS {
        let appid = appid(number);
        let calls = sandbox.calls(&appid).len();
        let rows = raw.one(&format!("SELECT COUNT(*) FROM wx_refresh_history WHERE appid = '{appid}'")).await;
        assert_eq!(rows, calls.to_string(), "round {round}, {appid}: {:#?}", sandbox.calls(&appid));
        all += calls;
    }
    all
}

/// Readers, and admins who order refreshes.
struct Load {
    signalled: Arc<AtomicBool>,
    reads: Arc<AtomicU32>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(server: &Server) -> Self {
        let load = Self { signalled: Arc::default(), reads: Arc::default(), tasks: Vec::new() };
        let readers = (0..READERS).map(|first| tokio::spawn(read(server.base_url(), first, load.shared())));
        let orders = (0..ORDERS).map(|first| tokio::spawn(order(server.admin(), first)));
        let tasks = readers.chain(orders).collect();
        Self { tasks, ..load }
    }

    fn shared(&self) -> (Arc<AtomicBool>, Arc<AtomicU32>) {
        (Arc::clone(&self.signalled), Arc::clone(&self.reads))
    }

    /// Everybody has met the closed address. Answers how many reads were served.
    async fn end(self) -> u32 {
        for task in self.tasks {
            task.await.expect("every reader was served");
        }
        self.reads.load(Ordering::SeqCst)
    }
}

/// Reads, each time on a new connection, until nobody listens any more.
async fn read(base: String, first: usize, (signalled, reads): (Arc<AtomicBool>, Arc<AtomicU32>)) {
    for number in first.. {
        let url = format!("{base}/v1/accounts/{}/tokens/access_token", appid(number % ACCOUNTS));
        let answer = http_client().get(&url).bearer_auth(ADMIN_KEY).send().await;
        match answer {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let text = answer.text().await.expect("an answer that began comes whole");
                assert_eq!(status, 200, "{text}");
                reads.fetch_add(1, Ordering::SeqCst);
            }
            // The listener is closed, with those in it who were not let in yet.
            Err(error) => {
                assert!(signalled.load(Ordering::SeqCst), "refused before the signal: {error:?}");
                return;
            }
        }
    }
}

async fn order(admin: Api, first: usize) {
    for number in (first..).step_by(ORDERS) {
        let path = format!("/v1/accounts/{}/tokens/access_token/refresh", appid(number % ACCOUNTS));
        let body = json!({ "force": false }).to_string();
        let request = admin.request(reqwest::Method::POST, &path).header("content-type", "application/json");
        if request.body(body).send().await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_the_database_is_away_ends_it_within_the_limit() {
    let runs = [Kind::Postgres, Kind::Mysql]
        .into_iter()
        .flat_map(|kind| [Fault::Cut, Fault::Stall, Fault::BlackHole].map(|fault| without_database(kind, fault)));
    join_all(runs).await;
}

fn short_calls(server: ServerBuilder) -> ServerBuilder {
    server.env("WXTOKEN_CALL_TIMEOUT", "2s")
}

async fn without_database(kind: Kind, fault: Fault) {
    let (db, sandbox) = (TestDatabase::create(kind).await, TestSandbox::start().await);
    let (proxy, url) = Proxy::in_front_of(db.url());
    let server = short_calls(Server::builder().wechat(sandbox.url())).env("DATABASE_URL", &url).start().await;
    let admin = server.admin();
    register(&admin, &sandbox, "wx1", "stable", &json!({ "lifetime_seconds": 8, "overlap_seconds": 4 })).await;
    admin.token("wx1", "access_token").await.expect_status(200);
    proxy.set(fault);
    // An answer that cannot be stored is tried to the last.
    eventually(BOUND, "an answer to keep", async || {
        let verbose = admin.get("/readyz?verbose").await.expect_status(200).text;
        (!verbose.contains("unstored: 0 ")).then_some(())
    })
    .await;
    let began = Instant::now();
    server.terminate();
    let status = server.wait_exit(DRAIN_BOUND).await;
    assert_eq!(status.code(), Some(0), "{kind:?}, {fault:?}, {:?}: {}", began.elapsed(), server.output());
    assert!(server.output().contains("answers of WeChat"), "what is lost is said: {}", server.output());
    proxy.heal();
    let next = short_calls(Server::builder().wechat(sandbox.url())).env("DATABASE_URL", &url).start().await;
    next.admin().token("wx1", "access_token").await.expect_status(200);
}
