//! When a token is refreshed next.

use std::time::Duration;

use super::timestamp::Timestamp;

/// The longest lifetime believed. WeChat says 7,200 s at most; refreshing too early is harmless, too late is not.
pub const LONGEST_LIFETIME: Duration = Duration::from_hours(2);

/// The life of a value: from when the request that first brought it was sent, to its expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When the request that first brought the value was sent.
    pub since: Timestamp,
    /// When the value ends.
    pub until: Timestamp,
}

impl Life {
    /// The whole lifetime.
    pub fn length(self) -> Duration {
        self.until.since(self.since)
    }

    /// How long before its end a value is refreshed: `ahead`, or a quarter of its life if that is less; less up to a quarter of that by
    /// `roll` (random, in `0.0..1.0`), so that accounts registered together drift apart.
    ///
    /// In stable mode WeChat mints only in the last 300 s, so `ahead` must be below that.
    pub fn lead(self, ahead: Duration, roll: f64) -> Duration {
        let lead = ahead.min(self.length() / 4);
        lead.saturating_sub((lead / 4).mul_f64(roll))
    }
}

/// When to refresh an access token that has just got a new value.
pub fn after_new_token(life: Life, ahead: Duration, roll: f64) -> Timestamp {
    life.until.minus(life.lead(ahead, roll))
}

/// When to fetch a ticket again that has just got a new value: after a quarter of its life. A ticket always claims a full life, even in
/// its last minute, so its true end is only learned by asking again; asking returns the same ticket.
pub fn after_new_ticket(life: Life, ahead: Duration, roll: f64) -> Timestamp {
    let quarter = life.length() / 4;
    life.since.plus(quarter.saturating_sub((quarter / 4).mul_f64(roll))).min(after_new_token(life, ahead, roll))
}

/// When to ask again after WeChat sent the value that we had: after a quarter of what is left, so that the questions come closer as the
/// end does, but never less than a 120th of the life (60 s for two hours) or 1 s apart.
pub fn after_unchanged(life: Life, now: Timestamp, ahead: Duration, roll: f64, is_ticket: bool) -> Timestamp {
    let pause = (life.length() / 120).max(Duration::from_secs(1));
    let soonest = now.plus(pause.max(life.until.since(now) / 4));
    let planned = if is_ticket { soonest } else { after_new_token(life, ahead, roll) };
    planned.max(soonest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AHEAD: Duration = Duration::from_secs(240);

    fn life(seconds: u64) -> Life {
        Life { since: Timestamp::ZERO, until: Timestamp::ZERO.plus(Duration::from_secs(seconds)) }
    }

    fn left_at(life: Life, at: Timestamp) -> u64 {
        life.until.since(at).as_secs()
    }

    #[test]
    fn a_two_hour_token_is_refreshed_in_its_last_four_minutes() {
        assert_eq!(left_at(life(7_200), after_new_token(life(7_200), AHEAD, 0.0)), 240);
        assert_eq!(left_at(life(7_200), after_new_token(life(7_200), AHEAD, 1.0)), 180);
    }

    #[test]
    fn a_short_life_is_refreshed_in_its_last_quarter() {
        assert_eq!(left_at(life(8), after_new_token(life(8), AHEAD, 0.0)), 2);
    }

    #[test]
    fn a_ticket_is_fetched_again_after_a_quarter_of_its_life() {
        assert_eq!(after_new_ticket(life(7_200), AHEAD, 0.0), Timestamp::from_millis(1_800_000));
    }

    #[test]
    fn an_unchanged_value_is_asked_for_closer_to_its_end_but_never_in_a_loop() {
        let asked = |left: u64| {
            let now = life(7_200).until.minus(Duration::from_secs(left));
            after_unchanged(life(7_200), now, AHEAD, 1.0, false).since(now).as_secs()
        };
        assert_eq!(asked(3_000), 2_820, "not before the token's own time");
        assert_eq!([asked(400), asked(240), asked(100), asked(0)], [220, 60, 60, 60]);
    }

    proptest! {
        #[test]
        fn refreshes_fall_inside_the_life(seconds in 1_u64..7_200, roll in 0.0..1.0_f64) {
            let life = life(seconds);
            let at = after_new_token(life, AHEAD, roll);
            prop_assert!(at > life.since && at < life.until);
            prop_assert!(left_at(life, at) <= 240);
            prop_assert!(after_new_ticket(life, AHEAD, roll) <= at);
        }

        #[test]
        fn an_unchanged_value_is_never_asked_for_within_a_second(
            seconds in 1_u64..7_200, past in 0_u64..10_000, roll in 0.0..1.0_f64, is_ticket: bool
        ) {
            let now = Timestamp::ZERO.plus(Duration::from_secs(past));
            prop_assert!(after_unchanged(life(seconds), now, AHEAD, roll, is_ticket).since(now).as_millis() >= 1_000);
        }
    }
}
