//! Signals: what is in flight is finished or safely abandoned, in bounded time.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::api::Api;
use crate::support::database::{Kind, TestDatabase, on_every_database};
use crate::support::process::{ADMIN_KEY, Server, ServerBuilder};
use crate::support::raw;
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

const BOUND: Duration = Duration::from_secs(10);

/// A server whose account `wx1` has a call in flight that lasts, by the sandbox's settings for it.
struct Busy {
    sandbox: TestSandbox,
    server: Server,
    admin: Api,
    database: TestDatabase,
}

impl Busy {
    async fn with(
        database: TestDatabase,
        at_wechat: &Value,
        change: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> Self {
        let sandbox = TestSandbox::start().await;
        sandbox.account("wx1", at_wechat);
        let server = change(Server::builder().database(&database).wechat(sandbox.url())).start().await;
        let busy = Self { admin: server.admin(), sandbox, server, database };
        busy.register("wx1").await;
        eventually(BOUND, "a call in flight", async || {
            busy.sandbox.calls("wx1").iter().any(|call| call.ended_ms.is_none()).then_some(())
        })
        .await;
        busy
    }

    async fn register(&self, appid: &str) {
        self.admin.create_account(&json!({ "appid": appid, "secret": SECRET })).await.expect_status(201);
    }

    /// Connections whose request for the token has been sent, and taken in as far as one can see from here.
    async fn readers(&self, count: usize) -> Vec<TcpStream> {
        let request = format!(
            "GET /v1/accounts/wx1/tokens/access_token HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_KEY}\r\n\r\n"
        );
        let mut readers = Vec::new();
        for _ in 0..count {
            let mut reader = raw::connect(&self.server.base_url()).await;
            reader.write_all(request.as_bytes()).await.expect("it is sent");
            readers.push(reader);
        }
        // A later connection is answered, so the earlier ones have been accepted.
        for _ in 0..20 {
            self.admin.with_key("").get("/livez").await.expect_status(200);
        }
        readers
    }

    /// What the next start finds of the one call: one history row with the outcome, and a token as it says.
    async fn left_behind(self, outcome: &str) {
        drop(self.server);
        let server = Server::builder().database(&self.database).env("WXTOKEN_SCAN_INTERVAL", "30s").start().await;
        let page = server.admin().refreshes("appid=wx1&trigger=schedule&to=2999-01-01T00:00:00Z").await;
        let rows = page.expect_status(200).body["items"].as_array().cloned().expect("a list");
        let oldest = rows.last().unwrap_or_else(|| panic!("the call left no row"));
        assert_eq!(oldest["outcome"], outcome, "{oldest}");
        assert_eq!(oldest["version"], u8::from(outcome == "success"), "{oldest}");
        if outcome == "success" {
            assert_eq!(rows.len(), 1, "one call, one row: {rows:?}");
            server.admin().token("wx1", "access_token").await.expect_status(200);
        }
    }
}

/// The status of what a reader is answered; its connection must end with it.
async fn answered(mut reader: TcpStream) -> (u16, String) {
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await.expect("a whole answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer)
}

async fn ends_well(server: &Server, bound: Duration) {
    let began = Instant::now();
    let status = server.wait_exit(bound).await;
    assert_eq!(status.code(), Some(0), "after {:?}: {}", began.elapsed(), server.output());
    assert!(server.output().contains("stopped"), "{}", server.output());
}

on_every_database! {
    async fn a_call_in_flight_is_finished_for_those_who_wait_and_none_is_begun(db: TestDatabase) {
        let slow = json!({ "latency_ms": { "min": 2_000, "max": 2_000 } });
        let busy = Busy::with(db, &slow, |server| server.env("WXTOKEN_REFRESH_CONCURRENCY", "1")).await;
        busy.sandbox.account("wx2", &json!({}));
        // There is room for one call only: this one is due and must not begin once the first has ended.
        busy.register("wx2").await;
        let readers = busy.readers(20).await;
        busy.server.terminate();
        for reader in readers {
            let (status, answer) = answered(reader).await;
            assert_eq!(status, 200, "{answer}");
            assert!(answer.contains("\"value\":\""), "{answer}");
        }
        ends_well(&busy.server, Duration::from_secs(10)).await;
        assert_eq!(busy.sandbox.calls("wx1").len(), 1);
        assert!(busy.sandbox.calls("wx2").is_empty(), "a claim was made after the signal");
        busy.left_behind("success").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wechat_that_hangs_does_not_hold_the_end_up() {
    let database = TestDatabase::create(Kind::Sqlite).await;
    let hang = json!({ "faults": [{ "kind": "hang_before" }] });
    let busy = Busy::with(database, &hang, |server| server.env("WXTOKEN_CALL_TIMEOUT", "3s")).await;
    let readers = busy.readers(5).await;
    busy.server.terminate();
    for reader in readers {
        let (status, answer) = answered(reader).await;
        assert_eq!(status, 503, "{answer}");
        assert!(answer.contains("no_valid_token") || answer.contains("shutting_down"), "{answer}");
    }
    ends_well(&busy.server, Duration::from_secs(15)).await;
    busy.left_behind("failure").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    for (first, second) in
        [(Server::terminate as fn(&Server), Server::terminate as fn(&Server)), (Server::interrupt, Server::terminate)]
    {
        let database = TestDatabase::create(Kind::Sqlite).await;
        let hang = json!({ "faults": [{ "kind": "hang_before" }] });
        let busy = Busy::with(database, &hang, |server| server.env("WXTOKEN_CALL_TIMEOUT", "12s")).await;
        first(&busy.server);
        eventually(BOUND, "the begin of the shutdown", async || {
            busy.server.output().contains("shutting down").then_some(())
        })
        .await;
        second(&busy.server);
        let status = busy.server.wait_exit(Duration::from_secs(3)).await;
        assert_eq!(status.code(), Some(1), "{}", busy.server.output());
        assert!(busy.server.output().contains("second signal"), "{}", busy.server.output());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_ends_at_once_on_either_signal_with_connections_open() {
    for signal in [Server::terminate, Server::interrupt] {
        let server = Server::builder().start().await;
        let _silent = raw::connect(&server.base_url()).await;
        let kept = server.admin();
        kept.get("/readyz").await.expect_status(200);
        signal(&server);
        ends_well(&server, Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_ends_holds_the_end_up_for_a_moment_only() {
    let server = Server::builder().start().await;
    let mut half = raw::connect(&server.base_url()).await;
    half.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n").await.expect("it is sent");
    server.admin().get("/readyz").await.expect_status(200);
    server.terminate();
    // Two seconds, and a machine with other things to do.
    ends_well(&server, Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_finished_in_the_last_moment_is_answered() {
    let server = Server::builder().start().await;
    let mut late = raw::connect(&server.base_url()).await;
    late.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n").await.expect("it is sent");
    server.admin().get("/readyz").await.expect_status(200);
    server.terminate();
    eventually(BOUND, "the begin of the shutdown", async || server.output().contains("shutting down").then_some(()))
        .await;
    late.write_all(b"\r\n").await.expect("it is sent");
    let (status, answer) = answered(late).await;
    assert_eq!(status, 200, "{answer}");
    ends_well(&server, BOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_heeded_from_the_moment_that_it_listens() {
    for _ in 0..5 {
        let server = Server::builder().start_listening().await;
        server.terminate();
        ends_well(&server, BOUND).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_new_is_served_while_it_drains() {
    let database = TestDatabase::create(Kind::Sqlite).await;
    let slow = json!({ "latency_ms": { "min": 1_500, "max": 1_500 } });
    let busy = Busy::with(database, &slow, |server| server).await;
    busy.server.terminate();
    // A load balancer sees either no connection or a refusal to be ready.
    let client = crate::support::api::http_client();
    let ready = format!("{}/readyz", busy.server.base_url());
    eventually(BOUND, "the end of readiness", async || match client.get(&ready).send().await {
        Ok(answer) => (answer.status().as_u16() == 503).then_some(()),
        Err(_) => Some(()),
    })
    .await;
    assert!(busy.sandbox.calls("wx1").iter().any(|call| call.ended_ms.is_none()), "it still waits for WeChat");
    ends_well(&busy.server, Duration::from_secs(10)).await;
}
