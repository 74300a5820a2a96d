//! A database server that one test owns, so that it may break it: stopped, killed, frozen, put back to an older copy, followed by a standby.
//!
//! It runs from a temporary directory, on a port of 127.0.0.1, with a password of its own, and ends with this value. What it has
//! committed survives its own death by kill -9, but no power cut: nothing waits for a disk.

mod family;
mod setup;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection};
use tempfile::TempDir;

use super::clock::HostClock;
use super::database::Kind;
use super::wait::{eventually, within};
use setup::Setup;

const START_BOUND: Duration = Duration::from_secs(30);
const STOP_BOUND: Duration = Duration::from_secs(20);
const QUERY_BOUND: Duration = Duration::from_secs(10);
/// A port can be taken between the look at it and the server's start.
const PORTS_TRIED: usize = 5;

/// The server; it runs unless a test has stopped it.
pub(crate) struct OwnServer {
    setup: Setup,
    port: u16,
    running: Mutex<Option<Child>>,
}

/// The data of a server at a moment, to put it back to.
pub(crate) struct Copy(TempDir);

impl OwnServer {
    /// A new, empty server of this kind.
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::start_with(kind, &[]).await
    }

    /// The same with settings of the server's configuration, such as `max_connections`.
    pub(crate) async fn start_with(kind: Kind, settings: &[(&str, &str)]) -> Self {
        let setup = Setup::new(kind, settings);
        setup.initialise();
        Self::first_start(setup).await
    }

    /// The same on a host with this wall clock.
    pub(crate) async fn start_under(kind: Kind, clock: &HostClock) -> Self {
        let mut setup = Setup::new(kind, &[]);
        setup.environment = clock.environment().into();
        setup.initialise();
        Self::first_start(setup).await
    }

    /// A hot standby of this PostgreSQL server, which follows it until it is promoted.
    pub(crate) async fn standby(&self) -> Self {
        let setup = self.setup.for_standby();
        setup.copy_from_primary(self.port);
        Self::first_start(setup).await
    }

    async fn first_start(setup: Setup) -> Self {
        let mut server = Self { setup, port: 0, running: Mutex::default() };
        for _ in 0..PORTS_TRIED {
            server.port = free_port();
            if server.try_start().await {
                return server;
            }
        }
        panic!("the test's own server did not start:\n{}", server.setup.log());
    }

    pub(crate) fn kind(&self) -> Kind {
        self.setup.kind
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// What goes into `DATABASE_URL`.
    pub(crate) fn url(&self) -> String {
        self.url_of(setup::USER)
    }

    fn url_of(&self, user: &str) -> String {
        let (kind, password) = (self.kind(), &self.setup.password);
        let (scheme, database) = if kind == Kind::Postgres { ("postgres", "postgres") } else { ("mysql", "wxtoken") };
        format!("{scheme}://{user}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    fn keepers_url(&self) -> String {
        self.url_of(if self.kind() == Kind::Postgres { setup::USER } else { setup::KEEPER })
    }

    /// Starts it again after a stop, and waits until it takes connections.
    pub(crate) async fn start_again(&self) {
        assert!(self.try_start().await, "the test's own server did not start again:\n{}", self.setup.log());
    }

    /// Ends it as an administrator does who does not wait for clients: their connections are cut, and everything is saved.
    pub(crate) async fn stop(&self) {
        let mut child = self.lock().take().expect("it runs");
        let name = if self.kind() == Kind::Postgres { "INT" } else { "TERM" };
        family::signal(name, &[child.id()]);
        eventually(STOP_BOUND, "the test's own server to end", async || child.try_wait().expect("a child").map(drop))
            .await;
    }

    /// Ends all its processes at once; nothing is saved that is not in its log.
    pub(crate) fn kill_9(&self) {
        if let Some(mut child) = self.lock().take() {
            // The first, so that no more are born.
            let mut members = vec![child.id()];
            members.extend(family::children(child.id()));
            family::signal("KILL", &members);
            child.wait().expect("a child can be waited for");
            // Those of PostgreSQL are not ours to wait for, and it does not start while one of them lives.
            while members.iter().any(|member| family::lives(*member)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    pub(crate) async fn restart(&self) {
        self.stop().await;
        self.start_again().await;
    }

    pub(crate) async fn restart_after_kill_9(&self) {
        self.kill_9();
        self.start_again().await;
    }

    /// Stops all its processes in their tracks. Connections stay open and new ones are taken by the system, but nothing answers.
    pub(crate) fn freeze(&self) {
        self.to_all("STOP");
    }

    /// Lets a frozen one go on.
    pub(crate) fn thaw(&self) {
        self.to_all("CONT");
    }

    fn to_all(&self, signal: &str) {
        let parent = self.lock().as_ref().expect("it runs").id();
        family::signal(signal, &[parent]);
        let children = family::children(parent);
        if !children.is_empty() {
            family::signal(signal, &children);
        }
    }

    /// A copy of its data. The server must have been stopped.
    pub(crate) fn copy(&self) -> Copy {
        assert!(self.lock().is_none(), "a running server cannot be copied");
        let place = tempfile::tempdir().expect("a temporary directory can be made");
        setup::copy_tree(&self.setup.data(), &place.path().join("data"));
        Copy(place)
    }

    /// Puts the data of a copy in the place of the present ones. The server must have been stopped.
    pub(crate) fn restore(&self, copy: &Copy) {
        assert!(self.lock().is_none(), "a running server cannot be restored");
        std::fs::remove_dir_all(self.setup.data()).expect("the data can be removed");
        setup::copy_tree(&copy.0.path().join("data"), &self.setup.data());
    }

    /// Makes a standby the primary, and returns once it is.
    pub(crate) async fn promote(&self) {
        assert_eq!(
            self.number("SELECT CAST(CAST(pg_promote(true, 30) AS INTEGER) AS BIGINT)").await,
            1,
            "{}",
            self.setup.log()
        );
    }

    /// Waits until the standbys have all that this primary has committed.
    pub(crate) async fn replicated(&self) {
        let behind = "SELECT COUNT(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()";
        eventually(START_BOUND, "the standby to catch up", async || (self.number(behind).await == 1).then_some(()))
            .await;
    }

    /// How many connections wxtoken holds.
    pub(crate) async fn connections(&self) -> i64 {
        self.number(if self.kind() == Kind::Postgres {
            "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'wxtoken'"
        } else {
            "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'wxtoken'"
        })
        .await
    }

    /// The one number that a query gives.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.ask(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Carries out statements of the kind that gives no rows.
    pub(crate) async fn execute(&self, sql: &str) {
        let work = async {
            let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
            match self.kind() {
                Kind::Postgres => query.execute(&mut PgConnection::connect(&self.keepers_url()).await?).await.map(drop),
                _ => query.execute(&mut MySqlConnection::connect(&self.keepers_url()).await?).await.map(drop),
            }
        };
        let done = tokio::time::timeout(QUERY_BOUND, work).await.expect("an answer in time");
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn ask(&self, sql: &str) -> Result<i64, sqlx::Error> {
        let (url, sql) = (self.keepers_url(), AssertSqlSafe(sql.to_owned()));
        let work = async {
            if self.kind() == Kind::Postgres {
                let mut connection = PgConnection::connect(&url).await?;
                sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut connection).await
            } else {
                let mut connection = MySqlConnection::connect(&url).await?;
                sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut connection).await
            }
        };
        tokio::time::timeout(QUERY_BOUND, work).await.map_err(|elapsed| sqlx::Error::Io(elapsed.into()))?
    }

    /// Whether it runs and takes connections in the end. The password says that it is this server which answers.
    async fn try_start(&self) -> bool {
        *self.lock() = Some(self.setup.spawn(self.port));
        let answers = async || {
            let ended = self.lock().as_mut().and_then(|child| child.try_wait().expect("a child can be waited for"));
            if ended.is_some() {
                Some(false)
            } else {
                self.ask("SELECT COUNT(*) FROM (SELECT 1) AS one").await.is_ok().then_some(true)
            }
        };
        let started = within(START_BOUND, answers).await.unwrap_or(false);
        if !started {
            self.kill_9();
        }
        started
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// Below the range from which systems take the ports of outgoing connections, so that nobody takes it while the server is stopped.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
