//! Hints that WeChat refused a token that we hand out, and what is done about them.
//!
//! Nothing in an SDK's request says "the token you gave me is dead": it just asks for one again. So whoever asks for an unchanged token before
//! the time that the last answer gave it counts as refused. The rule for how often such hints are followed up is
//! [`crate::domain::suspicion`].

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::key::Key;
use crate::domain::refresh::{Outcome, Trigger};
use crate::domain::secret::TokenValue;
use crate::domain::suspicion::{Advice, FalseAlarms};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Token, TokenKey};
use crate::http::Rooms;
use crate::refresher::{Report, Verdict};

/// How many answers and sources are remembered before those that do not matter any more are let go of.
const MOST_REMEMBERED: usize = 65_536;
/// For so long after a refused token was replaced, those who come for the new one are not taken for refused again.
const TIME_TO_COME: Duration = Duration::from_secs(3);

/// Where a hint came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// Somebody asked again for a token.
    Ask,
    /// WeChat refused a call of the path with this hash. A path that is refused for other reasons must not make us deaf to the others.
    Path(u64),
}

/// What was answered to a key about a token.
#[derive(Debug, Clone, Copy)]
struct Answered {
    version: i64,
    /// Until when the caller was told that the value lasts.
    until: Timestamp,
}

/// What is remembered of asks and alarms. Each instance has its own: a client that is sent to another one is recognised by the next ask.
#[derive(Default)]
pub(super) struct Hints {
    hashing: RandomState,
    answered: Mutex<HashMap<u64, Answered>>,
    alarms: Mutex<HashMap<(TokenKey, Source), FalseAlarms>>,
}

impl Hints {
    /// The source that stands for a path.
    pub(super) fn path(&self, path: &str) -> Source {
        Source::Path(self.hashing.hash_one(path))
    }

    /// Whether the holder of `key` was given this very value before, and was told that it would last until later than `now`.
    pub(super) fn is_asked_again(&self, key: &Key, token: &Token, now: Timestamp) -> bool {
        let just_replaced = token.record.last_trigger == Some(Trigger::Report)
            && token.record.last_outcome == Some(Outcome::Success)
            && token.value.as_ref().is_some_and(|value| now.since(value.life.since) < TIME_TO_COME);
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let before = answered.get(&self.hashing.hash_one((&key.id, &token.key)));
        !just_replaced && before.is_some_and(|before| before.version == token.version && now < before.until)
    }

    /// Remembers that the holder of `key` was given this value, and for how many seconds.
    pub(super) fn note_answer(&self, key: &Key, token: &Token, seconds: u64, now: Timestamp) {
        let answer = Answered { version: token.version, until: now.plus(Duration::from_secs(seconds)) };
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.len() >= MOST_REMEMBERED {
            answered.retain(|_, before| now < before.until);
            if answered.len() >= MOST_REMEMBERED {
                answered.clear();
            }
        }
        answered.insert(self.hashing.hash_one((&key.id, &token.key)), answer);
    }

    /// Follows up a hint, seen at `seen_at`, that WeChat refuses `value`: asks WeChat, and replaces the token if it is dead. `None` when it
    /// is not the time to ask, or no answer could be had.
    pub(super) async fn follow_up(
        &self,
        rooms: &Rooms,
        key: &TokenKey,
        value: &TokenValue,
        source: Source,
        seen_at: Timestamp,
    ) -> Option<Report> {
        match self.alarms_of(key, source).weigh(rooms.clock.now()) {
            Advice::Verify => {}
            Advice::VerifyIn(pause) => tokio::time::sleep(pause).await,
            Advice::Ignore => return None,
        }
        match rooms.refresher.look_into(key, value, seen_at).await {
            Ok(report) => {
                self.note_alarm(key, source, report.verdict == Verdict::StillValid, rooms.clock.now());
                Some(report)
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a hint about {key} came to nothing");
                None
            }
        }
    }

    fn alarms_of(&self, key: &TokenKey, source: Source) -> FalseAlarms {
        let alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        alarms.get(&(key.clone(), source)).copied().unwrap_or_default()
    }

    fn note_alarm(&self, key: &TokenKey, source: Source, is_false: bool, now: Timestamp) {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_false {
            alarms.retain(|(of, _), _| of != key);
            return;
        }
        if alarms.len() >= MOST_REMEMBERED {
            alarms.retain(|_, alarms| !alarms.is_over(now));
            if alarms.len() >= MOST_REMEMBERED {
                return;
            }
        }
        let before = alarms.entry((key.clone(), source)).or_default();
        *before = before.and_another(now);
    }
}
