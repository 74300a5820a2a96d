//! Files. A new content is written beside the old one and takes its name when all of it is on the disk: who reads sees the one or the other.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::error::MirrorError;
use super::place::{Found, LONGEST_VALUE, Stays, Write};
use crate::seal::{hexadecimal, random_bytes};

/// How many accesses there are at once, of every file together. One to a disk that hangs keeps its thread, and the program needs threads of that kind
/// for other things, among them to look up names.
const MOST_AT_ONCE: usize = 8;
static AT_ONCE: Semaphore = Semaphore::const_new(MOST_AT_ONCE);

/// For its owner alone.
const MODE: u32 = 0o600;

/// The directory for mirrors.
pub(super) struct Files {
    directory: Option<PathBuf>,
    /// The last access. One to a disk that hangs cannot be called off, so no other is begun meanwhile.
    access: Option<JoinHandle<()>>,
}

impl Files {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, access: None }
    }

    pub(super) async fn read(&mut self, names: &[&str]) -> Result<Vec<Option<Found>>, MirrorError> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.access(move |directory| names.iter().map(|name| read(&directory.join(name))).collect()).await
    }

    pub(super) async fn write(&mut self, write: &Write<'_>) -> Result<bool, MirrorError> {
        let (name, body, over) = (write.key.to_owned(), write.body.to_owned(), write.over.map(<[u8]>::to_vec));
        self.access(move |directory| {
            let path = directory.join(&name);
            if read(&path)?.map(|found| found.body) != over {
                return Ok(false);
            }
            replace(directory, &name, body.as_bytes())?;
            Ok(true)
        })
        .await
    }

    pub(super) async fn delete(&mut self, name: &str, over: &[u8]) -> Result<bool, MirrorError> {
        let (name, over) = (name.to_owned(), over.to_vec());
        self.access(move |directory| {
            let path = directory.join(&name);
            if read(&path)?.is_none_or(|found| found.body != over) {
                return Ok(false);
            }
            fs::remove_file(path)?;
            Ok(true)
        })
        .await
    }

    async fn access<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, MirrorError> {
        let directory = self.directory.clone().ok_or(MirrorError::NoDirectory)?;
        if self.access.as_ref().is_some_and(|access| !access.is_finished()) {
            return Err(MirrorError::FileHangs);
        }
        // Whoever gets none in time has a target that fails.
        let permit = AT_ONCE.acquire().await.map_err(|_| MirrorError::FileHangs)?;
        let (send, receive) = tokio::sync::oneshot::channel();
        self.access = Some(tokio::task::spawn_blocking(move || {
            let _permit = permit;
            // Nobody waits any more when it took too long.
            let _ = send.send(work(&directory));
        }));
        let done = receive.await.map_err(|_| MirrorError::File(ErrorKind::Other))?;
        if let Some(access) = self.access.take() {
            // It has done its work and is about to end.
            let _ = access.await;
        }
        done.map_err(|error| MirrorError::File(error.kind()))
    }
}

fn read(path: &Path) -> io::Result<Option<Found>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut body = Vec::new();
    file.take(LONGEST_VALUE as u64).read_to_end(&mut body)?;
    Ok(Some(Found { body, stays: Stays::Unknown }))
}

fn replace(directory: &Path, name: &str, body: &[u8]) -> io::Result<()> {
    let mut random = [0; 8];
    random_bytes(&mut random).ok_or(ErrorKind::Other)?;
    // No name of a mirror begins with a dot.
    let draft = directory.join(format!(".{name}.{}.tmp", hexadecimal(&random)));
    let written = write_draft(&draft, body).and_then(|()| fs::rename(&draft, directory.join(name)));
    if written.is_err() {
        // It may not even be there.
        let _ = fs::remove_file(&draft);
    }
    written?;
    File::open(directory)?.sync_all()
}

fn write_draft(path: &Path, body: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(body)?;
    file.sync_all()
}
