//! Hours in which WeChat answers nothing good, in virtual time.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::tests::{AHEAD, claim, claimed, text, token};
use super::*;
use crate::domain::account::TokenType;
use crate::domain::refresh::FailureClass;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::Token;

const SCAN_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
const TWELVE_HOURS: u64 = 12 * 3_600;
/// Pauses lie evenly between 1 s and 60 s, so half a minute on average: 1,416 calls in twelve hours, and six times the spread of their
/// number. It is well below the 2,000 mints that WeChat allows an account in plain mode a day.
const MOST_CALLS: usize = 1_416 + 130;

/// What came of a day.
struct Day {
    calls: usize,
    token: Token,
    fresh_at: Timestamp,
}

/// Refreshes a token whenever it is due. WeChat answers with `failure` until `back`, and then with a value.
fn live_through(mut token: Token, failure: &Failure, back: Timestamp, seed: u64) -> Day {
    let mut dice = StdRng::seed_from_u64(seed);
    for calls in 1.. {
        let now = token.refresh_at.plus(SCAN_INTERVAL.mul_f64(dice.random()));
        let call = token.key.ordinary_call();
        let claim = claim(&token, call, now);
        let is_back = now >= back;
        let result = if is_back {
            let value = text("two");
            CallResult::Value { text: value, fingerprint: "f2".to_owned(), expires_in: LONGEST_LIFETIME }
        } else {
            CallResult::Failed(failure.clone())
        };
        let ended = EndedCall { sent_at: now, ended_at: now.plus(Duration::from_millis(100)), result };
        let before = token.clone();
        token = settle(&claimed(&token, &claim), &claim, &ended, AHEAD, dice.random()).token;
        if is_back {
            return Day { calls, token, fresh_at: ended.ended_at };
        }
        assert_eq!((&token.value, token.version), (&before.value, before.version), "a failure changes no value");
        assert!(token.refresh_at >= ended.ended_at.plus(Duration::from_secs(1)), "a hot loop");
    }
    unreachable!("WeChat comes back")
}

fn failed(class: FailureClass, errcode: i64, until_midnight: bool) -> Failure {
    Failure {
        class,
        errcode: Some(errcode),
        errmsg: String::new(),
        wait_at_least: Duration::ZERO,
        until_midnight,
        maybe_done: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn after_twelve_hours_of_busy_a_token_is_fresh_within_a_minute(seed: u64, mode in 0..3_usize) {
        let kept = match mode {
            0 => token(TokenType::AccessToken),
            1 => Token { mode: Mode::Plain, ..token(TokenType::AccessToken) },
            _ => token(TokenType::JsapiTicket),
        };
        let back = kept.refresh_at.plus(Duration::from_secs(TWELVE_HOURS));
        let ended = kept.value.as_ref().unwrap().life.until;
        let day = live_through(kept, &failed(FailureClass::Transient, -1, false), back, seed);
        prop_assert!(day.calls <= MOST_CALLS, "{} calls", day.calls);
        prop_assert!(day.calls > 1_000, "{} calls", day.calls);
        let late = day.fresh_at.since(back);
        prop_assert!(late <= LONGEST_BACKOFF + SCAN_INTERVAL + Duration::from_millis(200), "{late:?}");
        prop_assert_eq!(day.token.record.failures, 0);
        prop_assert!(day.token.valid(day.fresh_at).is_some() && ended < back);
    }

    #[test]
    fn a_quota_that_is_spent_costs_one_call_until_midnight_in_beijing(seed: u64) {
        let kept = token(TokenType::AccessToken);
        let midnight = kept.refresh_at.next_beijing_midnight();
        let day = live_through(kept, &failed(FailureClass::Throttled, 45_009, true), midnight, seed);
        prop_assert_eq!(day.calls, 2);
        let late = day.fresh_at.since(midnight);
        prop_assert!(late <= LONGEST_BACKOFF + SCAN_INTERVAL + Duration::from_millis(200), "{late:?}");
    }
}
