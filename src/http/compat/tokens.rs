//! `/cgi-bin/token`, `/cgi-bin/stable_token` and `/cgi-bin/ticket/getticket`, answered from the live view in WeChat's shapes.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::hints::Hint;
use super::query::Query;
use super::refusal::Refusal;
use super::{CONTENT_TYPE_OF_WECHAT, Compat};
use crate::domain::account::{AppId, TokenType};
use crate::domain::key::{Action, Key, Role};
use crate::domain::sdk::{Asked, Sdk, told_to};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::TokenKey;
use crate::http::hot::AnswerBody;
use crate::live::LiveToken;

/// A client that asks now is to have something of its answer; where a new value can be had, less than this is not handed out.
const LEAST_LEFT: Duration = Duration::from_mins(2);
const GRANT_TYPE: &str = "client_credential";

/// What a client says when it asks for a token.
#[derive(Debug, Deserialize)]
pub(super) struct Credentials<'a> {
    #[serde(borrow)]
    grant_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    appid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    secret: Option<Cow<'a, str>>,
    force_refresh: Option<Value>,
}

impl<'a> Credentials<'a> {
    /// From the query of `GET /cgi-bin/token`.
    pub(super) fn in_query(query: Query<'a>) -> Result<Self, Refusal> {
        Ok(Self {
            grant_type: query.one("grant_type")?,
            appid: query.one("appid")?,
            secret: query.one("secret")?,
            force_refresh: None,
        })
    }

    /// From the body of `POST /cgi-bin/stable_token`, which is a JSON object or wrong.
    pub(super) fn in_body(body: &'a [u8], query: Query<'_>) -> Result<Self, Refusal> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
        let elsewhere = ["secret", "access_token"].map(|name| query.one(name));
        if elsewhere.iter().any(|found| !matches!(found, Ok(None))) && !body.is_empty() {
            return Err(Refusal::WRONG_PARAMETER.hint("send appid and secret in the JSON body alone"));
        }
        match body.first() {
            Some(b'{') => serde_json::from_slice(body).map_err(|_| Refusal::WRONG_FORMAT),
            // WeChat looks for the fields in a JSON body only; in a form or in the query they are missing.
            None if query.one("appid")?.is_some() => Err(Refusal::APPID_MISSING.hint("send a JSON body")),
            None => Err(Refusal::EMPTY_BODY),
            Some(b'[') => Err(Refusal::WRONG_FORMAT),
            Some(_) if body.contains(&b'=') => Err(Refusal::APPID_MISSING.hint("send a JSON body, not a form")),
            Some(_) => Err(Refusal::WRONG_FORMAT),
        }
    }

    /// Whether the client wants a new token whatever the present one is worth. It counts as a report that the present one was refused.
    fn is_forced(&self) -> bool {
        matches!(self.force_refresh, Some(Value::Bool(true)))
    }
}

impl Compat {
    /// Answers who shows an appid and a virtual secret with the account's access token.
    pub(super) async fn token(&self, asked: Asked, shown: &Credentials<'_>) -> Result<Response<AnswerBody>, Refusal> {
        let given = |field: &Option<Cow<'_, str>>, missing| {
            field.as_deref().filter(|text| !text.is_empty()).map(str::to_owned).ok_or(missing)
        };
        if shown.grant_type.as_deref() != Some(GRANT_TYPE) {
            return Err(Refusal::WRONG_GRANT_TYPE.hint("grant_type is client_credential"));
        }
        let appid = given(&shown.appid, Refusal::APPID_MISSING)?;
        let secret = given(&shown.secret, Refusal::SECRET_MISSING)?;
        let key = self.virtual_secret(&secret)?;
        let appid = self.reached(&key, &appid)?;
        self.token_for(asked, &key, appid, shown.is_forced()).await
    }

    /// Answers the holder of `key` with the access token of `appid`.
    pub(super) async fn token_for(
        &self,
        asked: Asked,
        key: &Key,
        appid: AppId,
        is_forced: bool,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let token_key = TokenKey::new(appid, TokenType::AccessToken);
        let asked_at = self.now();
        let mut live = self.rooms.refresher.obtain(&token_key, LEAST_LEFT).await?;
        let is_hint = is_forced || self.hints.is_asked_again(key, &live.token, asked_at);
        if is_hint
            && key.actions.contains(Action::TokenReport)
            && let Some(value) = &live.token.value
        {
            let source = self.hints.ask(key);
            let hint = Hint { key: &token_key, value: &value.text, source, seen_at: asked_at };
            live = match self.hints.follow_up(&self.rooms, hint).await {
                Some(report) => report.token,
                // It may have been found dead, and nothing put in its place.
                None => self.rooms.refresher.obtain(&token_key, Duration::ZERO).await?,
            };
        }
        let now = self.now();
        let (text, seconds) = tell(&live, key.sdk, asked, now)?;
        self.hints.note_answer(key, &live.token, seconds, now);
        Ok(answer(&json!({ "access_token": text, "expires_in": seconds })))
    }

    /// Answers who shows an access token of ours with a ticket of the same account; `None` when the account does not keep it.
    pub(super) async fn ticket_for(
        &self,
        appid: AppId,
        ticket_type: &str,
        sdk: Option<Sdk>,
    ) -> Result<Option<Response<AnswerBody>>, Refusal> {
        let wanted = |kind: &TokenType| kind.ticket_type() == Some(ticket_type);
        let token_type = TokenType::ALL.into_iter().find(wanted).ok_or(Refusal::WRONG_ARGUMENTS)?;
        let key = TokenKey::new(appid, token_type);
        if self.rooms.live.account(key.appid.as_str()).is_some_and(|account| account.token(token_type).is_none()) {
            tracing::info!("a client asks for the {key}, which is not kept; add it to the account's token_types");
            return Ok(None);
        }
        let live = self.rooms.refresher.obtain(&key, LEAST_LEFT).await?;
        let (text, seconds) = tell(&live, sdk, Asked::Ticket, self.now())?;
        Ok(Some(answer(&json!({ "errcode": 0, "errmsg": "ok", "ticket": text, "expires_in": seconds }))))
    }

    /// The profile for a request that shows no key: the one that all keys have which can read the account's tokens.
    pub(super) fn common_sdk(&self, appid: &AppId) -> Option<Sdk> {
        let (now, mut first) = (self.now(), None);
        let differs =
            self.rooms.live.any_key(|key| is_reader(key, appid, now) && *first.get_or_insert(key.sdk) != key.sdk);
        first.flatten().filter(|_| !differs)
    }
}

