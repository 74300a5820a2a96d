//! `wx_account`: the registered WeChat applications.

use std::fmt;

use secrecy::ExposeSecret;
use sqlx::FromRow;

use super::audit::{Actor, append};
use super::db::{Tx, bind};
use super::token::{keep_tokens, reschedule};
use super::{FailureKind, Store, StoreError, retrying};
use crate::domain::account::{Account, AccountPatch, AppId, Mode, NewAccount, TokenTypes};
use crate::domain::secret::AppSecret;
use crate::domain::timestamp::Timestamp;
use crate::seal::Place;

pub(super) const TABLE: &str = "wx_account";

/// A change of an account, for the live view.
#[derive(Debug, Clone)]
pub struct AccountChange {
    /// The account as it is now.
    pub account: Account,
    /// Whether it was removed.
    pub removed: bool,
    /// Counts its changes.
    pub revision: i64,
    /// The AppSecret as the database holds it; `None` when the account was removed.
    pub secret: Option<SealedSecret>,
}

/// An AppSecret that [`Store::open_secret`] opens.
#[derive(Clone)]
pub struct SealedSecret(Box<str>);

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedSecret(..)")
    }
}

#[derive(FromRow)]
struct AccountRow {
    appid: String,
    name: String,
    mode: String,
    token_types: String,
    enabled: bool,
    note: String,
    secret_sealed: Option<String>,
    revision: i64,
    created_at: i64,
    updated_at: i64,
    removed_at: Option<i64>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT appid, name, mode, token_types, enabled, note, secret_sealed, revision, created_at, updated_at, \
             removed_at FROM wx_account ",
            $rest
        )
    };
}

/// Accounts changed since. Its plan must be the index on the time of change.
pub const CHANGED: &str = select!("WHERE changed_at >= ?");

impl TryFrom<AccountRow> for AccountChange {
    type Error = StoreError;

    fn try_from(row: AccountRow) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt(TABLE, column, &row.appid);
        let account = Account {
            appid: AppId::parse(&row.appid).map_err(|_| corrupt("appid"))?,
            mode: Mode::parse(&row.mode).map_err(|_| corrupt("mode"))?,
            token_types: TokenTypes::parse(row.token_types.split(',')).map_err(|_| corrupt("token_types"))?,
            enabled: row.enabled,
            created_at: Timestamp::from_millis(row.created_at),
            updated_at: Timestamp::from_millis(row.updated_at),
            name: row.name,
            note: row.note,
        };
        let secret = row.secret_sealed.map(|sealed| SealedSecret(sealed.into()));
        Ok(Self { account, removed: row.removed_at.is_some(), revision: row.revision, secret })
    }
}

