//! Who asks, and whether they may. A handler that takes a [`Caller`] of some need has the question settled before it runs, and a route
//! under `/v1` that takes none does not compile (see `routes.rs`).

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::Rooms;
use super::context::Context;
use super::problem::{Code, Problem};
use crate::domain::account::{AppId, TokenType};
use crate::domain::key::{Action, Key, LONGEST_KEY};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::TokenKey;
use crate::store::audit::Actor;
use crate::wechat::Language;

/// What a route asks of its caller's key.
pub trait Needs: Send + Sync + 'static {
    /// The action that the key must have.
    const ACTION: Action;
}

macro_rules! needs {
    ($($(#[$doc:meta])* $name:ident = $action:ident;)+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub struct $name;

            impl Needs for $name {
                const ACTION: Action = Action::$action;
            }
        )+
    };
}

needs! {
    /// Read token values and sign pages.
    ReadTokens = TokenRead;
    /// Report a refused token.
    ReportTokens = TokenReport;
    /// Order a refresh.
    RefreshTokens = TokenRefresh;
    /// See accounts.
    ReadAccounts = AccountRead;
    /// Register, change, check and remove accounts.
    WriteAccounts = AccountWrite;
    /// See the refresh history.
    ReadHistory = HistoryRead;
    /// See, create and revoke keys.
    ManageKeys = KeyManage;
}

/// A caller whose key is usable, has the action `A`, and reaches the account in the path, if there is one.
#[derive(Debug)]
pub struct Caller<A> {
    /// The key that was shown.
    pub key: Arc<Key>,
    /// What else is known of the request.
    pub context: Context,
    needs: PhantomData<A>,
}

impl<A> Caller<A> {
    /// The caller, for the audit.
    pub fn actor(&self) -> Actor {
        Actor {
            name: format!("{} ({})", self.key.name, self.key.id),
            request_id: Some(self.context.request_id.to_string()),
        }
    }

    /// The language of hints for this caller.
    pub fn language(&self) -> Language {
        self.context.language
    }

    /// Refuses a key that lacks an action which the route needs on top of its own.
    pub(super) fn check_action(&self, action: Action) -> Result<(), Problem> {
        if self.key.actions.contains(action) { Ok(()) } else { Err(Problem::insufficient_scope(action)) }
    }

    /// Refuses an account that did not stand in the path and that the key does not reach.
    pub(super) fn check_reach(&self, appid: &AppId) -> Result<(), Problem> {
        if self.key.accounts.contains(appid.as_str()) { Ok(()) } else { Err(Problem::out_of_scope()) }
    }
}

impl<A: Needs> FromRequestParts<Arc<Rooms>> for Caller<A> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, rooms: &Arc<Rooms>) -> Result<Self, Problem> {
        let key = authenticate(rooms, &parts.headers, rooms.clock.now())?;
        if !key.actions.contains(A::ACTION) {
            return Err(Problem::insufficient_scope(A::ACTION));
        }
        let appid = path_parameter(parts, rooms, "appid").await?;
        if appid.is_some_and(|appid| !key.accounts.contains(&appid)) {
            return Err(Problem::out_of_scope());
        }
        let context = parts.extensions.get().cloned().unwrap_or_else(|| Context::of(&parts.headers));
        Ok(Self { key, context, needs: PhantomData })
    }
}

/// The usable key in the `Authorization` header.
pub(super) fn authenticate(rooms: &Rooms, headers: &HeaderMap, now: Timestamp) -> Result<Arc<Key>, Problem> {
    match rooms.live.key(&hash_of_key(rooms, headers)?) {
        Some(key) if key.is_usable(now) => Ok(key),
        Some(key) if key.revoked_at.is_some() => Err(refused("this key was revoked; ask an admin for a new one")),
        Some(_) => Err(refused("this key has expired; ask an admin for a new one")),
        None if rooms.live.synced_at() == Timestamp::ZERO => {
            Err(Problem::new(Code::Starting, "this instance has not loaded its keys yet; ask again in a moment")
                .retry_after(std::time::Duration::from_secs(1)))
        }
        None => Err(refused("no such key; ask an admin for one")),
    }
}

