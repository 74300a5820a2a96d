//! Listing, creating and revoking keys. A manager of keys sees and hands out no more than the manager's own key may do.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{show_in_view, shown};
use crate::domain::Invalid;
use crate::domain::account::check_name;
use crate::domain::key::{AccountScope, Action, Actions, Key, KeyText, Role};
use crate::domain::path_rules::PathRules;
use crate::domain::sdk::Sdk;
use crate::domain::timestamp::Timestamp;
use crate::http::Rooms;
use crate::http::body::{Parameters, Submitted};
use crate::http::caller::{Caller, IdInPath, ManageKeys};
use crate::http::cursor::{Page, Place, checked_limit, key_place, read_key};
use crate::http::problem::{Code, Problem};
use crate::http::routes::{Routes, Verb};
use crate::seal::random_bytes;
use crate::store::key::{NewKey, Revocation};

pub(super) fn add_to(routes: Routes) -> Routes {
    routes.guarded(Verb::Get, "/v1/keys", list).guarded(Verb::Post, "/v1/keys", create).guarded(
        Verb::Delete,
        "/v1/keys/{id}",
        revoke,
    )
}

/// A key without its text.
#[derive(Serialize)]
struct KeyView {
    id: String,
    name: String,
    role: &'static str,
    accounts: Vec<String>,
    actions: Vec<&'static str>,
    hint: String,
    created_at: Option<String>,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    sdk: Option<&'static str>,
    allow_paths: Vec<String>,
    deny_paths: Vec<String>,
}

impl From<Key> for KeyView {
    fn from(key: Key) -> Self {
        Self {
            accounts: key.accounts.names().into_iter().map(str::to_owned).collect(),
            actions: key.actions.iter().map(Action::as_str).collect(),
            role: key.role.as_str(),
            created_at: shown(key.created_at),
            expires_at: shown(key.expires_at),
            revoked_at: key.revoked_at.and_then(shown),
            sdk: key.sdk.map(Sdk::as_str),
            allow_paths: key.paths.allowed().map(str::to_owned).collect(),
            deny_paths: key.paths.denied().map(str::to_owned).collect(),
            id: key.id,
            name: key.name,
            hint: key.hint,
        }
    }
}

