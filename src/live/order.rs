//! Which of two states of a token is the one to serve.
//!
//! A row's revision only grows, so of two states of a row the one with the higher revision is the newer, whenever it arrives. There is one exception: a
//! database that was restored from an older copy. It shows by a state that was read *after* a newer one was known to be stored. Then the database
//! is right all the same, or this instance would refuse everything that it says from then on.

use tokio::time::Instant;

use crate::domain::timestamp::Timestamp;
use crate::domain::token::Token;

/// What is known of a state in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The database had it at this moment.
    Stored(Instant),
    /// It is on its way to the database.
    Unstored,
    /// It was on its way, and has become the stored state or never will. What the database has replaces it, but not by a value before it.
    Concluded,
}

/// How a state that the database told compares with the one held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// It takes the held one's place.
    Newer,
    /// It is the same, or older and was read before the held one was stored.
    NotNewer,
    /// It takes the held one's place although it is older: the database was restored from a copy.
    WentBack,
}

impl Standing {
    /// Compares `fresh`, which the database had when it was `asked` or later, with `held`.
    pub(super) fn order(self, held: &Token, fresh: &Token, asked: Instant) -> Order {
        match self {
            Self::Unstored | Self::Concluded if !fresh.kept => Order::Newer,
            // Who was fenced off may have the younger value all the same. It is not withdrawn for one before it. The same value may be older there: each
            // instance that fetched it without a claim counts from its own call.
            Self::Concluded if since(fresh) >= since(held) || fingerprint(fresh) == fingerprint(held) => Order::Newer,
            // Not by the revision alone: what another instance has stored since may be a failed call with the value before this one.
            Self::Unstored if (since(fresh), fresh.revision) >= (since(held), held.revision) => Order::Newer,
            Self::Stored(_) if fresh.revision > held.revision => Order::Newer,
            Self::Stored(known_at) if known_at < asked && !is_same_state(held, fresh) => Order::WentBack,
            Self::Unstored | Self::Concluded | Self::Stored(_) => Order::NotNewer,
        }
    }

    /// Whether the database is known to have had the state before `moment`.
    pub(super) fn is_stored_before(self, moment: Instant) -> bool {
        matches!(self, Self::Stored(known_at) if known_at < moment)
    }

    /// Whether the database had the state before it was `asked`.
    pub(super) fn known_before(self, asked: Instant) -> bool {
        match self {
            Self::Stored(known_at) => known_at < asked,
            Self::Unstored => false,
            Self::Concluded => true,
        }
    }
}

fn is_same_state(one: &Token, other: &Token) -> bool {
    one.revision == other.revision && fingerprint(one) == fingerprint(other)
}

fn fingerprint(token: &Token) -> Option<&str> {
    token.value.as_ref().map(|value| value.fingerprint.as_str())
}

/// When its value was obtained.
pub(super) fn since(token: &Token) -> Option<Timestamp> {
    token.value.as_ref().map(|value| value.life.since)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::account::{AppId, Mode, TokenType};
    use crate::domain::budget::Spent;
    use crate::domain::schedule::Life;
    use crate::domain::secret::TokenValue;
    use crate::domain::token::{Record, TokenKey, Value};

    fn token(revision: i64, value: &str, since: i64) -> Token {
        let since = Timestamp::from_millis(since);
        let value = Value {
            text: TokenValue::parse(value).unwrap(),
            life: Life { since, until: since.plus(Duration::from_hours(2)) },
            fingerprint: value.to_owned(),
        };
        Token {
            key: TokenKey::new(AppId::parse("wx1").unwrap(), TokenType::AccessToken),
            mode: Mode::Stable,
            kept: true,
            value: Some(value),
            previous: None,
            in_doubt: false,
            version: revision,
            generation: revision,
            refresh_at: since,
            leased_until: Timestamp::ZERO,
            leased_by: None,
            record: Record::default(),
            spent: Spent::default(),
            revision,
        }
    }

    #[test]
    fn of_two_stored_states_the_later_counts_in_whatever_order_they_arrive() {
        let start = Instant::now();
        let stored = Standing::Stored(start + Duration::from_secs(2));
        let (older, newer) = (token(4, "a", 1), token(5, "b", 2));
        assert_eq!(stored.order(&older, &newer, start), Order::Newer);
        assert_eq!(stored.order(&newer, &older, start + Duration::from_secs(1)), Order::NotNewer, "read before");
        assert_eq!(stored.order(&newer, &newer, start + Duration::from_secs(3)), Order::NotNewer);
    }

    #[test]
    fn an_older_state_that_was_read_later_is_a_database_that_went_back() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        assert_eq!(Standing::Stored(start).order(&token(5, "b", 2), &token(4, "a", 1), later), Order::WentBack);
        assert_eq!(Standing::Stored(start).order(&token(5, "b", 2), &token(5, "c", 2), later), Order::WentBack);
    }

    #[test]
    fn what_is_not_stored_gives_way_to_what_is_as_new_and_in_the_end_to_any_state_with_a_value_as_young() {
        let now = Instant::now();
        let held = token(5, "b", 20);
        let order = |fresh: &Token| Standing::Unstored.order(&held, fresh, now);
        assert_eq!(order(&token(4, "a", 10)), Order::NotNewer, "the row as it was before");
        assert_eq!(order(&token(6, "a", 10)), Order::NotNewer, "the same row after another instance's call has failed");
        assert_eq!(order(&token(5, "b", 20)), Order::Newer, "the same, stored");
        assert_eq!(order(&token(3, "c", 30)), Order::Newer, "what another instance has fetched since");
        let in_the_end = |fresh: &Token| Standing::Concluded.order(&held, fresh, now);
        assert_eq!(in_the_end(&token(1, "b", 20)), Order::Newer, "the same, in a copy");
        assert_eq!(in_the_end(&token(6, "b", 10)), Order::Newer, "the same, which another instance fetched first");
        assert_eq!(in_the_end(&token(6, "c", 30)), Order::Newer);
        assert_eq!(in_the_end(&token(6, "a", 10)), Order::NotNewer, "a younger value is not withdrawn");
        let removed = Token { kept: false, value: None, ..token(6, "a", 10) };
        assert_eq!((order(&removed), in_the_end(&removed)), (Order::Newer, Order::Newer));
    }
}
