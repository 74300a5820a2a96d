//! `wx_token`: the current value of each token with its lease, record and budget. `lease` beside this claims and settles.

use secrecy::ExposeSecret;
use sqlx::FromRow;

use super::db::{Tx, bind};
use super::history::{self, Refresh};
use super::{Store, StoreError};
use crate::domain::account::{Account, AppId, Mode, TokenType};
use crate::domain::budget::{Limits, Spent};
use crate::domain::refresh::{CallKind, Outcome, Trigger};
use crate::domain::schedule::Life;
use crate::domain::secret::TokenValue;
use crate::domain::settlement::{CallResult, EndedCall};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Record, Token, TokenKey, Value};
use crate::seal::{Place, Sealer};

pub(super) const TABLE: &str = "wx_token";

/// Begins a statement that reads whole rows.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT appid, token_type, mode, kept, value_sealed, fingerprint, obtained_at, expires_at, previous_sealed, \
             in_doubt, version, generation, revision, refresh_at, leased_until, leased_by, leased_at, lease_trigger, lease_call, \
             failures, last_success_at, last_call_at, last_outcome, last_trigger, last_errcode, last_errmsg, \
             budget_day, calls_today, forced_today, plain_today, forced_at FROM wx_token ",
            $rest
        )
    };
}
pub(super) use select;

/// Tokens changed since. Its plan must be the index on the time of change.
pub const CHANGED: &str = select!("WHERE changed_at >= ?");

#[derive(FromRow)]
pub(super) struct TokenRow {
    pub(super) appid: String,
    pub(super) token_type: String,
    mode: String,
    kept: bool,
    value_sealed: Option<String>,
    fingerprint: Option<String>,
    obtained_at: i64,
    expires_at: i64,
    previous_sealed: Option<String>,
    in_doubt: bool,
    version: i64,
    pub(super) generation: i64,
    revision: i64,
    refresh_at: i64,
    leased_until: i64,
    pub(super) leased_by: Option<String>,
    leased_at: i64,
    lease_trigger: Option<String>,
    lease_call: Option<String>,
    failures: i64,
    last_success_at: i64,
    last_call_at: i64,
    last_outcome: Option<String>,
    last_trigger: Option<String>,
    last_errcode: Option<i64>,
    last_errmsg: Option<String>,
    budget_day: i64,
    calls_today: i64,
    forced_today: i64,
    plain_today: i64,
    forced_at: i64,
}

impl TokenRow {
    fn row(&self) -> String {
        format!("({}, {})", self.appid, self.token_type)
    }

    fn corrupt(&self, column: &'static str) -> StoreError {
        StoreError::corrupt(TABLE, column, &self.row())
    }

    pub(super) fn key(&self) -> Result<TokenKey, StoreError> {
        let appid = AppId::parse(&self.appid).map_err(|_| self.corrupt("appid"))?;
        let token_type = TokenType::parse(&self.token_type).ok_or_else(|| self.corrupt("token_type"))?;
        Ok(TokenKey::new(appid, token_type))
    }

    /// Whether somebody's call is under way.
    pub(super) fn is_leased(&self, now: Timestamp) -> bool {
        self.leased_by.is_some() && now.as_millis() < self.leased_until
    }

    /// Whether the value is the one that this call brought.
    pub(super) fn has_value(&self, call: &EndedCall) -> bool {
        matches!(&call.result, CallResult::Value { fingerprint, .. } if self.fingerprint.as_ref() == Some(fingerprint))
    }

    /// The history row of an earlier claim that nobody settled, if there is one.
    pub(super) fn lost(&self) -> Result<Option<Refresh>, StoreError> {
        let Some(instance) = self.leased_by.clone() else {
            return Ok(None);
        };
        let trigger = self.lease_trigger.as_deref().and_then(Trigger::parse);
        let call = self.lease_call.as_deref().and_then(CallKind::parse);
        let call = call.ok_or_else(|| self.corrupt("lease_call"))?;
        let trigger = trigger.ok_or_else(|| self.corrupt("lease_trigger"))?;
        let lost = Refresh::lost(self.key()?, call, trigger, Timestamp::from_millis(self.leased_at));
        let (generation, version, fingerprint) = (self.generation, self.version, self.fingerprint.clone());
        Ok(Some(Refresh { generation, fingerprint, version, instance, ..lost }))
    }

    fn open(&self, sealer: &Sealer, column: &'static str, sealed: &str) -> Result<TokenValue, StoreError> {
        let place = Place { table: TABLE, column, appid: &self.appid, token_type: &self.token_type };
        let opened = sealer.open(place, sealed).map_err(|source| StoreError::Sealed {
            table: TABLE,
            column,
            row: self.row(),
            source,
        })?;
        TokenValue::parse(opened.expose_secret()).map_err(|_| self.corrupt(column))
    }

