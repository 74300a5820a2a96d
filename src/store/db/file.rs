//! What can be done with a whole SQLite file. Other databases have programs of their own for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::open::still_pools;
use super::{Db, Handle, bind};
use crate::store::{FailureKind, StoreError};

/// Reading or writing every page of a file takes its time.
const WHOLE_FILE: Duration = Duration::from_hours(6);

impl Db {
    /// Opens an SQLite file that nobody writes to, such as a backup, without changing a byte of it or beside it.
    pub async fn open_still(path: &Path) -> Result<Self, StoreError> {
        let pools = Handle::Sqlite(still_pools(path).await?);
        Ok(Self { pools, connections_made: Arc::default(), _lock: None })
    }

    /// Writes the whole SQLite database, as it is at one moment, into `file`, which must be empty. Writers are not held up.
    pub async fn copy_into(&self, file: &Path) -> Result<(), StoreError> {
        let unnamed = || {
            StoreError::open(&file.display().to_string(), FailureKind::Other, "the name of the file is not UTF-8 text")
        };
        let name = file.to_str().ok_or_else(unnamed)?;
        self.fetch_all_within::<(i64,)>(WHOLE_FILE, "VACUUM INTO ?", bind![name]).await.map(drop)
    }

    /// Reads every page of an SQLite file and holds tables and indexes against each other.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with the first thing that does not fit.
    pub async fn check_pages(&self) -> Result<(), StoreError> {
        let found: Vec<(String,)> = self.fetch_all_within(WHOLE_FILE, "PRAGMA integrity_check(1)", &[]).await?;
        match found.into_iter().next() {
            Some((finding,)) if finding != "ok" => Err(StoreError::Damaged { finding }),
            _ => Ok(()),
        }
    }
}
