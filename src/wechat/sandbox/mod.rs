//! A WeChat simulator: as a library in tests and demos, as a program by hand.
//!
//! It simulates the token endpoints, the ticket endpoint, two probe endpoints and the quota endpoints of
//! `api.weixin.qq.com`, the exchange of users' login codes under `/sns/`, and media that go up and down; any other path is a
//! business call that checks its access token and does nothing. Two things are its own: `GET /cgi-bin/media/get` gives a file of N
//! bytes for `media_id=bytes-N`, and any path under `/cgi-bin/echo/` answers what arrived there. Each account
//! has [`Settings`] of its own, which can be changed while it runs, and begins with WeChat's usual behaviour. Where WeChat's
//! behaviour is unknown there is a setting for each reading.
//!
//! The rules are plain synchronous code over a moment in time; HTTP lies on top of them. The listener serves both WeChat's
//! paths and, under `/sandbox`, the control API:
//!
//! | call | does |
//! |---|---|
//! | `GET /sandbox/accounts` | lists the appids: `{"appids": [...]}` |
//! | `PUT /sandbox/accounts/{appid}` | merges a JSON object into the settings ([`Settings::merged`]); creates the account |
//! | `GET /sandbox/accounts/{appid}` | shows settings, lines and usage ([`AccountState`]) |
//! | `DELETE /sandbox/accounts/{appid}` | removes the account and all its values |
//! | `PUT /sandbox/accounts/{appid}/faults` | replaces the list of [`Fault`]s; `[]` clears it |
//! | `POST /sandbox/accounts/{appid}/mint` | `{"line": "plain"}`: a second system mints; answers `{access_token, expires_in}` |
//! | `POST /sandbox/accounts/{appid}/kill` | `{"line": "plain"}`: withdraws the current and the previous value at once |
//! | `GET /sandbox/judge?access_token=V` | what the value is worth ([`Judgement`]); not logged; also `?ticket=V` |
//! | `GET /sandbox/log?after=SEQ&appid=A` | `{"entries": [...]}` of [`Entry`]; `DELETE` empties it |
//! | `GET /sandbox/witness` | `{"witnesses": [...]}` of [`Witness`]; `DELETE` starts the counts again |
//!
//! Its errors are HTTP 400, or 404 for an unknown account, with `{"error": "a sentence"}`.
//!
//! Failures of DNS and TLS happen before a request reaches anybody, so they are made by the URL that the client is given:
//! a name that does not resolve, or `https://` to this listener, which speaks plain HTTP.

mod account;
mod answer;
mod calls;
mod chain;
mod control;
mod exchange;
mod fault;
mod inquiry;
mod media;
mod payload;
mod platform;
mod quota;
mod received;
mod record;
mod refusal;
mod request;
mod serve;
mod settings;
mod spelling;
mod user;
mod whitelist;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::Value;

pub use self::chain::{Line, Verdict};
pub use self::fault::{CallKind, Fault, FaultKind};
pub use self::platform::{AccountState, Judgement, LineState, ValueState};
pub use self::quota::Usage;
pub use self::record::{Entry, LOG_ENTRIES, Witness};
pub use self::settings::{
    AccountStanding, CheckStep, ContentType, DEFAULT_SECRET, ErrmsgTail, ExpiresInForm, ForceExcess, Interference,
    IpConfirmation, Latency, LatencyTail, Settings, TicketExpiresIn, TicketWindow,
};

use self::account::Account;
use self::platform::Platform;
use crate::clock::Clock;
use crate::domain::account::AppId;
use crate::domain::timestamp::Timestamp;

/// A request to the control API that cannot be done. The text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// No account of that appid was configured.
    #[error("there is no account {0}; PUT /sandbox/accounts/{0} makes one")]
    UnknownAccount(String),
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// A value minted by the control API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Minted {
    /// The token or ticket.
    pub access_token: String,
    /// Its lifetime in seconds.
    pub expires_in: u64,
}

/// The simulator. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    platform: Arc<Mutex<Platform>>,
    clock: Clock,
}

impl Sandbox {
    /// A simulator without accounts: every appid is unknown (40013).
    pub fn new() -> Self {
        Self::default()
    }

