//! The worker of one target.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until};

use super::error::MirrorError;
use super::judge::{Memory, RESPECT, Verdict};
use super::place::{Place, Write};
use crate::clock::Clock;
use crate::domain::account::{AppId, TokenType};
use crate::domain::mirror::{Copied, Entry, Mirror};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::TokenKey;
use crate::live::mirrors::{MirrorState, MirrorStatus};
use crate::live::{LiveToken, LiveView};

/// How often everything is read back, more or less.
const LOOK: Duration = Duration::from_secs(5);
/// How soon after somebody else was quicker.
const AGAIN: Duration = Duration::from_millis(100);
/// The longest pause between two attempts at a target that is down, in seconds.
const LONGEST_PAUSE: u64 = 30;

/// What to look at.
enum Scope {
    Everything,
    These(HashSet<AppId>),
}

impl Scope {
    fn has(&self, mirror: &Mirror) -> bool {
        match self {
            Self::Everything => true,
            Self::These(appids) => appids.contains(&mirror.appid),
        }
    }
}

/// What became of a mirror in one look.
#[derive(Default)]
struct Tended {
    has_entries: bool,
    has_written: bool,
    /// How soon to look again; `None` when everything is in its place.
    open: Option<Duration>,
}

/// The worker of one target, for as long as there are mirrors there.
pub(super) struct Worker {
    live: Arc<LiveView>,
    clock: Clock,
    assigned: watch::Receiver<Vec<Arc<Mirror>>>,
    mirrors: Vec<Arc<Mirror>>,
    memory: Memory,
    /// The mirror at which the target failed. The next look begins behind it, lest one that always fails keep the target from the others.
    failed_at: Option<String>,
    /// Attempts in a row that the target failed.
    failures: u32,
}

impl Worker {
    pub(super) fn new(live: Arc<LiveView>, clock: Clock, assigned: watch::Receiver<Vec<Arc<Mirror>>>) -> Self {
        Self { live, clock, assigned, mirrors: Vec::new(), memory: Memory::default(), failed_at: None, failures: 0 }
    }

    /// Writes until the target has no mirror any more.
    pub(super) async fn run(mut self) {
        self.mirrors.clone_from(&self.assigned.borrow_and_update());
        let Some(target) = self.mirrors.first().map(|mirror| mirror.target.clone()) else {
            return;
        };
        let mut changes = self.live.changes();
        let mut place = Place::of(target.address(), self.live.mirrors().directory());
        let (mut scope, mut next_look) = (Scope::Everything, Instant::now());
        while !self.mirrors.is_empty() {
            let is_full = matches!(scope, Scope::Everything);
            let was_down = self.failures > 0;
            let looked = self.look(&mut place, &scope, &mut changes).await;
            let pause = match &looked {
                Ok(pause) => *pause,
                Err(_) => Some(backoff(self.failures)),
            };
            self.say(&target.place(), was_down, looked.err());
            match pause {
                Some(pause) if is_full || self.failures > 0 => next_look = Instant::now() + pause,
                Some(pause) => next_look = next_look.min(Instant::now() + pause),
                None if is_full => next_look = Instant::now() + LOOK.mul_f64(0.8 + 0.4 * rand::random::<f64>()),
                None => {}
            }
            scope = self.wait(next_look, &mut changes).await;
            if self.take_in_assignment(&mut place).await {
                scope = Scope::Everything;
            }
        }
    }

    /// Looks at mirrors and writes what is not as it should be. What changes meanwhile comes first, however long the look. Returns how soon to look
    /// again, if something is left to do.
    async fn look(
        &mut self,
        place: &mut Place,
        scope: &Scope,
        changes: &mut broadcast::Receiver<TokenKey>,
    ) -> Result<Option<Duration>, MirrorError> {
        let mut again: Option<Duration> = None;
        let mut queue = in_turn(&self.mirrors, self.failed_at.take().as_deref());
        queue.retain(|mirror| scope.has(mirror));
        while let Some(mirror) = queue.pop_front() {
            match self.tend(place, &mirror).await {
                Ok(tended) => {
                    again = [again, tended.open].into_iter().flatten().min();
                    self.note(&mirror, &tended);
                }
                Err(error) if error.is_of_the_target() => {
                    self.failures += 1;
                    self.failed_at = Some(mirror.id.clone());
                    return Err(error);
                }
                Err(error) => self.note_failure(&mirror, error),
            }
            let news = match changes.try_recv() {
                Ok(key) => self.gather(key, changes),
                Err(TryRecvError::Lagged(_)) => Some(Scope::Everything),
                Err(TryRecvError::Empty | TryRecvError::Closed) => None,
            };
            if let Some(news) = news {
                hurry(&mut queue, &self.mirrors, &news);
            }
        }
        self.failures = 0;
        Ok(again)
    }

