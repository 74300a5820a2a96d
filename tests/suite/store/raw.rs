//! A plain connection beside the store: for looking at what is stored, for spoiling it, and for holding locks.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Connection, Row, TypeInfo};
use sqlx::{MySqlConnection, PgConnection, SqliteConnection};

use crate::support::database::Kind;

pub(crate) enum Raw {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
    Mysql(MySqlConnection),
}

/// A row with each column as text.
pub(crate) type TextRow = Vec<Option<String>>;

macro_rules! on_each {
    ($raw:expr, $conn:ident => $run:expr) => {
        match $raw {
            Raw::Sqlite($conn) => $run,
            Raw::Postgres($conn) => $run,
            Raw::Mysql($conn) => $run,
        }
    };
}

impl Raw {
    pub(crate) async fn connect(kind: Kind, url: &str) -> Self {
        let connected = match kind {
            Kind::Sqlite => {
                let path = url.trim_start_matches("sqlite://");
                SqliteConnectOptions::new().filename(path).connect().await.map(Self::Sqlite)
            }
            Kind::Postgres => PgConnection::connect(url).await.map(Self::Postgres),
            Kind::Mysql => MySqlConnection::connect(url).await.map(Self::Mysql),
        };
        connected.expect("the database lets us in")
    }

    pub(crate) async fn try_run(&mut self, sql: &str) -> Result<u64, sqlx::Error> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        on_each!(self, conn => query.execute(conn).await.map(|done| done.rows_affected()))
    }

    /// Runs a statement and tells how many rows it changed.
    pub(crate) async fn run(&mut self, sql: &str) -> u64 {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Every row as text, by the protocol in which the servers send text.
    pub(crate) async fn rows(&mut self, sql: &str) -> Vec<TextRow> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        on_each!(self, conn => {
            let rows = query.fetch_all(conn).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            rows.iter().map(|row| (0..row.len()).map(|at| row.get_unchecked(at)).collect()).collect()
        })
    }

    /// The single value of a query.
    pub(crate) async fn one(&mut self, sql: &str) -> String {
        let rows = self.rows(sql).await;
        match rows.as_slice() {
            [row] if row.len() == 1 => row[0].clone().unwrap_or_else(|| "NULL".to_owned()),
            _ => panic!("{sql}: one value was expected and not {rows:?}"),
        }
    }

    /// The names and types of a query's columns; there must be a row.
    pub(crate) async fn columns(&mut self, sql: &str) -> Vec<(String, String)> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        on_each!(self, conn => {
            let row = query.fetch_one(conn).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let columns = row.columns().iter();
            columns.map(|column| (column.name().to_owned(), column.type_info().name().to_owned())).collect()
        })
    }
}
