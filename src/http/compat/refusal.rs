//! What cannot be done, said as WeChat says it: `{"errcode":…,"errmsg":"…"}` with HTTP status 200, because that is what SDKs read.
//!
//! The codes and texts are WeChat's own. Where they would leave an operator guessing, a hint of ours follows, in the place in which WeChat
//! itself had hints for years.

use std::borrow::Cow;
use std::error::Error;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response};
use bytes::Bytes;

use super::CONTENT_TYPE_OF_WECHAT;
use crate::domain::timestamp::Timestamp;
use crate::http::hot::AnswerBody;
use crate::http::problem::Problem;
use crate::refresher::RefreshError;

/// A refusal before it is rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    errcode: i64,
    errmsg: &'static str,
    hint: Cow<'static, str>,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $errcode:literal $errmsg:literal;)+) => {
        impl Refusal {
            $($(#[$doc])* pub(super) const $name: Self = Self::of($errcode, $errmsg);)+
        }
    };
}

refusals! {
    /// It cannot be done now; asking again may help.
    BUSY = -1 "system error";
    /// An access token that is none of ours.
    UNKNOWN_TOKEN = 40001 "invalid credential, access_token is invalid or not latest";
    WRONG_GRANT_TYPE = 40002 "invalid grant_type";
    UNKNOWN_APPID = 40013 "invalid appid";
    /// A parameter that is there twice, or credentials in two places.
    WRONG_PARAMETER = 40035 "invalid parameter";
    WRONG_URL = 40066 "invalid url";
    /// A kind of ticket that there is not.
    WRONG_ARGUMENTS = 40097 "invalid args";
    /// A secret that is no usable key of ours.
    WRONG_SECRET = 40125 "invalid appsecret";
    TOKEN_MISSING = 41001 "access_token missing";
    APPID_MISSING = 41002 "appid missing";
    SECRET_MISSING = 41004 "appsecret missing";
    GET_REQUIRED = 43001 "require GET method";
    POST_REQUIRED = 43002 "require POST method";
    EMPTY_BODY = 44002 "empty post data";
    TOO_LARGE = 45001 "media size out of limit";
    WRONG_FORMAT = 47001 "data format error";
    /// The key, or the account, may not do this.
    NOT_ALLOWED = 48001 "api unauthorized";
    /// The account is disabled.
    DISABLED = 50002 "user limited";
}

impl Refusal {
    const fn of(errcode: i64, errmsg: &'static str) -> Self {
        Self { errcode, errmsg, hint: Cow::Borrowed("") }
    }

    /// The same with a sentence for the operator. It must not repeat what was submitted.
    #[must_use]
    pub(super) fn hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// Whether asking again may help.
    fn passes(&self) -> bool {
        self.errcode == Self::BUSY.errcode
    }

    /// The whole answer.
    pub(super) fn into_response(self, now: Timestamp) -> Response<AnswerBody> {
        let rid = rid(now);
        let errmsg = match &*self.hint {
            "" => format!("{} rid: {rid}", self.errmsg),
            hint => format!("{}, hint: [wxtoken: {hint}] rid: {rid}", self.errmsg),
        };
        tracing::debug!(errcode = self.errcode, %errmsg, "refused a call in WeChat's words");
        let body = serde_json::json!({ "errcode": self.errcode, "errmsg": errmsg }).to_string();
        let mut response = Response::new(AnswerBody::from(Bytes::from(body)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, CONTENT_TYPE_OF_WECHAT);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.passes() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// An identifier like WeChat's: the Unix time in seconds and two random numbers, eight hexadecimal digits each.
fn rid(now: Timestamp) -> String {
    format!("{:08x}-{:08x}-{:08x}", now.as_millis() / 1_000, rand::random::<u32>(), rand::random::<u32>())
}

impl From<RefreshError> for Refusal {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::UnknownAccount => Self::UNKNOWN_APPID,
            RefreshError::Disabled => Self::DISABLED.hint("the account is disabled; an admin can enable it"),
            RefreshError::NotKept => Self::NOT_ALLOWED.hint("add this ticket to the account's token_types"),
            error => {
                if let Some(cause) = error.source() {
                    tracing::debug!(error = cause, "no token for a client");
                }
                Self::BUSY.hint(Problem::no_token(error, None).detail().to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_refusal_reads_like_wechats() {
        let now = Timestamp::from_millis(1_657_497_600_000);
        let refusal = Refusal::WRONG_SECRET.hint("admin keys are refused here");
        let response = refusal.into_response(now);
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["errcode"], 40_125);
        let errmsg = answer["errmsg"].as_str().unwrap();
        let start = "invalid appsecret, hint: [wxtoken: admin keys are refused here] rid: 62cb6800-";
        assert!(errmsg.starts_with(start) && errmsg.len() == start.len() + 17, "{errmsg}");
    }
}