    async fn tend(&mut self, place: &mut Place, mirror: &Mirror) -> Result<Tended, MirrorError> {
        let now = self.clock.now();
        let entries = self.entries(mirror, now);
        let mut tended = Tended { has_entries: !entries.is_empty(), ..Tended::default() };
        if entries.is_empty() {
            return Ok(tended);
        }
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
        let found = place.read(&keys).await?;
        for (entry, found) in entries.iter().zip(&found) {
            // The answer may have taken its time.
            let Some(life) = entry.life(self.clock.now()) else { continue };
            let has_asked_since = |since| self.live.has_asked_since(since);
            let wait = match self.memory.judge(entry, found.as_ref(), life, has_asked_since) {
                Verdict::Right => {
                    self.memory.confirm(entry, found.as_ref());
                    continue;
                }
                Verdict::Wait => RESPECT,
                Verdict::Write => {
                    let over = found.as_ref().map(|found| found.body.as_slice());
                    if place.write(&Write { key: &entry.key, body: entry.body(), life, over }).await? {
                        self.memory.note(entry);
                        tended.has_written = true;
                        continue;
                    }
                    AGAIN
                }
            };
            tended.open = Some(tended.open.map_or(wait, |open| open.min(wait)));
        }
        Ok(tended)
    }

    /// What is to stand at the target now: the values that readers are given.
    fn entries(&self, mirror: &Mirror, now: Timestamp) -> Vec<Entry> {
        let Some(account) = self.live.account(mirror.appid.as_str()).filter(|live| live.account.enabled) else {
            return Vec::new();
        };
        let held: Vec<Arc<LiveToken>> =
            TokenType::ALL.into_iter().filter_map(|token_type| account.token(token_type)).collect();
        let servable = held.iter().filter(|held| held.servable(now).is_some());
        let copied: Vec<_> = servable.filter_map(|held| Copied::of(&held.token, now)).collect();
        mirror.layout.entries(mirror.target.address(), &mirror.appid, &copied, now)
    }

    /// Waits until there is something to look at, and says what.
    async fn wait(&mut self, next_look: Instant, changes: &mut broadcast::Receiver<TokenKey>) -> Scope {
        loop {
            tokio::select! {
                _ = self.assigned.changed() => {
                    self.assigned.mark_changed();
                    return Scope::Everything;
                }
                // A target that is down is not tried sooner because there is more to write.
                heard = changes.recv(), if self.failures == 0 => match heard {
                    Ok(key) => {
                        if let Some(scope) = self.gather(key, changes) {
                            return scope;
                        }
                    }
                    Err(RecvError::Lagged(_)) => return Scope::Everything,
                    Err(RecvError::Closed) => {
                        sleep_until(next_look).await;
                        return Scope::Everything;
                    }
                },
                () = sleep_until(next_look) => return Scope::Everything,
            }
        }
    }