    fn value(&self, sealer: &Sealer) -> Result<Option<Value>, StoreError> {
        let Some(sealed) = &self.value_sealed else {
            return Ok(None);
        };
        let text = self.open(sealer, "value_sealed", sealed)?;
        let fingerprint = self.fingerprint.clone().ok_or_else(|| self.corrupt("fingerprint"))?;
        let since = Timestamp::from_millis(self.obtained_at);
        Ok(Some(Value { text, life: Life { since, until: Timestamp::from_millis(self.expires_at) }, fingerprint }))
    }

    fn record(&self) -> Result<Record, StoreError> {
        let outcome = self.last_outcome.as_deref().map(|text| Outcome::parse(text).ok_or("last_outcome"));
        let trigger = self.last_trigger.as_deref().map(|text| Trigger::parse(text).ok_or("last_trigger"));
        Ok(Record {
            failures: self.counter("failures", self.failures)?,
            last_success_at: Timestamp::from_millis(self.last_success_at),
            last_call_at: Timestamp::from_millis(self.last_call_at),
            last_outcome: outcome.transpose().map_err(|column| self.corrupt(column))?,
            last_trigger: trigger.transpose().map_err(|column| self.corrupt(column))?,
            last_errcode: self.last_errcode,
            last_errmsg: self.last_errmsg.clone(),
        })
    }

    fn spent(&self) -> Result<Spent, StoreError> {
        Ok(Spent {
            day: self.budget_day,
            calls: self.counter("calls_today", self.calls_today)?,
            forced: self.counter("forced_today", self.forced_today)?,
            plain: self.counter("plain_today", self.plain_today)?,
            forced_at: Timestamp::from_millis(self.forced_at),
        })
    }

    fn counter(&self, column: &'static str, number: i64) -> Result<u32, StoreError> {
        u32::try_from(number).map_err(|_| self.corrupt(column))
    }

    /// The row as the rest of the program knows it, its values opened.
    pub(super) fn into_token(self, sealer: &Sealer) -> Result<Token, StoreError> {
        let previous = self.previous_sealed.as_deref();
        Ok(Token {
            key: self.key()?,
            mode: Mode::parse(&self.mode).map_err(|_| self.corrupt("mode"))?,
            kept: self.kept,
            value: self.value(sealer)?,
            previous: previous.map(|sealed| self.open(sealer, "previous_sealed", sealed)).transpose()?,
            in_doubt: self.in_doubt,
            version: self.version,
            generation: self.generation,
            refresh_at: Timestamp::from_millis(self.refresh_at),
            leased_until: Timestamp::from_millis(self.leased_until),
            record: self.record()?,
            spent: self.spent()?,
            revision: self.revision,
            leased_by: self.leased_by,
        })
    }
}

impl Store {
    /// The token of this key; `None` when there is no row for it.
    pub async fn token(&self, key: &TokenKey) -> Result<Option<Token>, StoreError> {
        let sql = select!("WHERE appid = ? AND token_type = ?");
        let values = bind![key.appid.as_str(), key.token_type.as_str()];
        let row: Option<TokenRow> = self.db.fetch_optional(sql, values).await?;
        row.map(|row| row.into_token(&self.sealer)).transpose()
    }

    /// Tokens changed at or after `since`, for the live view; those no longer kept too. Rows that do not open are reported one by one.
    pub async fn tokens_changed_since(&self, since: Timestamp) -> Result<Vec<Result<Token, StoreError>>, StoreError> {
        let rows: Vec<TokenRow> = self.db.fetch_stream(CHANGED, bind![since]).await?;
        Ok(rows.into_iter().map(|row| row.into_token(&self.sealer)).collect())
    }
}

