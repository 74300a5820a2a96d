//! Hints that WeChat refused a token that we hand out, and what is done about them.
//!
//! Nothing in an SDK's request says "the token you gave me is dead": it just asks for one again. So whoever asks for an unchanged token before
//! the time that the last answer gave it counts as refused. The rule for how often such hints are followed up is
//! [`crate::domain::suspicion`].
//!
//! At most one hint of a token is followed up at a time, in a task of its own: it goes on when those who wait for it hang up or lose patience.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::{Instant, sleep, timeout_at};

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
    /// The holder of the key with this hash asked again for a token.
    Ask(u64),
    /// WeChat refused a call of the path with this hash. A path that is refused for other reasons must not make us deaf to the others.
    Path(u64),
    /// Anything: for what is true of a token as a whole.
    Any,
}

impl Source {
    /// How long whoever gave the hint waits for what comes of it. SDKs give up asking after three seconds.
    const fn patience(self) -> Duration {
        match self {
            Self::Ask(_) => Duration::from_millis(2_500),
            Self::Path(_) | Self::Any => Duration::from_secs(8),
        }
    }
}

/// A hint that WeChat refuses a value.
pub(super) struct Hint<'a> {
    pub(super) key: &'a TokenKey,
    pub(super) value: &'a TokenValue,
    pub(super) source: Source,
    /// What was found out before does not count.
    pub(super) seen_at: Timestamp,
}

/// What was answered to a key about a token.
#[derive(Debug, Clone, Copy)]
struct Answered {
    version: i64,
    /// Until when the caller was told that the value lasts.
    until: Timestamp,
}

/// What a hint came to, and when the question to WeChat was begun.
#[derive(Clone)]
struct Outcomes {
    report: Option<Report>,
    began_at: Timestamp,
}

/// A question that is under way, and when it was thought of.
#[derive(Clone)]
struct FollowUp {
    since: Instant,
    ending: Shared<BoxFuture<'static, Option<Outcomes>>>,
}

/// What is remembered of asks and alarms. Each instance has its own: a client that is sent to another one is recognised by the next ask.
#[derive(Default)]
pub(super) struct Hints {
    hashing: RandomState,
    answered: Mutex<HashMap<u64, Answered>>,
    alarms: Mutex<HashMap<(TokenKey, Source), FalseAlarms>>,
    under_way: Mutex<HashMap<TokenKey, FollowUp>>,
}

impl Hints {
    /// The source that stands for a path.
    pub(super) fn path(&self, path: &str) -> Source {
        Source::Path(self.hashing.hash_one(path))
    }

    /// The source that stands for the holder of a key.
    pub(super) fn ask(&self, key: &Key) -> Source {
        Source::Ask(self.hashing.hash_one(&key.id))
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
        make_room(&mut answered, |before| now < before.until);
        answered.insert(self.hashing.hash_one((&key.id, &token.key)), answer);
    }

    /// Follows up a hint: asks WeChat, and replaces the token if it is dead. `None` when it is not the time to ask, no answer could be had, or it
    /// takes too long; what was begun goes on all the same.
    pub(super) async fn follow_up(self: &Arc<Self>, rooms: &Arc<Rooms>, hint: Hint<'_>) -> Option<Report> {
        // Who joins a question that was begun before the refusal was seen asks once more.
        for _ in 0..2 {
            // Without the database no claim can be made, and trying would keep everybody waiting.
            if rooms.refresher.database_is_away() {
                return None;
            }
            let pause = match self.weigh(&hint, rooms.clock.now()) {
                Advice::Verify => Duration::ZERO,
                Advice::VerifyIn(pause) => pause,
                Advice::Ignore => return None,
            };
            let FollowUp { since, ending } = self.join(rooms, &hint, pause);
            // Counted from the question's beginning, so that one without an answer does not keep everybody who comes after it waiting.
            let deadline = since + hint.source.patience();
            let Outcomes { report, began_at } = timeout_at(deadline, ending).await.ok().flatten()?;
            let report = report?;
            if report.verdict != Verdict::StillValid || began_at > hint.seen_at {
                return Some(report);
            }
        }
        None
    }

    /// Waits for the question that is under way, or begins one.
    fn join(self: &Arc<Self>, rooms: &Arc<Rooms>, hint: &Hint<'_>, pause: Duration) -> FollowUp {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(follow_up) = under_way.get(hint.key) {
            return follow_up.clone();
        }
        let (hints, rooms) = (Arc::clone(self), Arc::clone(rooms));
        let (key, value, source, seen_at) = (hint.key.clone(), hint.value.clone(), hint.source, hint.seen_at);
        let landed = Landed { hints: Arc::clone(self), key: key.clone() };
        let work = async move {
            let _landed = landed;
            sleep(pause).await;
            let began_at = rooms.clock.now();
            let looked = rooms.refresher.look_into(&key, &value, seen_at).await;
            let report = looked.inspect_err(|error| {
                tracing::debug!(error = error as &dyn std::error::Error, "a hint about {key} came to nothing");
            });
            let report = report.ok();
            // No answer is no reason to ask again at once.
            let is_false = report.as_ref().is_none_or(|report| report.verdict == Verdict::StillValid);
            hints.note_alarm(&key, source, is_false, rooms.clock.now());
            Outcomes { report, began_at }
        };
        let ending = tokio::spawn(work).map(Result::ok).boxed().shared();
        let follow_up = FollowUp { since: Instant::now(), ending };
        under_way.insert(hint.key.clone(), follow_up.clone());
        follow_up
    }

    fn weigh(&self, hint: &Hint<'_>, now: Timestamp) -> Advice {
        let alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |source| alarms.get(&(hint.key.clone(), source)).copied().unwrap_or_default().weigh(now);
        of(hint.source).max(of(Source::Any))
    }

    fn note_alarm(&self, key: &TokenKey, source: Source, is_false: bool, now: Timestamp) {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_false {
            alarms.retain(|(of, _), _| of != key);
            return;
        }
        make_room(&mut alarms, |alarms| !alarms.is_over(now));
        alarms.insert((key.clone(), Source::Any), FalseAlarms::single(now));
        let before = alarms.entry((key.clone(), source)).or_default();
        *before = before.and_another(now);
    }
}

/// Takes a question off the list when it ends, also by a panic.
struct Landed {
    hints: Arc<Hints>,
    key: TokenKey,
}

impl Drop for Landed {
    fn drop(&mut self) {
        self.hints.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// Keeps what still matters, or nothing if that is too much.
fn make_room<K: Eq + std::hash::Hash, V>(remembered: &mut HashMap<K, V>, matters: impl Fn(&V) -> bool) {
    if remembered.len() >= MOST_REMEMBERED {
        remembered.retain(|_, value| matters(value));
        if remembered.len() >= MOST_REMEMBERED / 2 {
            remembered.clear();
        }
    }
}
