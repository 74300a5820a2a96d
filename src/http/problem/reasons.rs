//! What the other rooms' errors are to a caller.

use std::sync::Arc;
use std::time::Duration;

use super::{Cause, Code, Problem, Retry, Upstream};
use crate::domain::Invalid;
use crate::domain::budget::{Exhausted, ExhaustedLimit};
use crate::domain::timestamp::Timestamp;
use crate::refresher::{AdoptError, LastFailure, RefreshError};
use crate::store::StoreError;
use crate::wechat::CallError;

impl Problem {
    /// Why there is no token to answer a read with: `error` where that is the reason, and when to come again.
    pub(in crate::http) fn no_token(error: RefreshError, refresh_at: Option<Timestamp>) -> Self {
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
            Self::new(
                Code::DatabaseUnavailable,
                "the database cannot be reached or takes no changes now; the log says which; ask again soon",
            )
            .retry(Retry::After(Duration::from_secs(5)))
        } else {
            Self::new(
                Code::Internal,
                "this is a fault of wxtoken; its log names the cause under this request's identifier",
            )
        }
        .caused_by(cause)
    }
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
            RefreshError::NotReplaced => {
                let detail = "WeChat refuses the token and gives no other now; report it again in half a minute";
                Self::new(Code::RefreshBusy, detail).retry_after(Duration::from_secs(30))
            }
            RefreshError::Superseded => busy("somebody else has just refreshed this token; ask for it again"),
            RefreshError::NoAccessToken => {
                Self::new(Code::NoValidToken, "a ticket needs a valid access token first; see the account's health")
                    .retry_after(Duration::from_secs(5))
            }
            RefreshError::SecretUnreadable => {
                Self::new(Code::SecretUnreadable, "the stored AppSecret of this account does not open; enter it again")
            }
            RefreshError::Draining => {
                Self::new(Code::ShuttingDown, "this instance is shutting down; ask again, or ask another instance")
                    .retry_after(Duration::from_secs(1))
            }
            RefreshError::Database(error) => Self::of_store(&error, Arc::clone(&error) as Cause),
            error @ RefreshError::Crashed => Self::internal(error),
        }
    }
}

impl From<AdoptError> for Problem {
    fn from(error: AdoptError) -> Self {
        match error {
            AdoptError::Registered => Self::account_exists(),
            AdoptError::Refused(call) => Self::new(
                Code::TokenRefused,
                "WeChat refuses the token in `adopt`, so nothing was registered; send the one that is in use now, or register without `adopt`, \
                 which fetches a new one",
            )
            .refused(&call),
            AdoptError::Other(RefreshError::Call(call)) => Self::new(
                Code::RefreshFailed,
                "the call to WeChat that was to show whether the token in `adopt` is good has failed, so nothing was registered; try again",
            )
            .refused(&call),
            AdoptError::Other(RefreshError::StillBusy) => Self::new(
                Code::RefreshBusy,
                "somebody else is registering this appid; look whether it is there in a moment, or try again",
            )
            .retry_after(Duration::from_secs(1)),
            AdoptError::Other(other) => other.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::refresh::CallKind;
    use crate::store::FailureKind;
    use crate::wechat::Refusal;

    const AT: Timestamp = Timestamp::from_millis(90_001);

    fn refusal() -> CallError {
        CallError::Refused(Refusal { call: CallKind::Mint, errcode: 40_164, errmsg: "invalid ip 1.2.3.4".to_owned() })
    }

    fn errors() -> Vec<(RefreshError, &'static str, u16)> {
        let last = LastFailure { call: CallKind::Mint, errcode: Some(40_013), errmsg: String::new(), retry_at: AT };
        let statement = |kind| RefreshError::from(StoreError::Statement { kind, source: "gone".into() });
        vec![
            (RefreshError::UnknownAccount, "unknown_account", 404),
            (RefreshError::NotKept, "token_type_not_kept", 404),
            (RefreshError::Disabled, "account_disabled", 409),
            (RefreshError::BackingOff(last), "no_valid_token", 503),
            (RefreshError::Call(refusal()), "refresh_failed", 502),
            (
                RefreshError::Exhausted(Exhausted { until: AT, limit: ExhaustedLimit::ForcedGap }),
                "budget_exhausted",
                429,
            ),
            (RefreshError::StillBusy, "refresh_busy", 503),
            (RefreshError::Superseded, "refresh_busy", 503),
            (RefreshError::NotReplaced, "refresh_busy", 503),
            (RefreshError::NoAccessToken, "no_valid_token", 503),
            (RefreshError::SecretUnreadable, "secret_unreadable", 500),
            (RefreshError::Draining, "shutting_down", 503),
            (statement(FailureKind::Unavailable), "database_unavailable", 503),
            (statement(FailureKind::Closed), "database_unavailable", 503),
            (statement(FailureKind::Conflict), "database_unavailable", 503),
            (statement(FailureKind::Other), "internal", 500),
            (RefreshError::Crashed, "internal", 500),
        ]
    }

    #[test]
    fn every_reason_has_its_code_and_its_time_to_come_again() {
        for (error, code, status) in errors() {
            let problem = Problem::from(error.clone());
            assert_eq!((problem.code().as_str(), problem.code().status().as_u16()), (code, status), "{error:?}");
            assert_eq!(problem.0.retry.is_some(), status == 503 || status == 429, "{error:?}");
        }
    }

    #[test]
    fn a_read_without_a_token_is_always_told_when_to_come_again() {
        let exhausted = RefreshError::Exhausted(Exhausted { until: AT, limit: ExhaustedLimit::PlainPerDay });
        for error in [RefreshError::Call(refusal()), RefreshError::Call(CallError::Broken), exhausted] {
            for refresh_at in [None, Some(AT)] {
                let problem = Problem::no_token(error.clone(), refresh_at);
                assert_eq!(problem.code(), Code::NoValidToken, "{error:?}");
                assert!(problem.0.retry.is_some(), "{error:?}");
            }
        }
    }
}
