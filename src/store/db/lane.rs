//! A connection in use, with a deadline on all that is done with it.
//!
//! The drivers wait for ever for an answer. A connection on which an answer did not come in time is of no more use: it is closed at once
//! and its place in the pool given back, so that a database that comes back finds a pool that works.

use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::{Executor, MySql, Postgres, Sqlite};
use tokio::runtime;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Dialect, Handle, Record, Value, rendered};
use crate::store::{FailureKind, StoreError};

/// How long a connection may take to be rolled back and tested before it goes back to its pool.
const TIDYING: Duration = Duration::from_secs(2);
/// How long rows may keep coming.
const LONGEST_STREAM: Duration = Duration::from_mins(5);

pub(super) type Connection = Handle<PoolConnection<Sqlite>, PoolConnection<Postgres>, PoolConnection<MySql>>;

/// A connection in use; `None` once it was given up.
pub(super) struct Lane {
    connection: Option<Connection>,
    deadline: Instant,
    in_transaction: bool,
}

/// An open transaction; dropping it rolls it back.
pub(in crate::store) struct Tx(Lane);

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

/// Runs the same expression against whichever of the three connections the lane has. One that did not answer in time is given up.
macro_rules! on_lane {
    ($lane:expr, $connection:ident => $run:expr) => {{
        let deadline = $lane.deadline;
        let answer = match $lane.connection.as_mut() {
            None => return Err(overdue()),
            Some(Handle::Sqlite($connection)) => timeout_at(deadline, $run).await,
            Some(Handle::Postgres($connection)) => timeout_at(deadline, $run).await,
            Some(Handle::Mysql($connection)) => timeout_at(deadline, $run).await,
        };
        match answer {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                $lane.give_up();
                Err(overdue())
            }
        }
    }};
}

fn overdue() -> StoreError {
    StoreError::Statement { kind: FailureKind::Unavailable, source: "the database gave no answer in time".into() }
}

/// Every row; `None` when one did not come in time.
async fn gather<T>(
    mut rows: impl Stream<Item = Result<T, sqlx::Error>> + Unpin,
    patience: Duration,
) -> Result<Option<Vec<T>>, sqlx::Error> {
    let mut gathered = Vec::new();
    loop {
        match timeout(patience, rows.try_next()).await {
            Ok(Ok(Some(row))) => gathered.push(row),
            Ok(Ok(None)) => return Ok(Some(gathered)),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(None),
        }
    }
}

impl Lane {
    /// Waits for a connection until `deadline`, which then holds for what is done with it.
    pub(super) async fn acquire(
        deadline: Instant,
        connecting: impl Future<Output = Result<Connection, sqlx::Error>>,
    ) -> Result<Self, StoreError> {
        let connection = timeout_at(deadline, connecting).await.map_err(|_| overdue())??;
        Ok(Self { connection: Some(connection), deadline, in_transaction: false })
    }

    /// Gives what comes next `patience` from now.
    pub(super) fn extend(&mut self, patience: Duration) {
        self.deadline = Instant::now() + patience;
    }

    pub(super) async fn begin(mut self) -> Result<Tx, StoreError> {
        // SQLite's plain BEGIN would find out only at the first write that another writer is there, and then cannot wait.
        let begin = if self.dialect() == Some(Dialect::Sqlite) { "BEGIN IMMEDIATE" } else { "BEGIN" };
        self.in_transaction = true;
        self.say(begin).await?;
        Ok(Tx(self))
    }

    pub(super) async fn fetch_all<T: Record>(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, StoreError> {
        let sql = self.rendered(sql);
        on_lane!(self, connection => bound!(sqlx::query_as(sql), values).fetch_all(&mut **connection))
    }

    /// Reads rows for as long as they keep coming: the first and each one after it within `patience`.
    pub(super) async fn fetch_stream<T: Record>(
        &mut self,
        patience: Duration,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, StoreError> {
        let sql = self.rendered(sql);
        self.extend(LONGEST_STREAM);
        let rows = on_lane!(self, connection => {
            gather(bound!(sqlx::query_as(sql), values).fetch(&mut **connection), patience)
        })?;
        rows.ok_or_else(|| {
            self.give_up();
            overdue()
        })
    }

    pub(super) async fn fetch_optional<T: Record>(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<T>, StoreError> {
        let sql = self.rendered(sql);
        on_lane!(self, connection => bound!(sqlx::query_as(sql), values).fetch_optional(&mut **connection))
    }

    async fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let sql = self.rendered(sql);
        on_lane!(self, connection => async {
            Ok::<_, sqlx::Error>(bound!(sqlx::query(sql), values).execute(&mut **connection).await?.rows_affected())
        })
    }

    /// A statement without values, which MySQL takes only outside its protocol for prepared ones.
    async fn say(&mut self, sql: &'static str) -> Result<(), StoreError> {
        on_lane!(self, connection => async { connection.execute(sql).await.map(drop) })
    }

    fn rendered(&self, sql: &'static str) -> &'static str {
        self.dialect().map_or(sql, |dialect| rendered(dialect, sql))
    }

    fn dialect(&self) -> Option<Dialect> {
        self.connection.as_ref().map(Handle::dialect)
    }

    /// Closes the connection without another word to the database.
    fn give_up(&mut self) {
        match self.connection.take() {
            None => {}
            Some(Handle::Sqlite(connection)) => drop(connection.detach()),
            Some(Handle::Postgres(connection)) => drop(connection.detach()),
            Some(Handle::Mysql(connection)) => drop(connection.detach()),
        }
    }
}

impl Drop for Lane {
    /// The connection goes back to its pool: rolled back if need be, and tested, both in the background and within [`TIDYING`].
    fn drop(&mut self) {
        let Ok(runtime) = runtime::Handle::try_current() else {
            return;
        };
        macro_rules! tidy {
            ($connection:expr) => {{
                let (mut connection, in_transaction) = ($connection, self.in_transaction);
                runtime.spawn(async move {
                    if in_transaction && !matches!(timeout(TIDYING, connection.execute("ROLLBACK")).await, Ok(Ok(_))) {
                        drop(connection.detach());
                    } else {
                        let _ = timeout(TIDYING, connection.return_to_pool()).await;
                    }
                });
            }};
        }
        match self.connection.take() {
            None => {}
            Some(Handle::Sqlite(connection)) => tidy!(connection),
            Some(Handle::Postgres(connection)) => tidy!(connection),
            Some(Handle::Mysql(connection)) => tidy!(connection),
        }
    }
}

impl Tx {
    pub(in crate::store) async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, StoreError> {
        self.0.execute(sql, values).await
    }

    pub(in crate::store) async fn fetch_all<T: Record>(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, StoreError> {
        self.0.fetch_all(sql, values).await
    }

    pub(in crate::store) async fn fetch_optional<T: Record>(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<T>, StoreError> {
        self.0.fetch_optional(sql, values).await
    }

    pub(in crate::store) async fn commit(mut self) -> Result<(), StoreError> {
        self.0.say("COMMIT").await?;
        self.0.in_transaction = false;
        Ok(())
    }
}
