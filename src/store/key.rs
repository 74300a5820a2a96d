//! `wx_key`: the credentials that we issued. A key's text is never here, only its keyed hash; revoked keys stay, so that every instance
//! learns of the revocation.

use sqlx::FromRow;

use super::audit::{Actor, append, new_id};
use super::db::bind;
use super::{Store, StoreError, retrying};
use crate::domain::key::{AccountScope, Actions, Key, KeyText, Role};
use crate::domain::path_rules::PathRules;
use crate::domain::sdk::Sdk;
use crate::domain::timestamp::Timestamp;
use crate::seal::hexadecimal;

/// What makes up a new key besides its text.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What admins call it.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The accounts that it reaches.
    pub accounts: AccountScope,
    /// What it may do with them.
    pub actions: Actions,
    /// When it ends; [`Timestamp::NEVER`] when it does not.
    pub expires_at: Timestamp,
    /// The SDK that shows it, if that keeps a margin that we know.
    pub sdk: Option<Sdk>,
    /// Which of WeChat's paths it may call through us.
    pub paths: PathRules,
}

/// A key with the hash under which it is looked up.
#[derive(Debug, Clone)]
pub struct HashedKey {
    /// Keyed hash of the key's text.
    pub hash: [u8; 32],
    /// Everything else.
    pub key: Key,
}

/// What became of a wish to revoke a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// It is revoked now.
    Revoked,
    /// There is no key of this id, or it was revoked before.
    Absent,
    /// It is the last admin key that opens everything; without it nobody could make another.
    LastAdmin,
}

#[derive(FromRow)]
struct KeyRow {
    id: String,
    name: String,
    role: String,
    accounts: String,
    actions: String,
    key_hash: String,
    hint: String,
    created_at: i64,
    expires_at: i64,
    revoked_at: Option<i64>,
    sdk: Option<String>,
    allowed_paths: Option<String>,
    denied_paths: Option<String>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, role, accounts, actions, key_hash, hint, created_at, expires_at, revoked_at, sdk, \
             allowed_paths, denied_paths FROM wx_key ",
            $rest
        )
    };
}

/// Keys changed since. Its plan must be the index on the time of change.
pub const CHANGED: &str = select!("WHERE changed_at >= ?");

impl TryFrom<KeyRow> for HashedKey {
    type Error = StoreError;

    fn try_from(row: KeyRow) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::corrupt("wx_key", column, &row.id);
        let names = |list: &'static str| move |_| corrupt(list);
        let hash = (0..row.key_hash.len())
            .step_by(2)
            .map(|at| row.key_hash.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect::<Option<Vec<_>>>()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| corrupt("key_hash"))?;
        let key = Key {
            role: Role::parse(&row.role).map_err(names("role"))?,
            accounts: AccountScope::parse(row.accounts.split(',')).map_err(names("accounts"))?,
            actions: Actions::parse(row.actions.split(',').filter(|name| !name.is_empty()))
                .map_err(names("actions"))?,
            sdk: row.sdk.as_deref().map(Sdk::parse).transpose().map_err(names("sdk"))?,
            paths: PathRules::parse(listed(row.allowed_paths.as_deref()), listed(row.denied_paths.as_deref()))
                .map_err(names("allowed_paths"))?,
            name: row.name,
            hint: row.hint,
            created_at: Timestamp::from_millis(row.created_at),
            expires_at: Timestamp::from_millis(row.expires_at),
            revoked_at: row.revoked_at.map(Timestamp::from_millis),
            id: row.id,
        };
        Ok(Self { hash, key })
    }
}

