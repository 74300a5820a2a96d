//! When a hint that WeChat refused a token is worth a question to WeChat.
//!
//! A client that asks again for a token it was just given, and a call that WeChat answered with 40001, both hint at a dead token. Both also have
//! other causes: another process that starts, a call that the account may not make. So a hint is followed up at once, but each time the token
//! turns out to be alive, the next hint of the same source has longer to wait: a second, two, four, up to a minute.

use std::time::Duration;

use super::timestamp::Timestamp;

/// The pause after the first hint that came to nothing.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two questions after hints of one source.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How long a caller can be kept waiting for the next question; SDKs give up after three seconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// What to do about a hint. The later, the stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Advice {
    /// Ask WeChat now.
    Verify,
    /// Ask WeChat in a moment, and let the caller wait for that.
    VerifyIn(Duration),
    /// Take the token for good.
    Ignore,
}

/// What the hints of one source have come to: how often in a row the token was found alive, and when last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FalseAlarms {
    count: u32,
    last_at: Timestamp,
}

impl FalseAlarms {
    /// One alarm, whatever came before it: the least pause between two questions about one token.
    pub const fn single(now: Timestamp) -> Self {
        Self { count: 1, last_at: now }
    }

    fn pause(self) -> Duration {
        match self.count.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => (FIRST_PAUSE * (1 << doublings.min(6))).min(LONGEST_PAUSE),
        }
    }

    /// What to do about another hint.
    pub fn weigh(self, now: Timestamp) -> Advice {
        let left = self.last_at.plus(self.pause()).since(now);
        if left.is_zero() {
            Advice::Verify
        } else if left <= PATIENCE {
            Advice::VerifyIn(left)
        } else {
            Advice::Ignore
        }
    }

    /// After one more hint that came to nothing. Those who share one answer of WeChat count as one.
    #[must_use]
    pub fn and_another(self, now: Timestamp) -> Self {
        if self.count > 0 && now.since(self.last_at) < FIRST_PAUSE / 2 {
            return self;
        }
        Self { count: if self.is_over(now) { 1 } else { self.count + 1 }, last_at: now }
    }

    /// Whether the source has been quiet for so long that it starts afresh.
    pub fn is_over(self, now: Timestamp) -> bool {
        now.since(self.last_at) > self.pause() + LONGEST_PAUSE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    #[test]
    fn the_first_hint_is_followed_up_at_once() {
        assert_eq!(FalseAlarms::default().weigh(at(0)), Advice::Verify);
        assert_eq!(FalseAlarms::default().weigh(Timestamp::ZERO), Advice::Verify);
    }

    #[test]
    fn a_hint_right_after_a_false_alarm_waits_and_is_followed_up() {
        let alarms = FalseAlarms::default().and_another(at(0));
        assert_eq!(alarms.weigh(at(200)), Advice::VerifyIn(Duration::from_millis(800)));
        assert_eq!(alarms.weigh(at(1_000)), Advice::Verify);
    }

    #[test]
    fn a_source_of_false_alarms_is_followed_up_ever_less_often() {
        let (mut alarms, mut now, mut questions) = (FalseAlarms::default(), 0, Vec::new());
        while now < 300_000 {
            if alarms.weigh(at(now)) == Advice::Verify {
                questions.push(now / 1_000);
                alarms = alarms.and_another(at(now));
            }
            now += 100;
        }
        assert_eq!(questions, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        assert_eq!(alarms.weigh(at(250_000)), Advice::Ignore);
    }

    #[test]
    fn those_who_share_an_answer_count_once_and_a_long_quiet_begins_afresh() {
        let alarms = (0..50).fold(FalseAlarms::default(), |alarms, wait| alarms.and_another(at(wait)));
        assert_eq!(alarms, FalseAlarms::default().and_another(at(0)));
        let again = alarms.and_another(at(2_000));
        assert_eq!(again.count, 2);
        assert!(!again.is_over(at(62_000)) && again.is_over(at(64_001)));
        assert_eq!(again.and_another(at(70_000)).count, 1);
    }
}
