//! How often we may call WeChat for one account in one Beijing day.

use std::time::Duration;

use super::account::Mode;
use super::refresh::CallKind;
use super::timestamp::Timestamp;

/// The limits that keep callers, bugs and rival systems from spending an account's quota at WeChat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Forced refreshes in stable mode a day. WeChat allows 20.
    pub forced_per_day: u32,
    /// Least time between two forced refreshes. WeChat ignores a second one within 30 s.
    pub forced_gap: Duration,
    /// Mints in plain mode a day. WeChat allows a new account 2,000.
    pub plain_per_day: u32,
}

/// What one token has spent of its day; kept in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// The Beijing day that the counters belong to.
    pub day: i64,
    /// Calls of every kind but probes.
    pub calls: u32,
    /// Forced refreshes in stable mode.
    pub forced: u32,
    /// Mints in plain mode.
    pub plain: u32,
    /// When the last forced refresh was claimed.
    pub forced_at: Timestamp,
}

/// A call that the budget does not allow now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// When it is allowed again.
    pub until: Timestamp,
    /// Which limit it ran into.
    pub limit: ExhaustedLimit,
}

/// A limit of [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExhaustedLimit {
    /// `forced_per_day`.
    ForcedPerDay,
    /// `forced_gap`.
    ForcedGap,
    /// `plain_per_day`.
    PlainPerDay,
}

impl Spent {
    /// The same counters as they stand at `now`: zero if a new Beijing day has begun.
    #[must_use]
    pub fn as_of(self, now: Timestamp) -> Self {
        if self.day == now.beijing_day() {
            self
        } else {
            Self { day: now.beijing_day(), calls: 0, forced: 0, plain: 0, forced_at: self.forced_at }
        }
    }

    /// Counts one call of `kind`, which is counted when it is claimed: a lost answer may have been spent at WeChat.
    ///
    /// # Errors
    /// When a limit forbids the call; nothing is counted then.
    pub fn spend(self, kind: CallKind, mode: Mode, limits: &Limits, now: Timestamp) -> Result<Self, Exhausted> {
        let mut after = self.as_of(now);
        match (kind, mode) {
            (CallKind::Probe, _) => return Ok(after),
            (CallKind::Force, Mode::Stable) => {
                after.check_forced(limits, now)?;
                after.forced += 1;
                after.forced_at = now;
            }
            (CallKind::Force | CallKind::Mint, Mode::Plain) => {
                if after.plain >= limits.plain_per_day {
                    return Err(Exhausted { until: now.next_beijing_midnight(), limit: ExhaustedLimit::PlainPerDay });
                }
                after.plain += 1;
            }
            (CallKind::Mint, Mode::Stable) | (CallKind::Ticket, _) => {}
        }
        after.calls += 1;
        Ok(after)
    }

    fn check_forced(&self, limits: &Limits, now: Timestamp) -> Result<(), Exhausted> {
        if self.forced >= limits.forced_per_day {
            return Err(Exhausted { until: now.next_beijing_midnight(), limit: ExhaustedLimit::ForcedPerDay });
        }
        let again = self.forced_at.plus(limits.forced_gap);
        if now < again {
            return Err(Exhausted { until: again, limit: ExhaustedLimit::ForcedGap });
        }
        Ok(())
    }

    /// How many more calls of the kind that this mode budgets the day allows.
    pub fn left(self, mode: Mode, limits: &Limits, now: Timestamp) -> u32 {
        let spent = self.as_of(now);
        match mode {
            Mode::Stable => limits.forced_per_day.saturating_sub(spent.forced),
            Mode::Plain => limits.plain_per_day.saturating_sub(spent.plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { forced_per_day: 2, forced_gap: Duration::from_secs(30), plain_per_day: 1 };

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn forced_refreshes_keep_their_gap_and_their_day() {
        let noon = at("2026-11-20T04:00:00Z");
        let once = Spent::default().spend(CallKind::Force, Mode::Stable, &LIMITS, noon).unwrap();
        let soon = noon.plus(Duration::from_secs(29));
        let refused = once.spend(CallKind::Force, Mode::Stable, &LIMITS, soon).unwrap_err();
        assert_eq!(refused, Exhausted { until: noon.plus(LIMITS.forced_gap), limit: ExhaustedLimit::ForcedGap });
        let later = noon.plus(Duration::from_secs(30));
        let twice = once.spend(CallKind::Force, Mode::Stable, &LIMITS, later).unwrap();
        let hour = noon.plus(Duration::from_secs(3_600));
        let refused = twice.spend(CallKind::Force, Mode::Stable, &LIMITS, hour).unwrap_err();
        assert_eq!(refused.until, at("2026-11-20T16:00:00Z"));
        assert!(twice.spend(CallKind::Force, Mode::Stable, &LIMITS, refused.until).is_ok());
    }

    #[test]
    fn plain_mints_are_counted_and_stable_ones_are_free() {
        let now = at("2026-11-20T04:00:00Z");
        let spent = Spent::default().spend(CallKind::Mint, Mode::Plain, &LIMITS, now).unwrap();
        assert_eq!(spent.left(Mode::Plain, &LIMITS, now), 0);
        assert!(spent.spend(CallKind::Mint, Mode::Plain, &LIMITS, now).is_err());
        assert!(spent.spend(CallKind::Mint, Mode::Stable, &LIMITS, now).is_ok());
        assert_eq!(spent.spend(CallKind::Probe, Mode::Plain, &LIMITS, now), Ok(spent));
    }
}