/// The hash of the key in the `Authorization` header, by which the view knows it.
pub(super) fn hash_of_key(rooms: &Rooms, headers: &HeaderMap) -> Result<[u8; 32], Problem> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let (Some(credentials), second) = (shown.next(), shown.next()) else {
        return Err(Problem::new(Code::InvalidKey, "send a key as `Authorization: Bearer wxt_…`")
            .challenge("Bearer realm=\"wxtoken\""));
    };
    if second.is_some() {
        return Err(Problem::new(Code::InvalidRequest, "send exactly one Authorization header"));
    }
    let text =
        bearer(credentials.as_bytes()).ok_or_else(|| refused("the header must read `Bearer`, a space, and a key"))?;
    Ok(rooms.store.sealer().hash_key(text))
}

fn refused(detail: &'static str) -> Problem {
    Problem::new(Code::InvalidKey, detail).challenge("Bearer realm=\"wxtoken\", error=\"invalid_token\"")
}

fn bearer(credentials: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(credentials).ok()?;
    let (scheme, key) = text.split_once(' ')?;
    let key = key.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && (1..=LONGEST_KEY).contains(&key.len())).then_some(key)
}

async fn path_parameter(parts: &mut Parts, rooms: &Arc<Rooms>, name: &str) -> Result<Option<String>, Problem> {
    // What cannot be read cannot be checked, so it is not served.
    let parameters = RawPathParams::from_request_parts(parts, rooms).await.map_err(|_| Problem::not_found())?;
    Ok(parameters.iter().find(|(found, _)| *found == name).map(|(_, value)| value.to_owned()))
}

/// The account in the path.
pub(super) struct AccountInPath(pub(super) AppId);

impl FromRequestParts<Arc<Rooms>> for AccountInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, rooms: &Arc<Rooms>) -> Result<Self, Problem> {
        let appid = path_parameter(parts, rooms, "appid").await?.unwrap_or_default();
        AppId::parse(&appid).map(Self).map_err(|_| Problem::unknown_account())
    }
}

/// The token in the path.
pub(super) struct TokenInPath(pub(super) TokenKey);

impl FromRequestParts<Arc<Rooms>> for TokenInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, rooms: &Arc<Rooms>) -> Result<Self, Problem> {
        let AccountInPath(appid) = AccountInPath::from_request_parts(parts, rooms).await?;
        let name = path_parameter(parts, rooms, "token_type").await?.unwrap_or_default();
        let token_type = TokenType::parse(&name)
            .ok_or_else(|| Problem::new(Code::UnknownTokenType, format!("token types are {}", TokenType::NAMES)))?;
        Ok(Self(TokenKey::new(appid, token_type)))
    }
}

/// The identifier in the path.
pub(super) struct IdInPath(pub(super) String);

impl FromRequestParts<Arc<Rooms>> for IdInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, rooms: &Arc<Rooms>) -> Result<Self, Problem> {
        path_parameter(parts, rooms, "id").await.map(|id| Self(id.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_read_in_any_case_and_nothing_else_is_guessed() {
        assert_eq!(bearer(b"Bearer wxt_s_1"), Some("wxt_s_1"));
        assert_eq!(bearer(b"bEARER  wxt_s_1 "), Some("wxt_s_1"));
        for bad in [&b"wxt_s_1"[..], b"Basic wxt_s_1", b"Bearer", b"Bearer ", b"Bearer \xff", b"Bearer\twxt_s_1"] {
            assert_eq!(bearer(bad), None, "{bad:?}");
        }
        assert_eq!(bearer(format!("Bearer {}", "x".repeat(257)).as_bytes()), None);
    }
}
