//! Why no token, or no refresh, could be had.

use std::sync::Arc;

use crate::domain::budget::Exhausted;
use crate::domain::refresh::CallKind;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::Token;
use crate::store::StoreError;
use crate::wechat::CallError;

/// Why no token, or no refresh, could be had. Cheap to clone: every caller who waited for one call gets the same.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RefreshError {
    /// No such account is registered.
    #[error("no such account is registered")]
    UnknownAccount,
    /// The account does not keep this token type.
    #[error("the account does not keep this token type")]
    NotKept,
    /// The account is switched off.
    #[error("the account is disabled")]
    Disabled,
    /// The last call failed and the next one is not due yet.
    #[error("there is no valid token, and the next attempt is not due yet")]
    BackingOff(LastFailure),
    /// The call made for this request failed.
    #[error("the call to WeChat failed")]
    Call(#[source] CallError),
    /// A limit forbids the call.
    #[error("the budget of calls for this account is spent")]
    Exhausted(Exhausted),
    /// Another instance has been calling for longer than a caller can wait.
    #[error("another instance is still refreshing this token")]
    StillBusy,
    /// The answer came after somebody newer had claimed the token.
    #[error("somebody else refreshed the token meanwhile")]
    Superseded,
    /// WeChat refused the token and then named the same one again.
    #[error("WeChat refused the token and gave no other")]
    NotReplaced,
    /// A ticket needs a valid access token first.
    #[error("there is no valid access token to fetch the ticket with")]
    NoAccessToken,
    /// The AppSecret in the database does not open.
    #[error("the stored AppSecret does not open")]
    SecretUnreadable,
    /// This instance is shutting down.
    #[error("this instance is shutting down")]
    Draining,
    /// The database failed.
    #[error("the database failed")]
    Database(#[source] Arc<StoreError>),
    /// The task that worked on it ended abnormally.
    #[error("the refresh ended abnormally")]
    Crashed,
}

/// The failure that stands between a token and its next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailure {
    /// What was asked, which decides what a code means.
    pub call: CallKind,
    /// WeChat's code, if it refused.
    pub errcode: Option<i64>,
    /// WeChat's text, or what happened.
    pub errmsg: String,
    /// When the next attempt is due.
    pub retry_at: Timestamp,
}

impl LastFailure {
    pub(super) fn of(token: &Token) -> Self {
        Self {
            call: token.last_call(),
            errcode: token.record.last_errcode,
            errmsg: token.record.last_errmsg.clone().unwrap_or_default(),
            retry_at: token.refresh_at,
        }
    }
}

impl From<StoreError> for RefreshError {
    fn from(error: StoreError) -> Self {
        Self::Database(Arc::new(error))
    }
}
