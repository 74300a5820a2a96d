//! Registering, showing, changing, checking and removing accounts.

use std::collections::Bound;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::account_view::AccountView;
use super::show_in_view;
use crate::domain::Invalid;
use crate::domain::account::{Account, AccountPatch, AppId, Mode, NewAccount, TokenTypes, check_name, check_note};
use crate::domain::adoption::Adoption;
use crate::domain::key::AccountScope;
use crate::domain::secret::AppSecret;
use crate::http::Rooms;
use crate::http::body::{Parameters, Submitted, given};
use crate::http::caller::{AccountInPath, Caller, ReadAccounts, WriteAccounts};
use crate::http::cursor::{Page, checked_limit, read_account};
use crate::http::problem::Problem;
use crate::http::routes::{Routes, Verb};
use crate::store::StoreError;
use crate::store::account::AccountChange;
use crate::wechat::CallError;

pub(super) fn add_to(routes: Routes) -> Routes {
    routes
        .guarded(Verb::Get, "/v1/accounts", list)
        .guarded(Verb::Post, "/v1/accounts", create)
        .guarded(Verb::Get, "/v1/accounts/{appid}", show)
        .guarded(Verb::Patch, "/v1/accounts/{appid}", change)
        .guarded(Verb::Delete, "/v1/accounts/{appid}", remove)
        .guarded(Verb::Post, "/v1/accounts/{appid}/check", check)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParameters {
    limit: Option<u32>,
    cursor: Option<String>,
}

async fn list(
    caller: Caller<ReadAccounts>,
    State(rooms): State<Arc<Rooms>>,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<Page<AccountView>>, Problem> {
    let limit = checked_limit(parameters.limit)?;
    let after = read_account(parameters.cursor.as_deref())?;
    let accounts = accounts_in(&rooms, &caller.key.accounts, after.as_ref(), limit + 1).await?;
    Ok(Json(Page::of(accounts, limit, |account| AccountView::of(account, &rooms, caller.language()))))
}

/// The accounts that a scope reaches, in the order of their appids.
async fn accounts_in(
    rooms: &Rooms,
    scope: &AccountScope,
    after: Option<&AppId>,
    limit: u32,
) -> Result<Vec<Account>, StoreError> {
    let AccountScope::Listed(appids) = scope else {
        return rooms.store.accounts(after.map(AppId::as_str), limit).await;
    };
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut accounts = Vec::new();
    for appid in appids.range::<AppId, _>((start, Bound::Unbounded)) {
        if accounts.len() == limit as usize {
            break;
        }
        accounts.extend(rooms.store.account(appid.as_str()).await?);
    }
    Ok(accounts)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    appid: String,
    secret: String,
    name: Option<String>,
    mode: Option<String>,
    token_types: Option<Vec<String>>,
    enabled: Option<bool>,
    note: Option<String>,
    adopt: Option<AdoptedToken>,
}

/// An access token that is in use now, and what is left of its life in seconds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdoptedToken {
    value: String,
    expires_in: u64,
}

impl TryFrom<Registration> for NewAccount {
    type Error = Invalid;

    fn try_from(registration: Registration) -> Result<Self, Invalid> {
        let Registration { appid, secret, name, mode, token_types, enabled, note, adopt: _ } = registration;
        let (name, note) = (name.unwrap_or_default(), note.unwrap_or_default());
        check_name(&name)?;
        check_note(&note)?;
        Ok(Self {
            appid: AppId::parse(&appid)?,
            secret: AppSecret::parse(&secret)?,
            mode: mode.as_deref().map_or(Ok(Mode::default()), Mode::parse)?,
            token_types: token_types.as_deref().map_or(Ok(TokenTypes::default()), parse_types)?,
            enabled: enabled.unwrap_or(true),
            name,
            note,
        })
    }
}

fn parse_types(names: &[String]) -> Result<TokenTypes, Invalid> {
    TokenTypes::parse(names.iter().map(String::as_str))
}

async fn create(
    caller: Caller<WriteAccounts>,
    State(rooms): State<Arc<Rooms>>,
    Submitted(mut registration): Submitted<Registration>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<AccountView>), Problem> {
    let adopt = registration.adopt.take();
    let new = NewAccount::try_from(registration)?;
    let adopt = adopt.map(|token| Adoption::parse(&token.value, token.expires_in)).transpose()?;
    caller.check_reach(&new.appid)?;
    let asked = Instant::now();
    let change = if let Some(adoption) = adopt {
        rooms.refresher.adopt(new, adoption, caller.actor()).await?
    } else {
        let created = rooms.store.create_account(&new, &caller.actor(), rooms.clock.now()).await?;
        created.ok_or_else(Problem::account_exists)?
    };
    let location = format!("/v1/accounts/{}", change.account.appid);
    let view = took_effect(&rooms, change, asked, &caller).await;
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(view)))
}

