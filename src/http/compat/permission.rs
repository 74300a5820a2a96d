//! Who calls, and what a call is changed into before WeChat sees it.
//!
//! A call shows who sends it in exactly one way: an access token of ours, an appid with a virtual secret, or a key in the header `Authorization`
//! with the account in the path. A call that shows nothing of ours is refused, so this is no open proxy. The one exception is `/sns/…`, where
//! WeChat's users have access tokens of their own; they reach nobody but WeChat.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;

use super::Compat;
use super::query::Query;
use super::refusal::Refusal;
use crate::domain::account::{AppId, TokenType};
use crate::domain::key::{Action, KEY_PREFIX, Key, LONGEST_KEY, Role};
use crate::domain::secret::AppSecret;
use crate::domain::token::TokenKey;

/// Calls that show the AppSecret and no access token.
const BY_SECRET: [&str; 3] = ["/sns/jscode2session", "/sns/oauth2/access_token", "/cgi-bin/clear_quota/v2"];
/// The longest body in which a secret is looked for, in bytes.
const LONGEST_WITH_SECRET: usize = 64 * 1024;

/// What is put into a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The access token of an account.
    Token(TokenKey),
    /// This query, with the AppSecret in it.
    Query(String),
    /// This body, with the AppSecret in it.
    Body(Bytes),
    /// Nothing: a user's own token.
    Nothing,
}

/// A call as far as its sender is concerned.
pub(super) struct Shown<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) query: Query<'a>,
    pub(super) path: &'a str,
    /// All of the body, if it was kept.
    pub(super) body: Option<&'a Bytes>,
}

/// The credentials in a JSON body. Other fields are none of our business.
#[derive(Deserialize)]
struct InBody<'a> {
    #[serde(borrow)]
    appid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    secret: Option<Cow<'a, str>>,
    #[serde(borrow)]
    appsecret: Option<Cow<'a, str>>,
}

impl Compat {
    /// What is put into a call without an account in its path.
    pub(super) fn change(&self, shown: &Shown<'_>) -> Result<Change, Refusal> {
        let query = shown.query;
        let (token, secret) = (query.one("access_token")?, secret_in(query)?);
        if has_key_in_header(shown.headers) {
            let hint = "a key in the header Authorization goes with a path /wx/{appid}/… and with no other credential";
            return Err(Refusal::WRONG_PARAMETER.hint(hint));
        }
        match (token, secret) {
            (Some(_), Some(_)) => Err(twice()),
            (Some(token), None) => {
                check_no_secret(shown)?;
                self.change_of_token(shown, &token)
            }
            (None, Some((name, secret))) => {
                check_no_secret(shown)?;
                let key = self.virtual_secret(&secret)?;
                let real = self.exchange(&key, query.one("appid")?.as_deref(), shown.path)?;
                Ok(Change::Query(query.with(name, real.expose())))
            }
            (None, None) => self.change_of_body(shown),
        }
    }

    fn change_of_token(&self, shown: &Shown<'_>, token: &str) -> Result<Change, Refusal> {
        let Some(account) = self.rooms.live.owner(token) else {
            return if is_for_users(shown.path) { Ok(Change::Nothing) } else { Err(Refusal::UNKNOWN_TOKEN) };
        };
        let appid = &account.account.appid;
        if !self.someone_may_call(appid, shown.path) {
            return Err(path_denied());
        }
        Ok(Change::Token(TokenKey::new(appid.clone(), TokenType::AccessToken)))
    }

    fn change_of_body(&self, shown: &Shown<'_>) -> Result<Change, Refusal> {
        let Some((body, found)) = in_body(shown) else {
            let known = shown.query.one("appid")?.filter(|appid| self.rooms.live.account(appid).is_some());
            // `refresh_token` of a user's token shows the appid and that.
            let is_renewal = is_for_users(shown.path) && known.is_some();
            return if is_renewal { Ok(Change::Nothing) } else { Err(Refusal::TOKEN_MISSING) };
        };
        let secret = match (&found.secret, &found.appsecret) {
            (Some(secret), None) | (None, Some(secret)) => secret,
            (Some(_), Some(_)) => return Err(twice()),
            (None, None) => return Err(Refusal::TOKEN_MISSING),
        };
        let key = self.virtual_secret(secret)?;
        let real = self.exchange(&key, found.appid.as_deref(), shown.path)?;
        put_in_place(body, secret, &real).map(Change::Body)
    }

