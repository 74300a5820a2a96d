//! A start without its database: what passes by itself is waited for, what a human must mend is said at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use reqwest::{Method, Url};
use tokio::task::JoinHandle;

use crate::support::api::{Reply, http_client};
use crate::support::database::{Kind, TestDatabase};
use crate::support::own_server::OwnServer;
use crate::support::process::{Server, ServerBuilder};
use crate::support::proxy::{Fault, Proxy};
use crate::support::wait::eventually;

const SERVERS: [Kind; 2] = [Kind::Postgres, Kind::Mysql];
/// A pause of 5 s, an attempt of 3 s, and a machine with other things to do.
const BOUND: Duration = Duration::from_secs(20);
const AT_ONCE: Duration = Duration::from_secs(5);
/// A wait is more than one attempt. Each meets the fault once.
const ATTEMPTS: u64 = 2;
const BEGIN: &str = "waiting for the database";

fn on(url: &str) -> ServerBuilder {
    Server::builder().env("DATABASE_URL", url)
}

/// A server that has started to wait for its database, which is behind a network with this fault.
async fn start_without(kind: Kind, fault: Fault) -> (TestDatabase, Proxy, Server) {
    let db = TestDatabase::create(kind).await;
    let (proxy, url) = Proxy::in_front_of(db.url());
    proxy.set(fault);
    let server = on(&url).start_listening().await;
    (db, proxy, server)
}

fn password(url: &str) -> String {
    Url::parse(url).expect("a URL").password().expect("with a password").to_owned()
}

/// Makes a new connection again and again until told to stop; the answer is how many there were.
fn knock(server: &Server, stop: &Arc<AtomicBool>) -> JoinHandle<u32> {
    let (url, stop) = (format!("{}/livez", server.base_url()), Arc::clone(stop));
    tokio::spawn(async move {
        let knocks = AtomicU32::new(0);
        while !stop.load(Ordering::Relaxed) {
            let answer = http_client().get(&url).send().await.expect("nobody is refused");
            assert_eq!(answer.status().as_u16(), 200);
            knocks.fetch_add(1, Ordering::Relaxed);
        }
        knocks.into_inner()
    })
}

