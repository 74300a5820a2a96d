//! Opens the database: first a look that changes nothing, then, when schema and master key are in order, the door.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use super::master_key::{MasterKeySource, master_key, present_master_key};
use super::{StartError, key_file};
use crate::clock::Clock;
use crate::config::Settings;
use crate::seal::Sealer;
use crate::store::StoreError;
use crate::store::db::{Db, sqlite_path};
use crate::store::master_key::{Seal, enroll, verify};
use crate::store::migrate::{Schema, bring_up_to_date, inspect, latest};

/// A database that is up to date and sealed under our master key.
pub struct OpenDatabase {
    /// The database.
    pub db: Db,
    /// Seals and opens under its master key.
    pub sealer: Sealer,
    /// The file of the master key that this start made.
    pub made_key_file: Option<PathBuf>,
}

/// What [`migrate`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// How the schema stood before.
    pub before: Schema,
    /// The version that it has now.
    pub version: i64,
}

/// Opens the database for service. A wrong, missing or unusable master key and a schema from a later version are found before the
/// first write.
///
/// # Errors
/// See [`StartError`]; unless the database failed half-way, it is byte for byte as it was.
pub async fn open_database(settings: &Settings, clock: &Clock) -> Result<OpenDatabase, StartError> {
    let (sealer, made_key_file) = proven_key(settings).await?;
    let db = Db::open(settings.database_url.expose_secret()).await?;
    // Once more: a server was not looked at yet, and a file was not ours alone.
    let seal = verify(&db, &sealer).await?;
    bring_up_to_date(&db).await?;
    if seal == Seal::Unset {
        enroll(&db, &sealer, clock.now()).await?;
    }
    Ok(OpenDatabase { db, sealer, made_key_file })
}

/// Brings the schema up to date. Needs no master key, and refuses one that is not the database's.
///
/// # Errors
/// See [`StartError`]; unless the database failed half-way, it is byte for byte as it was.
pub async fn migrate(settings: &Settings) -> Result<Migrated, StartError> {
    let sealer = present_master_key(settings)?.map(|source| Sealer::new(source.key()));
    look_at_file(settings, sealer.as_ref()).await?;
    let db = Db::open(settings.database_url.expose_secret()).await?;
    if let Some(sealer) = &sealer {
        verify(&db, sealer).await?;
    }
    let before = bring_up_to_date(&db).await;
    db.close().await;
    Ok(Migrated { before: before?, version: latest() })
}

/// The master key, held against an SQLite file that is there already; a new one is stored only if that was never sealed.
async fn proven_key(settings: &Settings) -> Result<(Sealer, Option<PathBuf>), StartError> {
    let source = master_key(settings)?;
    let sealer = Sealer::new(source.key());
    let looked = look_at_file(settings, Some(&sealer)).await;
    let MasterKeySource::Made { key, path } = source else {
        looked?;
        return Ok((sealer, None));
    };
    match looked {
        Ok(()) => {}
        // The new key is nobody's yet, so this says only that the database has one.
        Err(StartError::Store(StoreError::OtherMasterKey { expected, .. })) => {
            return Err(StartError::LostKeyFile { path, expected });
        }
        Err(error) => return Err(error),
    }
    if key_file::write(&path, &key)? {
        return Ok((sealer, Some(path)));
    }
    // Another process made the file just now, and its key counts.
    let gone = || StartError::KeyFile { path, source: ErrorKind::NotFound.into() };
    let theirs = present_master_key(settings)?.ok_or_else(gone)?;
    Ok((Sealer::new(theirs.key()), None))
}

/// The seal of a database that has been served, proven against it. No key is made.
pub(super) async fn proven_seal(settings: &Settings, db: &Db, file: &Path) -> Result<Sealer, StartError> {
    let source = master_key(settings)?;
    let sealer = Sealer::new(source.key());
    match (verify(db, &sealer).await, source) {
        (Ok(Seal::Proven), _) => Ok(sealer),
        (Ok(Seal::Unset), _) => Err(StartError::NoDatabase { path: file.to_owned() }),
        // The new key is nobody's yet, so this says only that the database has one.
        (Err(StoreError::OtherMasterKey { expected, .. }), MasterKeySource::Made { path, .. }) => {
            Err(StartError::LostKeyFile { path, expected })
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// Looks at an SQLite file, if there is one, through a connection that cannot write: opening it for writing would change it.
async fn look_at_file(settings: &Settings, sealer: Option<&Sealer>) -> Result<(), StartError> {
    let url = settings.database_url.expose_secret();
    let Some(path) = sqlite_path(url) else { return Ok(()) };
    // A file that cannot be asked after may be there: that is no first start.
    if !path.try_exists()? {
        return Ok(());
    }
    let db = Db::open_read_only(url).await?;
    let seen = match sealer {
        Some(sealer) => verify(&db, sealer).await.map(drop),
        None => inspect(&db).await.map(drop),
    };
    db.close().await;
    Ok(seen?)
}
