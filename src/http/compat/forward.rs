//! Passing a call on to WeChat: changed where it shows a credential of ours, made again where its token turns out to be dead.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use bytes::Bytes;
use http_body::Body as HttpBody;
use memchr::memmem;

use super::Compat;
use super::bodies::{Gathered, Seen, gather, look_into, read_small, too_large};
use super::hints::{Hint, Source};
use super::permission::{Change, Shown};
use super::query::Query;
use super::refusal::Refusal;
use super::seats::Seat;
use crate::domain::secret::AppSecret;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{TokenKey, Value};
use crate::http::body::discard;
use crate::http::hot::AnswerBody;
use crate::live::LiveToken;
use crate::wechat::CallError;
use crate::wechat::forward::{Answer, Call, Payload};

/// The version of the token that the call was made with.
const VERSION: HeaderName = HeaderName::from_static("x-wxtoken-version");
/// `true` when WeChat refused the token first and the call was made again with another one.
const RETRIED: HeaderName = HeaderName::from_static("x-wxtoken-retried");

/// WeChat's codes for a token that is no good: superseded, malformed or unknown, expired.
const REFUSED_TOKEN: [i64; 3] = [40_001, 40_014, 42_001];
/// The methods that WeChat's calls have, and browsers' question before one.
const FORWARDED: [Method; 7] =
    [Method::GET, Method::POST, Method::HEAD, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
/// Headers that are about one connection (RFC 9110, 7.6.1), besides those that `Connection` names.
const OF_ONE_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

impl Compat {
    /// Passes a call to `path` on to WeChat; `account` is the one in the path, if one was.
    pub(super) async fn forward<B>(
        self: &Arc<Self>,
        head: Parts,
        body: B,
        path: &str,
        query: Query<'_>,
        account: Option<&str>,
    ) -> Result<Response<AnswerBody>, Refusal>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        if !FORWARDED.contains(&head.method) {
            return Err(Refusal::WRONG_PARAMETER.hint("this method is not forwarded"));
        }
        let shown = Shown { headers: &head.headers, query, path };
        let Judged { change, gathered, seat } = self.judge(&shown, account, body).await?;
        let draft = Draft { method: head.method, path, query: Cow::Borrowed(query.0), headers: outgoing(head.headers) };
        match change {
            Change::Token(key) => self.call_with_token(draft, gathered, key, seat).await,
            Change::Query(_, query, secret) => {
                self.call_once(Draft { query: Cow::Owned(query), ..draft }, gathered, seat, Some(&secret)).await
            }
            Change::Body(_, changed, secret) => {
                self.call_once(draft, Gathered::<B>::Whole(changed), seat, Some(&secret)).await
            }
            Change::Nothing => self.call_once(draft, gathered, seat, None).await,
        }
    }

    /// Who calls and whether they may, before a seat is taken or more of the body is kept than credentials take.
    async fn judge<B>(&self, shown: &Shown<'_>, account: Option<&str>, mut body: B) -> Result<Judged<B>, Refusal>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let judged = match account {
            Some(appid) => self.change_of_account(shown, appid).map(Some),
            None => self.change(shown).await,
        };
        match judged {
            Ok(Some(change)) => {
                let seat = self.seats.take(change.account())?;
                let gathered = gather(body, self.limits).await?;
                gathered.whole().map_or(Ok(()), |whole| self.check_no_key(whole))?;
                Ok(Judged { change, gathered, seat })
            }
            Ok(None) => {
                let whole = Box::pin(read_small(body, Refusal::TOKEN_MISSING)).await?;
                let change = self.change_of_body(shown, &whole)?;
                let seat = self.seats.take(change.account())?;
                Ok(Judged { change, gathered: Gathered::Whole(Bytes::new()), seat })
            }
            Err(refusal) => {
                Box::pin(discard(&mut body)).await;
                Err(refusal)
            }
        }
    }

    /// A call in which no token of ours has a part. No header of the answer repeats the secret that it was made with.
    async fn call_once<B>(
        &self,
        draft: Draft<'_>,
        gathered: Gathered<B>,
        seat: Seat,
        secret: Option<&AppSecret>,
    ) -> Result<Response<AnswerBody>, Refusal>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let answer = self.send(&draft.into_call(None)?, gathered).await?;
        let mut response = incoming(Seen::unread(answer).into_response(seat), false);
        if let Some(secret) = secret {
            let repeats = |value: &HeaderValue| memmem::find(value.as_bytes(), secret.expose().as_bytes()).is_some();
            let names: Vec<_> =
                response.headers().iter().filter(|(_, value)| repeats(value)).map(|(name, _)| name.clone()).collect();
            for name in names {
                response.headers_mut().remove(name);
            }
        }
        Ok(response)
    }

    async fn send<B>(&self, call: &Call, gathered: Gathered<B>) -> Result<Response<Answer>, Refusal>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let upload = match gathered {
            Gathered::Whole(bytes) => {
                return Ok(self.rooms.forwarder.send(call, Payload::<Body>::Whole(bytes)).await?);
            }
            Gathered::Begun(upload) => upload,
        };
        let excess = upload.excess();
        let sent = Box::pin(self.rooms.forwarder.send(call, Payload::Streamed(upload))).await;
        sent.map_err(
            |error| {
                if excess.load(Ordering::Relaxed) { too_large(self.limits.largest) } else { Refusal::from(error) }
            },
        )
    }

    /// A call with an account's token. If WeChat refuses the token it is looked into, and where that brings another one the call is made once
    /// more, if its body was kept; else the next call has the new token.
    async fn call_with_token<B>(
        self: &Arc<Self>,
        draft: Draft<'_>,
        gathered: Gathered<B>,
        key: TokenKey,
        seat: Seat,
    ) -> Result<Response<AnswerBody>, Refusal>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let live = self.token_now(&key).await?;
        let mut call = draft.into_call(live.token.value.as_ref())?;
        let kept = gathered.whole().cloned();
        let seen = look_into(self.send(&call, gathered).await?).await?;
        let version = live.token.version;
        if !seen.errcode.is_some_and(|errcode| REFUSED_TOKEN.contains(&errcode)) {
            return Ok(marked(seen.into_response(seat), version, false));
        }
        let source = self.hints.path(call.target.path());
        let refused = Refused { key, live, source, seen_at: self.now() };
        match kept {
            Some(bytes) if Box::pin(self.has_another(&refused)).await => {
                let live = self.token_now(&refused.key).await?;
                put_in(&mut call.target, live.token.value.as_ref())?;
                let answer = Box::pin(self.rooms.forwarder.send(&call, Payload::<Body>::Whole(bytes))).await?;
                Ok(marked(Seen::unread(answer).into_response(seat), live.token.version, true))
            }
            Some(_) => Ok(marked(seen.into_response(seat), version, false)),
            None => {
                let compat = Arc::clone(self);
                tokio::spawn(async move { compat.has_another(&refused).await });
                Ok(marked(seen.into_response(seat), version, false))
            }
        }
    }

    /// A valid token of the account.
    async fn token_now(&self, key: &TokenKey) -> Result<Arc<LiveToken>, Refusal> {
        let held = self.rooms.refresher.held(key)?;
        if held.servable(self.now()).is_some() {
            return Ok(held);
        }
        // Boxed like whatever else is seldom needed: what a call's future has room for is moved with it each time.
        let live = Box::pin(self.rooms.refresher.obtain(key, Duration::ZERO)).await?;
        let is_valid = live.token.valid(self.now()).is_some();
        is_valid.then_some(live).ok_or(Refusal::BUSY.hint("the token has just ended; ask again"))
    }

    /// Whether there is another value now than the one that WeChat refused.
    async fn has_another(&self, refused: &Refused) -> bool {
        let Some(value) = &refused.live.token.value else {
            return false;
        };
        let Refused { key, source, seen_at, .. } = refused;
        let is_another = |live: &LiveToken| live.token.value.as_ref().is_some_and(|now| now.text != value.text);
        // It may have been replaced while the call was under way, here or by another instance: then there is nothing to ask.
        if self.rooms.refresher.held(key).is_ok_and(|held| is_another(&held)) {
            return true;
        }
        let hint = Hint { key, value: &value.text, source: *source, seen_at: *seen_at };
        let report = self.hints.follow_up(&self.rooms, hint).await;
        report.is_some_and(|report| is_another(&report.token))
    }
}

