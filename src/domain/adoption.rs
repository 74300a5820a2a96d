//! Taking over a token that lives already, so that registering its account mints none.

use std::time::Duration;

use super::Invalid;
use super::refresh::{Outcome, Trigger};
use super::schedule::{LONGEST_LIFETIME, Life, after_new_token};
use super::secret::TokenValue;
use super::settlement::EndedCall;
use super::timestamp::Timestamp;
use super::token::{Token, Value};

/// An access token that somebody else obtained and that wxtoken is to keep from now on.
///
/// WeChat tells whether it accepts a value, not whose it is: that it belongs to the account is the caller's word.
#[derive(Debug)]
pub struct Adoption {
    /// The value that is in use now.
    pub value: TokenValue,
    /// How much longer it lives, as far as the caller knows.
    pub expires_in: Duration,
}

impl Adoption {
    /// Checks what a caller submits; `expires_in` is in seconds.
    ///
    /// # Errors
    /// When the value cannot be a token, or the remainder is not between 1 s and two hours.
    pub fn parse(value: &str, expires_in: u64) -> Result<Self, Invalid> {
        let value = TokenValue::parse(value).map_err(|invalid| Invalid::new("adopt/value", invalid.reason))?;
        if !(1..=LONGEST_LIFETIME.as_secs()).contains(&expires_in) {
            return Err(Invalid::new(
                "adopt/expires_in",
                "expires_in is what is left of the token's life, in seconds, between 1 and 7200",
            ));
        }
        Ok(Self { value, expires_in: Duration::from_secs(expires_in) })
    }

    /// Its life, if that is what is left of it at `now`.
    pub fn life(&self, now: Timestamp) -> Life {
        Life { since: now, until: now.plus(self.expires_in) }
    }
}

/// The token of an account just registered, once `call`, a probe, has shown that WeChat accepts `value`. It is refreshed when one that had
/// just been fetched with such a life would be; a disabled account's never is.
pub fn adopt(fresh: &Token, value: Value, call: &EndedCall, ahead: Duration, roll: f64) -> Token {
    let mut token = fresh.clone();
    if token.refresh_at != Timestamp::NEVER {
        token.refresh_at = after_new_token(value.life, ahead, roll);
    }
    token.value = Some(value);
    token.previous = None;
    token.in_doubt = false;
    token.version += 1;
    token.revision += 1;
    token.record.failures = 0;
    token.record.last_success_at = call.ended_at;
    token.record.last_call_at = call.ended_at;
    token.record.last_outcome = Some(Outcome::StillValid);
    token.record.last_trigger = Some(Trigger::Manual);
    token.record.last_errcode = None;
    token.record.last_errmsg = None;
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_life_is_checked() {
        for (seconds, is_good) in [(0, false), (1, true), (7_200, true), (7_201, false), (u64::MAX, false)] {
            assert_eq!(Adoption::parse("84_x", seconds).is_ok(), is_good, "{seconds}");
        }
        assert_eq!(Adoption::parse("a b", 1).unwrap_err().field, "adopt/value");
    }
}
