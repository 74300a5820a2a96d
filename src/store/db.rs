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

mod open;

use std::collections::HashMap;
use std::fs::File;
use std::sync::{LazyLock, Mutex, PoisonError};

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::mysql::{MySqlDatabaseError, MySqlRow};
use sqlx::postgres::PgRow;
use sqlx::sqlite::{SqliteError, SqliteRow};
use sqlx::{FromRow, MySql, MySqlConnection, MySqlPool, PgPool, Postgres, Sqlite, SqlitePool, Transaction};

use super::{FailureKind, StoreError};
use crate::domain::timestamp::Timestamp;
pub use open::sqlite_path;
use open::{mysql_pools, postgres_pools, sqlite_pools};

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
    bool => |flag| Self::Bool(flag),
}

/// The values for a statement's placeholders, in order.
macro_rules! bind {
    ($($value:expr),* $(,)?) => { &[$($crate::store::db::Value::from($value)),*] };
}
pub(super) use bind;

macro_rules! bound {
    ($query:expr, $values:expr) => {{
        let mut query = $query;
        for value in $values {
            query = match *value {
                Value::Int(number) => query.bind(number),
                Value::MaybeInt(number) => query.bind(number),
                Value::Text(text) => query.bind(text),
                Value::MaybeText(text) => query.bind(text),
                Value::Bool(flag) => query.bind(flag),
            };
        }
        query
    }};
}

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
    /// Held for as long as we may write to an SQLite file: one process at a time.
    _lock: Option<File>,
}

