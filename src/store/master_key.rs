//! The check value by which a master key proves itself before the first write.

use super::db::{Db, bind};
use super::migrate::{Schema, inspect};
use super::{FailureKind, StoreError};
use crate::domain::timestamp::Timestamp;
use crate::seal::Sealer;

/// Whether a database has been sealed under a master key before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// It has no check value: any key may become its key.
    Unset,
    /// The given key is its key.
    Proven,
}

/// Holds `sealer` against the database's check value, without a write.
///
/// # Errors
/// [`StoreError::OtherMasterKey`] when the database was sealed under another key.
pub async fn verify(db: &Db, sealer: &Sealer) -> Result<Seal, StoreError> {
    if inspect(db).await? == Schema::Empty || !db.table_exists("wx_master_key").await? {
        return Ok(Seal::Unset);
    }
    let rows: Vec<(String, String)> =
        db.fetch_all("SELECT key_id, check_value FROM wx_master_key ORDER BY position", &[]).await?;
    if rows.is_empty() {
        return Ok(Seal::Unset);
    }
    if rows.iter().any(|(_, check_value)| sealer.verify(check_value).is_ok()) {
        return Ok(Seal::Proven);
    }
    let expected = rows.into_iter().map(|(key_id, _)| key_id).collect::<Vec<_>>().join(", ");
    Err(StoreError::OtherMasterKey { expected, present: sealer.key_id() })
}

/// Stores the check value of a database's first master key. Of several instances that start at once with different keys one wins.
///
/// # Errors
/// [`StoreError::OtherMasterKey`] when another key won.
pub async fn enroll(db: &Db, sealer: &Sealer, now: Timestamp) -> Result<(), StoreError> {
    let check_value = sealer.check_value().map_err(StoreError::Seal)?;
    let mut tx = db.begin().await?;
    // A rival that also means to be the first runs into the unique position, and is then verified like everybody else.
    let sql = "INSERT INTO wx_master_key (key_id, check_value, position, created_at) VALUES (?, ?, 1, ?)";
    match tx.execute(sql, bind![&sealer.key_id(), &check_value, now]).await {
        Ok(_) => tx.commit().await?,
        Err(error) if error.kind() == Some(FailureKind::Duplicate) => drop(tx),
        Err(error) => return Err(error),
    }
    verify(db, sealer).await.map(drop)
}
