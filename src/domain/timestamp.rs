//! Points in time as the database keeps them.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const RFC3339_MILLIS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const MILLIS_PER_DAY: i64 = 86_400_000;
/// WeChat counts its daily quotas by Beijing days (`UTC+8`).
const BEIJING_OFFSET_MILLIS: i64 = 8 * 3_600_000;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Before everything; in columns it means "no such time".
    pub const ZERO: Self = Self(0);
    /// 9999-12-31T23:59:59.999Z, in columns "not until somebody changes this".
    pub const NEVER: Self = Self(253_402_300_799_999);

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// `self + span`, never beyond [`Timestamp::NEVER`].
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis)).min(Self::NEVER)
    }

    /// `self - span`.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// `2026-11-20T08:00:00.123Z`.
    pub fn to_rfc3339(self) -> String {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|moment| moment.format(RFC3339_MILLIS).ok())
            .unwrap_or_else(|| "invalid time".to_owned())
    }

    /// Reads an RFC 3339 time in any offset; `None` when the text is not one or lies outside the years 1970 to 9999.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let moment = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
        let millis = i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()?;
        (0..=Self::NEVER.0).contains(&millis).then_some(Self(millis))
    }

    /// The number of the Beijing day that this falls in, the day by which WeChat counts quotas.
    pub const fn beijing_day(self) -> i64 {
        (self.0 + BEIJING_OFFSET_MILLIS).div_euclid(MILLIS_PER_DAY)
    }

    /// The next midnight in Beijing after this.
    #[must_use]
    pub const fn next_beijing_midnight(self) -> Self {
        Self((self.beijing_day() + 1) * MILLIS_PER_DAY - BEIJING_OFFSET_MILLIS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_with_milliseconds() {
        let moment = Timestamp::from_millis(1_763_625_600_123);
        assert_eq!(moment.to_rfc3339(), "2025-11-20T08:00:00.123Z");
        assert_eq!(Timestamp::parse_rfc3339("2025-11-20T16:00:00.123+08:00"), Some(moment));
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
        assert_eq!(Timestamp::parse_rfc3339("1812-01-01T00:00:00Z"), None);
    }

    #[test]
    fn a_beijing_day_ends_at_sixteen_hours_utc() {
        let before = Timestamp::parse_rfc3339("2026-11-20T15:59:59.999Z").unwrap();
        let after = Timestamp::parse_rfc3339("2026-11-20T16:00:00Z").unwrap();
        assert_eq!(before.beijing_day() + 1, after.beijing_day());
        assert_eq!(before.next_beijing_midnight(), after);
    }

    #[test]
    fn arithmetic_stays_in_range() {
        assert_eq!(Timestamp::NEVER.plus(Duration::MAX), Timestamp::NEVER);
        assert_eq!(Timestamp::ZERO.since(Timestamp::NEVER), Duration::ZERO);
    }
}
