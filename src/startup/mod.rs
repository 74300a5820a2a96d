//! Wires the rooms together, runs them, and drains them.

mod database;
mod demo;
mod draft;
mod first_key;
mod key_file;
mod master_key;
mod service;
mod timekeeping;
mod waiting;

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub use database::{Migrated, OpenDatabase, migrate, open_database};
pub use demo::{Demo, Happening, Happenings, SAMPLES, Sample};
pub use master_key::{MasterKeySource, master_key};
pub use service::{Facts, Service};

use crate::config::ConfigError;
use crate::domain::Invalid;
use crate::seal::MasterKeyError;
use crate::store::StoreError;
use crate::wechat::ClientError;
use crate::wechat::sandbox::Sandbox;

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
    /// The address to listen on is not to be had.
    #[error("cannot listen on {address}; choose another with --listen or WXTOKEN_LISTEN")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The client for WeChat cannot be made from its settings.
    #[error("WeChat cannot be called with these settings")]
    Wechat(#[from] ClientError),
    /// A value that the program itself refuses, such as a placeholder for a key.
    #[error("a setting is refused")]
    Invalid(#[from] Invalid),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    /// A second signal came while the server was shutting down.
    #[error("ended at once by a second signal; calls in flight are made again at the next start")]
    EndedAtOnce,
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
            | Self::KeyFile { .. }
            | Self::Wechat(_)
            | Self::Invalid(_) => Remedy::MendSettings,
            Self::Store(error) => remedy_of(error),
            Self::System(_) | Self::Listen { .. } | Self::NoRandomness | Self::EndedAtOnce => Remedy::Other,
        }
    }
}

fn remedy_of(error: &StoreError) -> Remedy {
    match error {
        error if error.is_unavailable() => Remedy::AwaitDatabase,
        StoreError::InUse { .. } => Remedy::AwaitDatabase,
        // The server is there and refuses the user, the password or the database's name.
        StoreError::Open { .. }
        | StoreError::UnknownScheme
        | StoreError::MalformedUrl
        | StoreError::InMemory
        | StoreError::OtherMasterKey { .. } => Remedy::MendSettings,
        StoreError::NewerSchema { .. }
        | StoreError::Migration { .. }
        | StoreError::Statement { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Sealed { .. }
        | StoreError::Seal(_) => Remedy::Other,
    }
}

/// Runs the simulator alone until it is told to end; `ready` is called once it listens.
pub async fn sandbox(listen: SocketAddr, ready: impl FnOnce(SocketAddr)) -> Result<(), StartError> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|source| StartError::Listen { address: listen, source })?;
    let mut signals = Signals::listen()?;
    ready(listener.local_addr()?);
    let stop = CancellationToken::new();
    let serving = Sandbox::new();
    tokio::select! {
        () = serving.serve(listener, stop) => {}
        () = signals.next() => {}
    }
    Ok(())
}

/// SIGTERM and SIGINT, heard from when this is made: none is lost between two waits.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of either.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
