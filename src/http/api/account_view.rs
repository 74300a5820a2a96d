//! An account as admins see it, with the health of its tokens. The AppSecret is not there to be shown.

use serde::Serialize;

use super::shown;
use crate::domain::account::{Account, AppId, TokenType};
use crate::domain::health::Health;
use crate::domain::refresh::Outcome;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::Token;
use crate::http::Rooms;
use crate::http::cursor::{Place, account_place};
use crate::wechat::{Language, errcode};

/// An account with its health.
#[derive(Serialize)]
pub(super) struct AccountView {
    appid: String,
    name: String,
    mode: &'static str,
    token_types: Vec<&'static str>,
    enabled: bool,
    note: String,
    created_at: Option<String>,
    updated_at: Option<String>,
    health: &'static str,
    tokens: Vec<TokenView>,
}

/// How one token is doing. Its value is not here.
#[derive(Serialize)]
struct TokenView {
    token_type: &'static str,
    health: &'static str,
    valid_until: Option<String>,
    version: i64,
    refresh_at: Option<String>,
    last_success_at: Option<String>,
    consecutive_failures: u32,
    last_outcome: Option<&'static str>,
    last_errcode: Option<i64>,
    last_errmsg: Option<String>,
    hint: Option<String>,
    calls_today: u32,
    forced_today: u32,
    plain_today: u32,
    budget_left: u32,
}

impl Place for Account {
    fn place(&self) -> String {
        account_place(&self.appid)
    }
}

impl AccountView {
    /// The account as this instance knows it now.
    pub(super) fn of(account: Account, rooms: &Rooms, language: Language) -> Self {
        let now = rooms.clock.now();
        let (worst, tokens) = tokens_of(&account, rooms, language, now);
        Self {
            appid: account.appid.to_string(),
            mode: account.mode.as_str(),
            token_types: account.token_types.iter().map(TokenType::as_str).collect(),
            enabled: account.enabled,
            created_at: shown(account.created_at),
            updated_at: shown(account.updated_at),
            health: worst.as_str(),
            tokens,
            name: account.name,
            note: account.note,
        }
    }

    /// The account as this instance holds it in memory, for when the database is away.
    pub(super) fn held(appid: &AppId, rooms: &Rooms, language: Language) -> Option<Self> {
        let live = rooms.live.account(appid.as_str())?;
        Some(Self::of(live.account.clone(), rooms, language))
    }
}

fn tokens_of(account: &Account, rooms: &Rooms, language: Language, now: Timestamp) -> (Health, Vec<TokenView>) {
    let live = rooms.live.account(account.appid.as_str());
    let held = account.token_types.iter().filter_map(|token_type| live.as_ref()?.token(token_type));
    let (healths, views): (Vec<_>, Vec<_>) = held
        .map(|held| {
            let health = Health::of(&held.token, account.enabled, now);
            (health, TokenView::of(&held.token, health, rooms, language, now))
        })
        .unzip();
    // An account that this instance has not heard of yet was registered a moment ago.
    let unheard = if account.enabled { Health::Pending } else { Health::Disabled };
    (healths.into_iter().max().unwrap_or(unheard), views)
}

impl TokenView {
    fn of(token: &Token, health: Health, rooms: &Rooms, language: Language, now: Timestamp) -> Self {
        let record = &token.record;
        let spent = token.spent.as_of(now);
        let call = token.last_call();
        let errmsg = record.last_errmsg.as_deref().unwrap_or_default();
        Self {
            token_type: token.key.token_type.as_str(),
            health: health.as_str(),
            valid_until: token.value.as_ref().and_then(|value| shown(value.life.until)),
            version: token.version,
            refresh_at: shown(token.refresh_at),
            last_success_at: shown(record.last_success_at),
            consecutive_failures: record.failures,
            last_outcome: record.last_outcome.map(Outcome::as_str),
            last_errcode: record.last_errcode,
            last_errmsg: record.last_errmsg.clone(),
            hint: record.last_errcode.map(|code| errcode::hint(call, code, errmsg, language)),
            calls_today: spent.calls,
            forced_today: spent.forced,
            plain_today: spent.plain,
            budget_left: token.spent.left(token.mode, rooms.store.limits(), now),
        }
    }
}
