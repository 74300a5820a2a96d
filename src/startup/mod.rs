//! Wires the rooms together, runs them, and drains them.

mod backup;
mod ca;
mod certificate;
mod database;
mod demo;
mod draft;
mod first_key;
mod key_file;
mod listeners;
mod master_key;
mod rounds;
mod service;
mod timekeeping;
mod transfer;
mod waiting;

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub use backup::{BackedUp, Checked, KeyPlace, back_up, check_backup};
pub use ca::{CaError, Issued, init_ca};
pub use certificate::CertificateError;
pub use database::{Migrated, OpenDatabase, migrate, open_database};
pub use demo::{Demo, Happening, Happenings, SAMPLES, Sample};
pub use listeners::Addresses;
pub use master_key::{MasterKeySource, master_key};
pub use service::{Facts, Service};
pub use transfer::{Moved, move_up};

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
    /// The certificate for the listeners that pass for WeChat cannot be used.
    #[error("WeChat's host cannot be served")]
    Certificate(#[from] CertificateError),
    /// The CA and its certificate could not be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The address to listen on is not to be had.
    #[error("cannot listen on {address}; choose another with {setting}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Where it is chosen.
        setting: &'static str,
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
    /// A command for SQLite deployments, and one on a server.
    #[error("DATABASE_URL names a database on a server; {advice}")]
    OnServer {
        /// What to do instead.
        advice: &'static str,
    },
    /// `--to` without a value, and no setting either.
    #[error(
        "where to? Write --to and the URL, or set WXTOKEN_MIGRATE_TO or WXTOKEN_MIGRATE_TO_FILE so that no password is on the command line"
    )]
    NoTarget,
    /// A target that is no database on a server.
    #[error(
        "the database to move to must be a postgres: or mysql: one; `wxtoken backup` copies an SQLite database into a file"
    )]
    TargetNotOnServer,
    /// A file that is no database which a server has used.
    #[error("there is no database of a token server in {}", path.display())]
    NoDatabase {
        /// The file.
        path: PathBuf,
    },
    /// The database to move to refused, or is none that may be written to.
    #[error("the database to move to, {place}, cannot be used")]
    Target {
        /// The database, without its password.
        place: String,
        /// Why.
        source: Box<StoreError>,
    },
    /// A backup would replace a file.
    #[error("{} exists, and a backup never replaces a file; choose another name", path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// The file of a backup could not be made.
    #[error("cannot make the backup {}", path.display())]
    BackupFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A backup with a log beside it.
    #[error(
        "{} has a log beside it ({}): it is a database in use, or a copy of a part of one; check a file that `wxtoken backup` made",
        path.display(),
        log.display()
    )]
    NotStill {
        /// The file.
        path: PathBuf,
        /// Its log.
        log: PathBuf,
    },
    /// A backup that does not open.
    #[error("the backup {} is not good", path.display())]
    BadBackup {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<StoreError>,
    },
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
    /// Give another command.
    OtherCommand,
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
            | Self::Certificate(_)
            | Self::Wechat(_)
            | Self::Invalid(_) => Remedy::MendSettings,
            Self::Ca(error) => error.remedy(),
            Self::Store(error) => remedy_of(error),
            Self::Target { source, .. } => remedy_of(source),
            Self::BadBackup { source, .. } if matches!(**source, StoreError::OtherMasterKey { .. }) => {
                Remedy::MendSettings
            }
            Self::OnServer { .. } | Self::NoTarget | Self::TargetNotOnServer => Remedy::OtherCommand,
            Self::NoDatabase { .. }
            | Self::FileExists { .. }
            | Self::BackupFile { .. }
            | Self::NotStill { .. }
            | Self::BadBackup { .. }
            | Self::System(_)
            | Self::Listen { .. }
            | Self::NoRandomness
            | Self::EndedAtOnce => Remedy::Other,
        }
    }
}

fn remedy_of(error: &StoreError) -> Remedy {
    match error {
        error if error.passes() => Remedy::AwaitDatabase,
        StoreError::InUse { .. } => Remedy::AwaitDatabase,
        // The server is there and refuses the user, the password or the database's name.
        StoreError::Open { .. }
        | StoreError::UnknownScheme
        | StoreError::MalformedUrl
        | StoreError::InMemory
        | StoreError::NotBehind { .. }
        | StoreError::OtherMasterKey { .. } => Remedy::MendSettings,
        StoreError::NewerSchema { .. }
        | StoreError::Migration { .. }
        | StoreError::Statement { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Sealed { .. }
        | StoreError::Seal(_)
        | StoreError::CopyDiffers { .. }
        | StoreError::Damaged { .. } => Remedy::Other,
    }
}

/// Runs the simulator alone until it is told to end; `ready` is called once it listens.
pub async fn sandbox(listen: SocketAddr, ready: impl FnOnce(SocketAddr)) -> Result<(), StartError> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|source| StartError::Listen { address: listen, setting: "--listen", source })?;
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