    /// What is put into a call to an account's own path.
    pub(super) fn change_of_account(&self, shown: &Shown<'_>, appid: &str) -> Result<Change, Refusal> {
        let key = self.bearer(shown.headers)?;
        let appid = self.reached(&key, appid)?;
        if !key.paths.allow(shown.path) {
            return Err(path_denied());
        }
        if secret_in(shown.query)?.is_some() {
            return Err(twice());
        }
        let token = shown.query.one("access_token")?;
        if token.is_none() && BY_SECRET.iter().any(|path| path.eq_ignore_ascii_case(shown.path)) {
            let name = if is_for_users(shown.path) { "secret" } else { "appsecret" };
            let query = shown.query.with("appid", appid.as_str());
            let real = self.app_secret(&appid)?;
            return Ok(Change::Query(Query(&query).with(name, real.expose())));
        }
        if is_for_users(shown.path) {
            return Ok(Change::Nothing);
        }
        let is_ours = |token: &str| self.rooms.live.owner(token).is_some_and(|owner| owner.account.appid == appid);
        if token.is_some_and(|token| !is_ours(&token)) {
            return Err(Refusal::UNKNOWN_TOKEN.hint("leave access_token out; it is put in"));
        }
        Ok(Change::Token(TokenKey::new(appid, TokenType::AccessToken)))
    }

    /// The key in the header `Authorization`.
    pub(super) fn bearer(&self, headers: &HeaderMap) -> Result<Arc<Key>, Refusal> {
        let key = crate::http::caller::authenticate(&self.rooms, headers, self.now()).map_err(|problem| {
            let refusal =
                if headers.contains_key(AUTHORIZATION) { Refusal::UNKNOWN_TOKEN } else { Refusal::TOKEN_MISSING };
            refusal.hint(problem.detail().to_owned())
        })?;
        if key.actions.contains(Action::TokenRead) { Ok(key) } else { Err(action_missing()) }
    }

    /// The usable service key that was shown in place of an AppSecret.
    pub(super) fn virtual_secret(&self, text: &str) -> Result<Arc<Key>, Refusal> {
        let fits = (1..=LONGEST_KEY).contains(&text.len());
        let found = fits.then(|| self.rooms.live.key(&self.rooms.store.sealer().hash_key(text))).flatten();
        let key = found.filter(|key| key.is_usable(self.now())).ok_or(Refusal::WRONG_SECRET)?;
        if key.role == Role::Admin {
            return Err(Refusal::WRONG_SECRET.hint("admin keys are refused here; create a service key"));
        }
        if key.actions.contains(Action::TokenRead) { Ok(key) } else { Err(action_missing()) }
    }

    /// The account, if it is registered and the key reaches it. One and the other are the same to the caller.
    pub(super) fn reached(&self, key: &Key, appid: &str) -> Result<AppId, Refusal> {
        let known = self.rooms.live.account(appid).filter(|_| key.accounts.contains(appid));
        known.map(|account| account.account.appid.clone()).ok_or(Refusal::UNKNOWN_APPID)
    }

    /// The AppSecret for a virtual one.
    fn exchange(&self, key: &Key, appid: Option<&str>, path: &str) -> Result<AppSecret, Refusal> {
        let appid = self.reached(key, appid.filter(|appid| !appid.is_empty()).ok_or(Refusal::APPID_MISSING)?)?;
        if key.paths.allow(path) { self.app_secret(&appid) } else { Err(path_denied()) }
    }

    fn app_secret(&self, appid: &AppId) -> Result<AppSecret, Refusal> {
        let account = self.rooms.live.account(appid.as_str()).ok_or(Refusal::UNKNOWN_APPID)?;
        if !account.account.enabled {
            return Err(Refusal::DISABLED.hint("the account is disabled; an admin can enable it"));
        }
        let opened = account.secret.as_ref().map(|sealed| self.rooms.store.open_secret(appid, sealed));
        opened.and_then(Result::ok).ok_or(Refusal::BUSY.hint("the stored AppSecret does not open; enter it again"))
    }