    /// Merges `patch` into the settings of `appid` as [`Settings::merged`] does; creates the account if there is none.
    ///
    /// # Errors
    /// When the appid or a field of the patch makes no sense; nothing has changed then.
    pub fn configure(&self, appid: &str, patch: &Value) -> Result<(), SandboxError> {
        AppId::parse(appid).map_err(|invalid| SandboxError::Invalid(invalid.to_string()))?;
        let (mut platform, now) = self.enter();
        platform.catch_up(appid, now);
        let before = platform.accounts.get(appid).map(|account| account.settings.clone()).unwrap_or_default();
        let settings = before.merged(patch).map_err(SandboxError::Invalid)?;
        platform.accounts.entry(appid.to_owned()).or_insert_with(Account::default).configure(settings, now);
        drop(platform);
        Ok(())
    }

    /// Replaces the faults of `appid`.
    ///
    /// # Errors
    /// When there is no such account or a fault makes no sense.
    pub fn set_faults(&self, appid: &str, faults: Vec<Fault>) -> Result<(), SandboxError> {
        if let Some(problem) = faults.iter().find_map(Fault::problem) {
            return Err(SandboxError::Invalid(problem.to_owned()));
        }
        let (mut platform, _) = self.enter();
        let account = platform.accounts.get_mut(appid).ok_or_else(|| unknown(appid))?;
        account.settings.faults = faults;
        drop(platform);
        Ok(())
    }

    /// Removes an account and everything it was given; `false` when there was none.
    pub fn remove(&self, appid: &str) -> bool {
        self.enter().0.remove(appid)
    }

    /// The appids of all accounts, in order.
    pub fn appids(&self) -> Vec<String> {
        self.enter().0.accounts.keys().cloned().collect()
    }

    /// An account's settings, lines and usage.
    pub fn state(&self, appid: &str) -> Option<AccountState> {
        let (mut platform, now) = self.enter();
        platform.state(appid, now)
    }

    /// Mints a value as a second system would, on the stable line as by force. No gap, no quota and no fault applies.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn mint_foreign(&self, appid: &str, line: Line) -> Result<Minted, SandboxError> {
        let (mut platform, now) = self.enter();
        let grant = platform.foreign_mint(appid, line, now).ok_or_else(|| unknown(appid))?;
        drop(platform);
        Ok(Minted { access_token: grant.value, expires_in: grant.expires_in })
    }

    /// Withdraws every value of a line that is still honoured: business calls with it answer 40001.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn kill(&self, appid: &str, line: Line) -> Result<(), SandboxError> {
        let (mut platform, now) = self.enter();
        platform.kill(appid, line, now).then_some(()).ok_or_else(|| unknown(appid))
    }

    /// What a token or ticket is worth. Not a call: neither logged nor struck by faults.
    pub fn judge(&self, value: &str) -> Judgement {
        let (mut platform, now) = self.enter();
        platform.judge(value, now)
    }

    /// The log entries after number `after`, of one account or of all. The log holds the newest [`LOG_ENTRIES`].
    pub fn log(&self, after: u64, appid: Option<&str>) -> Vec<Entry> {
        let (mut platform, now) = self.enter();
        platform.catch_up_all(now);
        platform.log.after(after, appid)
    }

    /// Empties the log. Its numbers go on.
    pub fn clear_log(&self) {
        self.enter().0.log.clear();
    }

    /// How often, and how much at once, each token of each account was asked for.
    pub fn witnesses(&self) -> Vec<Witness> {
        let (mut platform, now) = self.enter();
        platform.catch_up_all(now);
        platform.witnesses.all()
    }

    /// Starts the witnesses' counts again; what is in flight stays counted.
    pub fn clear_witnesses(&self) {
        self.enter().0.witnesses.clear();
    }

    /// The state, and the time as of which to use it: asked under the lock, so that moments are used in order.
    fn enter(&self) -> (MutexGuard<'_, Platform>, Timestamp) {
        let platform = self.platform.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        (platform, now)
    }
}

fn unknown(appid: &str) -> SandboxError {
    SandboxError::UnknownAccount(appid.to_owned())
}

#[cfg(test)]
mod http_tests;
