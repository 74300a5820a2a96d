//! One word for how an account's token is doing; the view `wx_report_accounts` speaks the same words by the same rules.

use super::timestamp::Timestamp;
use super::token::Token;

/// The health of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// A valid value, and the last call succeeded.
    Healthy,
    /// Not fetched yet, and nothing has failed.
    Pending,
    /// An admin switched the account off.
    Disabled,
    /// A valid value, but refreshing it fails.
    Degraded,
    /// No valid value to serve.
    Down,
}

impl Health {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Pending => "pending",
            Self::Disabled => "disabled",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }

    /// The health of `token` at `now`, in an account that is `enabled` or not.
    pub fn of(token: &Token, enabled: bool, now: Timestamp) -> Self {
        match (enabled, token.valid(now).is_some(), token.record.failures) {
            (false, ..) => Self::Disabled,
            (true, true, 0) => Self::Healthy,
            (true, true, _) => Self::Degraded,
            (true, false, 0) if token.value.is_none() => Self::Pending,
            (true, false, _) => Self::Down,
        }
    }
}
