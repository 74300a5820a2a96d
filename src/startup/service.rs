//! The token server as a whole: its rooms wired together, run, and drained.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{OpenDatabase, Signals, StartError, first_key, open_database};
use crate::clock::Clock;
use crate::config::{Settings, redacted};
use crate::domain::key::KeyText;
use crate::domain::timestamp::Timestamp;
use crate::http::{self, Rooms};
use crate::live::LiveView;
use crate::refresher::{Policy, Refresher};
use crate::seal::{hexadecimal, random_bytes};
use crate::store::Store;
use crate::store::db::Dialect;
use crate::wechat::{Client, ClientSettings};

/// How long calls in flight and requests have to end after the first signal.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);

/// A running token server.
pub struct Service {
    /// What there is to tell about it.
    pub facts: Facts,
    rooms: Arc<Rooms>,
    server: axum_server::Handle<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
    signals: Signals,
}

/// What a server has to tell whoever started it.
pub struct Facts {
    /// Where it listens.
    pub address: SocketAddr,
    /// The database, without its password.
    pub database: String,
    /// The file of the master key that this start made.
    pub made_key_file: Option<PathBuf>,
    /// The admin key that this start made. It is kept nowhere; show it.
    pub made_admin_key: Option<KeyText>,
    /// How many accounts are registered.
    pub accounts: usize,
}

impl Service {
    /// Opens the database, loads the live view, and starts to serve and to refresh.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let listener = bind(settings.listen)?;
        let address = listener.local_addr()?;
        let clock = Clock;
        let wechat = Client::new(ClientSettings {
            base_url: settings.wechat_url.clone(),
            fallback_url: settings.wechat_fallback_url.clone(),
            connect_timeout: settings.connect_timeout(),
            deadline: settings.call_timeout,
        })?;
        let OpenDatabase { db, sealer, made_key_file, .. } = open_database(&settings, clock).await?;
        let embedded = db.dialect() == Dialect::Sqlite;
        let store = Arc::new(Store::new(db, sealer, settings.limits(), instance_name()));
        if embedded {
            store.end_leases().await?;
        }
        let made_admin_key = first_key::provide(&store, settings.admin_key.as_ref(), clock.now()).await?;
        let live = Arc::new(LiveView::new());
        live.sync(&store, Timestamp::ZERO, clock.now()).await?;
        let stop = CancellationToken::new();
        let refresher =
            Refresher::new(Arc::clone(&store), wechat, Arc::clone(&live), clock, policy(&settings), stop.clone());
        let facts = Facts {
            address,
            database: redacted(settings.database_url.expose_secret()),
            made_key_file,
            made_admin_key,
            accounts: live.count_accounts(),
        };
        let rooms = Rooms::new(store, live, refresher, clock, stop.clone());
        let (server, tasks, signals) = (axum_server::Handle::new(), TaskTracker::new(), Signals::listen()?);
        let service = Self { facts, rooms, server, stop, tasks, signals };
        service.run(listener, settings.history_days);
        Ok(service)
    }

    fn run(&self, listener: TcpListener, history_days: u32) {
        let Rooms { store, live, refresher, clock, .. } = &*self.rooms;
        let clock = *clock;
        self.tasks.spawn(Arc::clone(refresher).run());
        self.tasks.spawn(Arc::clone(refresher).prune(history_days));
        let (live, store, stop) = (Arc::clone(live), Arc::clone(store), self.stop.clone());
        self.tasks.spawn(async move { live.follow(&store, clock, stop).await });
        let (rooms, server, stop) = (Arc::clone(&self.rooms), self.server.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            if let Err(error) = http::serve(listener, rooms, server).await {
                tracing::error!(error = &error as &dyn std::error::Error, "the HTTP server ended; shutting down");
                stop.cancel();
            }
        });
    }

    /// The rooms, for a demonstration that looks at them from inside.
    pub(super) fn rooms(&self) -> &Arc<Rooms> {
        &self.rooms
    }

    /// Is cancelled when the server begins to shut down.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves until SIGTERM or SIGINT; then stops claiming, lets calls in flight and requests end for at most 15 s, and closes. A second
    /// signal ends the process at once.
    pub async fn run_until_told_to_stop(self) -> Result<(), StartError> {
        let Self { rooms, server, stop, tasks, mut signals, .. } = self;
        tokio::select! {
            () = signals.next() => {}
            () = stop.cancelled() => {}
        }
        tracing::info!("shutting down: no new claims; calls in flight have {DRAIN_LIMIT:?} to end");
        stop.cancel();
        server.graceful_shutdown(Some(DRAIN_LIMIT));
        tokio::select! {
            () = drain(&rooms, &tasks) => Ok(()),
            () = signals.next() => Err(StartError::EndedAtOnce),
        }
    }
}

async fn drain(rooms: &Rooms, tasks: &TaskTracker) {
    if !rooms.refresher.drain(DRAIN_LIMIT).await {
        tracing::warn!("a call to WeChat was abandoned; the next start makes it again");
    }
    tasks.close();
    if tokio::time::timeout(DRAIN_LIMIT, tasks.wait()).await.is_err() {
        tracing::warn!("a request was cut off");
    }
    // A statement that hangs must not keep the process from ending.
    let _ = tokio::time::timeout(Duration::from_secs(2), rooms.store.close()).await;
    tracing::info!("stopped");
}

fn policy(settings: &Settings) -> Policy {
    Policy {
        ahead: settings.refresh_ahead,
        scan_interval: settings.scan_interval,
        concurrency: settings.refresh_concurrency,
        call_timeout: settings.call_timeout,
    }
}

/// Binds first of all: a port in use is found before anything is made or changed.
fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).map_err(|source| StartError::Listen { address, source })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A name for leases and history rows that no other process has: the host's, the process's, and four random bytes.
fn instance_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut host: String =
        host.trim().chars().filter(|letter| letter.is_ascii_alphanumeric() || "-._".contains(*letter)).collect();
    host.truncate(32);
    if host.is_empty() {
        "host".clone_into(&mut host);
    }
    let mut random = [0; 4];
    // Without randomness the process's number has to do.
    let _ = random_bytes(&mut random);
    format!("{host}-{}-{}", std::process::id(), hexadecimal(&random))
}
