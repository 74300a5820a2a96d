//! Every error that a caller can see, as `application/problem+json` (RFC 9457).
//!
//! A [`Problem`] travels inside the response until [`super::context`] renders it, because only there the request's identifier and language
//! are at hand. Its cause is logged there, once, and never sent.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::context::Context;
use crate::domain::Invalid;
use crate::domain::budget::{Exhausted, ExhaustedLimit};
use crate::domain::key::Action;
use crate::domain::refresh::CallKind;
use crate::domain::timestamp::Timestamp;
use crate::refresher::{LastFailure, RefreshError};
use crate::store::StoreError;
use crate::wechat::{CallError, errcode};

/// The longest time that `Retry-After` names, in seconds.
const LONGEST_RETRY_AFTER: u64 = 3_600;

/// Gives each code its spelling, its status and its title; a code without one of them does not compile.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:ident, $title:literal;)+) => {
        /// The stable name of a problem.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $variant,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The spelling that callers compare.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The status that goes with it.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),+ }
            }

            /// A few words for people.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }
        }
    };
}

codes! {
    /// The request cannot be understood.
    InvalidRequest = "invalid_request", BAD_REQUEST, "The request cannot be understood";
    /// No key, or one that opens nothing.
    InvalidKey = "invalid_key", UNAUTHORIZED, "No usable key";
    /// The key may not do this.
    InsufficientScope = "insufficient_scope", FORBIDDEN, "The key may not do this";
    /// The key does not reach this account.
    AccountOutOfScope = "account_out_of_scope", FORBIDDEN, "The key does not reach this account";
    /// No such path.
    NotFound = "not_found", NOT_FOUND, "There is nothing here";
    /// No such account.
    UnknownAccount = "unknown_account", NOT_FOUND, "No such account";
    /// No such token type.
    UnknownTokenType = "unknown_token_type", NOT_FOUND, "No such token type";
    /// The account does not keep this token type.
    TokenTypeNotKept = "token_type_not_kept", NOT_FOUND, "The account does not keep this token type";
    /// No such key.
    UnknownKey = "unknown_key", NOT_FOUND, "No such key";
    /// The path is there, the method is not.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The path has no such method";
    /// The body took too long to arrive.
    BodyTimeout = "body_timeout", REQUEST_TIMEOUT, "The body took too long";
    /// The account is switched off.
    AccountDisabled = "account_disabled", CONFLICT, "The account is disabled";
    /// The appid is registered already.
    AccountExists = "account_exists", CONFLICT, "The account is registered already";
    /// The last key that can do everything.
    LastAdminKey = "last_admin_key", CONFLICT, "This is the last admin key";
    /// The body is too large.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The body is not JSON by its content type.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body must be JSON";
    /// A field holds something that it cannot hold.
    InvalidField = "invalid_field", UNPROCESSABLE_ENTITY, "A field is not valid";
    /// A limit on calls to WeChat is reached.
    BudgetExhausted = "budget_exhausted", TOO_MANY_REQUESTS, "The budget of calls to WeChat is spent";
    /// A defect or a broken row.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something broke in wxtoken";
    /// The AppSecret in the database does not open under the master key.
    SecretUnreadable = "secret_unreadable", INTERNAL_SERVER_ERROR, "The stored AppSecret cannot be read";
    /// The call to WeChat failed.
    RefreshFailed = "refresh_failed", BAD_GATEWAY, "The call to WeChat failed";
    /// There is no valid token to serve.
    NoValidToken = "no_valid_token", SERVICE_UNAVAILABLE, "There is no valid token";
    /// Somebody else is refreshing the token.
    RefreshBusy = "refresh_busy", SERVICE_UNAVAILABLE, "The token is being refreshed";
    /// The answer took too long.
    DeadlineExceeded = "deadline_exceeded", SERVICE_UNAVAILABLE, "The answer took too long";
    /// This instance has not loaded its view yet.
    Starting = "starting", SERVICE_UNAVAILABLE, "This instance is starting";
    /// This instance is shutting down.
    ShuttingDown = "shutting_down", SERVICE_UNAVAILABLE, "This instance is shutting down";
    /// The database is away.
    DatabaseUnavailable = "database_unavailable", SERVICE_UNAVAILABLE, "The database cannot be reached";
}

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

    /// The path that nobody serves.
    pub(super) fn not_found() -> Self {
        Self::new(Code::NotFound, "no resource has this path; see the documentation for the list of paths")
    }

    /// The account that is not registered.
    pub(super) fn unknown_account() -> Self {
        Self::new(Code::UnknownAccount, "no account with this appid is registered; register it or correct the appid")
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

    /// Why there is no token to answer a read with: `error` where that is the reason, and when to come again.
    pub(super) fn no_token(error: RefreshError, refresh_at: Option<Timestamp>) -> Self {
        let plain = |detail: &'static str| Self::new(Code::NoValidToken, detail);
        let problem = match error {
            RefreshError::Call(error) => plain(
                "there is no valid token, and fetching one has just failed; see `upstream` or the account's health",
            )
            .refused(&error),
            RefreshError::Exhausted(exhausted) => {
                let detail = format!("there is no valid token, and {}", spent(exhausted));
                Self::new(Code::NoValidToken, detail).retry(Retry::At(exhausted.until))
            }
            other => return Self::from(other),
        };
        match refresh_at {
            _ if problem.0.retry.is_some() => problem,
            Some(at) => problem.retry(Retry::At(at)),
            None => problem.retry(Retry::After(Duration::from_secs(1))),
        }
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

    fn refused(mut self, error: &CallError) -> Self {
        match error {
            CallError::Refused(refusal) => {
                let (call, errcode) = (refusal.call, refusal.errcode);
                self.0.upstream = Some(Upstream { call, errcode, errmsg: refusal.errmsg.clone() });
            }
            other => self.0.detail = format!("{}: {other}", self.0.detail).into(),
        }
        self
    }

    fn backing_off(last: LastFailure) -> Self {
        let LastFailure { call, errcode, errmsg, retry_at } = last;
        let mut problem = Self::new(
            Code::NoValidToken,
            "there is no valid token: the last call to WeChat failed, and the next one is made at `retry_at`",
        );
        match errcode {
            Some(errcode) => problem.0.upstream = Some(Upstream { call, errcode, errmsg }),
            None => problem.0.detail = format!("{}: {errmsg}", problem.0.detail).into(),
        }
        problem.retry(Retry::At(retry_at))
    }

    fn of_store(error: &StoreError, cause: Cause) -> Self {
        if error.is_unavailable() {
            Self::new(Code::DatabaseUnavailable, "the database cannot be reached now; ask again soon")
                .retry(Retry::After(Duration::from_secs(5)))
        } else {
            Self::new(
                Code::Internal,
                "this is a fault of wxtoken; its log names the cause under this request's identifier",
            )
        }
        .caused_by(cause)
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

fn spent(exhausted: Exhausted) -> String {
    let until = exhausted.until.to_rfc3339();
    match exhausted.limit {
        ExhaustedLimit::ForcedPerDay => {
            format!("the forced refreshes of this Beijing day are spent; the next one is allowed at {until}")
        }
        ExhaustedLimit::ForcedGap => {
            format!("a forced refresh was made a moment ago; the next one is allowed at {until}")
        }
        ExhaustedLimit::PlainPerDay => {
            format!("the plain-mode mints of this Beijing day are spent; the next one is allowed at {until}")
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let detail = format!("{}: {}", invalid.field, invalid.reason);
        Self::new(Code::InvalidField, detail).field(format!("/{}", invalid.field), invalid.reason)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let error = Arc::new(error);
        Self::of_store(&error, Arc::clone(&error) as Cause)
    }
}

impl From<RefreshError> for Problem {
    fn from(error: RefreshError) -> Self {
        let busy = |detail: &'static str| Self::new(Code::RefreshBusy, detail).retry_after(Duration::from_secs(1));
        match error {
            RefreshError::UnknownAccount => Self::unknown_account(),
            RefreshError::NotKept => {
                Self::new(Code::TokenTypeNotKept, "the account does not keep this token type; add it to `token_types`")
            }
            RefreshError::Disabled => {
                Self::new(Code::AccountDisabled, "the account is disabled; an admin can enable it")
            }
            RefreshError::BackingOff(last) => Self::backing_off(last),
            RefreshError::Call(call) => Self::new(Code::RefreshFailed, "the call to WeChat failed").refused(&call),
            RefreshError::Exhausted(exhausted) => {
                Self::new(Code::BudgetExhausted, spent(exhausted)).retry(Retry::At(exhausted.until))
            }
            RefreshError::StillBusy => busy("another call for this token is still under way; ask again in a moment"),
            RefreshError::Superseded => busy("somebody else has just refreshed this token; ask for it again"),
            RefreshError::NoAccessToken => {
                Self::new(Code::NoValidToken, "a ticket needs a valid access token first; see the account's health")
                    .retry_after(Duration::from_secs(5))
            }
            RefreshError::SecretUnreadable => Self::new(
                Code::SecretUnreadable,
                "store the AppSecret of this account again; see also `wxtoken doctor`",
            ),
            RefreshError::Draining => {
                Self::new(Code::ShuttingDown, "this instance is shutting down; ask again, or ask another instance")
                    .retry_after(Duration::from_secs(1))
            }
            RefreshError::Database(error) => Self::of_store(&error, Arc::clone(&error) as Cause),
            error @ RefreshError::Crashed => Self::internal(error),
        }
    }
}
