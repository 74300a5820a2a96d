//! The words for one call to WeChat: why it was made, what was asked, how it ended, and what its failure means.

use std::time::Duration;

use super::timestamp::Timestamp;

/// Gives an enum its database and JSON spelling in both directions.
macro_rules! spelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The spelling in the database, in JSON and in logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Reads a spelling; `None` when there is none such.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(super) use spelled;

spelled! {
    /// Why a refresh ran.
    Trigger {
        /// The scheduler found the token near its expiry.
        Schedule = "schedule",
        /// A reader asked for a token that nobody had fetched yet, or for one with more time left.
        FirstUse = "first_use",
        /// A caller reported that WeChat refused the value.
        Report = "report",
        /// An admin asked.
        Manual = "manual",
        /// An earlier claim was lost, or its answer came too late, or a ticket call found the access token refused.
        Recovery = "recovery",
    }
}

spelled! {
    /// What one call asked of WeChat.
    CallKind {
        /// An access token in the ordinary way of the account's mode.
        Mint = "mint",
        /// A new access token in stable mode with `force_refresh`, which ends the current one.
        Force = "force",
        /// A ticket.
        Ticket = "ticket",
        /// Whether an access token is still accepted, by the cheapest call there is.
        Probe = "probe",
    }
}

spelled! {
    /// How one call ended.
    Outcome {
        /// A new value was stored.
        Success = "success",
        /// WeChat sent the value that we had; nothing to replace.
        Unchanged = "unchanged",
        /// The call failed; what we had is kept.
        Failure = "failure",
        /// A probe found the token accepted.
        StillValid = "still_valid",
        /// A probe found the token refused although it had life left: somebody else minted one for this appid.
        ForeignRefresh = "foreign_refresh",
        /// A probe found the token refused and that was no surprise: we had replaced it or it was at its end.
        Refused = "refused",
        /// The claim's lease ran out before anybody settled it; whether WeChat was called is unknown.
        Lost = "lost",
        /// The answer came after somebody newer had claimed the token; it was not stored.
        Superseded = "superseded",
    }
}

spelled! {
    /// What kind of trouble a failure is, which decides when to try again.
    FailureClass {
        /// Network, timeout, 5xx, "busy", unreadable body: soon again.
        Transient = "transient",
        /// A quota: wait as told.
        Throttled = "throttled",
        /// Only a person can mend it, here or in the WeChat console: seldom again.
        NeedsHuman = "needs_human",
        /// A code that the dictionary does not know: again, at a slower pace.
        Unknown = "unknown",
    }
}

/// A failed call, reduced to what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of trouble it is.
    pub class: FailureClass,
    /// WeChat's code; `None` when there was no readable answer.
    pub errcode: Option<i64>,
    /// WeChat's text, or what happened to the call; cleaned and at most 300 characters.
    pub errmsg: String,
    /// The caller must not try again before this much time has passed, whatever the backoff says.
    pub wait_at_least: Duration,
    /// WeChat's quota for the rest of this Beijing day is spent.
    pub until_midnight: bool,
    /// WeChat may have done what was asked although no answer came.
    pub maybe_done: bool,
}

/// When to try again after `failures` failures in a row, the one just now included. `roll` is random, in `0.0..1.0`.
///
/// Transient: full jitter under a cap of 2, 4, … 60 s. Unknown: the same, five times slower. Throttled: the next minute, or the next
/// Beijing midnight for a daily quota. Needs a human: 1 min doubling to 1 h.
pub fn retry_at(failure: &Failure, failures: u32, now: Timestamp, roll: f64) -> Timestamp {
    let jittered = |floor: u64, ceiling: u64| {
        let cap = Duration::from_secs(floor << failures.min(16)).min(Duration::from_secs(ceiling));
        let floor = Duration::from_secs(floor);
        floor + cap.saturating_sub(floor).mul_f64(roll)
    };
    let delay = match failure.class {
        FailureClass::Transient => jittered(1, 60),
        FailureClass::Unknown => jittered(5, 300),
        FailureClass::Throttled if failure.until_midnight => {
            now.next_beijing_midnight().since(now) + Duration::from_mins(1).mul_f64(roll)
        }
        FailureClass::Throttled => Duration::from_mins(1) + Duration::from_secs(10).mul_f64(roll),
        FailureClass::NeedsHuman => {
            let doubled = 60_u64 << failures.saturating_sub(1).min(16);
            Duration::from_secs(doubled.min(3_600))
        }
    };
    now.plus(delay.max(failure.wait_at_least))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failure(class: FailureClass) -> Failure {
        Failure {
            class,
            errcode: None,
            errmsg: String::new(),
            wait_at_least: Duration::ZERO,
            until_midnight: false,
            maybe_done: false,
        }
    }

    fn seconds(class: FailureClass, failures: u32, roll: f64) -> u64 {
        retry_at(&failure(class), failures, Timestamp::ZERO, roll).since(Timestamp::ZERO).as_secs()
    }

    #[test]
    fn every_spelling_reads_back() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::parse(outcome.as_str()), Some(*outcome));
        }
        assert_eq!(Trigger::parse("boredom"), None);
    }

    #[test]
    fn a_wrong_secret_is_tried_after_a_minute_doubling_to_an_hour() {
        let waits: Vec<_> = (1..=8).map(|failures| seconds(FailureClass::NeedsHuman, failures, 0.9)).collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
    }

    #[test]
    fn a_named_lock_out_is_waited_for() {
        let locked = Failure { wait_at_least: Duration::from_hours(24), ..failure(FailureClass::NeedsHuman) };
        assert_eq!(retry_at(&locked, 1, Timestamp::ZERO, 0.0), Timestamp::from_millis(86_400_000));
    }

    #[test]
    fn a_spent_day_ends_at_midnight_in_beijing() {
        let now = Timestamp::parse_rfc3339("2026-11-20T15:00:00Z").unwrap();
        let spent = Failure { until_midnight: true, ..failure(FailureClass::Throttled) };
        assert_eq!(retry_at(&spent, 1, now, 0.0), now.next_beijing_midnight());
    }

    proptest! {
        #[test]
        fn backoff_stays_between_its_bounds(failures in 1_u32..100_000, roll in 0.0..1.0_f64) {
            prop_assert!((1..=60).contains(&seconds(FailureClass::Transient, failures, roll)));
            prop_assert!((5..=300).contains(&seconds(FailureClass::Unknown, failures, roll)));
            prop_assert!((60..=70).contains(&seconds(FailureClass::Throttled, failures, roll)));
            prop_assert!((60..=3_600).contains(&seconds(FailureClass::NeedsHuman, failures, roll)));
        }
    }
}