    /// The accounts of this target among those that have changed by now.
    fn gather(&self, first: TokenKey, changes: &mut broadcast::Receiver<TokenKey>) -> Option<Scope> {
        let mut appids = HashSet::from([first.appid]);
        loop {
            match changes.try_recv() {
                Ok(key) => drop(appids.insert(key.appid)),
                Err(TryRecvError::Lagged(_)) => return Some(Scope::Everything),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        appids.retain(|appid| self.mirrors.iter().any(|mirror| mirror.appid == *appid));
        (!appids.is_empty()).then_some(Scope::These(appids))
    }

    /// Takes in which mirrors there are now, and deletes the keys of those that are gone. Tells whether there were news.
    async fn take_in_assignment(&mut self, place: &mut Place) -> bool {
        if !self.assigned.has_changed().unwrap_or(false) {
            return false;
        }
        let mirrors = self.assigned.borrow_and_update().clone();
        let kept: HashSet<String> = mirrors.iter().flat_map(|mirror| mirror.keys()).collect();
        let gone: Vec<_> = self.mirrors.iter().filter(|old| !mirrors.iter().any(|new| new.id == old.id)).collect();
        for key in gone.into_iter().flat_map(|mirror| mirror.keys()).filter(|key| !kept.contains(key)) {
            if let Some(written) = self.memory.forget(&key)
                && let Err(error) = place.delete(&key, &written).await
            {
                tracing::info!(%error, "a mirror was removed and its keys could not be deleted; they end by themselves");
                break;
            }
        }
        self.mirrors = mirrors;
        true
    }

    fn note(&self, mirror: &Mirror, tended: &Tended) {
        let now = self.clock.now();
        self.live.mirrors().note(&mirror.id, |status| {
            status.failing_since = None;
            if tended.has_written {
                status.last_written_at = Some(now);
            }
            if !tended.has_entries {
                status.state = MirrorState::Pending;
            } else if tended.open.is_none() {
                (status.state, status.last_checked_at) = (MirrorState::Ok, Some(now));
            } else if status.state == MirrorState::Failing {
                status.state = MirrorState::Pending;
            }
        });
    }

    fn note_failure(&self, mirror: &Mirror, error: MirrorError) {
        let now = self.clock.now();
        self.live.mirrors().note(&mirror.id, |status: &mut MirrorStatus| {
            status.state = MirrorState::Failing;
            status.failing_since.get_or_insert(now);
            status.last_error = Some(error.to_string());
        });
    }

    /// Says once that the target is down, and once that it is back.
    fn say(&self, place: &str, was_down: bool, failed: Option<MirrorError>) {
        match failed {
            None if was_down => tracing::info!("the mirrors at {place} can be written again"),
            None => {}
            Some(error) => {
                self.mirrors.iter().for_each(|mirror| self.note_failure(mirror, error));
                if !was_down {
                    tracing::warn!(%error, "the mirrors at {place} cannot be written; tried again until they can");
                }
            }
        }
    }
}

/// The mirrors in the order of a look: in their own, or beginning behind this one.
fn in_turn(mirrors: &[Arc<Mirror>], behind: Option<&str>) -> VecDeque<Arc<Mirror>> {
    let mut queue: VecDeque<_> = mirrors.iter().cloned().collect();
    if let Some(at) = mirrors.iter().position(|mirror| Some(mirror.id.as_str()) == behind) {
        queue.rotate_left(at + 1);
    }
    queue
}

/// Moves these to the front, even if they have been looked at.
fn hurry(queue: &mut VecDeque<Arc<Mirror>>, mirrors: &[Arc<Mirror>], news: &Scope) {
    queue.retain(|mirror| !news.has(mirror));
    mirrors.iter().rev().filter(|mirror| news.has(mirror)).for_each(|mirror| queue.push_front(Arc::clone(mirror)));
}

/// Full jitter under a cap of 2, 4, … 30 s, and never less than 1 s.
fn backoff(failures: u32) -> Duration {
    let cap = (1_u64 << failures.min(5)).clamp(2, LONGEST_PAUSE);
    Duration::from_secs(1) + Duration::from_secs(cap - 1).mul_f64(rand::random())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::mirror::{Layout, Target};

    fn mirrors(appids: &[&str]) -> Vec<Arc<Mirror>> {
        let mirror = |(number, appid): (usize, &&str)| Mirror {
            id: number.to_string(),
            appid: AppId::parse(appid).unwrap(),
            target: Target::parse(&format!("file:{number}")).unwrap(),
            layout: Layout::Json,
            created_at: Timestamp::ZERO,
        };
        appids.iter().enumerate().map(mirror).map(Arc::new).collect()
    }

    fn ids(queue: &VecDeque<Arc<Mirror>>) -> Vec<&str> {
        queue.iter().map(|mirror| mirror.id.as_str()).collect()
    }

    #[test]
    fn a_look_begins_behind_the_mirror_at_which_the_one_before_it_ended() {
        let all = mirrors(&["wx1", "wx1", "wx2"]);
        let turn = |behind: Option<&str>| in_turn(&all, behind);
        assert_eq!(ids(&turn(None)), ["0", "1", "2"]);
        assert_eq!(ids(&turn(Some("0"))), ["1", "2", "0"]);
        assert_eq!(ids(&turn(Some("2"))), ["0", "1", "2"]);
        assert_eq!(ids(&turn(Some("gone"))), ["0", "1", "2"]);
    }

    #[test]
    fn what_changes_during_a_look_comes_first_and_once() {
        let all = mirrors(&["wx1", "wx2", "wx1", "wx2"]);
        let mut queue = in_turn(&all, None);
        queue.pop_front();
        hurry(&mut queue, &all, &Scope::These(HashSet::from([AppId::parse("wx2").unwrap()])));
        assert_eq!(ids(&queue), ["1", "3", "2"]);
        hurry(&mut queue, &all, &Scope::These(HashSet::from([AppId::parse("wx1").unwrap()])));
        assert_eq!(ids(&queue), ["0", "2", "1", "3"], "what was looked at is looked at again");
        hurry(&mut queue, &all, &Scope::Everything);
        assert_eq!(ids(&queue), ["0", "1", "2", "3"]);
    }
}