/// An open transaction; dropping it rolls it back.
pub(super) struct Tx {
    inner: Handle<Transaction<'static, Sqlite>, Transaction<'static, Postgres>, Transaction<'static, MySql>>,
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
        let (pools, lock) = match Dialect::of_url(url) {
            Some(Dialect::Sqlite) => {
                let (pools, lock) = sqlite_pools(url, read_only).await?;
                (Handle::Sqlite(pools), lock)
            }
            Some(Dialect::Postgres) => (Handle::Postgres(postgres_pools(url, read_only).await?), None),
            Some(Dialect::Mysql) => (Handle::Mysql(mysql_pools(url, read_only).await?), None),
            None => return Err(StoreError::UnknownScheme),
        };
        Ok(Self { pools, _lock: lock })
    }

    /// Which database this is.
    pub fn dialect(&self) -> Dialect {
        self.pools.dialect()
    }

    pub(super) async fn begin(&self) -> Result<Tx, StoreError> {
        let inner = match &self.pools {
            Handle::Sqlite(pools) => Handle::Sqlite(pools.writers.begin_with("BEGIN IMMEDIATE").await?),
            Handle::Postgres(pools) => Handle::Postgres(pools.writers.begin().await?),
            Handle::Mysql(pools) => Handle::Mysql(pools.writers.begin().await?),
        };
        Ok(Tx { inner })
    }

    pub(super) async fn fetch_all<T: Record>(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, StoreError> {
        let sql = rendered(self.dialect(), sql);
        on_each!(&self.pools, pools => Ok(bound!(sqlx::query_as(sql), values).fetch_all(&pools.readers).await?))
    }

    pub(super) async fn fetch_optional<T: Record>(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<T>, StoreError> {
        let sql = rendered(self.dialect(), sql);
        on_each!(&self.pools, pools => Ok(bound!(sqlx::query_as(sql), values).fetch_optional(&pools.readers).await?))
    }

    /// Brings the schema up to date.
    pub(super) async fn migrate(&self, mut migrator: Migrator) -> Result<(), MigrateError> {
        match &self.pools {
            Handle::Sqlite(pools) => migrator.run(&mut *pools.writers.acquire().await?).await,
            Handle::Postgres(pools) => migrator.run(&mut *pools.writers.acquire().await?).await,
            Handle::Mysql(pools) => {
                let mut conn = pools.writers.acquire().await?;
                lock_migrations(&mut conn).await?;
                // MySQL commits each DDL statement by itself, so a process killed inside a migration leaves it marked as half done. Each is a
                // single statement that may run again; nobody else can be inside one, because we hold the migration lock.
                let forget = "DELETE FROM wx_migrations WHERE success = FALSE";
                if table_exists_on(&mut conn, "wx_migrations").await? {
                    sqlx::query(forget).execute(&mut *conn).await?;
                }
                let result = migrator.set_locking(false).run(&mut *conn).await;
                sqlx::query(UNLOCK_MIGRATIONS).execute(&mut *conn).await?;
                result
            }
        }
    }

    /// Whether the database has a table of this name.
    pub(super) async fn table_exists(&self, name: &str) -> Result<bool, StoreError> {
        let found: Option<(String,)> = match &self.pools {
            Handle::Sqlite(pools) => {
                let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = ?";
                sqlx::query_as(sql).bind(name).fetch_optional(&pools.readers).await?
            }
            Handle::Postgres(pools) => {
                let sql =
                    "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() AND tablename = $1";
                sqlx::query_as(sql).bind(name).fetch_optional(&pools.readers).await?
            }
            Handle::Mysql(pools) => return Ok(table_exists_on(&mut *pools.readers.acquire().await?, name).await?),
        };
        Ok(found.is_some())
    }

    /// Closes every connection, waiting for those in use.
    pub async fn close(&self) {
        on_each!(&self.pools, pools => {
            pools.readers.close().await;
            pools.writers.close().await;
        });
    }
}

impl Tx {
    pub(super) async fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let sql = rendered(self.inner.dialect(), sql);
        on_each!(&mut self.inner, tx => Ok(bound!(sqlx::query(sql), values).execute(&mut **tx).await?.rows_affected()))
    }

    pub(super) async fn fetch_all<T: Record>(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, StoreError> {
        let sql = rendered(self.inner.dialect(), sql);
        on_each!(&mut self.inner, tx => Ok(bound!(sqlx::query_as(sql), values).fetch_all(&mut **tx).await?))
    }

    pub(super) async fn fetch_optional<T: Record>(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<T>, StoreError> {
        let sql = rendered(self.inner.dialect(), sql);
        on_each!(&mut self.inner, tx => Ok(bound!(sqlx::query_as(sql), values).fetch_optional(&mut **tx).await?))
    }

    pub(super) async fn commit(self) -> Result<(), StoreError> {
        on_each!(self.inner, tx => Ok(tx.commit().await?))
    }
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

async fn table_exists_on(conn: &mut MySqlConnection, name: &str) -> Result<bool, sqlx::Error> {
    let sql = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";
    let (count,): (i64,) = sqlx::query_as(sql).bind(name).fetch_one(conn).await?;
    Ok(count > 0)
}

/// What the caller of a failed statement needs to know about it.
pub(super) fn kind_of(error: &sqlx::Error) -> FailureKind {
    let sqlx::Error::Database(error) = error else {
        return match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => FailureKind::Unavailable,
            _ => FailureKind::Other,
        };
    };
    if error.is_unique_violation() {
        return FailureKind::Duplicate;
    }
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return match error.number() {
            1205 | 1213 => FailureKind::Conflict,
            1021 | 1040 | 1053 | 1927 | 1114 | 1203 | 1290 | 1792 => FailureKind::Unavailable,
            _ => FailureKind::Other,
        };
    }
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<SqliteError>().is_some() {
        // The low byte is the kind of failure; what stands above it, which of that kind.
        return match code.parse::<i32>().map(|code| code & 0xff) {
            Ok(5 | 6) => FailureKind::Conflict,
            Ok(8 | 10 | 13 | 14) => FailureKind::Unavailable,
            _ => FailureKind::Other,
        };
    }
    match &*code {
        "40001" | "40P01" | "55P03" => FailureKind::Conflict,
        "25006" | "25P03" | "57014" => FailureKind::Unavailable,
        // Connection exceptions, insufficient resources, operator intervention, system errors.
        code if ["08", "53", "57P", "58"].iter().any(|class| code.starts_with(class)) => FailureKind::Unavailable,
        _ => FailureKind::Other,
    }
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