async fn show(
    caller: Caller<ReadAccounts>,
    AccountInPath(appid): AccountInPath,
    State(rooms): State<Arc<Rooms>>,
) -> Result<Json<AccountView>, Problem> {
    let language = caller.language();
    match rooms.store.account(appid.as_str()).await {
        Ok(Some(account)) => Ok(Json(AccountView::of(account, &rooms, language))),
        Ok(None) => Err(Problem::unknown_account()),
        // While the database is away the account is shown as this instance remembers it.
        Err(error) => match AccountView::held(&appid, &rooms, language).filter(|_| error.is_unavailable()) {
            Some(view) => Ok(Json(view)),
            None => Err(error.into()),
        },
    }
}

/// `null` is refused for every field: each always has a value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    #[serde(default, deserialize_with = "given")]
    secret: Option<String>,
    #[serde(default, deserialize_with = "given")]
    name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    mode: Option<String>,
    #[serde(default, deserialize_with = "given")]
    token_types: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    enabled: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    note: Option<String>,
}

impl TryFrom<Patch> for AccountPatch {
    type Error = Invalid;

    fn try_from(patch: Patch) -> Result<Self, Invalid> {
        patch.name.as_deref().map_or(Ok(()), check_name)?;
        patch.note.as_deref().map_or(Ok(()), check_note)?;
        Ok(Self {
            secret: patch.secret.as_deref().map(AppSecret::parse).transpose()?,
            mode: patch.mode.as_deref().map(Mode::parse).transpose()?,
            token_types: patch.token_types.as_deref().map(parse_types).transpose()?,
            enabled: patch.enabled,
            name: patch.name,
            note: patch.note,
        })
    }
}

async fn change(
    caller: Caller<WriteAccounts>,
    AccountInPath(appid): AccountInPath,
    State(rooms): State<Arc<Rooms>>,
    Submitted(patch): Submitted<Patch>,
) -> Result<Json<AccountView>, Problem> {
    let patch = AccountPatch::try_from(patch)?;
    let asked = Instant::now();
    let changed = rooms.store.update_account(appid.as_str(), &patch, &caller.actor(), rooms.clock.now()).await?;
    let change = changed.ok_or_else(Problem::unknown_account)?;
    Ok(Json(took_effect(&rooms, change, asked, &caller).await))
}

async fn remove(
    caller: Caller<WriteAccounts>,
    AccountInPath(appid): AccountInPath,
    State(rooms): State<Arc<Rooms>>,
) -> Result<StatusCode, Problem> {
    let asked = Instant::now();
    let removed = rooms.store.remove_account(appid.as_str(), &caller.actor(), rooms.clock.now()).await?;
    rooms.live.publish_account(removed.ok_or_else(Problem::unknown_account)?, asked);
    show_in_view(&rooms).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets this instance and its scheduler know of a change at once, and shows the account as it is now.
async fn took_effect<A>(rooms: &Rooms, change: AccountChange, asked: Instant, caller: &Caller<A>) -> AccountView {
    let account = change.account.clone();
    rooms.live.publish_account(change, asked);
    show_in_view(rooms).await;
    rooms.refresher.wake();
    AccountView::of(account, rooms, caller.language())
}

#[derive(Serialize)]
struct Checked {
    ok: bool,
    latency_ms: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    errcode: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errmsg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_ip: Option<String>,
}

async fn check(
    caller: Caller<WriteAccounts>,
    AccountInPath(appid): AccountInPath,
    State(rooms): State<Arc<Rooms>>,
) -> Result<Json<Checked>, Problem> {
    let call = rooms.refresher.check(&appid).await?.call;
    let error = call.error.as_ref();
    let failure = error.map(CallError::failure);
    Ok(Json(Checked {
        ok: error.is_none(),
        latency_ms: call.latency.as_millis(),
        errcode: failure.as_ref().and_then(|failure| failure.errcode),
        hint: error.map(|error| error.hint(caller.language())),
        egress_ip: error.and_then(CallError::egress_ip).map(|address| address.to_string()),
        errmsg: failure.map(|failure| failure.errmsg),
    }))
}