impl Place for Key {
    fn place(&self) -> String {
        key_place(&self.id)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParameters {
    limit: Option<u32>,
    cursor: Option<String>,
}

async fn list(
    caller: Caller<ManageKeys>,
    State(rooms): State<Arc<Rooms>>,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<Page<KeyView>>, Problem> {
    let limit = checked_limit(parameters.limit)?;
    let mut after = read_key(parameters.cursor.as_deref())?;
    let mut keys = Vec::new();
    while keys.len() <= limit as usize {
        let page = rooms.store.keys(after.as_deref(), limit + 1).await?;
        let Some(last) = page.last() else {
            break;
        };
        after = Some(last.id.clone());
        keys.extend(page.into_iter().filter(|key| is_within(key.role, &key.accounts, key.actions, &caller.key)));
    }
    Ok(Json(Page::of(keys, limit, KeyView::from)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyOrder {
    name: String,
    role: String,
    accounts: Vec<String>,
    actions: Option<Vec<String>>,
    expires_in_days: Option<u64>,
    sdk: Option<String>,
    #[serde(default)]
    allow_paths: Vec<String>,
    #[serde(default)]
    deny_paths: Vec<String>,
}

impl KeyOrder {
    fn check(self, now: Timestamp) -> Result<NewKey, Invalid> {
        check_name(&self.name)?;
        if self.name.trim().is_empty() {
            return Err(Invalid::new("name", "give the key a name that says who uses it"));
        }
        let role = Role::parse(&self.role)?;
        let expires_at = match self.expires_in_days {
            None => Timestamp::NEVER,
            Some(days @ 1..=3_650) => now.plus(Duration::from_hours(days * 24)),
            Some(_) => return Err(Invalid::new("expires_in_days", "a key ends after 1 to 3650 days, or never")),
        };
        let accounts = AccountScope::parse(self.accounts.iter().map(String::as_str))?;
        Ok(NewKey {
            name: self.name,
            role,
            accounts,
            actions: chosen_actions(role, self.actions.as_deref())?,
            expires_at,
            sdk: self.sdk.as_deref().map(Sdk::parse).transpose()?,
            paths: PathRules::parse(
                self.allow_paths.iter().map(String::as_str),
                self.deny_paths.iter().map(String::as_str),
            )?,
        })
    }
}

fn chosen_actions(role: Role, names: Option<&[String]>) -> Result<Actions, Invalid> {
    match (role, names) {
        (_, None) => Ok(Actions::of_role(role)),
        (Role::Admin, Some(_)) => {
            Err(Invalid::new("actions", "an admin key has every action; leave actions out, or make a service key"))
        }
        (Role::Service, Some([])) => Err(Invalid::new("actions", "name at least one action, or leave actions out")),
        (Role::Service, Some(names)) => Actions::parse(names.iter().map(String::as_str)),
    }
}

#[derive(Serialize)]
struct NewKeyView {
    #[serde(flatten)]
    record: KeyView,
    key: String,
}

async fn create(
    caller: Caller<ManageKeys>,
    State(rooms): State<Arc<Rooms>>,
    Submitted(order): Submitted<KeyOrder>,
) -> Result<(StatusCode, Json<NewKeyView>), Problem> {
    let now = rooms.clock.now();
    let new = order.check(now)?;
    if !is_within(new.role, &new.accounts, new.actions, &caller.key) || !new.paths.within(&caller.key.paths) {
        let detail = "a key can be given no accounts, actions or paths that its maker's key does not have";
        return Err(Problem::new(Code::InsufficientScope, detail));
    }
    let text = random_text(new.role)?;
    let created = rooms.store.create_key(&text, &new, &caller.actor(), now).await?;
    rooms.live.publish_keys(std::slice::from_ref(&created));
    Ok((StatusCode::CREATED, Json(NewKeyView { record: created.key.into(), key: text.expose().to_owned() })))
}

#[derive(Debug, thiserror::Error)]
#[error("the operating system's random source failed")]
struct NoRandomness;

fn random_text(role: Role) -> Result<KeyText, Problem> {
    let mut bytes = [0; 128];
    let text = random_bytes(&mut bytes).and_then(|()| KeyText::generate(role, bytes));
    text.ok_or_else(|| Problem::internal(NoRandomness))
}

async fn revoke(
    caller: Caller<ManageKeys>,
    IdInPath(id): IdInPath,
    State(rooms): State<Arc<Rooms>>,
) -> Result<StatusCode, Problem> {
    let unknown = || Problem::new(Code::UnknownKey, "no key of yours to manage has this id, or it was revoked before");
    let key = rooms.store.key(&id).await?.ok_or_else(unknown)?;
    if !is_within(key.role, &key.accounts, key.actions, &caller.key) {
        return Err(unknown());
    }
    match rooms.store.revoke_key(&id, &caller.actor(), rooms.clock.now()).await? {
        Revocation::Revoked => {
            show_in_view(&rooms).await;
            Ok(StatusCode::NO_CONTENT)
        }
        Revocation::Absent => Err(unknown()),
        Revocation::LastAdmin => Err(Problem::new(
            Code::LastAdminKey,
            "without this key nobody could manage wxtoken; create another admin key first",
        )),
    }
}

/// Whether a key with these rights is no more than `maker`'s.
fn is_within(role: Role, accounts: &AccountScope, actions: Actions, maker: &Key) -> bool {
    (role == Role::Service || maker.role == Role::Admin)
        && accounts.within(&maker.accounts)
        && actions.within(maker.actions)
}
