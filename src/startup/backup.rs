//! Copies an SQLite database while it is served, and proves that such a copy is good.

use std::io;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use super::StartError;
use super::database::proven_seal;
use super::draft::Draft;
use super::master_key::key_file_path;
use crate::config::Settings;
use crate::store::StoreError;
use crate::store::copy::{Tally, tally};
use crate::store::db::{Db, Dialect, sqlite_path};
use crate::store::migrate::{Schema, inspect};
use crate::store::proof::{Opened, open_everything};

/// Where the master key of a deployment is.
#[derive(Debug)]
pub enum KeyPlace {
    /// The settings hold it.
    Setting,
    /// This file does.
    File(PathBuf),
}

impl KeyPlace {
    /// Looks where the key would be taken from, and not whether it is there.
    pub(super) fn of(settings: &Settings) -> Result<Self, StartError> {
        Ok(match key_file_path(settings)? {
            Some(path) if settings.master_key.is_none() => Self::File(path),
            _ => Self::Setting,
        })
    }
}

/// A backup that was made.
#[derive(Debug)]
pub struct BackedUp {
    /// The database file.
    pub from: PathBuf,
    /// How long the backup is.
    pub bytes: u64,
    /// Where the master key is; it is not in the backup.
    pub key: KeyPlace,
}

/// A backup that is good.
#[derive(Debug)]
pub struct Checked {
    /// How its schema stands.
    pub schema: Schema,
    /// Its rows.
    pub tallies: Vec<Tally>,
    /// What opened.
    pub opened: Opened,
}

/// Copies the SQLite database of the settings, as it is at one moment, into a new file. A server may be using it.
///
/// # Errors
/// See [`StartError`]; then there is no file.
pub async fn back_up(settings: &Settings, file: &Path) -> Result<BackedUp, StartError> {
    let url = settings.database_url.expose_secret();
    match Dialect::of_url(url) {
        Some(Dialect::Sqlite) | None => {}
        Some(Dialect::Postgres) => return Err(StartError::OnServer { advice: "back it up with pg_dump" }),
        Some(Dialect::Mysql) => {
            let advice = "back it up with mariadb-dump --single-transaction or mysqldump --single-transaction";
            return Err(StartError::OnServer { advice });
        }
    }
    let from = sqlite_path(url).ok_or(StoreError::InMemory)?;
    if !from.try_exists()? {
        return Err(StartError::NoDatabase { path: from });
    }
    if file.try_exists()? {
        return Err(StartError::FileExists { path: file.to_owned() });
    }
    let db = Db::open_read_only(url).await?;
    let made = write(&db, &from, file).await;
    db.close().await;
    Ok(BackedUp { bytes: made?, from, key: KeyPlace::of(settings)? })
}

async fn write(db: &Db, from: &Path, file: &Path) -> Result<u64, StartError> {
    if inspect(db).await? == Schema::Empty {
        return Err(StartError::NoDatabase { path: from.to_owned() });
    }
    let failed = |source| StartError::BackupFile { path: file.to_owned(), source };
    let draft = Draft::beside(file).map_err(failed)?;
    db.copy_into(&draft.path).await.map_err(|error| failed(io::Error::other(error)))?;
    let bytes = draft.file.metadata().map_err(failed)?.len();
    if draft.keep_as(file).map_err(failed)? { Ok(bytes) } else { Err(StartError::FileExists { path: file.to_owned() }) }
}

/// Reads a backup as a restore would: its pages, its schema, and everything sealed in it under the master key of the settings.
/// Changes nothing.
///
/// # Errors
/// See [`StartError`]: the first thing that is wrong.
pub async fn check_backup(settings: &Settings, file: &Path) -> Result<Checked, StartError> {
    if !file.is_file() {
        return Err(StartError::NoDatabase { path: file.to_owned() });
    }
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    // Somebody has the file open, or did not close it: what stands there would be missed.
    if Path::new(&log).try_exists()? {
        return Err(StartError::NotStill { path: file.to_owned(), log: log.into() });
    }
    let checked = check(settings, file).await;
    checked.map_err(|error| match error {
        StartError::Store(error) => StartError::BadBackup { path: file.to_owned(), source: Box::new(error) },
        error => error,
    })
}

async fn check(settings: &Settings, file: &Path) -> Result<Checked, StartError> {
    let db = Db::open_still(file).await?;
    db.check_pages().await?;
    let schema = inspect(&db).await?;
    let sealer = proven_seal(settings, &db, file).await?;
    let tallies = tally(&db).await?;
    let opened = open_everything(&db, &sealer).await?;
    db.close().await;
    Ok(Checked { schema, tallies, opened })
}
