//! SQL. One file a table; `db` holds every difference between the three databases.

pub mod account;
pub mod adoption;
pub mod audit;
pub mod copy;
pub mod db;
pub mod history;
pub mod key;
pub mod late;
pub mod lease;
pub mod master_key;
pub mod migrate;
pub mod mirror;
pub mod proof;
pub mod settle;
pub mod token;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use db::Db;

use crate::domain::budget::Limits;
use crate::seal::{SealError, Sealer};

type Source = Box<dyn Error + Send + Sync>;

/// What went wrong in the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL's scheme is none that we know.
    #[error("DATABASE_URL must begin with sqlite:, postgres: or mysql:")]
    UnknownScheme,
    /// The URL does not parse. It may hold a password, so it is not repeated.
    #[error(
        "its URL is malformed; write it like postgres://user:password@host:5432/name, special characters percent-encoded"
    )]
    MalformedUrl,
    /// An SQLite database in memory.
    #[error("DATABASE_URL names an SQLite database in memory, which a restart would empty; name a file")]
    InMemory,
    /// Another process serves the same SQLite file.
    #[error("another wxtoken process is using {}; stop it first, or use PostgreSQL or MySQL to run several", path.display())]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The database could not be opened.
    #[error("cannot open the database at {place}")]
    Open {
        /// The file, or a word for the server; never the URL.
        place: String,
        /// Whether that may pass by itself.
        kind: FailureKind,
        /// What the driver said.
        source: Source,
    },
    /// The schema is from a later version of the program.
    #[error(
        "the database has schema version {found}, and this program knows versions up to {known}; run the newer wxtoken"
    )]
    NewerSchema {
        /// The version found.
        found: i64,
        /// The latest that we know.
        known: i64,
    },
    /// A migration failed.
    #[error("bringing the database schema up to date failed")]
    Migration {
        /// What the caller needs to know.
        kind: FailureKind,
        /// What the driver said.
        source: Source,
    },
    /// A statement failed.
    #[error("a database statement failed ({kind:?})")]
    Statement {
        /// What the caller needs to know.
        kind: FailureKind,
        /// What the driver said.
        source: Source,
    },
    /// A value in the database that no version of the program writes.
    #[error("table {table}, row {row}: the column {column} holds something that it cannot hold")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's key.
        row: String,
    },
    /// A sealed column does not open.
    #[error("table {table}, row {row}: the column {column} does not open")]
    Sealed {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's key.
        row: String,
        /// Why it does not open.
        source: SealError,
    },
    /// The master key is not the one that this database is sealed under.
    #[error(
        "the master key is {present}, and this database is sealed under {expected}; give the key that it was made with"
    )]
    OtherMasterKey {
        /// Identifiers of the keys that the database knows.
        expected: String,
        /// The identifier of the key that was given.
        present: String,
    },
    /// Sealing failed.
    #[error("sealing a value failed")]
    Seal(#[source] SealError),
    /// A database to copy into that is not empty, and no earlier state of the source either.
    #[error(
        "it holds a row that the source does not have, or has only in an older state (table {table}, row {row}): it belongs to another \
         deployment, or it has been served since it was copied; name an empty database"
    )]
    NotBehind {
        /// The table.
        table: &'static str,
        /// The row's key.
        row: String,
    },
    /// A copy that is not what was copied.
    #[error(
        "the rows of {table} are not the same in both databases after copying: is something else writing to one of them?"
    )]
    CopyDiffers {
        /// The table.
        table: &'static str,
    },
    /// An SQLite file whose structure is broken.
    #[error("the file is damaged: {finding}")]
    Damaged {
        /// The first thing that SQLite found.
        finding: String,
    },
}

/// What the caller of a failed statement needs to know about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Somebody else held a lock or won a race: the transaction may be run again.
    Conflict,
    /// The database is away, full or read-only for now.
    Unavailable,
    /// It does not let us in, or has not our tables. At a start that is a mistake in the settings; later somebody is at work on it.
    Closed,
    /// A row with this key is there already.
    Duplicate,
    /// A defect.
    Other,
}

impl StoreError {
    fn open(place: &str, kind: FailureKind, source: impl Into<Source>) -> Self {
        Self::Open { place: place.to_owned(), kind, source: source.into() }
    }

    fn corrupt(table: &'static str, column: &'static str, row: &impl ToString) -> Self {
        Self::Corrupt { table, column, row: row.to_string() }
    }

    /// What kind of failure of the database this is; `None` when it is none of the database's.
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            Self::Open { kind, .. } | Self::Migration { kind, .. } | Self::Statement { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// Whether the database cannot be used for now.
    pub fn is_away(&self) -> bool {
        matches!(self.kind(), Some(FailureKind::Unavailable | FailureKind::Closed))
    }

    /// Whether the same call may succeed later without anybody's help.
    pub fn passes(&self) -> bool {
        matches!(self.kind(), Some(FailureKind::Unavailable | FailureKind::Conflict))
    }

    /// Whether nothing but the database's present state is in the way: the same call may succeed later, with somebody's help or without.
    pub fn is_unavailable(&self) -> bool {
        self.is_away() || self.passes()
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Statement { kind: db::kind_of(&error), source: error.into() }
    }
}

/// The tables, opened with the master key that they are sealed under.
pub struct Store {
    db: Db,
    sealer: Sealer,
    limits: Limits,
    instance: String,
}

/// Runs a transaction again, at most twice, when it lost a race for locks at once; the pauses are short and differ between rivals. One that has waited
/// for a lock in vain is not run again: its caller has waited long enough.
macro_rules! retrying {
    ($run:expr) => {{
        let started = tokio::time::Instant::now();
        let mut attempt = 0_u32;
        loop {
            match $run.await {
                Err(error)
                    if attempt < 2
                        && started.elapsed() < $crate::store::LONGEST_RACE
                        && error.kind() == Some($crate::store::FailureKind::Conflict) =>
                {
                    attempt += 1;
                    tokio::time::sleep($crate::store::conflict_pause(attempt)).await;
                }
                result => break result,
            }
        }
    }};
}
use retrying;

/// A transaction that lost a race later than this is not run again.
const LONGEST_RACE: Duration = Duration::from_millis(500);

fn conflict_pause(attempt: u32) -> Duration {
    Duration::from_millis(u64::from(attempt) * 20).mul_f64(0.5 + rand::random::<f64>())
}

impl Store {
    /// The tables of `db` under the master key of `sealer`, for the instance of this name (at most 64 ASCII characters).
    pub fn new(db: Db, sealer: Sealer, limits: Limits, instance: String) -> Self {
        Self { db, sealer, limits, instance }
    }

    /// The seal, for fingerprints and key hashes.
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// The daily limits that claims keep.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The database.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.db.close().await;
    }
}
