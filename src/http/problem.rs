//! Every error that a caller can see, as `application/problem+json` (RFC 9457).
//!
//! A [`Problem`] travels inside the response until [`super::context`] renders it, because only there the request's identifier and language
//! are at hand. Its cause is logged there, once, and never sent.

mod code;
mod reasons;

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

pub use code::Code;

use super::context::Context;
use crate::domain::key::Action;
use crate::domain::refresh::CallKind;
use crate::domain::timestamp::Timestamp;
use crate::wechat::errcode;

/// The longest time that `Retry-After` names, in seconds.
const LONGEST_RETRY_AFTER: u64 = 3_600;

type Cause = Arc<dyn Error + Send + Sync>;

/// What is sent instead of an answer.
#[derive(Debug, Clone)]
pub struct Problem(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    upstream: Option<Upstream>,
    retry: Option<Retry>,
    challenge: Option<Cow<'static, str>>,
    cause: Option<Cause>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, Serialize)]
struct FieldError {
    pointer: String,
    detail: Cow<'static, str>,
}

/// WeChat's refusal behind a problem.
#[derive(Debug, Clone)]
struct Upstream {
    call: CallKind,
    errcode: i64,
    errmsg: String,
}

/// When asking again makes sense.
#[derive(Debug, Clone, Copy)]
enum Retry {
    After(Duration),
    At(Timestamp),
}

#[derive(Serialize)]
struct Rendered<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<RenderedUpstream<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<String>,
}

#[derive(Serialize)]
struct RenderedUpstream<'a> {
    errcode: i64,
    errmsg: &'a str,
    hint: String,
}

