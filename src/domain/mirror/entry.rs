//! One key and what is to stand under it.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{LEAST_LIFE, usable_until};
use crate::domain::account::TokenType;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::Token;

/// What is copied of a token.
#[derive(Clone, Copy)]
pub struct Copied<'a> {
    /// Its kind.
    pub token_type: TokenType,
    /// Its value.
    pub value: &'a str,
    /// The value before it, which a copy may still have.
    pub previous: Option<&'a str>,
    /// Until when a copy may be trusted.
    pub until: Timestamp,
    /// How many values there have been.
    pub version: i64,
}

impl<'a> Copied<'a> {
    /// What is copied of `token` at `now`; `None` when there is nothing to copy.
    pub fn of(token: &'a Token, now: Timestamp) -> Option<Self> {
        let until = usable_until(token, now)?;
        let value = token.value.as_ref()?.text.expose();
        let previous = token.previous.as_ref().map(crate::domain::secret::TokenValue::expose);
        Some(Self { token_type: token.key.token_type, value, previous, until, version: token.version })
    }
}

/// A key, what is to stand under it, and until when.
pub struct Entry {
    /// The key. It may contain a secret.
    pub key: String,
    /// Until when it may stand there.
    pub until: Timestamp,
    body: Zeroizing<String>,
    reading: Reading,
}

/// How a body is compared with what was found.
pub(super) enum Reading {
    /// It is the same text, or the one that the value before it gives.
    Text {
        /// The body with the value before this one.
        previous: Option<Zeroizing<String>>,
    },
    /// It is a JSON object that has the value under this name, and a number for the seconds left, which are not the same a moment later.
    Object {
        /// The name.
        name: &'static str,
        /// The value.
        value: Zeroizing<String>,
        /// The value before it.
        previous: Option<Zeroizing<String>>,
    },
    /// It is a number that only grows.
    Number(i64),
}

/// How what was found under a key compares with what is to stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// It is that.
    Same,
    /// It is what stood there before.
    Older,
    /// It is something else, perhaps something newer.
    Other,
}

impl Entry {
    pub(super) fn new(key: String, body: String, until: Timestamp, reading: Reading) -> Self {
        Self { key, until, body: body.into(), reading }
    }

    /// What is to stand under the key. It is a secret.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// How long it may stand there from `now` on; `None` when that is not worth writing.
    pub fn life(&self, now: Timestamp) -> Option<Duration> {
        Some(self.until.since(now)).filter(|life| *life >= LEAST_LIFE)
    }

    /// How `found` compares with what is to stand here.
    pub fn compare(&self, found: &[u8]) -> Compared {
        let of = |is_same: bool, is_older: bool| match (is_same, is_older) {
            (true, _) => Compared::Same,
            (false, true) => Compared::Older,
            (false, false) => Compared::Other,
        };
        match &self.reading {
            Reading::Text { previous } => {
                of(found == self.body.as_bytes(), previous.as_ref().is_some_and(|text| found == text.as_bytes()))
            }
            Reading::Object { name, value, previous } => {
                let Ok(object) = serde_json::from_slice::<serde_json::Value>(found) else {
                    return Compared::Other;
                };
                let held = object[*name].as_str();
                let is_whole = object["expires_in"].is_number();
                of(
                    is_whole && held == Some(value),
                    held.is_some() && (held == previous.as_ref().map(|text| text.as_str()) || held == Some(value)),
                )
            }
            Reading::Number(number) => {
                let held = std::str::from_utf8(found).ok().and_then(|text| text.parse::<i64>().ok());
                of(held == Some(*number), held.is_some_and(|held| held < *number))
            }
        }
    }
}

/// Without the body, and without the key: either may be a secret.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("until", &self.until).finish_non_exhaustive()
    }
}
