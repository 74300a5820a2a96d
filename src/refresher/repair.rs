//! The repair of a reported token.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::obtain::Won;
use super::{LastFailure, RefreshError, Refresher};
use crate::domain::account::TokenType;
use crate::domain::refresh::{CallKind, Outcome, Trigger};
use crate::domain::secret::TokenValue;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Token, TokenKey};
use crate::live::LiveToken;
use crate::store::lease::Seen;

/// How long the answer to one report is the answer to all others about the same value.
const VERDICT_LIFE: Duration = Duration::from_secs(10);

/// What became of a reported value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// WeChat refused it, and it was replaced.
    Replaced,
    /// It was not the current value any more.
    AlreadyReplaced,
    /// WeChat still accepts it.
    StillValid,
}

impl Verdict {
    /// `replaced`, `already_replaced` or `still_valid`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::AlreadyReplaced => "already_replaced",
            Self::StillValid => "still_valid",
        }
    }
}

/// The answer to a report.
#[derive(Clone)]
pub struct Report {
    /// What became of the value.
    pub verdict: Verdict,
    /// The token to use from now on.
    pub token: Arc<LiveToken>,
}

pub(super) struct RecentVerdict {
    version: i64,
    /// When the question was begun. An answer says nothing of what was seen after that.
    began_at: Timestamp,
    verdict: Result<Verdict, RefreshError>,
}

/// What one look brought to all who waited for it.
#[derive(Clone, Copy)]
pub(super) struct Found {
    verdict: Verdict,
    began_at: Timestamp,
}

impl Refresher {
    /// A caller says that WeChat refused `reported`. Finds out whether that is so, with one call for any number of reports, and replaces the
    /// token if it is.
    pub async fn report(self: &Arc<Self>, key: &TokenKey, reported: &TokenValue) -> Result<Report, RefreshError> {
        self.look_into(key, reported, self.clock.now().minus(VERDICT_LIFE)).await
    }

    /// The same of a refusal that was seen at `seen_at`, or is supposed since then: what was found out before does not count.
    pub async fn look_into(
        self: &Arc<Self>,
        key: &TokenKey,
        reported: &TokenValue,
        seen_at: Timestamp,
    ) -> Result<Report, RefreshError> {
        let held = self.held(key)?;
        let Some(value) = held.token.value.as_ref().filter(|value| value.text == *reported) else {
            let token = self.obtain(key, Duration::ZERO).await?;
            return Ok(Report { verdict: Verdict::AlreadyReplaced, token });
        };
        let verdict = if self.clock.now() < value.life.until {
            self.repair(key, held.token.version, Trigger::Report, seen_at).await?
        } else {
            Verdict::Replaced
        };
        Ok(Report { verdict, token: self.obtain(key, Duration::ZERO).await? })
    }