impl Store {
    /// Registers an account; its tokens are due at once.
    ///
    /// `None` when the appid is registered already.
    pub async fn create_account(
        &self,
        new: &NewAccount,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Option<AccountChange>, StoreError> {
        loop {
            match retrying!(self.try_create_account(new, actor, now)) {
                // Somebody else was first with one of the rows; with the account's, if there is one now.
                Err(error) if error.kind() == Some(FailureKind::Duplicate) => {
                    if self.account(new.appid.as_str()).await?.is_some() {
                        return Ok(None);
                    }
                }
                result => return result,
            }
        }
    }

    async fn try_create_account(
        &self,
        new: &NewAccount,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Option<AccountChange>, StoreError> {
        let mut tx = self.db.begin().await?;
        let change = self.register(&mut tx, new, actor, now).await?;
        if change.is_some() {
            tx.commit().await?;
        }
        Ok(change)
    }

    /// Writes the rows of a new account; `None` when the appid is registered already.
    pub(super) async fn register(
        &self,
        tx: &mut Tx,
        new: &NewAccount,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Option<AccountChange>, StoreError> {
        let appid = new.appid.as_str();
        let secret = self.seal_secret(&new.appid, &new.secret)?;
        let token_types = new.token_types.to_list();
        let insert = "INSERT INTO wx_account (name, mode, token_types, enabled, note, secret_sealed, revision, \
                      created_at, updated_at, changed_at, appid) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let revive = "UPDATE wx_account SET name = ?, mode = ?, token_types = ?, enabled = ?, note = ?, \
                      secret_sealed = ?, revision = ?, created_at = ?, updated_at = ?, changed_at = ?, \
                      removed_at = NULL WHERE appid = ?";
        let (sql, revision) = match lock_account(tx, appid).await? {
            None => (insert, 1),
            Some(found) if found.removed => (revive, found.revision + 1),
            Some(_) => return Ok(None),
        };
        let values = bind![
            &new.name,
            new.mode.as_str(),
            &token_types,
            new.enabled,
            &new.note,
            &secret,
            revision,
            now,
            now,
            now,
            appid,
        ];
        tx.execute(sql, values).await?;
        // A program that did not know of mirrors may have removed the account before.
        super::mirror::drop_mirrors(tx, appid, now).await?;
        let account = Account {
            appid: new.appid.clone(),
            name: new.name.clone(),
            mode: new.mode,
            token_types: new.token_types,
            enabled: new.enabled,
            note: new.note.clone(),
            created_at: now,
            updated_at: now,
        };
        keep_tokens(tx, &account, &self.limits, now).await?;
        append(tx, actor, "account.create", appid, &new.name, now).await?;
        let secret = Some(SealedSecret(secret.into()));
        Ok(Some(AccountChange { account, removed: false, revision, secret }))
    }

    /// The account, unless there is none or it was removed.
    pub async fn account(&self, appid: &str) -> Result<Option<Account>, StoreError> {
        let sql = select!("WHERE appid = ? AND removed_at IS NULL");
        let row: Option<AccountRow> = self.db.fetch_optional(sql, bind![appid]).await?;
        row.map(|row| AccountChange::try_from(row).map(|found| found.account)).transpose()
    }

    /// Accounts in the order of their appids, after `after`, at most `limit`.
    pub async fn accounts(&self, after: Option<&str>, limit: u32) -> Result<Vec<Account>, StoreError> {
        let sql = select!("WHERE appid > ? AND removed_at IS NULL ORDER BY appid LIMIT ?");
        let rows: Vec<AccountRow> = self.db.fetch_all(sql, bind![after.unwrap_or_default(), limit]).await?;
        rows.into_iter().map(|row| AccountChange::try_from(row).map(|found| found.account)).collect()
    }

    /// Changes an account. A new secret, mode or set of token types, and switching it on, make its tokens due at once.
    ///
    /// `None` when there is no such account.
    pub async fn update_account(
        &self,
        appid: &str,
        patch: &AccountPatch,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Option<AccountChange>, StoreError> {
        retrying!(self.try_update_account(appid, patch, actor, now))
    }

    async fn try_update_account(
        &self,
        appid: &str,
        patch: &AccountPatch,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Option<AccountChange>, StoreError> {
        let mut tx = self.db.begin().await?;
        let Some(found) = lock_account(&mut tx, appid).await?.filter(|found| !found.removed) else {
            return Ok(None);
        };
        let before = found.account;
        let account = Account {
            appid: before.appid.clone(),
            name: patch.name.clone().unwrap_or(before.name),
            mode: patch.mode.unwrap_or(before.mode),
            token_types: patch.token_types.unwrap_or(before.token_types),
            enabled: patch.enabled.unwrap_or(before.enabled),
            note: patch.note.clone().unwrap_or(before.note),
            created_at: before.created_at,
            updated_at: now,
        };
        let revision = found.revision + 1;
        let sql = "UPDATE wx_account SET name = ?, mode = ?, token_types = ?, enabled = ?, note = ?, revision = ?, \
                   updated_at = ?, changed_at = ? WHERE appid = ?";
        let token_types = account.token_types.to_list();
        let values = bind![
            &account.name,
            account.mode.as_str(),
            &token_types,
            account.enabled,
            &account.note,
            revision,
            now,
            now,
            appid,
        ];
        tx.execute(sql, values).await?;
        let mut secret = found.secret;
        if let Some(entered) = &patch.secret {
            let sealed = self.seal_secret(&account.appid, entered)?;
            tx.execute("UPDATE wx_account SET secret_sealed = ? WHERE appid = ?", bind![&sealed, appid]).await?;
            secret = Some(SealedSecret(sealed.into()));
        }
        if account.token_types != before.token_types {
            keep_tokens(&mut tx, &account, &self.limits, now).await?;
        }
        if patch.secret.is_some() || account.mode != before.mode || account.enabled != before.enabled {
            reschedule(&mut tx, &account, &self.limits, now).await?;
        }
        append(&mut tx, actor, "account.update", appid, &changed_fields(patch), now).await?;
        tx.commit().await?;
        Ok(Some(AccountChange { account, removed: false, revision, secret }))
    }

    /// Removes an account with its secret and its tokens; its history stays. `None` when there is no such account.
    pub async fn remove_account(
        &self,
        appid: &str,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Option<AccountChange>, StoreError> {
        retrying!(self.try_remove_account(appid, actor, now))
    }

    async fn try_remove_account(
        &self,
        appid: &str,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Option<AccountChange>, StoreError> {
        let mut tx = self.db.begin().await?;
        let Some(found) = lock_account(&mut tx, appid).await?.filter(|found| !found.removed) else {
            return Ok(None);
        };
        let revision = found.revision + 1;
        let sql =
            "UPDATE wx_account SET removed_at = ?, secret_sealed = NULL, revision = ?, changed_at = ? WHERE appid = ?";
        tx.execute(sql, bind![now, revision, now, appid]).await?;
        super::token::drop_tokens(&mut tx, appid, now).await?;
        super::mirror::drop_mirrors(&mut tx, appid, now).await?;
        append(&mut tx, actor, "account.remove", appid, &found.account.name, now).await?;
        tx.commit().await?;
        Ok(Some(AccountChange { account: found.account, removed: true, revision, secret: None }))
    }

    /// The AppSecret of an account; `None` when there is no such account.
    pub async fn app_secret(&self, appid: &AppId) -> Result<Option<AppSecret>, StoreError> {
        let sql = "SELECT secret_sealed FROM wx_account WHERE appid = ? AND removed_at IS NULL";
        let row: Option<(Option<String>,)> = self.db.fetch_optional(sql, bind![appid.as_str()]).await?;
        let Some((Some(sealed),)) = row else {
            return Ok(None);
        };
        self.open_secret(appid, &SealedSecret(sealed.into())).map(Some)
    }

    /// Opens an AppSecret without the database.
    pub fn open_secret(&self, appid: &AppId, sealed: &SealedSecret) -> Result<AppSecret, StoreError> {
        let opened = self.sealer.open(secret_place(appid), &sealed.0).map_err(|source| StoreError::Sealed {
            table: TABLE,
            column: "secret_sealed",
            row: appid.to_string(),
            source,
        })?;
        AppSecret::parse(opened.expose_secret()).map_err(|_| StoreError::corrupt(TABLE, "secret_sealed", appid))
    }

    /// Accounts changed at or after `since`, removed ones too. Rows that do not read are reported one by one.
    pub async fn accounts_changed_since(
        &self,
        since: Timestamp,
    ) -> Result<Vec<Result<AccountChange, StoreError>>, StoreError> {
        let rows: Vec<AccountRow> = self.db.fetch_stream(CHANGED, bind![since]).await?;
        Ok(rows.into_iter().map(AccountChange::try_from).collect())
    }

    fn seal_secret(&self, appid: &AppId, secret: &AppSecret) -> Result<String, StoreError> {
        self.sealer.seal(secret_place(appid), secret.expose()).map_err(StoreError::Seal)
    }
}

fn secret_place(appid: &AppId) -> Place<'_> {
    Place { table: TABLE, column: "secret_sealed", appid: appid.as_str(), token_type: "" }
}

pub(super) async fn lock_account(tx: &mut Tx, appid: &str) -> Result<Option<AccountChange>, StoreError> {
    let row: Option<AccountRow> = tx.fetch_optional(select!("WHERE appid = ? {for_update}"), bind![appid]).await?;
    row.map(AccountChange::try_from).transpose()
}

/// The names of the fields that a patch sets, for the audit; their values may be secret.
fn changed_fields(patch: &AccountPatch) -> String {
    [
        ("secret", patch.secret.is_some()),
        ("name", patch.name.is_some()),
        ("mode", patch.mode.is_some()),
        ("token_types", patch.token_types.is_some()),
        ("enabled", patch.enabled.is_some()),
        ("note", patch.note.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect::<Vec<_>>()
    .join(",")
}
