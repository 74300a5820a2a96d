//! Moves an SQLite deployment to a database on a server.

use std::path::PathBuf;

use secrecy::ExposeSecret;

use super::StartError;
use super::backup::KeyPlace;
use super::database::proven_seal;
use crate::config::{Settings, redacted};
use crate::seal::Sealer;
use crate::store::StoreError;
use crate::store::copy::{Progress, Tally, copy};
use crate::store::db::{Db, Dialect, sqlite_path};
use crate::store::master_key::verify;
use crate::store::migrate::{Schema, bring_up_to_date, latest};
use crate::store::proof::{Opened, open_everything};

/// A deployment that was moved.
#[derive(Debug)]
pub struct Moved {
    /// The database file that it was in.
    pub from: PathBuf,
    /// The database that it is in, without the password.
    pub to: String,
    /// The rows that are the same in both.
    pub tallies: Vec<Tally>,
    /// What opened in the new one.
    pub opened: Opened,
    /// Where its master key is.
    pub key: KeyPlace,
}

/// Copies the SQLite deployment of the settings to the database that they name for it, and proves the copy. May be repeated, after an
/// interruption or after changes in the source.
///
/// # Errors
/// See [`StartError`]. Nothing is written to a target that is another deployment's or has been served.
pub async fn move_up(settings: &Settings, progress: &mut impl FnMut(Progress)) -> Result<Moved, StartError> {
    let url = settings.database_url.expose_secret();
    if Dialect::of_url(url) != Some(Dialect::Sqlite) {
        let advice = "`migrate --to` moves an SQLite deployment to a server, and this one is on a server already";
        return Err(StartError::OnServer { advice });
    }
    let to = settings.migrate_to.as_ref().ok_or(StartError::NoTarget)?.expose_secret();
    if !matches!(Dialect::of_url(to), Some(Dialect::Postgres | Dialect::Mysql)) {
        return Err(StartError::TargetNotOnServer);
    }
    let from = sqlite_path(url).ok_or(StoreError::InMemory)?;
    // Opening would make the file.
    if !from.try_exists()? {
        return Err(StartError::NoDatabase { path: from });
    }
    // This takes the lock of the file: nobody serves it until we are done.
    let source = Db::open(url).await?;
    let sealer = proven_seal(settings, &source, &from).await?;
    if let Schema::Newer { found } = bring_up_to_date(&source).await? {
        // What the later steps added would not be copied.
        return Err(StoreError::NewerSchema { found, known: latest() }.into());
    }
    open_everything(&source, &sealer).await?;
    let place = redacted(to);
    let copied = copy_into(&source, to, &sealer, progress).await;
    source.close().await;
    let (tallies, opened) =
        copied.map_err(|error| StartError::Target { place: place.clone(), source: Box::new(error) })?;
    Ok(Moved { from, to: place, tallies, opened, key: KeyPlace::of(settings)? })
}

async fn copy_into(
    source: &Db,
    to: &str,
    sealer: &Sealer,
    progress: &mut impl FnMut(Progress),
) -> Result<(Vec<Tally>, Opened), StoreError> {
    let target = Db::open(to).await?;
    // Another deployment's database is recognised by its master key before its schema is touched.
    verify(&target, sealer).await?;
    bring_up_to_date(&target).await?;
    let tallies = copy(source, &target, progress).await?;
    let opened = open_everything(&target, sealer).await?;
    target.close().await;
    Ok((tallies, opened))
}