/// A call that may be made.
struct Judged<B> {
    change: Change,
    gathered: Gathered<B>,
    seat: Seat,
}

/// A call before it is known what is put into it.
struct Draft<'a> {
    method: Method,
    path: &'a str,
    query: Cow<'a, str>,
    headers: HeaderMap,
}

impl Draft<'_> {
    /// The call, with this value for its access token if there is one.
    fn into_call(self, value: Option<&Value>) -> Result<Call, Refusal> {
        let target = target(self.path, &self.query, value)?;
        Ok(Call { method: self.method, target, headers: self.headers })
    }
}

/// Puts another access token into a call.
fn put_in(present: &mut PathAndQuery, value: Option<&Value>) -> Result<(), Refusal> {
    *present = target(present.path(), present.query().unwrap_or_default(), value)?;
    Ok(())
}

fn target(path: &str, query: &str, value: Option<&Value>) -> Result<PathAndQuery, Refusal> {
    let mut target = String::with_capacity(path.len() + query.len() + 256);
    target.push_str(path);
    if let Some(value) = value {
        target.push('?');
        Query(query).write_with(&mut target, "access_token", value.text.expose());
    } else if !query.is_empty() {
        target.push('?');
        target.push_str(query);
    }
    PathAndQuery::from_maybe_shared(Bytes::from(target)).map_err(|_| Refusal::WRONG_URL)
}

