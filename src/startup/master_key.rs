//! Where the master key comes from.

use std::path::PathBuf;

use secrecy::ExposeSecret;

use super::{StartError, key_file};
use crate::config::Settings;
use crate::seal::MasterKey;
use crate::store::StoreError;
use crate::store::db::{Dialect, sqlite_path};

/// A master key and where it was found.
#[derive(Debug)]
pub enum MasterKeySource {
    /// The settings hold it.
    Given(MasterKey),
    /// The file beside an SQLite database holds it.
    Found(MasterKey),
    /// There is none yet. This one may become it, once it is certain that the database was never sealed.
    Made {
        /// The new key, stored nowhere so far.
        key: MasterKey,
        /// The file that will hold it.
        path: PathBuf,
    },
}

impl MasterKeySource {
    /// The key itself.
    pub fn key(&self) -> &MasterKey {
        match self {
            Self::Given(key) | Self::Found(key) | Self::Made { key, .. } => key,
        }
    }
}

/// Finds the master key, or makes one where that may be right. Writes nothing.
///
/// # Errors
/// When a key is there and cannot be used, or there is none and the database is on a server.
pub fn master_key(settings: &Settings) -> Result<MasterKeySource, StartError> {
    if let Some(key) = present_master_key(settings)? {
        return Ok(key);
    }
    let path = key_file_path(settings)?.ok_or(StartError::NoMasterKey)?;
    let key = MasterKey::generate();
    let key = key.map_err(|source| StartError::MasterKey { place: path.display().to_string(), source })?;
    Ok(MasterKeySource::Made { key, path })
}

/// The master key if there is one.
pub(super) fn present_master_key(settings: &Settings) -> Result<Option<MasterKeySource>, StartError> {
    if let Some(text) = &settings.master_key {
        let key = MasterKey::parse(text.expose_secret());
        let key = key.map_err(|source| StartError::MasterKey { place: "WXTOKEN_MASTER_KEY".to_owned(), source })?;
        return Ok(Some(MasterKeySource::Given(key)));
    }
    let Some(path) = key_file_path(settings)? else { return Ok(None) };
    let Some(text) = key_file::read(&path)? else { return Ok(None) };
    let key = MasterKey::parse(text.expose_secret());
    let key = key.map_err(|source| StartError::MasterKey { place: path.display().to_string(), source })?;
    Ok(Some(MasterKeySource::Found(key)))
}

/// The key file of an SQLite database; `None` for a database on a server.
pub(super) fn key_file_path(settings: &Settings) -> Result<Option<PathBuf>, StartError> {
    let url = settings.database_url.expose_secret();
    match Dialect::of_url(url).ok_or(StoreError::UnknownScheme)? {
        Dialect::Sqlite => Ok(Some(key_file::beside(&sqlite_path(url).ok_or(StoreError::InMemory)?))),
        Dialect::Postgres | Dialect::Mysql => Ok(None),
    }
}