/// Makes the token rows of an account follow the types that it keeps: new ones are due at once, others lose their values.
pub(super) async fn keep_tokens(
    tx: &mut Tx,
    account: &Account,
    limits: &Limits,
    now: Timestamp,
) -> Result<(), StoreError> {
    let appid = account.appid.as_str();
    let sql = "SELECT token_type, kept FROM wx_token WHERE appid = ? ORDER BY token_type {for_update}";
    let rows: Vec<(String, bool)> = tx.fetch_all(sql, bind![appid]).await?;
    let insert = "INSERT INTO wx_token (mode, refresh_at, budget_limit, changed_at, kept, appid, token_type) \
                  VALUES (?, ?, ?, ?, ?, ?, ?)";
    // On the row of a token that was not kept there may be the record of a probe, and its claim.
    let revive = "UPDATE wx_token SET mode = ?, refresh_at = ?, budget_limit = ?, changed_at = ?, kept = ?, \
                  failures = 0, last_outcome = NULL, last_trigger = NULL, last_errcode = NULL, last_errmsg = NULL, \
                  leased_until = 0, leased_by = NULL, revision = revision + 1 WHERE appid = ? AND token_type = ?";
    for token_type in TokenType::ALL {
        let held = rows.iter().find(|(name, _)| name == token_type.as_str()).map(|(_, kept)| *kept);
        let sql = match (account.token_types.contains(token_type), held) {
            (true, None) => insert,
            (true, Some(false)) => {
                fence_off(tx, appid, token_type).await?;
                revive
            }
            (false, Some(true)) => {
                drop_token(tx, appid, token_type, now).await?;
                continue;
            }
            (true, Some(true)) | (false, None | Some(false)) => continue,
        };
        let values = bind![
            account.mode.as_str(),
            due_at(account, now),
            budget_limit(account.mode, limits),
            now,
            true,
            appid,
            token_type.as_str(),
        ];
        tx.execute(sql, values).await?;
    }
    Ok(())
}

/// Ends a claim on a token that was not kept: the probe of somebody who wants to register the same account. Its answer will find the history
/// row that is written here for it.
async fn fence_off(tx: &mut Tx, appid: &str, token_type: TokenType) -> Result<(), StoreError> {
    let select = select!("WHERE appid = ? AND token_type = ? {for_update}");
    let row: Option<TokenRow> = tx.fetch_optional(select, bind![appid, token_type.as_str()]).await?;
    // A row that does not read must not keep its account from being registered.
    let Some(Ok(Some(lost))) = row.map(|row| row.lost()) else { return Ok(()) };
    history::append(tx, &lost).await?;
    let sql = "UPDATE wx_token SET generation = generation + 1 WHERE appid = ? AND token_type = ?";
    tx.execute(sql, bind![appid, token_type.as_str()]).await.map(drop)
}

/// Makes every token of a changed account due at once, with a clean record; of a disabled one, never.
pub(super) async fn reschedule(
    tx: &mut Tx,
    account: &Account,
    limits: &Limits,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "UPDATE wx_token SET mode = ?, refresh_at = ?, budget_limit = ?, failures = 0, \
               revision = revision + 1, changed_at = ? WHERE appid = ? AND kept = ?";
    let limit = budget_limit(account.mode, limits);
    let values = bind![account.mode.as_str(), due_at(account, now), limit, now, account.appid.as_str(), true];
    tx.execute(sql, values).await.map(drop)
}

/// Empties every token of a removed account.
pub(super) async fn drop_tokens(tx: &mut Tx, appid: &str, now: Timestamp) -> Result<(), StoreError> {
    for token_type in TokenType::ALL {
        drop_token(tx, appid, token_type, now).await?;
    }
    Ok(())
}

/// Empties a token that is no longer kept. The row stays and its generation goes on, so that a call in flight is fenced off; its answer will
/// find the history row that is written here for it.
async fn drop_token(tx: &mut Tx, appid: &str, token_type: TokenType, now: Timestamp) -> Result<(), StoreError> {
    let select = select!("WHERE appid = ? AND token_type = ? AND kept = ? {for_update}");
    let row: Option<TokenRow> = tx.fetch_optional(select, bind![appid, token_type.as_str(), true]).await?;
    // A row that does not read must not keep its account from being removed.
    if let Some(Ok(Some(lost))) = row.map(|row| row.lost()) {
        history::append(tx, &lost).await?;
    }
    let sql = "UPDATE wx_token SET kept = ?, value_sealed = NULL, fingerprint = NULL, previous_sealed = NULL, \
               obtained_at = 0, expires_at = 0, refresh_at = ?, leased_until = 0, leased_by = NULL, in_doubt = ?, \
               lease_trigger = NULL, lease_call = NULL, generation = generation + 1, failures = 0, \
               last_outcome = NULL, last_trigger = NULL, last_errcode = NULL, last_errmsg = NULL, \
               revision = revision + 1, changed_at = ? WHERE appid = ? AND token_type = ? AND kept = ?";
    let values = bind![false, Timestamp::NEVER, false, now, appid, token_type.as_str(), true];
    tx.execute(sql, values).await.map(drop)
}

fn due_at(account: &Account, now: Timestamp) -> Timestamp {
    if account.enabled { now } else { Timestamp::NEVER }
}

/// The daily limit that counts in this mode, for the report of what is left of it.
pub(super) fn budget_limit(mode: Mode, limits: &Limits) -> i64 {
    i64::from(match mode {
        Mode::Stable => limits.forced_per_day,
        Mode::Plain => limits.plain_per_day,
    })
}