/// Whether a service shows this key to read tokens of the account.
pub(super) fn is_reader(key: &Key, appid: &AppId, now: Timestamp) -> bool {
    key.role == Role::Service && key.is_usable(now) && key.allows(Action::TokenRead, appid.as_str())
}

/// A value and the seconds that a client is told.
fn tell(live: &Arc<LiveToken>, sdk: Option<Sdk>, asked: Asked, now: Timestamp) -> Result<(&str, u64), Refusal> {
    let value = live.token.valid(now).ok_or(Refusal::BUSY.hint("the token has just ended; ask again"))?;
    Ok((value.text.expose(), told_to(sdk, asked, value.life, live.token.refresh_at, now)))
}

fn answer(body: &Value) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::from(Bytes::from(body.to_string())));
    response.headers_mut().insert(CONTENT_TYPE, CONTENT_TYPE_OF_WECHAT);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str, query: &str) -> Refusal {
        Credentials::in_body(body.as_bytes(), Query(query)).expect_err("it is refused")
    }

    #[test]
    fn the_body_of_the_stable_endpoint_is_an_object() {
        for body in ["{}", "\u{feff}{}", " {\"appid\":\"wx1\",\"more\":[1]} "] {
            assert!(Credentials::in_body(body.as_bytes(), Query("")).is_ok(), "{body}");
        }
        let escaped = Credentials::in_body(br#"{"appid":"\u0077x1"}"#, Query("")).unwrap();
        assert_eq!(escaped.appid.as_deref(), Some("wx1"));
        for (body, query, expected) in [
            ("", "", Refusal::EMPTY_BODY),
            ("[]", "", Refusal::WRONG_FORMAT),
            ("{\"appid\":", "", Refusal::WRONG_FORMAT),
            ("{\"appid\":1}", "", Refusal::WRONG_FORMAT),
            ("{\"appid\":\"a\",\"appid\":\"b\"}", "", Refusal::WRONG_FORMAT),
            ("nonsense", "", Refusal::WRONG_FORMAT),
        ] {
            assert_eq!(refused(body, query), expected, "{body}");
        }
        for (body, query, expected) in [
            ("", "appid=wx1", Refusal::APPID_MISSING),
            ("grant_type=client_credential&appid=wx1", "", Refusal::APPID_MISSING),
            ("{}", "secret=x", Refusal::WRONG_PARAMETER),
            ("{}", "access_token=x", Refusal::WRONG_PARAMETER),
        ] {
            assert_eq!(refused(body, query).hint(""), expected, "{body} {query}");
        }
    }

    #[test]
    fn only_the_word_true_forces() {
        let forced = |body: &str| Credentials::in_body(body.as_bytes(), Query("")).unwrap().is_forced();
        assert!(forced(r#"{"force_refresh":true}"#));
        for body in [r#"{"force_refresh":"true"}"#, r#"{"force_refresh":1}"#, r#"{"force_refresh":null}"#, "{}"] {
            assert!(!forced(body), "{body}");
        }
    }
}
