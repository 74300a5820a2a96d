//! Wires the rooms together, runs them, and drains them.

mod database;
mod key_file;
mod master_key;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use database::{Migrated, OpenDatabase, migrate, open_database};
pub use master_key::{MasterKeySource, master_key};

use crate::clock::Clock;
use crate::config::{ConfigError, Settings};
use crate::seal::MasterKeyError;
use crate::store::{FailureKind, StoreError};

/// Why the program did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings are wrong.
    #[error("the settings are wrong")]
    Config(#[from] ConfigError),
    /// The master key that was given or found is none.
    #[error("the master key in {place} cannot be used")]
    MasterKey {
        /// The setting or the file.
        place: String,
        /// What is wrong with it.
        source: MasterKeyError,
    },
    /// A server database, and no master key given.
    #[error(
        "WXTOKEN_MASTER_KEY is needed with PostgreSQL and MySQL; make one with `wxtoken master-key generate`, and give every \
         instance the same"
    )]
    NoMasterKey,
    /// A sealed SQLite database whose key file is gone.
    #[error(
        "the database is sealed under master key {expected}, and there is no key: WXTOKEN_MASTER_KEY is not set and {} does \
         not exist; restore that file or set the key", path.display()
    )]
    LostKeyFile {
        /// The file that was looked for.
        path: PathBuf,
        /// The identifiers of the keys that the database knows.
        expected: String,
    },
    /// A key file that others may read.
    #[error("the master key in {} can be read by other users; run: chmod 600 '{}'", path.display(), path.display())]
    ExposedKeyFile {
        /// The file.
        path: PathBuf,
    },
    /// The key file could not be read or made.
    #[error("cannot read or make the master key file {}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database refused.
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
    /// The operating system refused something that the program cannot do without.
    #[error("the program could not be set up")]
    System(#[from] std::io::Error),
    /// A part that this version lacks.
    #[error("this version of wxtoken has no `{0}` yet")]
    Missing(&'static str),
}

/// What a failure to start asks of whoever started the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Mend the settings or the master key; another try is in vain before.
    MendSettings,
    /// Try again once the database is there.
    AwaitDatabase,
    /// Read the message.
    Other,
}

impl StartError {
    /// What would help.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Config(_)
            | Self::MasterKey { .. }
            | Self::NoMasterKey
            | Self::LostKeyFile { .. }
            | Self::ExposedKeyFile { .. }
            | Self::KeyFile { .. } => Remedy::MendSettings,
            Self::Store(error) => remedy_of(error),
            Self::System(_) | Self::Missing(_) => Remedy::Other,
        }
    }
}

fn remedy_of(error: &StoreError) -> Remedy {
    match error {
        StoreError::UnknownScheme
        | StoreError::MalformedUrl
        | StoreError::InMemory
        | StoreError::OtherMasterKey { .. } => Remedy::MendSettings,
        StoreError::Open { .. }
        | StoreError::InUse { .. }
        | StoreError::Statement { kind: FailureKind::Unavailable | FailureKind::Conflict, .. } => Remedy::AwaitDatabase,
        StoreError::NewerSchema { .. }
        | StoreError::OldSchema
        | StoreError::Migration(_)
        | StoreError::Statement { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Sealed { .. }
        | StoreError::Seal(_) => Remedy::Other,
    }
}

/// Serves until it is told to end.
pub async fn serve(settings: Settings) -> Result<(), StartError> {
    let opened = open_database(&settings, Clock).await?;
    if let Some(path) = &opened.made_key_file {
        tracing::warn!(
            "made a master key in {}: keep a copy, nothing in the database opens without it",
            path.display()
        );
    }
    drop(settings);
    opened.db.close().await;
    Err(StartError::Missing("serve"))
}

/// Runs the sandbox and the server with sample accounts.
#[expect(clippy::unused_async, reason = "it will wait for the parts that it runs")]
pub async fn demo(settings: Settings) -> Result<(), StartError> {
    drop(settings);
    Err(StartError::Missing("demo"))
}

/// Runs the sandbox alone.
#[expect(clippy::unused_async, reason = "it will wait for the parts that it runs")]
pub async fn sandbox(listen: SocketAddr) -> Result<(), StartError> {
    let _ = listen;
    Err(StartError::Missing("sandbox"))
}
