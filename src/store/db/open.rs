//! Opens each database: pools, session settings, and the lock on an SQLite file.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Executor, MySqlPool, PgPool, SqlitePool};
use tokio::time::timeout;

use super::{Pools, kind_of};
use crate::store::{FailureKind, StoreError};

const WRITERS: u32 = 8;
const READERS: u32 = 8;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a statement waits for somebody else's lock: less than a transaction may take.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Said in the session and not at its start: connection poolers refuse start parameters that they don't know, the driver's own included.
const POSTGRES_SESSION: &str = "SET default_transaction_isolation = 'read committed'; SET lock_timeout = '2s'; \
                                SET idle_in_transaction_session_timeout = '15s'";
/// Every statement of the program is kept prepared: on MySQL one that is not costs a round trip and a delayed acknowledgement.
const STATEMENT_CACHE: usize = 512;

/// The file of an SQLite URL; `None` when it names a database in memory, which a restart would empty.
pub fn sqlite_path(url: &str) -> Option<PathBuf> {
    let options = SqliteConnectOptions::from_str(url).ok()?;
    let path = options.get_filename();
    (!url.contains(":memory:") && !url.contains("mode=memory") && !path.as_os_str().is_empty()).then(|| path.to_owned())
}

/// Takes the right to write an SQLite file. The lock is on a file of its own, because SQLite uses locks on the database itself.
fn lock_sqlite(path: &Path) -> Result<File, StoreError> {
    // However the file is spelled, its lock is the same.
    let mut name = path.canonicalize().unwrap_or_else(|_| path.to_owned()).into_os_string();
    name.push(".lock");
    let open = || File::options().create(true).truncate(false).write(true).open(&name);
    let file = open().map_err(|source| unopened(path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(unopened(path, source)),
    }
}

fn unopened(path: &Path, source: std::io::Error) -> StoreError {
    StoreError::open(&path.display().to_string(), FailureKind::Unavailable, source)
}

/// Makes one connection to a server, whose pool would say only that none could be made in time, and closes it again.
async fn prove<C: Connection>(
    server: &str,
    connecting: impl Future<Output = Result<C, sqlx::Error>>,
) -> Result<(), StoreError> {
    let made = timeout(ACQUIRE_TIMEOUT, async { connecting.await?.close().await }).await;
    let silent =
        |_| StoreError::open(server, FailureKind::Unavailable, format!("no answer within {ACQUIRE_TIMEOUT:?}"));
    made.map_err(silent)?.map_err(|source| StoreError::open(server, kind_of(&source), source))
}

pub(super) async fn sqlite_pools(url: &str, read_only: bool) -> Result<(Pools<SqlitePool>, Option<File>), StoreError> {
    let path = sqlite_path(url).ok_or(StoreError::InMemory)?;
    let shown = path.display().to_string();
    let lock = if read_only { None } else { Some(lock_sqlite(&path)?) };
    let reading = SqliteConnectOptions::new()
        .filename(&path)
        .read_only(true)
        .foreign_keys(true)
        .busy_timeout(LOCK_TIMEOUT)
        .statement_cache_capacity(STATEMENT_CACHE);
    let writing = reading.clone().read_only(false).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    let writing = if read_only { reading.clone() } else { writing.synchronous(SqliteSynchronous::Full) };
    let pool = |connections| SqlitePoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
    let writers = pool(1).connect_with(writing).await;
    let writers = writers.map_err(|source| StoreError::open(&shown, kind_of(&source), source))?;
    let readers = pool(READERS).connect_lazy_with(reading);
    Ok((Pools { writers, readers }, lock))
}

/// Opens an SQLite file that nobody writes to: neither the file is changed, nor is another one made beside it.
pub(super) async fn still_pools(path: &Path) -> Result<Pools<SqlitePool>, StoreError> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
    let pool = || SqlitePoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT);
    let opened = pool().connect_with(options.clone()).await;
    let readers = opened.map_err(|source| StoreError::open(&path.display().to_string(), kind_of(&source), source))?;
    Ok(Pools { writers: pool().connect_lazy_with(options), readers })
}

/// Each connection that is made is counted in `made`.
pub(super) async fn postgres_pools(
    url: &str,
    read_only: bool,
    made: &Arc<AtomicU64>,
) -> Result<Pools<PgPool>, StoreError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|_| StoreError::MalformedUrl)?
        .application_name("wxtoken")
        .extra_float_digits(None)
        .statement_cache_capacity(STATEMENT_CACHE);
    let access =
        if read_only { "SET default_transaction_read_only = on" } else { "SET default_transaction_read_only = off" };
    let pool = |connections| {
        let made = Arc::clone(made);
        PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT).after_connect(
            move |conn, _| {
                made.fetch_add(1, Ordering::Relaxed);
                Box::pin(async move {
                    conn.execute(access).await?;
                    conn.execute(POSTGRES_SESSION).await.map(drop)
                })
            },
        )
    };
    prove("the PostgreSQL server", options.connect()).await?;
    Ok(Pools {
        writers: pool(WRITERS).connect_lazy_with(options.clone()),
        readers: pool(READERS).connect_lazy_with(options),
    })
}

/// Each connection that is made is counted in `made`.
pub(super) async fn mysql_pools(
    url: &str,
    read_only: bool,
    made: &Arc<AtomicU64>,
) -> Result<Pools<MySqlPool>, StoreError> {
    let options = MySqlConnectOptions::from_str(&url.replacen("mariadb:", "mysql:", 1))
        .map_err(|_| StoreError::MalformedUrl)?
        .statement_cache_capacity(STATEMENT_CACHE);
    let access = if read_only { "SET SESSION TRANSACTION READ ONLY" } else { "SET SESSION TRANSACTION READ WRITE" };
    let pool = |connections| {
        let made = Arc::clone(made);
        MySqlPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT).after_connect(
            move |conn, _| {
                made.fetch_add(1, Ordering::Relaxed);
                Box::pin(async move {
                    conn.execute(access).await?;
                    conn.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
                    conn.execute("SET SESSION innodb_lock_wait_timeout = 2").await?;
                    // Only MariaDB has this limit; MySQL answers that it knows no such variable.
                    let _ = conn.execute("SET SESSION idle_transaction_timeout = 15").await;
                    Ok(())
                })
            },
        )
    };
    prove("the MySQL server", options.connect()).await?;
    Ok(Pools {
        writers: pool(WRITERS).connect_lazy_with(options.clone()),
        readers: pool(READERS).connect_lazy_with(options),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_in_memory_has_no_file() {
        assert_eq!(sqlite_path("sqlite://data/wx.db"), Some(PathBuf::from("data/wx.db")));
        assert_eq!(sqlite_path("sqlite::memory:"), None);
    }
}
