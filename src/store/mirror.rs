//! `wx_mirror`: where the tokens of an account are copied to. Removed rows stay, so that every instance learns of it; their secrets do not.

use secrecy::ExposeSecret;
use sqlx::FromRow;

use super::account::lock_account;
use super::audit::{Actor, append, new_id};
use super::db::{Tx, bind};
use super::{Store, StoreError, retrying};
use crate::domain::account::AppId;
use crate::domain::mirror::{ConfiguredSecret, Layout, LayoutFields, MOST_MIRRORS, Mirror, NewMirror, Target};
use crate::domain::timestamp::Timestamp;
use crate::seal::Place;

pub(super) const TABLE: &str = "wx_mirror";

/// A change of a mirror, for whoever writes it.
#[derive(Debug, Clone)]
pub struct MirrorChange {
    /// Its identifier.
    pub id: String,
    /// Counts its changes.
    pub revision: i64,
    /// The mirror; `None` when it was removed.
    pub mirror: Option<Mirror>,
}

/// What became of a wish for a mirror.
#[derive(Debug)]
pub enum Creation {
    /// It is made.
    Created(Box<MirrorChange>),
    /// There is no such account.
    NoAccount,
    /// The account has as many as it may have.
    TooMany,
}

#[derive(FromRow)]
struct MirrorRow {
    id: String,
    appid: String,
    format: String,
    target_sealed: Option<String>,
    secret_sealed: Option<String>,
    prefix: Option<String>,
    app: Option<String>,
    serializer: Option<String>,
    token_type: Option<String>,
    key_template: Option<String>,
    value_template: Option<String>,
    revision: i64,
    created_at: i64,
    removed_at: Option<i64>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, appid, format, target_sealed, secret_sealed, prefix, app, serializer, token_type, key_template, \
             value_template, revision, created_at, removed_at FROM wx_mirror ",
            $rest
        )
    };
}

/// Mirrors changed since. Its plan must be the index on the time of change.
pub const CHANGED: &str = select!("WHERE changed_at >= ?");

impl Store {
    /// Makes a mirror of an account, unless it has [`MOST_MIRRORS`].
    pub async fn create_mirror(&self, new: &NewMirror, actor: &Actor, now: Timestamp) -> Result<Creation, StoreError> {
        retrying!(self.try_create_mirror(new, actor, now))
    }

