//! Who changed what. A row is written in the transaction of its change, so that neither stands without the other.

use uuid::{NoContext, Uuid};

use super::StoreError;
use super::db::{Tx, bind};
use crate::domain::timestamp::Timestamp;

/// Who asks for a change, for the audit.
#[derive(Debug, Clone)]
pub struct Actor {
    /// A key's name and identifier, or a word for the program itself.
    pub name: String,
    /// The HTTP request's identifier.
    pub request_id: Option<String>,
}

pub(super) async fn append(
    tx: &mut Tx,
    actor: &Actor,
    action: &'static str,
    subject: &str,
    detail: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO wx_audit (id, happened_at, actor, action, subject, detail, request_id) \
               VALUES (?, ?, ?, ?, ?, ?, ?)";
    let id = new_id(now);
    tx.execute(sql, bind![&id, now, &actor.name, action, subject, detail, actor.request_id.as_deref()]).await?;
    Ok(())
}

/// A new identifier that sorts by `now`: a UUID of version 7.
pub(super) fn new_id(now: Timestamp) -> String {
    let millis = u64::try_from(now.as_millis()).unwrap_or(0);
    let nanos = u32::try_from(millis % 1_000).unwrap_or(0) * 1_000_000;
    Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, millis / 1_000, nanos)).to_string()
}
