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
        let is_own = remembered.has_written(&found.body);
        let compared = entry.compare(&found.body);
        if compared != Compared::Other || is_own {
            remembered.strange = None;
            let is_right = compared == Compared::Same && remembered.stays_right(entry, found, life);
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
        // Of what it wrote itself it knows better until when that stays.
        if let Some(found) = found.filter(|found| !remembered.has_written(&found.body)) {
            remembered.written = Some((found.body.clone().into(), entry.until));
        }
    }

    /// Forgets a key, and tells what this worker knows to have stood there last.
    pub(super) fn forget(&mut self, key: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.0.remove(key)?.written.map(|(body, _)| body)
    }
}

impl Remembered {
    fn has_written(&self, body: &[u8]) -> bool {
        self.written.as_ref().is_some_and(|(written, _)| **written == body)
    }

    fn stays_right(&self, entry: &Entry, found: &Found, life: Duration) -> bool {
        match found.stays {
            Stays::For(left) => left <= life + TOO_LONG && left + TOO_SHORT >= life,
            Stays::Forever => false,
            // What another instance wrote is written once more, or nobody here would know how long it stays.
            Stays::Unknown => self.written.as_ref().is_some_and(|(body, until)| {
                **body == found.body && *until <= entry.until.plus(TOO_LONG) && until.plus(TOO_SHORT) >= entry.until
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::{AppId, TokenType};
    use crate::domain::mirror::{Copied, Layout, LayoutFields, Target};

    const LIFE: Duration = Duration::from_secs(600);

    /// What is to stand there: this value, where there was this one before it.
    fn entry(value: &str, previous: &str) -> Entry {
        let until = Timestamp::ZERO.plus(LIFE);
        let copied = Copied { token_type: TokenType::AccessToken, value, previous: Some(previous), until, version: 1 };
        let target = Target::parse("redis://h").unwrap();
        let fields = LayoutFields { format: "wxjava".to_owned(), ..LayoutFields::default() };
        let layout = Layout::parse(fields, None).unwrap();
        layout.entries(target.address(), &AppId::parse("wx1").unwrap(), &[copied], Timestamp::ZERO).remove(0)
    }

    fn found(body: &str, stays: Stays) -> Found {
        Found { body: body.as_bytes().to_vec(), stays }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_known_is_replaced_after_a_while_and_an_answer_of_the_database() {
        let (mut memory, entry) = (Memory::default(), entry("v2", "v1"));
        let mut judge = |body: &str, has_asked: bool| {
            memory.judge(&entry, Some(&found(body, Stays::For(LIFE))), LIFE, |_| has_asked)
        };
        assert_eq!(judge("v2", false), Verdict::Right);
        assert_eq!(judge("v1", false), Verdict::Write);
        assert_eq!(judge("v3", true), Verdict::Wait);
        tokio::time::advance(RESPECT).await;
        assert_eq!(judge("v3", false), Verdict::Wait, "it may be newer for as long as the database is away");
        assert_eq!(judge("v4", true), Verdict::Wait, "and so may another");
        assert_eq!(judge("v4", true), Verdict::Wait);
        tokio::time::advance(RESPECT).await;
        assert_eq!(judge("v4", true), Verdict::Write);
    }

    #[test]
    fn what_another_instance_put_in_the_place_of_ours_is_what_is_deleted() {
        let mut memory = Memory::default();
        memory.note(&entry("v1", "v0"));
        let (entry, there) = (entry("v2", "v1"), found("v2", Stays::For(LIFE)));
        assert_eq!(memory.judge(&entry, Some(&there), LIFE, |_| true), Verdict::Right);
        memory.confirm(&entry, Some(&there));
        assert_eq!(memory.forget(&entry.key).unwrap().as_slice(), b"v2");
    }

    #[test]
    fn what_another_instance_wrote_is_written_once_more_where_nobody_tells_how_long_it_stays() {
        let mut memory = Memory::default();
        memory.note(&entry("v1", "v0"));
        let (entry, there) = (entry("v2", "v1"), found("v2", Stays::Unknown));
        assert_eq!(memory.judge(&entry, Some(&there), LIFE, |_| true), Verdict::Write);
        memory.note(&entry);
        assert_eq!(memory.judge(&entry, Some(&there), LIFE, |_| true), Verdict::Right);
    }
}