    /// Whether any holder of the account's token may call `path`: the token does not say who holds it.
    fn someone_may_call(&self, appid: &AppId, path: &str) -> bool {
        if !self.rooms.live.limits_paths() {
            return true;
        }
        let readers = self.rooms.live.readers(appid.as_str(), self.now());
        readers.is_empty() || readers.iter().any(|key| key.paths.allow(path))
    }
}

fn twice() -> Refusal {
    Refusal::WRONG_PARAMETER.hint("there are credentials in two places; send one")
}

fn path_denied() -> Refusal {
    Refusal::NOT_ALLOWED.hint("the key's rules do not allow this path")
}

fn action_missing() -> Refusal {
    Refusal::NOT_ALLOWED.hint("this call needs a key that has the action token:read")
}

/// Whether WeChat's users show access tokens of their own there.
fn is_for_users(path: &str) -> bool {
    path.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("/sns/"))
}

/// Whether the header `Authorization` holds a key of ours. Anything else in it is none of our business.
pub(super) fn has_key_in_header(headers: &HeaderMap) -> bool {
    let is_key = |text: &[u8]| memmem::find(text, KEY_PREFIX.as_bytes()).is_some();
    headers.get_all(AUTHORIZATION).iter().any(|value| is_key(value.as_bytes()))
}

fn secret_in(query: Query<'_>) -> Result<Option<(&'static str, Cow<'_, str>)>, Refusal> {
    match (query.one("secret")?, query.one("appsecret")?) {
        (Some(_), Some(_)) => Err(twice()),
        (Some(secret), None) => Ok(Some(("secret", secret))),
        (None, Some(secret)) => Ok(Some(("appsecret", secret))),
        (None, None) => Ok(None),
    }
}

/// The body and the credentials in it, if it is an object.
fn in_body<'a>(shown: &Shown<'a>) -> Option<(&'a Bytes, InBody<'a>)> {
    let body = shown.body.filter(|body| body.len() <= LONGEST_WITH_SECRET)?;
    if !body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    Some((body, serde_json::from_slice(body).ok()?))
}

/// A key of ours beside another credential would go to WeChat.
fn check_no_secret(shown: &Shown<'_>) -> Result<(), Refusal> {
    let may_have = shown.body.is_some_and(|body| memmem::find(body, KEY_PREFIX.as_bytes()).is_some());
    let has = may_have && in_body(shown).is_some_and(|(_, found)| found.secret.or(found.appsecret).is_some());
    if has { Err(twice()) } else { Ok(()) }
}

/// The body with the AppSecret in the place of the key, and every other byte as it was.
fn put_in_place(body: &Bytes, key: &str, real: &AppSecret) -> Result<Bytes, Refusal> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let (key, real) = (quoted(key), quoted(real.expose()));
    let mut places = memmem::find_iter(body, key.as_bytes());
    let (Some(at), None) = (places.next(), places.next()) else {
        return Err(Refusal::WRONG_FORMAT.hint("write the key once, and without escapes"));
    };
    Ok([&body[..at], real.as_bytes(), &body[at + key.len()..]].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_is_replaced_in_a_body() {
        let real = AppSecret::parse("re\"al").unwrap();
        let put = |body: &'static str| put_in_place(&Bytes::from_static(body.as_bytes()), "wxt_s_1", &real);
        let changed = put(r#"{ "n": 1.10, "appsecret" : "wxt_s_1", "x":"wxt_s_12"}"#).unwrap();
        assert_eq!(changed, r#"{ "n": 1.10, "appsecret" : "re\"al", "x":"wxt_s_12"}"#);
        assert!(put(r#"{"secret":"wxt_s_1","copy":"wxt_s_1"}"#).is_err());
        assert!(put(r#"{"secret":"\u0077xt_s_1"}"#).is_err());
    }

    #[test]
    fn the_paths_of_users_are_known() {
        assert!(is_for_users("/sns/userinfo") && is_for_users("/SNS/auth"));
        assert!(!is_for_users("/sn") && !is_for_users("/snsx/a") && !is_for_users("/cgi-bin/sns/x"));
    }
}
