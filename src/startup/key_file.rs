//! The master key's file beside an SQLite database.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::StartError;
use crate::seal::{MasterKey, hexadecimal, random_bytes};

const EXTENSION: &str = "master-key";
const OWNER_ONLY: u32 = 0o600;
const OTHERS: u32 = 0o077;
/// A key has 44 characters; whatever is much longer is some other file.
const LONGEST: u64 = 1024;

/// The file that belongs to this database file.
pub(super) fn beside(database: &Path) -> PathBuf {
    database.with_extension(EXTENSION)
}

/// What the file holds; `None` when it is absent.
pub(super) fn read(path: &Path) -> Result<Option<SecretString>, StartError> {
    let failed = |source| StartError::KeyFile { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if file.metadata().map_err(failed)?.permissions().mode() & OTHERS != 0 {
        return Err(StartError::ExposedKeyFile { path: path.to_owned() });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text.as_str().into()))
}

/// Writes the file whole or not at all. Answers `false` when there is one by now, which stays as it is.
pub(super) fn write(path: &Path, key: &MasterKey) -> Result<bool, StartError> {
    write_whole(path, key).map_err(|source| StartError::KeyFile { path: path.to_owned(), source })
}

fn write_whole(path: &Path, key: &MasterKey) -> io::Result<bool> {
    let mut suffix = [0_u8; 8];
    random_bytes(&mut suffix).ok_or(ErrorKind::Other)?;
    let draft = path.with_extension(format!("{EXTENSION}.{}", hexadecimal(&suffix)));
    let written = write_draft(&draft, key).and_then(|()| match fs::hard_link(&draft, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        // Not every file system has links.
        Err(_) if !path.exists() => fs::rename(&draft, path).map(|()| true),
        Err(error) => Err(error),
    });
    // After a rename there is nothing left to remove.
    let _ = fs::remove_file(&draft);
    let is_ours = written?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()?;
    Ok(is_ours)
}

fn write_draft(draft: &Path, key: &MasterKey) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(OWNER_ONLY).open(draft)?;
    file.write_all(key.to_base64().expose_secret().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}