async fn is_served(server: &Server) {
    eventually(BOUND, "the database to be found", async || {
        (server.admin().get("/readyz").await.status == 200).then_some(())
    })
    .await;
    server.admin().get("/v1/accounts").await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_waited_for_and_the_address_answers_all_the_time() {
    for kind in SERVERS {
        for fault in [Fault::Cut, Fault::BlackHole] {
            let (db, proxy, server) = start_without(kind, fault).await;
            let admin = server.admin();
            let stop = Arc::default();
            let knocking = knock(&server, &stop);
            assert_eq!(admin.get("/livez").await.expect_status(200).text, "ok\n");
            assert_eq!(admin.get("/readyz").await.expect_status(503).text, "waiting for the database\n");
            for (method, path) in
                [(Method::GET, "/v1/accounts/wx1/tokens/access_token"), (Method::POST, "/v1/accounts")]
            {
                let reply = Reply::of(admin.request(method, path)).await.expect_problem(503, "database_unavailable");
                assert_eq!(reply.header("retry-after"), "1");
            }
            // Nobody here can count connections that are refused; those that are reset can be.
            let counted = if fault == Fault::Cut { Fault::Reset } else { fault };
            proxy.set(counted);
            struck(&proxy, counted, ATTEMPTS).await;
            proxy.heal();
            is_served(&server).await;
            stop.store(true, Ordering::Relaxed);
            assert!(knocking.await.expect("nobody was refused") > 10);
            // The lines come through a pipe.
            let ended = async || server.output().contains("the database is there").then_some(());
            eventually(BOUND, "the end of the wait in the log", ended).await;
            let output = server.output();
            assert_eq!(output.matches(BEGIN).count(), 1, "{output}");
            assert!(!output.contains(&password(db.url())), "{output}");
        }
    }
}

async fn struck(proxy: &Proxy, fault: Fault, times: u64) {
    eventually(BOUND, "the fault to strike", async || (proxy.struck_by(fault) >= times).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_in_the_middle_of_a_first_start_is_waited_for() {
    for kind in SERVERS {
        for after in [60, 120, 240, 480] {
            let db = TestDatabase::create(kind).await;
            let (proxy, url) = Proxy::in_front_of(db.url());
            // The schema alone takes more than a hundred round trips.
            proxy.set(Fault::Delay(Duration::from_millis(4)));
            let cutting = async {
                struck(&proxy, Fault::Delay(BOUND), 1).await;
                tokio::time::sleep(Duration::from_millis(after)).await;
                proxy.set(Fault::Cut);
                struck(&proxy, Fault::Cut, 1).await;
                proxy.heal();
            };
            let (server, ()) = tokio::join!(on(&url).start(), cutting);
            is_served(&server).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_waited_for_until_it_is_the_primary() {
    let primary = OwnServer::start(Kind::Postgres).await;
    let standby = primary.standby().await;
    // There is no schema yet, and a standby cannot make one.
    let server = on(&standby.url()).start_listening().await;
    assert!(server.output().contains(BEGIN), "{}", server.output());
    server.admin().get("/readyz").await.expect_status(503);
    standby.promote().await;
    is_served(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_for_us_is_waited_for() {
    for kind in SERVERS {
        let few = OwnServer::start_with(kind, &[("max_connections", "12")]).await;
        let mut taken = Vec::new();
        while let Ok(connection) = Guest::connect(kind, &few.url()).await {
            taken.push(connection);
        }
        let server = on(&few.url()).start_listening().await;
        assert!(server.output().contains(BEGIN), "{}", server.output());
        drop(taken);
        is_served(&server).await;
    }
}

/// A connection that takes up a place.
enum Guest {
    Postgres { _held: sqlx::PgConnection },
    Mysql { _held: sqlx::MySqlConnection },
}

impl Guest {
    async fn connect(kind: Kind, url: &str) -> Result<Self, sqlx::Error> {
        use sqlx::Connection;
        Ok(match kind {
            Kind::Postgres => Self::Postgres { _held: sqlx::PgConnection::connect(url).await? },
            _ => Self::Mysql { _held: sqlx::MySqlConnection::connect(url).await? },
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_human_can_mend_ends_a_start_at_once() {
    for kind in SERVERS {
        let db = TestDatabase::create(kind).await;
        let mut wrong_password = Url::parse(db.url()).expect("a URL");
        wrong_password.set_password(Some("canary")).expect("it takes one");
        let mut no_such_user = wrong_password.clone();
        no_such_user.set_username("nobody").expect("it takes one");
        let mut no_such_database = Url::parse(db.url()).expect("a URL");
        no_such_database.set_path("nowhere");
        for (url, word) in [(&wrong_password, "password"), (&no_such_user, "nobody"), (&no_such_database, "nowhere")] {
            for command in ["serve", "migrate"] {
                let began = std::time::Instant::now();
                let builder = Server::command(&[command]).env("DATABASE_URL", url.as_str());
                let builder = builder.env("WXTOKEN_MASTER_KEY", crate::support::process::MASTER_KEY);
                let (status, output) = builder.env("WXTOKEN_LISTEN", "127.0.0.1:0").start_expecting_exit().await;
                assert_eq!(status.code(), Some(78), "{output}");
                assert!(output.contains(word) && !output.contains(BEGIN) && !output.contains("listening"), "{output}");
                assert!(!output.contains("canary") && !output.contains(&password(db.url())), "{output}");
                assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_wait_at_once() {
    for kind in SERVERS {
        for fault in [Fault::Cut, Fault::BlackHole] {
            let (_db, _proxy, server) = start_without(kind, fault).await;
            server.terminate();
            let status = server.wait_exit(AT_ONCE).await;
            assert_eq!(status.code(), Some(0), "{}", server.output());
            assert!(server.output().contains("stopped"), "{}", server.output());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_that_does_not_resolve_is_waited_for() {
    let server = on("postgres://u:canary@wxtoken.invalid/db").start_listening().await;
    server.admin().get("/readyz").await.expect_status(503);
    assert!(server.output().contains("wxtoken.invalid") && !server.output().contains("canary"), "{}", server.output());
    server.terminate();
    assert_eq!(server.wait_exit(AT_ONCE).await.code(), Some(0), "{}", server.output());
}
