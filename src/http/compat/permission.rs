//! Who calls, and what a call is changed into before WeChat sees it.
//!
//! A call shows who sends it in exactly one way: an access token of ours, an appid with a virtual secret, or a key in the header `Authorization`
//! with the account in the path. A call that shows nothing of ours is refused, so this is no open proxy. The one exception is `/sns/…`, where
//! WeChat's users have access tokens of their own; they reach nobody but WeChat.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;

use super::Compat;
use super::query::Query;
use super::refusal::Refusal;
use super::tokens::is_reader;
use crate::domain::account::{AppId, TokenType};
use crate::domain::key::{Action, KEY_PREFIX, Key, LONGEST_KEY, Role};
use crate::domain::secret::AppSecret;
use crate::domain::token::TokenKey;
use crate::live::LiveAccount;

/// Calls that show the AppSecret and no access token.
const BY_SECRET: [&str; 3] = ["/sns/jscode2session", "/sns/oauth2/access_token", "/cgi-bin/clear_quota/v2"];
/// The call that renews a user's token: it shows the appid and the renewal token alone.
const RENEWAL: &str = "/sns/oauth2/refresh_token";
/// How many places of a body are looked at for a key of ours.
const MOST_LOOKED_AT: usize = 16;
/// For so long a token that is none of ours may be one that another instance has just fetched: a poll and a little.
const NEWS_DELAY: Duration = Duration::from_millis(1_200);
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// What is put into a call.
pub(super) enum Change {
    /// The access token of an account.
    Token(TokenKey),
    /// The AppSecret of an account, in the query.
    Query(AppId, String, AppSecret),
    /// The AppSecret of an account, in the body.
    Body(AppId, Bytes, AppSecret),
    /// Nothing: a user's own token.
    Nothing,
}

impl Change {
    /// Whose call it is.
    pub(super) fn account(&self) -> Option<&AppId> {
        match self {
            Self::Token(key) => Some(&key.appid),
            Self::Query(appid, ..) | Self::Body(appid, ..) => Some(appid),
            Self::Nothing => None,
        }
    }
}

/// What a call shows before its body is read.
pub(super) struct Shown<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) query: Query<'a>,
    pub(super) path: &'a str,
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
    #[serde(borrow)]
    grant_type: Option<Cow<'a, str>>,
}

impl Compat {
    /// What is put into a call without an account in its path. `None` when what it shows, if anything, stands in its body.
    pub(super) async fn change(&self, shown: &Shown<'_>) -> Result<Option<Change>, Refusal> {
        let query = shown.query;
        let (token, secret) = (query.one("access_token")?, secret_in(query)?);
        if self.has_key_in_header(shown.headers) {
            let hint = "a key in the header Authorization goes with a path /wx/{appid}/… and with no other credential";
            return Err(Refusal::WRONG_PARAMETER.hint(hint));
        }
        match (token, secret) {
            (Some(_), Some(_)) => Err(twice()),
            (Some(token), None) => self.change_of_token(shown, &token).await.map(Some),
            (None, Some((name, secret))) => {
                let key = self.virtual_secret(&secret)?;
                refuse_mint(query.one("grant_type")?.as_deref())?;
                let (appid, real) = self.exchange(&key, query.one("appid")?.as_deref(), shown.path)?;
                Ok(Some(Change::Query(appid, query.with(name, real.expose()), real)))
            }
            (None, None) => self.change_of_renewal(shown),
        }
    }

    async fn change_of_token(&self, shown: &Shown<'_>, token: &str) -> Result<Change, Refusal> {
        if token.starts_with(KEY_PREFIX) {
            let hint = "a key goes with a path /wx/{appid}/… and into the header Authorization";
            return Err(Refusal::UNKNOWN_TOKEN.hint(hint));
        }
        let is_users = is_for_users(shown.path);
        let owner = match self.rooms.live.owner(token) {
            None if !is_users => Box::pin(self.owner(token)).await,
            owner => owner,
        };
        let Some(account) = owner else {
            return if is_users { Ok(Change::Nothing) } else { Err(Refusal::UNKNOWN_TOKEN) };
        };
        let appid = &account.account.appid;
        if !self.someone_may_call(appid, shown.path) {
            return Err(path_denied());
        }
        Ok(Change::Token(TokenKey::new(appid.clone(), TokenType::AccessToken)))
    }

