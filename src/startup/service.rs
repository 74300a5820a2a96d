//! The token server as a whole: its rooms wired together, run, and drained.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listeners::{Addresses, Listeners, Serving};
use super::waiting::Waiting;
use super::{OpenDatabase, Signals, StartError, first_key, open_database, rounds, timekeeping};
use crate::clock::Clock;
use crate::config::{Settings, redacted};
use crate::domain::key::{KeyText, Role};
use crate::http::{Door, ForwardLimits, Rooms};
use crate::live::LiveView;
use crate::refresher::{Policy, Refresher};
use crate::seal::{hexadecimal, random_bytes};
use crate::store::Store;
use crate::store::db::Dialect;
use crate::wechat::forward::Forwarder;
use crate::wechat::{Client, ClientError, ClientSettings};

/// How long calls in flight and requests have to end after the first signal.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);

/// A running token server.
pub struct Service {
    /// What there is to tell about it.
    pub facts: Facts,
    rooms: Arc<Rooms>,
    door: Door,
    stop: CancellationToken,
    /// What makes calls and follows the database.
    rounds: TaskTracker,
    serving: Serving,
    signals: Signals,
}

/// What a server has to tell whoever started it.
pub struct Facts {
    /// Where it listens.
    pub addresses: Addresses,
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
    /// Opens the database, loads the live view, and starts to serve and to refresh. A database on a server that is away is waited for. `None`
    /// when a signal came first.
    pub async fn start(settings: Settings) -> Result<Option<Self>, StartError> {
        let clock = Clock::new();
        let listeners = Listeners::bind(&settings, &clock)?;
        let addresses = listeners.addresses()?;
        let mut signals = Signals::listen()?;
        let (wechat, forwarding) = (Client::new(&client_settings(&settings))?, forwarding(&settings)?);
        let (door, answering) = (Door::new(clock.clone()), CancellationToken::new());
        let serving = listeners.serve(&door, &clock, answering.clone());
        let opened = tokio::select! {
            opened = Box::pin(open(&settings, &clock, addresses.main, &answering)) => opened?,
            () = signals.next() => {
                tracing::info!("stopped before the database was there");
                return Ok(None);
            }
        };
        let Opened { store, live, made_key_file, made_admin_key } = opened;
        let stop = CancellationToken::new();
        let policy = policy(&settings, store.db().dialect() == Dialect::Sqlite);
        let refresher =
            Refresher::new(Arc::clone(&store), wechat, Arc::clone(&live), clock.clone(), policy, stop.clone());
        let facts = Facts {
            addresses,
            database: redacted(settings.database_url.expose_secret()),
            made_key_file,
            made_admin_key,
            accounts: live.count_accounts(),
        };
        let rooms = Rooms::new(store, live, refresher, clock, forwarding, stop.clone());
        let rounds = rounds::start(&rooms, settings.history_days);
        door.open(Arc::clone(&rooms));
        answering.cancel();
        Ok(Some(Self { facts, rooms, door, stop, rounds, serving, signals }))
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
        let Self { rooms, door, stop, rounds, mut serving, mut signals, .. } = self;
        let ended = tokio::select! {
            () = signals.next() => None,
            ended = serving.ended() => Some(ended),
        };
        tracing::info!("shutting down: no new claims; calls in flight have {DRAIN_LIMIT:?} to end");
        stop.cancel();
        door.close();
        serving.drain(DRAIN_LIMIT);
        let serving = async move {
            match ended {
                Some(ended) => ended,
                None => serving.ended().await,
            }
        };
        tokio::select! {
            served = drain(&rooms, &rounds, serving) => Ok(served?),
            () = signals.next() => Err(StartError::EndedAtOnce),
        }
    }
}

/// What a start brings out of the database.
struct Opened {
    store: Arc<Store>,
    live: Arc<LiveView>,
    made_key_file: Option<PathBuf>,
    made_admin_key: Option<KeyText>,
}

async fn open(
    settings: &Settings,
    clock: &Clock,
    address: SocketAddr,
    answering: &CancellationToken,
) -> Result<Opened, StartError> {
    // The same in every attempt: one that broke off may have stored it.
    let new_key = first_key::make(Role::Admin)?;
    let url = settings.database_url.expose_secret();
    if Dialect::of_url(url) == Some(Dialect::Sqlite) {
        return Box::pin(try_to_open(settings, clock, &new_key)).await;
    }
    let waiting = Waiting::new(address, redacted(url), answering.clone());
    waiting.until_open(async || try_to_open(settings, clock, &new_key).await).await
}

async fn try_to_open(settings: &Settings, clock: &Clock, new_key: &KeyText) -> Result<Opened, StartError> {
    let OpenDatabase { db, sealer, made_key_file, .. } = open_database(settings, clock).await?;
    timekeeping::set(&db, clock).await?;
    let embedded = db.dialect() == Dialect::Sqlite;
    let store = Arc::new(Store::new(db, sealer, settings.limits(), instance_name()));
    if embedded {
        store.end_leases().await?;
    }
    let made_admin_key = first_key::provide(&store, settings.admin_key.as_ref(), new_key, clock.now()).await?;
    let live = Arc::new(LiveView::new());
    live.load(&store, clock.now()).await?;
    if let Some(directory) = &settings.mirror_dir {
        live.mirrors().set_directory(directory.clone());
    }
    Ok(Opened { store, live, made_key_file, made_admin_key })
}

/// Lets everything end, for at most [`DRAIN_LIMIT`] in all. The scheduler comes first: it may be starting calls that it has just claimed.
async fn drain(rooms: &Rooms, rounds: &TaskTracker, serving: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let deadline = Instant::now() + DRAIN_LIMIT;
    let calls = async {
        rounds.wait().await;
        rooms.refresher.settle_all().await;
    };
    if timeout_at(deadline, calls).await.is_err() {
        match rooms.refresher.unstored() {
            0 => tracing::warn!("a call to WeChat was abandoned; the next start makes it again"),
            answers => tracing::error!("the database did not take {answers} answers of WeChat in time; they are lost"),
        }
    }
    let served = timeout_at(deadline, serving).await.unwrap_or_else(|_| {
        tracing::warn!("a request was cut off");
        Ok(())
    });
    // A statement that hangs must not keep the process from ending.
    let _ = timeout(Duration::from_secs(2), rooms.store.close()).await;
    tracing::info!("stopped");
    served
}

fn client_settings(settings: &Settings) -> ClientSettings {
    ClientSettings {
        base_url: settings.wechat_url.clone(),
        fallback_url: settings.wechat_fallback_url.clone(),
        connect_timeout: settings.connect_timeout(),
        deadline: settings.call_timeout,
    }
}

fn forwarding(settings: &Settings) -> Result<(Forwarder, ForwardLimits), ClientError> {
    let limits = ForwardLimits {
        concurrency: settings.forward_concurrency as usize,
        largest: settings.forward_largest,
        kept: settings.forward_kept,
    };
    Ok((Forwarder::new(&client_settings(settings), settings.forward_timeout)?, limits))
}

fn policy(settings: &Settings, embedded: bool) -> Policy {
    Policy {
        ahead: settings.refresh_ahead,
        scan_interval: settings.scan_interval,
        concurrency: settings.refresh_concurrency,
        call_timeout: settings.call_timeout,
        // An SQLite file is locked by the process that serves it.
        alone: embedded,
    }
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