impl Problem {
    /// A problem with a sentence that says what to do. The sentence must not repeat anything secret that was submitted.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            upstream: None,
            retry: None,
            challenge: None,
            cause: None,
        }))
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Its sentence.
    pub(super) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The path that nobody serves.
    pub(super) fn not_found() -> Self {
        Self::new(Code::NotFound, "no resource has this path; see the documentation for the list of paths")
    }

    /// The account that is not registered.
    pub(super) fn unknown_account() -> Self {
        Self::new(Code::UnknownAccount, "no account with this appid is registered; register it or correct the appid")
    }

    /// The account that is registered already.
    pub(super) fn account_exists() -> Self {
        Self::new(Code::AccountExists, "this appid is registered already; change the account with PATCH")
    }

    /// The key that lacks `action`.
    pub(super) fn insufficient_scope(action: Action) -> Self {
        let action = action.as_str();
        Self::new(Code::InsufficientScope, format!("this call needs a key that has the action {action}"))
            .challenge(format!("Bearer error=\"insufficient_scope\", scope=\"{action}\""))
    }

    /// The key that does not reach the account, whether it exists or not.
    pub(super) fn out_of_scope() -> Self {
        Self::new(Code::AccountOutOfScope, "this key does not reach the account; use a key that lists its appid")
    }

    /// Something that failed for no fault of the caller's.
    pub(super) fn internal(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::new(Code::Internal, "this is a fault of wxtoken; its log names the cause under this request's identifier")
            .caused_by(Arc::new(cause))
    }

    /// The token that ended, or was removed, between two looks at it.
    pub(super) fn ended() -> Self {
        Self::new(Code::NoValidToken, "the token has just ended; ask for it again").retry_after(Duration::from_secs(1))
    }

    /// Adds what is wrong with the field at `pointer`.
    #[must_use]
    pub(super) fn field(mut self, pointer: String, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.errors.push(FieldError { pointer, detail: detail.into() });
        self
    }

    /// Adds the `WWW-Authenticate` header.
    #[must_use]
    pub(super) fn challenge(mut self, challenge: impl Into<Cow<'static, str>>) -> Self {
        self.0.challenge = Some(challenge.into());
        self
    }

    /// Adds the time to wait.
    #[must_use]
    pub(super) fn retry_after(self, wait: Duration) -> Self {
        self.retry(Retry::After(wait))
    }

    fn retry(mut self, retry: Retry) -> Self {
        self.0.retry = Some(retry);
        self
    }

    fn caused_by(mut self, cause: Cause) -> Self {
        self.0.cause = Some(cause);
        self
    }

    /// The answer for the request of this context, with the headers that belong to it. Logs the cause.
    pub(super) fn render(&self, context: &Context, now: Timestamp) -> (Vec<u8>, [Option<HeaderValue>; 2]) {
        let inner = &*self.0;
        if let Some(cause) = &inner.cause {
            let request_id = &*context.request_id;
            tracing::error!(
                error = &**cause as &dyn Error,
                request_id,
                "request {request_id} failed: {}",
                inner.code.as_str()
            );
        }
        let upstream = inner.upstream.as_ref().map(|upstream| RenderedUpstream {
            errcode: upstream.errcode,
            errmsg: &upstream.errmsg,
            hint: errcode::hint(upstream.call, upstream.errcode, &upstream.errmsg, context.language),
        });
        let rendered = Rendered {
            kind: format!("/problems/{}", inner.code.as_str()),
            title: inner.code.title(),
            status: inner.code.status().as_u16(),
            detail: &inner.detail,
            instance: &context.request_id,
            code: inner.code.as_str(),
            errors: &inner.errors,
            upstream,
            retry_at: match inner.retry {
                Some(Retry::At(at)) => Some(at.to_rfc3339()),
                Some(Retry::After(_)) | None => None,
            },
        };
        let retry_after = inner.retry.map(|retry| HeaderValue::from(seconds_to_wait(retry, now)));
        let challenge = inner.challenge.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
        (serde_json::to_vec(&rendered).unwrap_or_default(), [retry_after, challenge])
    }

    /// Turns the response that carries this problem into what is sent.
    pub(super) fn fill(&self, response: &mut Response, context: &Context, now: Timestamp) {
        let (body, [retry_after, challenge]) = self.render(context, now);
        *response.body_mut() = body.into();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in [(RETRY_AFTER, retry_after), (WWW_AUTHENTICATE, challenge)] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

fn seconds_to_wait(retry: Retry, now: Timestamp) -> u64 {
    let wait = match retry {
        Retry::After(wait) => wait,
        Retry::At(at) => at.since(now),
    };
    u64::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(LONGEST_RETRY_AFTER).clamp(1, LONGEST_RETRY_AFTER)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::Language;

    #[test]
    fn a_problem_is_rendered_whole() {
        let context = Context { request_id: "r-1".into(), language: Language::Chinese };
        let mut problem = Problem::new(Code::RefreshFailed, "the call failed")
            .field("/a".to_owned(), "wrong")
            .retry(Retry::At(Timestamp::from_millis(1_001)));
        problem.0.upstream =
            Some(Upstream { call: CallKind::Mint, errcode: 40_013, errmsg: "invalid appid".to_owned() });
        let (body, [retry_after, _]) = problem.render(&context, Timestamp::ZERO);
        let hint = errcode::hint(CallKind::Mint, 40_013, "", Language::Chinese);
        let expected = format!(
            r#"{{"type":"/problems/refresh_failed","title":"The call to WeChat failed","status":502,"detail":"the call failed","instance":"r-1","code":"refresh_failed","errors":[{{"pointer":"/a","detail":"wrong"}}],"upstream":{{"errcode":40013,"errmsg":"invalid appid","hint":"{hint}"}},"retry_at":"1970-01-01T00:00:01.001Z"}}"#
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        assert_eq!(retry_after.unwrap(), "2");
    }

    #[test]
    fn the_wait_is_between_a_second_and_an_hour() {
        let now = Timestamp::from_millis(10_000);
        for (at, seconds) in [(Timestamp::ZERO, 1), (Timestamp::from_millis(10_001), 1), (Timestamp::NEVER, 3_600)] {
            assert_eq!(seconds_to_wait(Retry::At(at), now), seconds);
        }
    }
}