    async fn try_create_mirror(&self, new: &NewMirror, actor: &Actor, now: Timestamp) -> Result<Creation, StoreError> {
        let appid = new.appid.as_str();
        let (id, fields) = (new_id(now), new.layout.fields());
        let sealed = |column, text: &str| self.sealer.seal(place(column, appid, &id), text).map_err(StoreError::Seal);
        let target = sealed("target_sealed", new.target.expose())?;
        let secret = new.layout.secret().map(|secret| sealed("secret_sealed", secret.expose())).transpose()?;
        let mut tx = self.db.begin().await?;
        // The account's lock makes those who count take turns.
        if lock_account(&mut tx, appid).await?.is_none_or(|found| found.removed) {
            return Ok(Creation::NoAccount);
        }
        let sql = "SELECT COUNT(*) FROM wx_mirror WHERE appid = ? AND removed_at IS NULL";
        let held: Option<(i64,)> = tx.fetch_optional(sql, bind![appid]).await?;
        if held.is_some_and(|(held,)| held >= i64::from(MOST_MIRRORS)) {
            return Ok(Creation::TooMany);
        }
        let sql = "INSERT INTO wx_mirror (id, appid, format, target_sealed, secret_sealed, prefix, app, serializer, \
                   token_type, key_template, value_template, revision, created_at, changed_at) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let values = bind![
            &id,
            appid,
            &fields.format,
            &target,
            secret.as_deref(),
            fields.prefix.as_deref(),
            fields.app.as_deref(),
            fields.serializer.as_deref(),
            fields.token_type.as_deref(),
            fields.key.as_deref(),
            fields.value.as_deref(),
            1_i64,
            now,
            now,
        ];
        tx.execute(sql, values).await?;
        append(&mut tx, actor, "mirror.create", appid, &format!("{id} {} {}", fields.format, new.target), now).await?;
        tx.commit().await?;
        let NewMirror { appid, target, layout } = new;
        let (appid, target, layout) = (appid.clone(), target.clone(), layout.clone());
        let mirror = Mirror { id: id.clone(), appid, target, layout, created_at: now };
        Ok(Creation::Created(Box::new(MirrorChange { id, revision: 1, mirror: Some(mirror) })))
    }

    /// The mirrors of an account in the order of their making. Those that do not read are reported one by one.
    pub async fn mirrors(&self, appid: &AppId) -> Result<Vec<Result<Mirror, StoreError>>, StoreError> {
        let sql = select!("WHERE appid = ? AND removed_at IS NULL ORDER BY id");
        let rows: Vec<MirrorRow> = self.db.fetch_all(sql, bind![appid.as_str()]).await?;
        let read = rows.into_iter().map(|row| self.open_mirror(row));
        Ok(read.filter_map(|read| read.map(|change| change.mirror).transpose()).collect())
    }

    /// Removes a mirror and its secrets. `None` when the account has no mirror of this id.
    pub async fn remove_mirror(
        &self,
        appid: &AppId,
        id: &str,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Option<MirrorChange>, StoreError> {
        retrying!(self.try_remove_mirror(appid, id, actor, now))
    }

    async fn try_remove_mirror(
        &self,
        appid: &AppId,
        id: &str,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Option<MirrorChange>, StoreError> {
        let mut tx = self.db.begin().await?;
        let sql = select!("WHERE id = ? AND appid = ? AND removed_at IS NULL {for_update}");
        let Some(row) = tx.fetch_optional::<MirrorRow>(sql, bind![id, appid.as_str()]).await? else {
            return Ok(None);
        };
        let sql = "UPDATE wx_mirror SET removed_at = ?, changed_at = ?, revision = revision + 1, target_sealed = NULL, \
                   secret_sealed = NULL WHERE id = ?";
        tx.execute(sql, bind![now, now, id]).await?;
        append(&mut tx, actor, "mirror.remove", appid.as_str(), &format!("{id} {}", row.format), now).await?;
        tx.commit().await?;
        Ok(Some(MirrorChange { id: row.id, revision: row.revision + 1, mirror: None }))
    }

    /// Mirrors changed at or after `since`, removed ones too. Rows that do not read are reported one by one.
    pub async fn mirrors_changed_since(
        &self,
        since: Timestamp,
    ) -> Result<Vec<Result<MirrorChange, StoreError>>, StoreError> {
        let rows: Vec<MirrorRow> = self.db.fetch_stream(CHANGED, bind![since]).await?;
        Ok(rows.into_iter().map(|row| self.open_mirror(row)).collect())
    }

    fn open_mirror(&self, row: MirrorRow) -> Result<MirrorChange, StoreError> {
        let MirrorRow { id, revision, .. } = row;
        let corrupt = |column| StoreError::corrupt(TABLE, column, &id);
        if row.removed_at.is_some() {
            return Ok(MirrorChange { id, revision, mirror: None });
        }
        let open = |column: &'static str, sealed: &str| {
            let opened = self.sealer.open(place(column, &row.appid, &id), sealed);
            opened.map_err(|source| StoreError::Sealed { table: TABLE, column, row: id.clone(), source })
        };
        let target = open("target_sealed", row.target_sealed.as_deref().ok_or_else(|| corrupt("target_sealed"))?)?;
        let secret = row.secret_sealed.as_deref().map(|sealed| open("secret_sealed", sealed)).transpose()?;
        let secret = secret.map(|text| ConfiguredSecret::parse(text.expose_secret())).transpose();
        let fields = LayoutFields {
            format: row.format,
            prefix: row.prefix,
            app: row.app,
            serializer: row.serializer,
            token_type: row.token_type,
            key: row.key_template,
            value: row.value_template,
        };
        let mirror = Mirror {
            appid: AppId::parse(&row.appid).map_err(|_| corrupt("appid"))?,
            target: Target::parse(target.expose_secret()).map_err(|_| corrupt("target_sealed"))?,
            layout: Layout::parse(fields, secret.map_err(|_| corrupt("secret_sealed"))?)
                .map_err(|invalid| corrupt(column_of(invalid.field)))?,
            created_at: Timestamp::from_millis(row.created_at),
            id: id.clone(),
        };
        Ok(MirrorChange { id, revision, mirror: Some(mirror) })
    }
}

/// Removes the mirrors of an account that is removed, or begins anew.
pub(super) async fn drop_mirrors(tx: &mut Tx, appid: &str, now: Timestamp) -> Result<(), StoreError> {
    let sql = "UPDATE wx_mirror SET removed_at = ?, changed_at = ?, revision = revision + 1, target_sealed = NULL, \
               secret_sealed = NULL WHERE appid = ? AND removed_at IS NULL";
    tx.execute(sql, bind![now, now, appid]).await?;
    Ok(())
}

/// Bound to the mirror, too: the target of one must not pass for another's.
fn place<'a>(column: &'a str, appid: &'a str, id: &'a str) -> Place<'a> {
    Place { table: TABLE, column, appid, token_type: id }
}

/// The column of a layout's field.
fn column_of(field: &str) -> &'static str {
    match field {
        "prefix" => "prefix",
        "app" => "app",
        "serializer" => "serializer",
        "secret" => "secret_sealed",
        "token_type" => "token_type",
        "key" => "key_template",
        "value" => "value_template",
        _ => "format",
    }
}
