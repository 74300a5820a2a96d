//! Every difference between the three databases, and nothing else: statements are written once, elsewhere, in the subset they share.
//!
//! | difference | SQLite | PostgreSQL | MySQL, MariaDB |
//! |---|---|---|---|
//! | placeholder | `?` | `?` becomes `$n` | `?` |
//! | a writing transaction opens with | `BEGIN IMMEDIATE` | `BEGIN` | `BEGIN` |
//! | `{for_update}`, `{skip_locked}` | nothing: there is one writer | row lock | row lock |
//! | pools | one writer, readers that cannot write | writers, readers | writers, readers |
//! | session | WAL, busy timeout | read committed, lock and idle limits | the same |
//! | worth another try | busy, locked | serialization, deadlock | deadlock, lock wait |
//!
//! Reads outside a transaction go through the pool of readers, so that a slow report never makes a refresh wait for a connection.
//! Everything that is said to a database has a deadline: one that is frozen or unreachable must look to callers like one that is down.

mod failure;
mod file;
mod lane;
mod open;

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::mysql::MySqlRow;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, MySqlConnection, MySqlPool, PgPool, SqlitePool};
use tokio::time::Instant;

use super::StoreError;
use crate::domain::timestamp::Timestamp;
use crate::fail_point;
pub(super) use failure::{kind_of, migration_kind_of};
pub(super) use lane::Tx;
use lane::{Connection, Lane};
pub use open::sqlite_path;
use open::{mysql_pools, postgres_pools, sqlite_pools};

/// How long a transaction as a whole, or a read outside of one, may take, the wait for a connection included. An admin whose call needs the database
/// is told within 3 s that it is away.
pub(super) const PATIENCE: Duration = Duration::from_millis(2_500);

/// Which database a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// A file, embedded.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MySQL 8.0 or MariaDB 10.6 and later.
    Mysql,
}

impl Dialect {
    /// Reads the scheme of a database URL; `None` for any other scheme.
    pub fn of_url(url: &str) -> Option<Self> {
        match url.split(':').next()? {
            "sqlite" => Some(Self::Sqlite),
            "postgres" | "postgresql" => Some(Self::Postgres),
            "mysql" | "mariadb" => Some(Self::Mysql),
            _ => None,
        }
    }
}

/// A row type that all three drivers can fill.
pub(super) trait Record:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin
{
}

impl<T> Record for T where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin
{
}

/// A value that can be bound to a placeholder.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Int(i64),
    MaybeInt(Option<i64>),
    Text(&'a str),
    MaybeText(Option<&'a str>),
    Bool(bool),
}

macro_rules! value_from {
    ($($from:ty => |$name:ident| $value:expr,)+) => {
        $(impl<'a> From<$from> for Value<'a> {
            fn from($name: $from) -> Self {
                $value
            }
        })+
    };
}

value_from! {
    i64 => |number| Self::Int(number),
    u32 => |number| Self::Int(i64::from(number)),
    Option<i64> => |number| Self::MaybeInt(number),
    Timestamp => |moment| Self::Int(moment.as_millis()),
    Option<Timestamp> => |moment| Self::MaybeInt(moment.map(Timestamp::as_millis)),
    &'a str => |text| Self::Text(text),
    &'a String => |text| Self::Text(text),
    Option<&'a str> => |text| Self::MaybeText(text),
    Option<&'a String> => |text| Self::MaybeText(text.map(String::as_str)),
    bool => |flag| Self::Bool(flag),
}

/// The values for a statement's placeholders, in order.
macro_rules! bind {
    ($($value:expr),* $(,)?) => { &[$($crate::store::db::Value::from($value)),*] };
}
pub(super) use bind;

/// Runs the same expression against whichever of the three a handle holds.
macro_rules! on_each {
    ($handle:expr, $inner:ident => $run:expr) => {
        match $handle {
            Handle::Sqlite($inner) => $run,
            Handle::Postgres($inner) => $run,
            Handle::Mysql($inner) => $run,
        }
    };
}

enum Handle<S, P, M> {
    Sqlite(S),
    Postgres(P),
    Mysql(M),
}

impl<S, P, M> Handle<S, P, M> {
    fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
            Self::Mysql(_) => Dialect::Mysql,
        }
    }
}

struct Pools<T> {
    writers: T,
    readers: T,
}

/// An open database.
pub struct Db {
    pools: Handle<Pools<SqlitePool>, Pools<PgPool>, Pools<MySqlPool>>,
    connections_made: Arc<AtomicU64>,
    /// Held for as long as we may write to an SQLite file: one process at a time.
    _lock: Option<File>,
}