    /// A ticket call found the access token refused; it is repaired in the background.
    pub(super) fn repair_for_ticket(self: &Arc<Self>, ticket: &TokenKey, refused: &TokenValue) {
        let key = TokenKey::new(ticket.appid.clone(), TokenType::AccessToken);
        let Some(version) = self.held(&key).ok().and_then(|held| {
            let value = held.token.value.as_ref()?;
            (value.text == *refused).then_some(held.token.version)
        }) else {
            return;
        };
        let refresher = Arc::clone(self);
        let seen_at = self.clock.now().minus(VERDICT_LIFE);
        self.tasks.spawn(async move {
            if let Err(error) = refresher.repair(&key, version, Trigger::Recovery, seen_at).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the refused {key} could not be repaired");
            }
        });
    }

    async fn repair(
        self: &Arc<Self>,
        key: &TokenKey,
        version: i64,
        trigger: Trigger,
        seen_at: Timestamp,
    ) -> Result<Verdict, RefreshError> {
        // Whoever joins a look that was begun before the refusal was seen has a second one, unless the first found the token dead.
        for _ in 0..2 {
            if let Some(verdict) = self.recent_verdict(key, version, seen_at) {
                return verdict;
            }
            let (refresher, reported) = (Arc::clone(self), key.clone());
            let look = || async move { refresher.look(reported, version, trigger, seen_at).await };
            let found = self.repairs.join(key.clone(), &self.tasks, look).await?;
            if found.verdict != Verdict::StillValid || found.began_at > seen_at {
                return Ok(found.verdict);
            }
        }
        Ok(Verdict::StillValid)
    }

    async fn look(
        self: Arc<Self>,
        key: TokenKey,
        version: i64,
        trigger: Trigger,
        seen_at: Timestamp,
    ) -> Result<Found, RefreshError> {
        let began_at = self.clock.now();
        // The flight before this one may have landed between our look and our start.
        if let Some(verdict) = self.recent_verdict(&key, version, seen_at) {
            return verdict.map(|verdict| Found { verdict, began_at });
        }
        let verdict = self.examine(&key, version, trigger).await;
        // What went wrong on our side says nothing about the token, and may be over with the next report.
        let said = |error: &RefreshError| {
            matches!(error, RefreshError::Call(_) | RefreshError::Exhausted(_) | RefreshError::BackingOff(_))
        };
        if verdict.as_ref().err().is_none_or(said) {
            self.remember(key, version, began_at, verdict.clone());
        }
        verdict.map(|verdict| Found { verdict, began_at })
    }

    /// Asks WeChat about a token, and replaces it if it is dead. A ticket cannot be probed; it is fetched again, which brings the same one if
    /// it is still good. Where fetching has failed and has its time to be tried again, a report does not bring that forward.
    async fn examine(
        self: &Arc<Self>,
        key: &TokenKey,
        version: i64,
        trigger: Trigger,
    ) -> Result<Verdict, RefreshError> {
        let call = if key.token_type.is_ticket() { CallKind::Ticket } else { CallKind::Probe };
        let held = &self.held(key)?.token;
        if call == CallKind::Ticket && held.record.failures > 0 && self.clock.now() < held.refresh_at {
            return Err(RefreshError::BackingOff(LastFailure::of(held)));
        }
        let claim = match self.claim_or_follow(key, call, trigger, Seen::Version(version)).await? {
            Won::Claim(claim) => *claim,
            Won::Token(token) => return self.verdict_on(&token, version),
        };
        let refreshed = self.carry_out(claim).await?;
        match (refreshed.outcome, refreshed.call.error, refreshed.call.exhausted) {
            (Outcome::Success, ..) => Ok(Verdict::Replaced),
            (Outcome::StillValid, ..) => Ok(Verdict::StillValid),
            // Nothing but a forced refresh would have brought another value, and there is none left.
            (_, _, Some(exhausted)) => Err(RefreshError::Exhausted(exhausted)),
            (Outcome::ForeignRefresh | Outcome::Refused, ..) if refreshed.token.record.failures > 0 => {
                Err(RefreshError::BackingOff(LastFailure::of(&refreshed.token)))
            }
            (Outcome::Unchanged, ..) if key.token_type.is_ticket() => Ok(Verdict::StillValid),
            (Outcome::Unchanged, ..) => Err(RefreshError::NotReplaced),
            (_, Some(error), _) => Err(RefreshError::Call(error)),
            (_, None, None) => Err(RefreshError::SecretUnreadable),
        }
    }

    /// Somebody else's call came first: it replaced the value, or failed to. An older version is that of a database that does not have the
    /// reported value yet.
    fn verdict_on(&self, token: &Token, version: i64) -> Result<Verdict, RefreshError> {
        if token.version <= version || token.valid(self.clock.now()).is_none() {
            Err(RefreshError::StillBusy)
        } else {
            Ok(Verdict::AlreadyReplaced)
        }
    }

    fn recent_verdict(
        &self,
        key: &TokenKey,
        version: i64,
        seen_at: Timestamp,
    ) -> Option<Result<Verdict, RefreshError>> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = verdicts.get(key).filter(|recent| recent.version == version && recent.began_at > seen_at)?;
        Some(recent.verdict.clone())
    }

    fn remember(&self, key: TokenKey, version: i64, began_at: Timestamp, verdict: Result<Verdict, RefreshError>) {
        let now = self.clock.now();
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.retain(|_, recent| now < recent.began_at.plus(VERDICT_LIFE));
        verdicts.insert(key, RecentVerdict { version, began_at, verdict });
    }
}