impl Store {
    /// Keeps a new key. Its text must be shown to somebody, for it is not kept.
    pub async fn create_key(
        &self,
        text: &KeyText,
        new: &NewKey,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<HashedKey, StoreError> {
        retrying!(self.try_create_key(text, new, actor, now))
    }

    async fn try_create_key(
        &self,
        text: &KeyText,
        new: &NewKey,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<HashedKey, StoreError> {
        let hash = self.sealer.hash_key(text.expose());
        let (id, hint) = (new_id(now), text.hint());
        let (accounts, actions) = (new.accounts.names().join(","), new.actions.to_list());
        let mut tx = self.db.begin().await?;
        let sql = "INSERT INTO wx_key \
                   (id, name, role, accounts, actions, key_hash, hint, created_at, expires_at, changed_at, sdk, \
                   allowed_paths, denied_paths) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let key_hash = hexadecimal(&hash);
        let (sdk, allowed, denied) = (new.sdk.map(Sdk::as_str), list(new.paths.allowed()), list(new.paths.denied()));
        let values = bind![
            &id,
            &new.name,
            new.role.as_str(),
            &accounts,
            &actions,
            &key_hash,
            &hint,
            now,
            new.expires_at,
            now,
            sdk,
            allowed.as_ref(),
            denied.as_ref()
        ];
        tx.execute(sql, values).await?;
        append(&mut tx, actor, "key.create", &id, &new.name, now).await?;
        tx.commit().await?;
        let NewKey { name, role, accounts, actions, expires_at, sdk, paths } = new.clone();
        let key =
            Key { id, name, role, accounts, actions, hint, created_at: now, expires_at, revoked_at: None, sdk, paths };
        Ok(HashedKey { hash, key })
    }

    /// Whether there is any key that may still do everything.
    pub async fn has_admin_key(&self, now: Timestamp) -> Result<bool, StoreError> {
        let keys: Vec<KeyRow> = self.db.fetch_all(select!("WHERE role = 'admin' AND revoked_at IS NULL"), &[]).await?;
        Ok(keys.into_iter().filter_map(|row| HashedKey::try_from(row).ok()).any(|key| opens_everything(&key.key, now)))
    }

    /// Whether a key with this text is kept, usable or not.
    pub async fn knows_key(&self, text: &KeyText) -> Result<bool, StoreError> {
        let hash = hexadecimal(&self.sealer.hash_key(text.expose()));
        Ok(self.db.fetch_optional::<KeyRow>(select!("WHERE key_hash = ?"), bind![&hash]).await?.is_some())
    }

    /// Keys in the order of their making, after the key `after`, at most `limit`; revoked ones too.
    pub async fn keys(&self, after: Option<&str>, limit: u32) -> Result<Vec<Key>, StoreError> {
        let sql = select!("WHERE id > ? ORDER BY id LIMIT ?");
        let rows: Vec<KeyRow> = self.db.fetch_all(sql, bind![after.unwrap_or_default(), limit]).await?;
        rows.into_iter().map(|row| HashedKey::try_from(row).map(|hashed| hashed.key)).collect()
    }

    /// The key of this id.
    pub async fn key(&self, id: &str) -> Result<Option<Key>, StoreError> {
        let row: Option<KeyRow> = self.db.fetch_optional(select!("WHERE id = ?"), bind![id]).await?;
        row.map(|row| HashedKey::try_from(row).map(|hashed| hashed.key)).transpose()
    }

    /// Revokes a key for good.
    pub async fn revoke_key(&self, id: &str, actor: &Actor, now: Timestamp) -> Result<Revocation, StoreError> {
        retrying!(self.try_revoke_key(id, actor, now))
    }

    async fn try_revoke_key(&self, id: &str, actor: &Actor, now: Timestamp) -> Result<Revocation, StoreError> {
        let mut tx = self.db.begin().await?;
        // Locking all admin keys in one order keeps two admins from revoking each other's last key at once.
        let sql = select!("WHERE revoked_at IS NULL AND (role = 'admin' OR id = ?) ORDER BY id {for_update}");
        let rows: Vec<KeyRow> = tx.fetch_all(sql, bind![id]).await?;
        if !rows.iter().any(|row| row.id == id) {
            return Ok(Revocation::Absent);
        }
        let keys: Vec<_> =
            rows.into_iter().filter_map(|row| HashedKey::try_from(row).ok()).map(|hashed| hashed.key).collect();
        let is_admin = |key: &Key| opens_everything(key, now);
        let revokes_an_admin = keys.iter().any(|key| key.id == id && is_admin(key));
        if revokes_an_admin && !keys.iter().any(|key| key.id != id && is_admin(key)) {
            return Ok(Revocation::LastAdmin);
        }
        tx.execute("UPDATE wx_key SET revoked_at = ?, changed_at = ? WHERE id = ?", bind![now, now, id]).await?;
        append(&mut tx, actor, "key.revoke", id, "", now).await?;
        tx.commit().await?;
        Ok(Revocation::Revoked)
    }

    /// Keys changed at or after `since`, for the live view. Rows that do not read are reported one by one.
    pub async fn keys_changed_since(&self, since: Timestamp) -> Result<Vec<Result<HashedKey, StoreError>>, StoreError> {
        let rows: Vec<KeyRow> = self.db.fetch_stream(CHANGED, bind![since]).await?;
        Ok(rows.into_iter().map(HashedKey::try_from).collect())
    }
}

/// The patterns of a list as it is stored; no pattern has a space in it.
fn listed(stored: Option<&str>) -> impl Iterator<Item = &str> {
    stored.unwrap_or_default().split(' ').filter(|pattern| !pattern.is_empty())
}

/// A list as it is stored: `None` for an empty one.
fn list<'a>(patterns: impl Iterator<Item = &'a str>) -> Option<String> {
    let text = patterns.collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

fn opens_everything(key: &Key, now: Timestamp) -> bool {
    key.is_usable(now) && key.role == Role::Admin && key.accounts == AccountScope::All
}
