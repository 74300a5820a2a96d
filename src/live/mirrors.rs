//! The mirrors as this instance knows them, and how each is doing. Whoever writes them says so here, and whoever shows them reads it here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use crate::domain::account::AppId;
use crate::domain::mirror::{Mirror, NewMirror};
use crate::domain::timestamp::Timestamp;
use crate::store::mirror::MirrorChange;

/// The most failing targets that are named in one line.
const MOST_NAMED: usize = 5;

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

    /// Hears of changes in the set of mirrors.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Takes in states that the database has, or had a moment ago.
    pub fn publish(&self, changes: impl IntoIterator<Item = MirrorChange>) {
        let mut held = self.lock();
        let mut has_news = false;
        for MirrorChange { id, revision, mirror } in changes {
            if held.get(&id).is_none_or(|held| held.revision < revision) {
                has_news |= mirror.is_some() || held.contains_key(&id);
                held.insert(id, Held { revision, mirror: mirror.map(Arc::new) });
            }
        }
        drop(held);
        if has_news {
            self.changes.send_replace(());
        }
    }

    /// Takes in everything that the database has, and lets go of everything else: it may have been replaced by an older copy.
    pub fn replace(&self, all: Vec<MirrorChange>) {
        let told: HashMap<&str, i64> = all.iter().map(|change| (change.id.as_str(), change.revision)).collect();
        let mut held = self.lock();
        let before = held.len();
        // An older state than the one held is taken in anew.
        held.retain(|id, held| told.get(id.as_str()).is_some_and(|revision| *revision >= held.revision));
        let has_lost = held.len() < before;
        drop(held);
        self.publish(all);
        if has_lost {
            self.changes.send_replace(());
        }
    }

    /// Every mirror that is not removed.
    pub fn all(&self) -> Vec<Arc<Mirror>> {
        self.lock().values().filter_map(|held| held.mirror.clone()).collect()
    }

    /// Whether another mirror, of whatever account, writes a key of this one at the same place.
    pub fn has_rival_of(&self, new: &NewMirror) -> bool {
        self.all().iter().any(|mirror| new.collides_with(mirror))
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
    pub fn forget_others(&self, kept: &[Arc<Mirror>]) {
        let kept: HashSet<&str> = kept.iter().map(|mirror| mirror.id.as_str()).collect();
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| kept.contains(id.as_str()));
    }

    /// One line on all of them: `2 of 3 are as they should be; failing: redis://10.0.0.7:6379/0 since 2026-…`.
    pub fn describe(&self, appids_in_use: impl Fn(&AppId) -> bool) -> String {
        let mirrors: Vec<_> = self.all().into_iter().filter(|mirror| appids_in_use(&mirror.appid)).collect();
        let (mut sound, mut failing) = (0, BTreeMap::new());
        for mirror in &mirrors {
            let status = self.status(&mirror.id);
            match status.state {
                MirrorState::Ok => sound += 1,
                MirrorState::Failing => drop(failing.insert(mirror.target.place(), status.failing_since)),
                MirrorState::Pending => {}
            }
        }
        let line = format!("{sound} of {} are as they should be", mirrors.len());
        let names = failing.iter().take(MOST_NAMED).map(|(place, since)| {
            since.map_or_else(|| place.clone(), |since| format!("{place} since {}", since.to_rfc3339()))
        });
        let names = names.collect::<Vec<_>>().join(", ");
        match failing.len() {
            0 => line,
            1..=MOST_NAMED => format!("{line}; failing: {names}"),
            more => format!("{line}; failing: {names} and {} more", more - MOST_NAMED),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn a_removal_is_final_until_an_older_copy_of_the_database_is_read() {
        let board = MirrorBoard::default();
        let mut changes = board.changes();
        board.publish([change("a", 1, true), change("b", 1, true)]);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        board.publish([change("a", 1, true)]);
        assert!(!changes.has_changed().unwrap(), "that was known");
        board.publish([change("a", 2, false)]);
        board.publish([change("a", 1, true)]);
        assert_eq!(ids(&board), ["b"], "a late answer does not bring it back");
        board.replace(vec![change("a", 1, true)]);
        assert_eq!(ids(&board), ["a"]);
    }

    #[test]
    fn a_line_names_what_fails() {
        let board = MirrorBoard::default();
        board.publish((0..9).map(|number| change(&number.to_string(), 1, true)));
        assert_eq!(board.describe(|_| true), "0 of 9 are as they should be");
        for number in 0..9 {
            board.note(&number.to_string(), |status| {
                status.state = if number < 2 { MirrorState::Ok } else { MirrorState::Failing };
            });
        }
        let line = board.describe(|_| true);
        assert_eq!(line, "2 of 9 are as they should be; failing: file:2, file:3, file:4, file:5, file:6 and 2 more");
        assert_eq!(board.describe(|_| false), "0 of 0 are as they should be");
    }
}
