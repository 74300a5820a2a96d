//! A host whose wall clock is wrong, or is set while programs run there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;

/// By this variable a process is given a library before its own.
const PRELOAD: &str = if cfg!(target_os = "macos") { "DYLD_INSERT_LIBRARIES" } else { "LD_PRELOAD" };
const FILE: &str = "clock";

/// The wall clock of a host. Programs that are started with its environment go by it; their steady clock is the machine's.
pub(crate) struct HostClock(TempDir);

impl HostClock {
    /// How long a process goes by the clock that it has read.
    pub(crate) const DELAY: Duration = Duration::from_millis(1_100);

    /// A clock that is so many hours ahead of the true one.
    pub(crate) fn new(hours_off: i32) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        // A database server reads it as a user of its own.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("the directory is ours");
        let clock = Self(directory);
        clock.set(hours_off);
        clock
    }

    /// Sets it; that takes [`Self::DELAY`] to show.
    pub(crate) fn set(&self, hours_off: i32) {
        let (file, draft) = (self.0.path().join(FILE), self.0.path().join("draft"));
        fs::write(&draft, format!("{hours_off:+}h\n")).expect("the clock's file can be written");
        // A process that looks meanwhile finds a whole file.
        fs::rename(draft, file).expect("the clock's file can be replaced");
    }

    /// What a process must find in its environment to be on this host.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            (PRELOAD, library()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.path().join(FILE).display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// The library that gives a process a wall clock of its own.
fn library() -> String {
    let name = "WXTOKEN_TEST_FAKETIME";
    let path = std::env::var_os(name).and_then(|path| path.into_string().ok());
    path.unwrap_or_else(|| panic!("{name} is not set: run the tests with tests/run.sh"))
}
