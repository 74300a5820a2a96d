//! Counters of calls per day, minute and month.

use serde::Serialize;
use time::OffsetDateTime;

use super::settings::Settings;
use crate::domain::timestamp::Timestamp;

const MILLIS_PER_MINUTE: i64 = 60_000;
const MILLIS_PER_HOUR: i64 = 3_600_000;
const MILLIS_PER_DAY: i64 = 86_400_000;

/// Counts within one period and starts again with the next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counter {
    period: i64,
    used: u32,
}

impl Counter {
    /// What was used in `period`.
    pub(super) fn used(self, period: i64) -> u32 {
        if self.period == period { self.used } else { 0 }
    }

    /// Counts one more in `period`.
    pub(super) fn add(&mut self, period: i64) {
        *self = Self { period, used: self.used(period).saturating_add(1) };
    }
}

/// The numbers of the periods that a moment falls in, by the account's own midnight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Periods {
    pub(super) minute: i64,
    pub(super) day: i64,
    pub(super) month: i64,
}

impl Periods {
    /// The periods of `now`.
    pub(super) fn at(now: Timestamp, settings: &Settings) -> Self {
        let local = now.as_millis() + i64::from(settings.quota_utc_offset_hours) * MILLIS_PER_HOUR;
        let month = OffsetDateTime::from_unix_timestamp(local.div_euclid(1_000))
            .map_or(0, |moment| i64::from(moment.year()) * 12 + i64::from(u8::from(moment.month())));
        Self { minute: local.div_euclid(MILLIS_PER_MINUTE), day: local.div_euclid(MILLIS_PER_DAY), month }
    }
}

/// The counters of one account.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Quotas {
    /// Mints of the plain line, per day.
    pub(super) plain: Counter,
    /// Calls of the stable line, per day.
    pub(super) stable: Counter,
    /// Calls of the stable line, per minute.
    pub(super) stable_minute: Counter,
    /// Forced mints of the stable line, per day.
    pub(super) forced: Counter,
    /// Calls for tickets, per day.
    pub(super) ticket: Counter,
    /// `clear_quota` calls, per month.
    pub(super) cleared: Counter,
}

impl Quotas {
    /// What `clear_quota` does. The forced mints are no API quota and stay.
    pub(super) fn clear(&mut self) {
        *self = Self { forced: self.forced, cleared: self.cleared, ..Self::default() };
    }

    /// The counts at `now`.
    pub(super) fn usage(&self, periods: Periods) -> Usage {
        Usage {
            plain_today: self.plain.used(periods.day),
            stable_today: self.stable.used(periods.day),
            stable_this_minute: self.stable_minute.used(periods.minute),
            forced_today: self.forced.used(periods.day),
            tickets_today: self.ticket.used(periods.day),
            cleared_this_month: self.cleared.used(periods.month),
        }
    }
}

/// What an account has used of its quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Mints of the plain line today.
    pub plain_today: u32,
    /// Calls of the stable line today.
    pub stable_today: u32,
    /// Calls of the stable line in this minute.
    pub stable_this_minute: u32,
    /// Forced mints of the stable line today.
    pub forced_today: u32,
    /// Calls for tickets today.
    pub tickets_today: u32,
    /// `clear_quota` calls this month.
    pub cleared_this_month: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_starts_again_with_its_period() {
        let mut counter = Counter::default();
        counter.add(7);
        counter.add(7);
        assert_eq!((counter.used(7), counter.used(8)), (2, 0));
        counter.add(8);
        assert_eq!(counter.used(8), 1);
    }

    #[test]
    fn days_and_months_begin_at_the_accounts_midnight() {
        let before = Timestamp::parse_rfc3339("2026-11-30T15:59:59.999Z").unwrap();
        let after = Timestamp::parse_rfc3339("2026-11-30T16:00:00Z").unwrap();
        let beijing = Settings::default();
        let (a, b) = (Periods::at(before, &beijing), Periods::at(after, &beijing));
        assert_eq!((a.day + 1, a.month + 1), (b.day, b.month));
        let utc = Settings { quota_utc_offset_hours: 0, ..Settings::default() };
        assert_eq!(Periods::at(before, &utc).day, Periods::at(after, &utc).day);
    }
}
