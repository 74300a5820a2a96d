//! `wx_refresh_history`: one row for each call to WeChat.

use sqlx::FromRow;

use super::audit::new_id;
use super::db::{Db, Tx, bind};
use super::{Store, StoreError};
use crate::domain::account::{AppId, TokenType};
use crate::domain::refresh::{CallKind, Outcome, Trigger};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::TokenKey;

/// One call to WeChat.
#[derive(Debug, Clone)]
pub struct Refresh {
    /// Sorts by time.
    pub id: String,
    /// The account.
    pub appid: AppId,
    /// The kind of token.
    pub token_type: TokenType,
    /// The claim that the call was made under; unique for the token.
    pub generation: i64,
    /// What was asked.
    pub call: CallKind,
    /// Why.
    pub trigger: Trigger,
    /// How it ended.
    pub outcome: Outcome,
    /// WeChat's code, if it refused.
    pub errcode: Option<i64>,
    /// WeChat's text, or what happened, cleaned.
    pub errmsg: Option<String>,
    /// When the request was sent; for a lost claim, when it was won.
    pub started_at: Timestamp,
    /// How long it took; `None` for a lost claim.
    pub duration_ms: Option<i64>,
    /// The lifetime that WeChat named, in seconds.
    pub expires_in: Option<i64>,
    /// Keyed fingerprint of the value that came, or that was probed.
    pub fingerprint: Option<String>,
    /// The token's version after the call.
    pub version: i64,
    /// The instance that called.
    pub instance: String,
}

/// Which rows to list; `None` does not filter.
#[derive(Debug, Clone, Default)]
pub struct RefreshFilter {
    /// Only this account's.
    pub appid: Option<AppId>,
    /// Only this token type's.
    pub token_type: Option<TokenType>,
    /// Only with this outcome.
    pub outcome: Option<Outcome>,
    /// Only for this reason.
    pub trigger: Option<Trigger>,
    /// Only calls that started at or after this.
    pub from: Option<Timestamp>,
    /// Only calls that started before this.
    pub to: Option<Timestamp>,
}

/// A place in the list: the last row of the page before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshCursor {
    /// Its start.
    pub started_at: Timestamp,
    /// Its id.
    pub id: String,
}

macro_rules! columns {
    () => {
        "id, appid, token_type, generation, call_kind, trigger_name, outcome, errcode, errmsg, started_at, \
         duration_ms, expires_in, fingerprint, version, instance"
    };
}

/// The newest rows of every account. Its plan must be the index on time.
pub const NEWEST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM wx_refresh_history WHERE started_at >= ? AND started_at < ? AND (started_at < ? OR id < ?) \
     AND (? IS NULL OR token_type = ?) AND (? IS NULL OR outcome = ?) AND (? IS NULL OR trigger_name = ?) \
     AND started_at <= ? ORDER BY started_at DESC, id DESC LIMIT ?"
);

/// The newest rows of one account. Its plan must be the index on account and time.
pub const NEWEST_OF_ACCOUNT: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM wx_refresh_history WHERE appid = ? AND started_at >= ? AND started_at < ? AND (started_at < ? OR id < ?) \
     AND (? IS NULL OR token_type = ?) AND (? IS NULL OR outcome = ?) AND (? IS NULL OR trigger_name = ?) \
     AND started_at <= ? ORDER BY started_at DESC, id DESC LIMIT ?"
);

/// Where a batch of the oldest rows ends. Its plan must be the index on time.
pub const END_OF_BATCH: &str =
    "SELECT started_at FROM wx_refresh_history WHERE started_at < ? ORDER BY started_at, id LIMIT 1 OFFSET ?";

/// Removes a batch. Its plan must be the index on time.
pub const PRUNE: &str = "DELETE FROM wx_refresh_history WHERE started_at <= ?";

#[derive(FromRow)]
struct RefreshRow {
    id: String,
    appid: String,
    token_type: String,
    generation: i64,
    call_kind: String,
    trigger_name: String,
    outcome: String,
    errcode: Option<i64>,
    errmsg: Option<String>,
    started_at: i64,
    duration_ms: Option<i64>,
    expires_in: Option<i64>,
    fingerprint: Option<String>,
    version: i64,
    instance: String,
}

impl TryFrom<RefreshRow> for Refresh {
    type Error = StoreError;

    fn try_from(row: RefreshRow) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt("wx_refresh_history", column, &row.id);
        Ok(Self {
            appid: AppId::parse(&row.appid).map_err(|_| corrupt("appid"))?,
            token_type: TokenType::parse(&row.token_type).ok_or_else(|| corrupt("token_type"))?,
            generation: row.generation,
            call: CallKind::parse(&row.call_kind).ok_or_else(|| corrupt("call_kind"))?,
            trigger: Trigger::parse(&row.trigger_name).ok_or_else(|| corrupt("trigger_name"))?,
            outcome: Outcome::parse(&row.outcome).ok_or_else(|| corrupt("outcome"))?,
            errcode: row.errcode,
            errmsg: row.errmsg,
            started_at: Timestamp::from_millis(row.started_at),
            duration_ms: row.duration_ms,
            expires_in: row.expires_in,
            fingerprint: row.fingerprint,
            version: row.version,
            instance: row.instance,
            id: row.id,
        })
    }
}

