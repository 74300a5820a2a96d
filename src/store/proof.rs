//! Proves that everything sealed in a database opens, without a word about what it is.

use super::db::{Db, bind};
use super::{StoreError, account, mirror, token};
use crate::seal::{Place, Sealer};

const BATCH: u32 = 500;

/// How much was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opened {
    /// `AppSecret`s.
    pub secrets: u64,
    /// Values of tokens, current and previous.
    pub values: u64,
    /// Targets of mirrors, and the secrets in their keys.
    pub mirrors: u64,
}

/// Opens every `AppSecret`, every token value, and what mirrors hold.
///
/// # Errors
/// [`StoreError::Sealed`] for the first that does not open.
pub async fn open_everything(db: &Db, sealer: &Sealer) -> Result<Opened, StoreError> {
    Ok(Opened {
        secrets: open_secrets(db, sealer).await?,
        values: open_values(db, sealer).await?,
        mirrors: open_mirrors(db, sealer).await?,
    })
}

async fn open_secrets(db: &Db, sealer: &Sealer) -> Result<u64, StoreError> {
    let sql = "SELECT appid, secret_sealed FROM wx_account WHERE appid > ? ORDER BY appid LIMIT ?";
    let (mut after, mut opened) = (String::new(), 0);
    loop {
        let rows: Vec<(String, Option<String>)> = db.fetch_all(sql, bind![&after, BATCH]).await?;
        let Some((last, _)) = rows.last() else { return Ok(opened) };
        after.clone_from(last);
        for (appid, sealed) in rows {
            opened += open(sealer, account::TABLE, "secret_sealed", [&appid, ""], sealed.as_deref())?;
        }
    }
}

async fn open_values(db: &Db, sealer: &Sealer) -> Result<u64, StoreError> {
    let sql = "SELECT appid, token_type, value_sealed, previous_sealed FROM wx_token \
               WHERE (appid, token_type) > (?, ?) ORDER BY appid, token_type LIMIT ?";
    let (mut after, mut opened) = ((String::new(), String::new()), 0);
    loop {
        let rows: Vec<(String, String, Option<String>, Option<String>)> =
            db.fetch_all(sql, bind![&after.0, &after.1, BATCH]).await?;
        let Some((appid, token_type, ..)) = rows.last() else { return Ok(opened) };
        after = (appid.clone(), token_type.clone());
        for (appid, token_type, value, previous) in rows {
            for (column, sealed) in [("value_sealed", value), ("previous_sealed", previous)] {
                opened += open(sealer, token::TABLE, column, [&appid, &token_type], sealed.as_deref())?;
            }
        }
    }
}

async fn open_mirrors(db: &Db, sealer: &Sealer) -> Result<u64, StoreError> {
    // A backup that an older program made has none.
    if !db.table_exists(mirror::TABLE).await? {
        return Ok(0);
    }
    let sql = "SELECT id, appid, target_sealed, secret_sealed FROM wx_mirror WHERE id > ? ORDER BY id LIMIT ?";
    let (mut after, mut opened) = (String::new(), 0);
    loop {
        let rows: Vec<(String, String, Option<String>, Option<String>)> =
            db.fetch_all(sql, bind![&after, BATCH]).await?;
        let Some((last, ..)) = rows.last() else { return Ok(opened) };
        after.clone_from(last);
        for (id, appid, target, secret) in rows {
            for (column, sealed) in [("target_sealed", target), ("secret_sealed", secret)] {
                opened += open(sealer, mirror::TABLE, column, [&appid, &id], sealed.as_deref())?;
            }
        }
    }
}

/// Opens a sealed text if there is one; answers how many were opened.
fn open(
    sealer: &Sealer,
    table: &'static str,
    column: &'static str,
    [appid, token_type]: [&str; 2],
    sealed: Option<&str>,
) -> Result<u64, StoreError> {
    let Some(sealed) = sealed else { return Ok(0) };
    let opened = sealer.open(Place { table, column, appid, token_type }, sealed);
    let row = || [appid, token_type].join(" ").trim_end().to_owned();
    opened.map(|_| 1).map_err(|source| StoreError::Sealed { table, column, row: row(), source })
}
