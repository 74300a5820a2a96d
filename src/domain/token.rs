//! A token as the database keeps it, and what one settled call makes of it.

use std::fmt;
use std::time::Duration;

use super::account::{AppId, Mode, TokenType};
use super::budget::Spent;
use super::refresh::{CallKind, Outcome, Trigger};
use super::schedule::Life;
use super::secret::TokenValue;
use super::timestamp::Timestamp;

/// How long the end of a value in doubt stands in its row before the mint that ends it: time enough for every instance to hear of it.
pub const NOTICE: Duration = Duration::from_millis(1_500);
/// By when that mint should be over: a scan until somebody claims the token, and a second for the call. WeChat answers in 50 to 700 ms.
const ENDING: Duration = Duration::from_secs(2);

/// What names a token: the row's primary key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenKey {
    /// The account.
    pub appid: AppId,
    /// The kind of token.
    pub token_type: TokenType,
}

impl TokenKey {
    /// The token of `token_type` of the account `appid`.
    pub fn new(appid: AppId, token_type: TokenType) -> Self {
        Self { appid, token_type }
    }

    /// The call that refreshes it in the ordinary way.
    pub const fn ordinary_call(&self) -> CallKind {
        if self.token_type.is_ticket() { CallKind::Ticket } else { CallKind::Mint }
    }
}

impl fmt::Display for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.token_type, self.appid)
    }
}

/// A value that WeChat gave us, with its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The secret text.
    pub text: TokenValue,
    /// From the first request that brought it to its expiry.
    pub life: Life,
    /// Keyed fingerprint of the text, 16 hexadecimal digits: tells values apart without showing them.
    pub fingerprint: String,
}

/// The state of one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Which token this is.
    pub key: TokenKey,
    /// The mode of its account.
    pub mode: Mode,
    /// Whether the account still keeps this type; a row that is not kept has no value and is never due.
    pub kept: bool,
    /// The current value; `None` before the first success.
    pub value: Option<Value>,
    /// The value before this one.
    pub previous: Option<TokenValue>,
    /// In plain mode: a mint whose answer was lost may have replaced the value at WeChat. It is then the value before the newest, and one more
    /// mint ends it at once.
    pub in_doubt: bool,
    /// How many values there have been.
    pub version: i64,
    /// How many claims there have been.
    pub generation: i64,
    /// When to refresh next.
    pub refresh_at: Timestamp,
    /// Until when the present claim holds; in the past when there is none.
    pub leased_until: Timestamp,
    /// The instance whose claim is not settled.
    pub leased_by: Option<String>,
    /// What the last settled calls came to.
    pub record: Record,
    /// What has been spent of the day's budget.
    pub spent: Spent,
    /// Counts the changes of anything but the lease; of two states of a row the one with more is the newer.
    pub revision: i64,
}

/// What the last calls for a token came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Failures since the last success.
    pub failures: u32,
    /// When a call last succeeded; zero before the first.
    pub last_success_at: Timestamp,
    /// When a call last ended; zero before the first.
    pub last_call_at: Timestamp,
    /// How the last call ended.
    pub last_outcome: Option<Outcome>,
    /// Why the last call ran.
    pub last_trigger: Option<Trigger>,
    /// WeChat's code if the last call failed with one.
    pub last_errcode: Option<i64>,
    /// WeChat's text, or what happened, if the last call failed; cleaned.
    pub last_errmsg: Option<String>,
}

/// How a token has done so far, which decides what part of the calls to WeChat it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has a value, and its last call succeeded.
    Proven,
    /// Nothing is known yet: it has no value, and no failure.
    New,
    /// Its last call failed.
    Failing,
}

impl Token {
    /// How it has done so far.
    pub const fn standing(&self) -> Standing {
        match (self.record.failures, &self.value) {
            (0, Some(_)) => Standing::Proven,
            (0, None) => Standing::New,
            _ => Standing::Failing,
        }
    }

    /// The value if it is alive at `now`.
    pub fn valid(&self, now: Timestamp) -> Option<&Value> {
        self.value.as_ref().filter(|value| now < value.life.until)
    }

    /// Whether it has a living value that one more mint ends at once.
    pub fn is_doubtful(&self, now: Timestamp) -> bool {
        self.in_doubt && self.mode == Mode::Plain && self.valid(now).is_some()
    }

    /// Whether the mint that ends such a value is due or under way: whoever can wait a moment is given what comes after it.
    pub fn is_ending(&self, now: Timestamp) -> bool {
        self.is_doubtful(now) && (self.refresh_at..self.refresh_at.plus(ENDING)).contains(&now)
    }

    /// What the call asked of which the record has the code, which decides what the code means.
    pub const fn last_call(&self) -> CallKind {
        match (self.record.last_outcome, self.record.failures) {
            (Some(Outcome::ForeignRefresh | Outcome::Refused | Outcome::StillValid), 0) => CallKind::Probe,
            _ => self.key.ordinary_call(),
        }
    }
}

/// The right to make one call for one token, won in a transaction and good until it is settled or its lease ends.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The token as it was when it was claimed.
    pub token: Token,
    /// What to ask of WeChat.
    pub call: CallKind,
    /// Why.
    pub trigger: Trigger,
    /// The claim's number, by which a late settle is told from a timely one.
    pub generation: i64,
    /// When it was won.
    pub claimed_at: Timestamp,
    /// Whether this is the probe that follows a mint without an answer. It never leads to another mint; the backoff does.
    pub follows_failure: bool,
}