impl Refresh {
    /// A row for a claim of which nothing more is known.
    pub(super) fn lost(key: TokenKey, call: CallKind, trigger: Trigger, started_at: Timestamp) -> Self {
        Self {
            id: new_id(started_at),
            appid: key.appid,
            token_type: key.token_type,
            generation: 0,
            call,
            trigger,
            outcome: Outcome::Lost,
            errcode: None,
            errmsg: None,
            started_at,
            duration_ms: None,
            expires_in: None,
            fingerprint: None,
            version: 0,
            instance: String::new(),
        }
    }
}

pub(super) async fn append(tx: &mut Tx, row: &Refresh) -> Result<(), StoreError> {
    let sql = concat!(
        "INSERT INTO wx_refresh_history (",
        columns!(),
        ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );
    let values = bind![
        &row.id,
        row.appid.as_str(),
        row.token_type.as_str(),
        row.generation,
        row.call.as_str(),
        row.trigger.as_str(),
        row.outcome.as_str(),
        row.errcode,
        row.errmsg.as_deref(),
        row.started_at,
        row.duration_ms,
        row.expires_in,
        row.fingerprint.as_deref(),
        row.version,
        &row.instance,
    ];
    tx.execute(sql, values).await.map(drop)
}

/// How the call under this claim ended, and which instance made it, if that is recorded.
pub(super) async fn recorded(
    tx: &mut Tx,
    key: &TokenKey,
    generation: i64,
) -> Result<Option<(Outcome, String)>, StoreError> {
    let sql = "SELECT outcome, instance FROM wx_refresh_history WHERE appid = ? AND token_type = ? AND generation = ? \
               {for_update}";
    let values = bind![key.appid.as_str(), key.token_type.as_str(), generation];
    let row: Option<(String, String)> = tx.fetch_optional(sql, values).await?;
    let Some((outcome, instance)) = row else {
        return Ok(None);
    };
    let outcome = Outcome::parse(&outcome).ok_or_else(|| StoreError::corrupt("wx_refresh_history", "outcome", key))?;
    Ok(Some((outcome, instance)))
}

/// Whether there is a row with this id.
pub(super) async fn exists(tx: &mut Tx, id: &str) -> Result<bool, StoreError> {
    let row: Option<(String,)> = tx.fetch_optional("SELECT id FROM wx_refresh_history WHERE id = ?", bind![id]).await?;
    Ok(row.is_some())
}

/// Records an answer that came too late: on the row that was written when its claim was found lost, if that is `known`.
pub(super) async fn record_superseded(tx: &mut Tx, row: &Refresh, known: bool) -> Result<(), StoreError> {
    if !known {
        return append(tx, row).await;
    }
    let sql = "UPDATE wx_refresh_history SET outcome = ?, errcode = ?, errmsg = ?, started_at = ?, duration_ms = ?, \
               expires_in = ?, fingerprint = ? WHERE appid = ? AND token_type = ? AND generation = ?";
    let values = bind![
        row.outcome.as_str(),
        row.errcode,
        row.errmsg.as_deref(),
        row.started_at,
        row.duration_ms,
        row.expires_in,
        row.fingerprint.as_deref(),
        row.appid.as_str(),
        row.token_type.as_str(),
        row.generation,
    ];
    tx.execute(sql, values).await.map(drop)
}

impl Store {
    /// The newest calls that `filter` lets through, at most `limit`, after the place `after`.
    pub async fn refreshes(
        &self,
        filter: &RefreshFilter,
        after: Option<&RefreshCursor>,
        limit: u32,
    ) -> Result<Vec<Refresh>, StoreError> {
        let token_type = filter.token_type.map(TokenType::as_str);
        let outcome = filter.outcome.map(Outcome::as_str);
        let trigger = filter.trigger.map(Trigger::as_str);
        let from = filter.from.unwrap_or(Timestamp::ZERO);
        let to = filter.to.unwrap_or(Timestamp::NEVER);
        // Without a cursor the list starts after an imaginary row at the end of time.
        let (before, before_id) =
            after.map_or((Timestamp::NEVER, ""), |cursor| (cursor.started_at, cursor.id.as_str()));
        let appid = filter.appid.as_ref().map(AppId::as_str);
        let all = bind![
            appid, from, to, before, before_id, token_type, token_type, outcome, outcome, trigger, trigger, before,
            limit,
        ];
        let rows: Vec<RefreshRow> = match appid {
            Some(_) => self.db.fetch_all(NEWEST_OF_ACCOUNT, all).await?,
            None => self.db.fetch_all(NEWEST, &all[1..]).await?,
        };
        rows.into_iter().map(Refresh::try_from).collect()
    }

    /// Removes about `batch` of the oldest rows that started before `before`; returns how many. Fewer than `batch` means none is left.
    pub async fn prune_history(&self, before: Timestamp, batch: u32) -> Result<u64, StoreError> {
        prune(&self.db, before, batch).await
    }
}

/// See [`Store::prune_history`].
pub(super) async fn prune(db: &Db, before: Timestamp, batch: u32) -> Result<u64, StoreError> {
    let last: Option<(i64,)> = db.fetch_optional(END_OF_BATCH, bind![before, batch.saturating_sub(1)]).await?;
    let up_to = last.map_or(before.as_millis() - 1, |(started_at,)| started_at);
    let mut tx = db.begin().await?;
    let removed = tx.execute(PRUNE, bind![up_to]).await?;
    tx.commit().await?;
    Ok(removed)
}
