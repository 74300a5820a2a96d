//! What to do about a key, given what stands there and what this worker remembers of it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroizing;

use super::place::{Found, Stays};
use crate::domain::mirror::{Compared, Entry};
use crate::domain::timestamp::Timestamp;

/// How long something that is not known to be older is left alone at least: until then the view of whoever wrote it may still be on its way here.
pub(super) const RESPECT: Duration = Duration::from_secs(3);
/// How much longer than it should a copy may stay. Rounding and the way to the target take some of it.
const TOO_LONG: Duration = Duration::from_secs(2);
/// How much shorter.
const TOO_SHORT: Duration = Duration::from_secs(30);

/// What to do about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Right,
    /// Write it now.
    Write,
    /// Look again in a while.
    Wait,
}

/// What a worker remembers of the keys of its target.
#[derive(Default)]
pub(super) struct Memory(HashMap<String, Remembered>);

#[derive(Default)]
struct Remembered {
    /// What it wrote last, and until when that stays.
    written: Option<(Zeroizing<Vec<u8>>, Timestamp)>,
    /// What it found and does not know, and since when.
    strange: Option<(Zeroizing<Vec<u8>>, Instant)>,
}

impl Memory {
    /// Judges what was found under the key of `entry`. `has_asked_since` says whether the view has everything that was stored before a time: without
    /// the database it has not, however long that takes, and what is not known may be newer.
    pub(super) fn judge(
        &mut self,
        entry: &Entry,
        found: Option<&Found>,
        life: Duration,
        has_asked_since: impl Fn(Instant) -> bool,
    ) -> Verdict {
        let Some(found) = found else {
            return Verdict::Write;
        };
        let remembered = self.0.entry(entry.key.clone()).or_default();
        let is_own = remembered.written.as_ref().is_some_and(|(body, _)| **body == found.body);
        let compared = entry.compare(&found.body);
        if compared != Compared::Other || is_own {
            remembered.strange = None;
            let is_right = compared == Compared::Same && remembered.stays_right(entry, found.stays, life);
            return if is_right { Verdict::Right } else { Verdict::Write };
        }
        match &remembered.strange {
            Some((body, since)) if **body == found.body => {
                if since.elapsed() >= RESPECT && has_asked_since(*since) {
                    Verdict::Write
                } else {
                    Verdict::Wait
                }
            }
            _ => {
                remembered.strange = Some((found.body.clone().into(), Instant::now()));
                Verdict::Wait
            }
        }
    }

    /// Remembers what was written.
    pub(super) fn note(&mut self, entry: &Entry) {
        let written = Some((entry.body().as_bytes().to_vec().into(), entry.until));
        self.0.insert(entry.key.clone(), Remembered { written, strange: None });
    }

    /// Remembers what was found right, whoever wrote it.
    pub(super) fn confirm(&mut self, entry: &Entry, found: Option<&Found>) {
        let remembered = self.0.entry(entry.key.clone()).or_default();
        if let Some(found) = found.filter(|_| remembered.written.is_none()) {
            remembered.written = Some((found.body.clone().into(), entry.until));
        }
    }

    /// Forgets a key, and tells what this worker knows to have stood there last.
    pub(super) fn forget(&mut self, key: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.0.remove(key)?.written.map(|(body, _)| body)
    }
}

impl Remembered {
    fn stays_right(&self, entry: &Entry, stays: Stays, life: Duration) -> bool {
        match stays {
            Stays::For(left) => left <= life + TOO_LONG && left + TOO_SHORT >= life,
            Stays::Forever => false,
            // What another instance wrote is written once more, or nobody here would know how long it stays.
            Stays::Unknown => self
                .written
                .as_ref()
                .is_some_and(|(_, until)| *until <= entry.until.plus(TOO_LONG) && until.plus(TOO_SHORT) >= entry.until),
        }
    }
}
