//! One instance: its process, started again and again, and the proxies between it and what it needs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::support::api::Api;
use crate::support::clock::HostClock;
use crate::support::database::TestDatabase;
use crate::support::process::Server;
use crate::support::proxy::Proxy;
use crate::support::sandbox::TestSandbox;

/// The lease is two and a half times as long.
const CALL_TIMEOUT: &str = "800ms";
/// The deadline of a call, in milliseconds.
pub(super) const CALL_MILLIS: i64 = 800;
/// How long a claim is good for, in milliseconds.
pub(super) const LEASE_MILLIS: i64 = CALL_MILLIS * 5 / 2;
/// The drain limit of 15 s, and what the machine adds.
const EXIT_BOUND: Duration = Duration::from_secs(20);

/// An instance.
pub(super) struct Instance {
    pub(super) to_database: Proxy,
    pub(super) to_wechat: Proxy,
    database_url: String,
    wechat_url: String,
    /// The clock of its host, if it has one of its own.
    clock: Option<HostClock>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    server: Option<(Arc<Server>, Api)>,
    /// Counts the starts.
    start: u32,
    /// What the processes before this one printed.
    printed: String,
}

impl Instance {
    /// An instance that is not running yet. Its host has a clock of its own if that is or will be wrong.
    pub(super) fn prepare(database: &TestDatabase, sandbox: &TestSandbox, hours_off: Option<i32>) -> Self {
        let (to_database, database_url) = Proxy::in_front_of(database.url());
        let (to_wechat, wechat_url) = Proxy::in_front_of(sandbox.url());
        let clock = hours_off.map(HostClock::new);
        Self { to_database, to_wechat, database_url, wechat_url, clock, running: Mutex::default() }
    }

    /// Sets the wall clock of the host that this instance believes itself on; that takes [`HostClock::DELAY`] to show.
    pub(super) fn set_clock(&self, hours_off: i32) {
        if let Some(clock) = &self.clock {
            clock.set(hours_off);
        }
    }

    /// Starts the process and waits until it serves.
    pub(super) async fn start(&self) {
        let mut server = Server::builder()
            .env("DATABASE_URL", &self.database_url)
            .wechat(self.wechat_url.trim_end_matches('/'))
            .env("WXTOKEN_CALL_TIMEOUT", CALL_TIMEOUT)
            .env("WXTOKEN_SCAN_INTERVAL", "400ms");
        if let Some(clock) = &self.clock {
            server = server.under(clock);
        }
        let server = server.start().await;
        let mut running = self.running();
        running.start += 1;
        // One client for all readers: its connections are used again and again.
        let admin = server.admin();
        running.server = Some((Arc::new(server), admin));
    }

    /// Ends the process without warning.
    pub(super) async fn kill(&self) {
        self.end(Server::kill_9).await;
    }

    /// Ends the process as a service manager does.
    pub(super) async fn terminate(&self) {
        self.end(Server::terminate).await;
    }

    async fn end(&self, how: impl FnOnce(&Server)) {
        let Some((server, _)) = self.running().server.take() else { return };
        how(&server);
        server.wait_exit(EXIT_BOUND).await;
        self.running().printed.push_str(&server.output());
    }

    /// The process, if it runs.
    pub(super) fn server(&self) -> Option<Arc<Server>> {
        self.running().server.as_ref().map(|(server, _)| Arc::clone(server))
    }

    /// An admin of the running process, and how many starts there were until now.
    pub(super) fn admin(&self) -> Option<(u32, Api)> {
        let running = self.running();
        Some((running.start, running.server.as_ref()?.1.clone()))
    }

    /// Everything that its processes printed.
    pub(super) fn output(&self) -> String {
        let running = self.running();
        let last = running.server.as_ref().map(|(server, _)| server.output()).unwrap_or_default();
        running.printed.clone() + &last
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