/// A token that WeChat refused in a call.
struct Refused {
    key: TokenKey,
    live: Arc<LiveToken>,
    source: Source,
    seen_at: Timestamp,
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        Self::BUSY.hint(format!("the call to WeChat failed: {error}"))
    }
}

/// The headers that WeChat is to see: all but those of the connection, those that are set anew, and credentials. The answer must not be
/// compressed, or nobody could look into it.
fn outgoing(mut headers: HeaderMap) -> HeaderMap {
    remove_those_of_the_connection(&mut headers);
    // WeChat asks for no `Authorization`; whatever is in it was meant for us.
    for name in [HOST, CONTENT_LENGTH, EXPECT, AUTHORIZATION] {
        headers.remove(name);
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

fn incoming(mut response: Response<AnswerBody>, is_retried: bool) -> Response<AnswerBody> {
    let headers = response.headers_mut();
    remove_those_of_the_connection(headers);
    headers.insert(RETRIED, HeaderValue::from_static(if is_retried { "true" } else { "false" }));
    response
}

fn marked(response: Response<AnswerBody>, version: i64, is_retried: bool) -> Response<AnswerBody> {
    let mut response = incoming(response, is_retried);
    response.headers_mut().insert(VERSION, HeaderValue::from(version));
    response
}

fn remove_those_of_the_connection(headers: &mut HeaderMap) {
    // Most have none of them, and looking is cheaper than removing.
    if !headers.keys().any(|name| OF_ONE_CONNECTION.contains(name)) {
        return;
    }
    let lists: Vec<_> = headers.get_all(CONNECTION).iter().cloned().collect();
    let named = lists.iter().filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(','));
    named.for_each(|name| drop(headers.remove(name.trim())));
    for name in OF_ONE_CONNECTION {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_go_on_but_for_those_of_the_connection_and_our_keys() {
        let given = [
            ("host", "wxtoken.internal"),
            ("content-length", "5"),
            ("connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("expect", "100-continue"),
            ("authorization", "Bearer wxt_s_1"),
            ("accept-encoding", "gzip"),
            ("user-agent", "SDK/1"),
            ("content-type", "application/json"),
            ("x-custom", "1"),
            ("x-custom", "2"),
        ];
        let named = |(name, value): (&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let sent = outgoing(given.into_iter().map(named).collect());
        let mut names: Vec<_> =
            sent.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        names.sort();
        let kept = [
            "accept-encoding: identity",
            "content-type: application/json",
            "user-agent: SDK/1",
            "x-custom: 1",
            "x-custom: 2",
        ];
        assert_eq!(names, kept);
    }
}
