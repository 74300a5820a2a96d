//! The master key's file beside an SQLite database.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::StartError;
use super::draft::Draft;
use crate::seal::MasterKey;

const EXTENSION: &str = "master-key";
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
    if is_exposed(&file).map_err(failed)? {
        return Err(StartError::ExposedKeyFile { path: path.to_owned() });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text.as_str().into()))
}

/// Whether others than its owner may do anything with a file.
pub(super) fn is_exposed(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.permissions().mode() & OTHERS != 0)
}

/// Writes the file whole or not at all. Answers `false` when there is one by now, which stays as it is.
pub(super) fn write(path: &Path, key: &MasterKey) -> Result<bool, StartError> {
    write_whole(path, key).map_err(|source| StartError::KeyFile { path: path.to_owned(), source })
}

fn write_whole(path: &Path, key: &MasterKey) -> io::Result<bool> {
    let mut draft = Draft::beside(path)?;
    draft.file.write_all(key.to_base64().expose_secret().as_bytes())?;
    draft.file.write_all(b"\n")?;
    draft.keep_as(path)
}
