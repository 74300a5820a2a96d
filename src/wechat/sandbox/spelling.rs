//! Values spelled as WeChat spells them. Nothing but tests of looks may depend on it: WeChat promises none of this.

use rand::RngExt;

use super::chain::Line;
use crate::domain::timestamp::Timestamp;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
/// Length of an account's own access token since 2018, prefix included.
const TOKEN_LENGTH: usize = 136;
const TICKET_LENGTH: usize = 86;
/// 2024-09-01T00:00:00Z, when tokens began with `84_`. The number grows by about one a month.
const PREFIX_84_MILLIS: i64 = 1_725_148_800_000;
const MILLIS_PER_MONTH: i64 = 2_629_800_000;

/// A new value for `line`: `98_` and more for access tokens, no prefix for tickets.
pub(super) fn value(line: Line, now: Timestamp) -> String {
    if line.is_ticket() {
        return letters(TICKET_LENGTH);
    }
    let months = (now.as_millis() - PREFIX_84_MILLIS).div_euclid(MILLIS_PER_MONTH);
    let prefix = format!("{}_", (84 + months).max(1));
    let rest = letters(TOKEN_LENGTH.saturating_sub(prefix.len()));
    prefix + &rest
}

/// `length` random characters of `[A-Za-z0-9_-]`.
pub(super) fn letters(length: usize) -> String {
    let mut random = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

/// A request id: three groups of eight hexadecimal digits, the first of which is the unix time in seconds.
pub(super) fn rid(now: Timestamp) -> String {
    let mut random = rand::rng();
    let seconds = now.as_millis().div_euclid(1_000);
    format!("{seconds:08x}-{:08x}-{:08x}", random.random::<u32>(), random.random::<u32>())
}

/// The end of a value, enough to recognise it and too little to use it.
pub(super) fn tail(value: &str) -> String {
    let skipped = value.chars().count().saturating_sub(8);
    value.chars().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_look_like_those_of_wechat() {
        let now = Timestamp::from_millis(1_763_625_600_123);
        let token = value(Line::Stable, now);
        assert_eq!(token.len(), 136);
        assert!(token.starts_with("98_"), "{token}");
        assert_eq!(value(Line::Jsapi, now).len(), 86);
        assert_ne!(value(Line::Stable, now), token);
    }

    #[test]
    fn a_rid_tells_the_second_in_which_it_was_made() {
        let rid = rid(Timestamp::from_millis(0x62cb_6800 * 1_000));
        assert!(rid.starts_with("62cb6800-"));
        assert_eq!(rid.len(), 26);
    }

    #[test]
    fn a_tail_is_short() {
        assert_eq!(tail("0123456789"), "23456789");
        assert_eq!(tail("9"), "9");
    }
}