    /// Whose token this is. One that another instance has just fetched is waited for until this one has heard of it.
    pub(super) async fn owner(&self, token: &str) -> Option<Arc<LiveAccount>> {
        let asked_at = self.now();
        loop {
            let has_heard = self.rooms.refresher.policy().alone
                || self.rooms.live.synced_at() > asked_at
                || self.now() > asked_at.plus(NEWS_DELAY);
            let owner = self.rooms.live.owner(token);
            if owner.is_some() || has_heard {
                return owner;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    fn change_of_renewal(&self, shown: &Shown<'_>) -> Result<Option<Change>, Refusal> {
        let query = shown.query;
        if !shown.path.eq_ignore_ascii_case(RENEWAL) || query.one("refresh_token")?.is_none() {
            return Ok(None);
        }
        let known = query.one("appid")?.is_some_and(|appid| self.rooms.live.account(&appid).is_some());
        if known { Ok(Some(Change::Nothing)) } else { Err(Refusal::UNKNOWN_APPID) }
    }

    /// What is put into a call that shows its credentials in its body, if anywhere.
    pub(super) fn change_of_body(&self, shown: &Shown<'_>, body: &Bytes) -> Result<Change, Refusal> {
        let found = in_body(body).ok_or(Refusal::TOKEN_MISSING)?;
        let secret = match (&found.secret, &found.appsecret) {
            (Some(secret), None) | (None, Some(secret)) => secret,
            (Some(_), Some(_)) => return Err(twice()),
            (None, None) => return Err(Refusal::TOKEN_MISSING),
        };
        let key = self.virtual_secret(secret)?;
        refuse_mint(found.grant_type.as_deref())?;
        let (appid, real) = self.exchange(&key, found.appid.as_deref(), shown.path)?;
        let changed = put_in_place(body, secret, &real)?;
        Ok(Change::Body(appid, changed, real))
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
            return Ok(Change::Query(appid, Query(&query).with(name, real.expose()), real));
        }
        if token.as_ref().is_some_and(|token| token.starts_with(KEY_PREFIX)) {
            return Err(twice());
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

    /// Refuses a body with a key of ours beside another credential: it would go to WeChat.
    pub(super) fn check_no_key(&self, body: &[u8]) -> Result<(), Refusal> {
        let is_key_letter = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let places = memmem::find_iter(body, KEY_PREFIX.as_bytes()).take(MOST_LOOKED_AT);
        let mut texts = places.map(|at| {
            let length = body[at..].iter().take(LONGEST_KEY).take_while(|byte| is_key_letter(byte)).count();
            std::str::from_utf8(&body[at..at + length]).unwrap_or_default()
        });
        if texts.any(|text| self.known_key(text).is_some()) { Err(twice()) } else { Ok(()) }
    }

    fn known_key(&self, text: &str) -> Option<Arc<Key>> {
        let fits = (1..=LONGEST_KEY).contains(&text.len());
        fits.then(|| self.rooms.live.key(&self.rooms.store.sealer().hash_key(text))).flatten()
    }

    /// Whether the header `Authorization` holds a key of ours. Anything else in it is none of our business, and goes nowhere either.
    pub(super) fn has_key_in_header(&self, headers: &HeaderMap) -> bool {
        headers.get_all(AUTHORIZATION).iter().any(|value| {
            let text = value.to_str().unwrap_or_default();
            let shown = text.split_once(' ').map_or(text, |(_, key)| key.trim());
            shown.starts_with(KEY_PREFIX) || self.known_key(shown).is_some()
        })
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
        let key = self.known_key(text).filter(|key| key.is_usable(self.now())).ok_or(Refusal::WRONG_SECRET)?;
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
    fn exchange(&self, key: &Key, appid: Option<&str>, path: &str) -> Result<(AppId, AppSecret), Refusal> {
        let appid = self.reached(key, appid.filter(|appid| !appid.is_empty()).ok_or(Refusal::APPID_MISSING)?)?;
        if !key.paths.allow(path) {
            return Err(path_denied());
        }
        let secret = self.app_secret(&appid)?;
        Ok((appid, secret))
    }

    fn app_secret(&self, appid: &AppId) -> Result<AppSecret, Refusal> {
        let account = self.rooms.live.account(appid.as_str()).ok_or(Refusal::UNKNOWN_APPID)?;
        if !account.account.enabled {
            return Err(Refusal::DISABLED.hint("the account is disabled; an admin can enable it"));
        }
        let opened = account.secret.as_ref().map(|sealed| self.rooms.store.open_secret(appid, sealed));
        opened.and_then(Result::ok).ok_or(Refusal::BUSY.hint("the stored AppSecret does not open; enter it again"))
    }

    /// Whether any holder of the account's token may call `path`: the token does not say who holds it. Where some key's rules are the only ones
    /// that there are, they count also when that key is not usable any more.
    pub(super) fn someone_may_call(&self, appid: &AppId, path: &str) -> bool {
        let (live, now) = (&self.rooms.live, self.now());
        let is_limited = |key: &Key| !key.paths.are_empty() && key.accounts.contains(appid.as_str());
        !live.limits_paths()
            || live.any_key(|key| is_reader(key, appid, now) && key.paths.allow(path))
            || !live.any_key(is_limited)
    }
}

fn twice() -> Refusal {
    Refusal::WRONG_PARAMETER.hint("there are credentials in two places; send one")
}

pub(super) fn path_denied() -> Refusal {
    Refusal::NOT_ALLOWED.hint("the key's rules do not allow this path")
}

fn action_missing() -> Refusal {
    Refusal::NOT_ALLOWED.hint("this call needs a key that has the action token:read")
}

/// Whether WeChat's users show access tokens of their own there.
fn is_for_users(path: &str) -> bool {
    path.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("/sns/"))
}

/// With the real secret this would mint, whatever the path is.
fn refuse_mint(grant_type: Option<&str>) -> Result<(), Refusal> {
    if grant_type.is_some_and(|word| word.eq_ignore_ascii_case("client_credential")) {
        return Err(Refusal::WRONG_URL.hint("tokens are asked for at /cgi-bin/token and /cgi-bin/stable_token"));
    }
    Ok(())
}

fn secret_in(query: Query<'_>) -> Result<Option<(&'static str, Cow<'_, str>)>, Refusal> {
    match (query.one("secret")?, query.one("appsecret")?) {
        (Some(_), Some(_)) => Err(twice()),
        (Some(secret), None) => Ok(Some(("secret", secret))),
        (None, Some(secret)) => Ok(Some(("appsecret", secret))),
        (None, None) => Ok(None),
    }
}

/// The credentials in a body, if it is an object.
fn in_body(body: &[u8]) -> Option<InBody<'_>> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if body.trim_ascii_start().starts_with(b"{") { serde_json::from_slice(body).ok() } else { None }
}

const ONCE: &str = "write the key once, and without escapes";

/// The body with the AppSecret in the place of the key, and every other byte as it was.
fn put_in_place(body: &Bytes, key: &str, real: &AppSecret) -> Result<Bytes, Refusal> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let (key, quoted_real) = (quoted(key), quoted(real.expose()));
    let mut places = memmem::find_iter(body, key.as_bytes());
    let (Some(at), None) = (places.next(), places.next()) else {
        return Err(Refusal::WRONG_FORMAT.hint(ONCE));
    };
    let changed = Bytes::from([&body[..at], quoted_real.as_bytes(), &body[at + key.len()..]].concat());
    let found = in_body(&changed).and_then(|found| found.secret.or(found.appsecret).map(Cow::into_owned));
    // The text may have stood somewhere else, and escaped where it counts.
    if found.as_deref() == Some(real.expose()) { Ok(changed) } else { Err(Refusal::WRONG_FORMAT.hint(ONCE)) }
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
        assert!(put(r#"{"secret":"\u0077xt_s_1","note":"wxt_s_1"}"#).is_err());
    }

    #[test]
    fn the_paths_of_users_are_known() {
        assert!(is_for_users("/sns/userinfo") && is_for_users("/SNS/auth"));
        assert!(!is_for_users("/sn") && !is_for_users("/snsx/a") && !is_for_users("/cgi-bin/sns/x"));
    }
}
