//! The mirrors as this instance knows them, and how each is doing. Whoever writes them says so here, and whoever shows them reads it here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::mirror::Mirror;
use crate::domain::timestamp::Timestamp;
use crate::store::mirror::MirrorChange;

/// How a mirror is doing, as this instance sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MirrorStatus {
    /// In a word.
    pub state: MirrorState,
    /// When this instance last wrote there.
    pub last_written_at: Option<Timestamp>,
    /// When this instance last found everything in its place.
    pub last_checked_at: Option<Timestamp>,
    /// Since when it has been failing.
    pub failing_since: Option<Timestamp>,
    /// What was wrong when it last failed. Never anything that a server said.
    pub last_error: Option<String>,
}

/// A mirror's state in a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MirrorState {
    /// There is nothing to write, or it has not been looked at yet.
    #[default]
    Pending,
    /// What is there is right.
    Ok,
    /// The target cannot be read or written.
    Failing,
}

impl MirrorState {
    /// `pending`, `ok` or `failing`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ok => "ok",
            Self::Failing => "failing",
        }
    }
}

struct Held {
    revision: i64,
    known_at: Instant,
    mirror: Option<Arc<Mirror>>,
}

/// Every mirror, and how each is doing.
#[derive(Default)]
pub struct MirrorBoard {
    held: Mutex<BTreeMap<String, Held>>,
    statuses: Mutex<HashMap<String, MirrorStatus>>,
    changes: watch::Sender<()>,
    directory: OnceLock<PathBuf>,
}

impl MirrorBoard {
    /// Says where files are written; without it there are none.
    pub fn set_directory(&self, directory: PathBuf) {
        // The first one stays.
        let _ = self.directory.set(directory);
    }

    /// Where files are written.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.get().map(PathBuf::as_path)
    }

    /// Hears of changes in the set of mirrors, and of accounts that come or go.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Takes in states as the database had them when it was `asked`, or later. Tells whether it has an older one than it had before: then a copy was
    /// restored.
    pub(super) fn publish(&self, changes: impl IntoIterator<Item = MirrorChange>, asked: Instant) -> bool {
        let mut held = self.lock();
        let (mut has_news, mut went_back) = (false, false);
        for MirrorChange { id, revision, mirror } in changes {
            let before = held.get(&id);
            let is_older = before.is_some_and(|held| held.revision > revision && held.known_at < asked);
            if is_older || before.is_none_or(|held| held.revision < revision) {
                has_news |= mirror.is_some() || before.is_some();
                went_back |= is_older;
                held.insert(id, Held { revision, known_at: Instant::now(), mirror: mirror.map(Arc::new) });
            }
        }
        drop(held);
        if has_news {
            self.tell();
        }
        went_back
    }

    /// Lets go of what the database did not have when it was `asked` for everything it has.
    pub(super) fn forget_others(&self, told: &HashSet<String>, asked: Instant) {
        let mut held = self.lock();
        let before = held.len();
        held.retain(|id, held| told.contains(id) || held.known_at > asked);
        let has_lost = held.len() < before;
        drop(held);
        if has_lost {
            self.tell();
        }
    }

    /// Has whoever follows the mirrors look at all of them again.
    pub(super) fn tell(&self) {
        self.changes.send_replace(());
    }

    /// Every mirror that is not removed.
    pub(super) fn all(&self) -> Vec<Arc<Mirror>> {
        self.lock().values().filter_map(|held| held.mirror.clone()).collect()
    }

    /// How a mirror is doing.
    pub fn status(&self, id: &str) -> MirrorStatus {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned().unwrap_or_default()
    }

    /// Notes how a mirror is doing.
    pub fn note(&self, id: &str, note: impl FnOnce(&mut MirrorStatus)) {
        note(self.statuses.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_default());
    }

    /// Forgets how mirrors that are gone were doing.
    pub fn forget_statuses(&self, kept: &[Arc<Mirror>]) {
        let kept: HashSet<&str> = kept.iter().map(|mirror| mirror.id.as_str()).collect();
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| kept.contains(id.as_str()));
    }

    /// One line on these, `2 of 3 are as they should be; 1 failing`. It names no place: anybody may read it.
    pub fn describe(&self, mirrors: &[Arc<Mirror>]) -> String {
        let count = |state| mirrors.iter().filter(|mirror| self.status(&mirror.id).state == state).count();
        let line = format!("{} of {} are as they should be", count(MirrorState::Ok), mirrors.len());
        match count(MirrorState::Failing) {
            0 => line,
            failing => format!("{line}; {failing} failing"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::AppId;
    use crate::domain::mirror::{Layout, Target};

    fn change(id: &str, revision: i64, is_there: bool) -> MirrorChange {
        let mirror = Mirror {
            id: id.to_owned(),
            appid: AppId::parse("wx1").unwrap(),
            target: Target::parse(&format!("file:{id}")).unwrap(),
            layout: Layout::Json,
            created_at: Timestamp::ZERO,
        };
        MirrorChange { id: id.to_owned(), revision, mirror: is_there.then_some(mirror) }
    }

    fn ids(board: &MirrorBoard) -> Vec<String> {
        board.all().iter().map(|mirror| mirror.id.clone()).collect()
    }

    #[tokio::test]
    async fn a_removal_is_final_until_an_older_copy_of_the_database_is_read() {
        let board = MirrorBoard::default();
        let mut changes = board.changes();
        let asked = Instant::now();
        board.publish([change("a", 1, true), change("b", 1, true)], asked);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        board.publish([change("a", 1, true)], Instant::now());
        assert!(!changes.has_changed().unwrap(), "that was known");
        board.publish([change("a", 2, false)], Instant::now());
        assert!(!board.publish([change("a", 1, true)], asked));
        assert_eq!(ids(&board), ["b"], "a late answer does not bring it back");
        assert!(board.publish([change("a", 1, true)], Instant::now()), "the database went back");
        assert_eq!(ids(&board), ["a", "b"]);
    }

    #[tokio::test]
    async fn what_was_made_while_everything_was_read_is_not_lost() {
        let board = MirrorBoard::default();
        board.publish([change("old", 1, true)], Instant::now());
        let asked = Instant::now();
        board.publish([change("new", 1, true)], asked);
        board.forget_others(&HashSet::from(["old".to_owned()]), asked);
        assert_eq!(ids(&board), ["new", "old"]);
        let changes = board.changes();
        board.forget_others(&HashSet::from(["old".to_owned()]), Instant::now());
        assert_eq!(ids(&board), ["old"], "this one the database really does not have");
        assert!(changes.has_changed().unwrap());
    }

    #[tokio::test]
    async fn a_line_counts_and_names_nothing() {
        let board = MirrorBoard::default();
        board.publish((0..9).map(|number| change(&number.to_string(), 1, true)), Instant::now());
        let all = board.all();
        assert_eq!(board.describe(&all), "0 of 9 are as they should be");
        for number in 0..8 {
            board.note(&number.to_string(), |status| {
                status.state = if number < 2 { MirrorState::Ok } else { MirrorState::Failing };
            });
        }
        assert_eq!(board.describe(&all), "2 of 9 are as they should be; 6 failing");
        assert_eq!(board.describe(&all[..1]), "1 of 1 are as they should be");
    }
}
