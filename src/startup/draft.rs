//! A file that comes into being whole or not at all, for the eyes of its owner only.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::seal::{hexadecimal, random_bytes};

const OWNER_ONLY: u32 = 0o600;

/// A file under a name of its own. It is removed unless it is kept.
pub(super) struct Draft {
    /// The file, empty at first.
    pub(super) file: File,
    /// Its name for now.
    pub(super) path: PathBuf,
}

impl Draft {
    /// Makes one in the directory of `path`.
    pub(super) fn beside(path: &Path) -> io::Result<Self> {
        let mut suffix = [0_u8; 8];
        random_bytes(&mut suffix).ok_or(ErrorKind::Other)?;
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", hexadecimal(&suffix)));
        let path = PathBuf::from(name);
        let file = File::options().write(true).create_new(true).mode(OWNER_ONLY).open(&path)?;
        Ok(Self { file, path })
    }

    /// Gives it its name for good once all of it is on the disk. Answers `false` when there is such a file by now, which stays as it is.
    pub(super) fn keep_as(self, path: &Path) -> io::Result<bool> {
        self.file.sync_all()?;
        match fs::hard_link(&self.path, path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            // Not every file system has links.
            Err(_) if !path.exists() => fs::rename(&self.path, path)?,
            Err(error) => return Err(error),
        }
        remember(path)?;
        Ok(true)
    }

    /// The same, in place of a file that may be there.
    pub(super) fn replace(self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        remember(path)
    }
}

/// Brings the name of a file to the disk.
fn remember(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _ = fs::remove_file(&self.path);
    }
}