impl Db {
    /// Opens the database that `url` names, making an SQLite file that is not there yet.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Self::connect(url, false).await
    }

    /// Opens the database without the means to change it. An SQLite file must exist.
    pub async fn open_read_only(url: &str) -> Result<Self, StoreError> {
        Self::connect(url, true).await
    }

    async fn connect(url: &str, read_only: bool) -> Result<Self, StoreError> {
        let connections_made = Arc::default();
        let (pools, lock) = match Dialect::of_url(url) {
            Some(Dialect::Sqlite) => {
                let (pools, lock) = sqlite_pools(url, read_only).await?;
                (Handle::Sqlite(pools), lock)
            }
            Some(Dialect::Postgres) => {
                (Handle::Postgres(postgres_pools(url, read_only, &connections_made).await?), None)
            }
            Some(Dialect::Mysql) => (Handle::Mysql(mysql_pools(url, read_only, &connections_made).await?), None),
            None => return Err(StoreError::UnknownScheme),
        };
        Ok(Self { pools, connections_made, _lock: lock })
    }

    /// How many connections to a server have been made so far.
    pub fn connections_made(&self) -> u64 {
        self.connections_made.load(Ordering::Relaxed)
    }

    /// Which database this is.
    pub fn dialect(&self) -> Dialect {
        self.pools.dialect()
    }

    /// Opens a transaction. It, its statements and its commit have [`PATIENCE`] in all.
    pub(super) async fn begin(&self) -> Result<Tx, StoreError> {
        let deadline = Instant::now() + PATIENCE;
        Lane::acquire(deadline, self.writer()).await?.begin().await
    }

    /// Reads outside a transaction, within [`PATIENCE`].
    pub(super) async fn fetch_all<T: Record>(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, StoreError> {
        self.fetch_all_within(PATIENCE, sql, values).await
    }

    /// Reads outside a transaction, within `patience`.
    pub(super) async fn fetch_all_within<T: Record>(
        &self,
        patience: Duration,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, StoreError> {
        let mut lane = Lane::acquire(Instant::now() + PATIENCE, self.reader()).await?;
        lane.extend(patience);
        lane.fetch_all(sql, values).await
    }

    /// Reads rows outside a transaction, however many: each within [`PATIENCE`] of the one before it.
    pub(super) async fn fetch_stream<T: Record>(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, StoreError> {
        let mut lane = Lane::acquire(Instant::now() + PATIENCE, self.reader()).await?;
        lane.fetch_stream(PATIENCE, sql, values).await
    }

    /// Reads one row outside a transaction, within [`PATIENCE`].
    pub(super) async fn fetch_optional<T: Record>(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<T>, StoreError> {
        Lane::acquire(Instant::now() + PATIENCE, self.reader()).await?.fetch_optional(sql, values).await
    }

    async fn writer(&self) -> Result<Connection, sqlx::Error> {
        Ok(match &self.pools {
            Handle::Sqlite(pools) => Handle::Sqlite(pools.writers.acquire().await?),
            Handle::Postgres(pools) => Handle::Postgres(pools.writers.acquire().await?),
            Handle::Mysql(pools) => Handle::Mysql(pools.writers.acquire().await?),
        })
    }

    async fn reader(&self) -> Result<Connection, sqlx::Error> {
        Ok(match &self.pools {
            Handle::Sqlite(pools) => Handle::Sqlite(pools.readers.acquire().await?),
            Handle::Postgres(pools) => Handle::Postgres(pools.readers.acquire().await?),
            Handle::Mysql(pools) => Handle::Mysql(pools.readers.acquire().await?),
        })
    }

    /// What the database's clock says; on SQLite that is this host's.
    pub async fn time(&self) -> Result<Timestamp, StoreError> {
        let sql = match self.dialect() {
            Dialect::Sqlite => "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
            Dialect::Postgres => "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
            Dialect::Mysql => "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000",
        };
        let told: Option<(i64,)> = self.fetch_optional(sql, &[]).await?;
        Ok(Timestamp::from_millis(told.map_or(0, |(millis,)| millis)))
    }

    /// Brings the schema up to date.
    pub(super) async fn migrate(&self, mut migrator: Migrator) -> Result<(), MigrateError> {
        match &self.pools {
            Handle::Sqlite(pools) => run_steps(&migrator, &mut *pools.writers.acquire().await?).await,
            Handle::Postgres(pools) => {
                let mut conn = pools.writers.acquire().await?;
                // Instances that start together wait for the one that migrates.
                sqlx::query("SET lock_timeout = '60s'").execute(&mut *conn).await?;
                let result = run_steps(&migrator, &mut *conn).await;
                conn.close().await?;
                result
            }
            Handle::Mysql(pools) => {
                let mut conn = pools.writers.acquire().await?;
                lock_migrations(&mut conn).await?;
                // MySQL commits each DDL statement by itself, so a process killed inside a migration leaves it marked as half done. Each is a
                // single statement that may run again; nobody else can be inside one, because we hold the migration lock.
                let forget = "DELETE FROM wx_migrations WHERE success = FALSE";
                if table_exists_on(&mut conn, "wx_migrations").await? {
                    sqlx::query(forget).execute(&mut *conn).await?;
                }
                let migrator = migrator.set_locking(false);
                let result = loop {
                    match run_steps(migrator, &mut *conn).await {
                        Err(error) if was_done_before(&mut conn, &error).await? => {}
                        result => break result,
                    }
                };
                sqlx::query(UNLOCK_MIGRATIONS).execute(&mut *conn).await?;
                result
            }
        }
    }

    /// Whether the database has a table of this name.
    pub(super) async fn table_exists(&self, name: &str) -> Result<bool, StoreError> {
        let sql = match self.dialect() {
            Dialect::Sqlite => "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = ?",
            Dialect::Postgres => "SELECT COUNT(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = ?",
            Dialect::Mysql => MYSQL_TABLES,
        };
        let found: Option<(i64,)> = self.fetch_optional(sql, bind![name]).await?;
        Ok(found.is_some_and(|(count,)| count > 0))
    }

    /// Closes every connection, waiting for those in use.
    pub async fn close(&self) {
        on_each!(&self.pools, pools => {
            pools.readers.close().await;
            pools.writers.close().await;
        });
    }
}

/// Applies the steps that are missing, one at a time. Each that is there already is passed over by the driver.
async fn run_steps<C: Migrate>(migrator: &Migrator, conn: &mut C) -> Result<(), MigrateError> {
    for step in migrator.iter() {
        migrator.run_direct(Some(step.version), conn, false).await?;
        fail_point::pass("after_migration_step").await;
    }
    Ok(())
}

/// Whether a step failed only because its columns are there: MySQL commits a change of a table before the step can be marked as done, and has no
/// way to say "if it is not there". All columns of a step come with one statement, so that one of them stands for all. Marks it as done.
async fn was_done_before(conn: &mut MySqlConnection, error: &MigrateError) -> Result<bool, MigrateError> {
    let Some(version) = failure::step_with_columns_that_are_there(error) else {
        return Ok(false);
    };
    let sql = "UPDATE wx_migrations SET success = TRUE WHERE version = ? AND success = FALSE";
    Ok(sqlx::query(sql).bind(version).execute(conn).await?.rows_affected() == 1)
}

/// The statement in the words of `dialect`. Each is rendered once and kept for good: there are as many as the program has literals.
fn rendered(dialect: Dialect, sql: &'static str) -> &'static str {
    static RENDERED: LazyLock<Mutex<HashMap<(Dialect, &'static str), &'static str>>> = LazyLock::new(Mutex::default);
    let mut rendered = RENDERED.lock().unwrap_or_else(PoisonError::into_inner);
    rendered.entry((dialect, sql)).or_insert_with(|| Box::leak(render(dialect, sql).into_boxed_str()))
}

/// Fills the slots of a statement and numbers its placeholders.
pub fn render(dialect: Dialect, sql: &str) -> String {
    let (lock, skip) = match dialect {
        Dialect::Sqlite => ("", ""),
        Dialect::Postgres | Dialect::Mysql => ("FOR UPDATE", "FOR UPDATE SKIP LOCKED"),
    };
    let sql = sql.replace("{for_update}", lock).replace("{skip_locked}", skip);
    if dialect != Dialect::Postgres {
        return sql;
    }
    let mut numbered = String::with_capacity(sql.len() + 32);
    for (number, part) in sql.split('?').enumerate() {
        if number > 0 {
            numbered.push('$');
            numbered.push_str(&number.to_string());
        }
        numbered.push_str(part);
    }
    numbered
}

const LOCK_MIGRATIONS: &str = "SELECT GET_LOCK(CONCAT('wxtoken:', MD5(DATABASE())), 60)";
const UNLOCK_MIGRATIONS: &str = "DO RELEASE_LOCK(CONCAT('wxtoken:', MD5(DATABASE())))";

/// The driver's own lock asks to wait for ever, which MariaDB takes for an error and answers without locking.
async fn lock_migrations(conn: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    let (locked,): (Option<i64>,) = sqlx::query_as(LOCK_MIGRATIONS).fetch_one(conn).await?;
    let busy = "another instance has been bringing the schema up to date for a minute";
    if locked == Some(1) { Ok(()) } else { Err(sqlx::Error::Protocol(busy.to_owned())) }
}

const MYSQL_TABLES: &str =
    "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";

async fn table_exists_on(conn: &mut MySqlConnection, name: &str) -> Result<bool, sqlx::Error> {
    let (count,): (i64,) = sqlx::query_as(MYSQL_TABLES).bind(name).fetch_one(conn).await?;
    Ok(count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_put_into_each_dialects_words() {
        let sql = "SELECT a FROM t WHERE b = ? AND c = ? {skip_locked}";
        assert_eq!(render(Dialect::Postgres, sql), "SELECT a FROM t WHERE b = $1 AND c = $2 FOR UPDATE SKIP LOCKED");
        assert_eq!(render(Dialect::Mysql, sql), "SELECT a FROM t WHERE b = ? AND c = ? FOR UPDATE SKIP LOCKED");
        assert_eq!(render(Dialect::Sqlite, sql), "SELECT a FROM t WHERE b = ? AND c = ? ");
    }
}
