//! A target as the worker sees it: keys that are read, and written only over what was read.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::error::MirrorError;
use super::file::Files;
use super::memcached::Memcached;
use super::redis::Redis;
use crate::domain::mirror::Address;

/// How long one exchange with a target may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// How much of a value is read, in bytes: more than any of ours has.
pub(super) const LONGEST_VALUE: usize = 16 * 1024;

/// What stands under a key.
#[derive(Clone)]
pub(super) struct Found {
    /// The value, or its beginning.
    pub(super) body: Vec<u8>,
    /// How long it stays.
    pub(super) stays: Stays,
}

/// How long a value stays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stays {
    /// This long.
    For(Duration),
    /// Until somebody deletes it.
    Forever,
    /// The target does not tell.
    Unknown,
}

/// What is to be written.
pub(super) struct Write<'a> {
    pub(super) key: &'a str,
    pub(super) body: &'a str,
    pub(super) life: Duration,
    /// What must stand there now.
    pub(super) over: Option<&'a [u8]>,
}

/// A connection to a target. It is made when it is needed, and anew after anything that went wrong.
pub(super) enum Place {
    Redis(Redis),
    Memcached(Memcached),
    Files(Files),
}

/// Runs the same call on whichever kind it is, within the deadline; what went wrong costs the connection.
macro_rules! on_each {
    ($place:expr, $inner:ident => $call:expr) => {
        match $place {
            Place::Redis($inner) => within($call).await.inspect_err(|_| $inner.disconnect()),
            Place::Memcached($inner) => within($call).await.inspect_err(|_| $inner.disconnect()),
            Place::Files($inner) => within($call).await,
        }
    };
}

impl Place {
    pub(super) fn of(address: &Address, directory: Option<&Path>) -> Self {
        match address {
            Address::Redis { .. } => Self::Redis(Redis::new(address.clone())),
            Address::Memcached { host, port } => Self::Memcached(Memcached::new(host.clone(), *port)),
            Address::File { .. } => Self::Files(Files::new(directory.map(Path::to_owned))),
        }
    }

    /// What stands under each of these keys.
    pub(super) async fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Found>>, MirrorError> {
        on_each!(self, place => place.read(keys))
    }

    /// Writes, if what must stand there still does; tells whether it did.
    pub(super) async fn write(&mut self, write: &Write<'_>) -> Result<bool, MirrorError> {
        on_each!(self, place => place.write(write))
    }

    /// Deletes a key if this still stands under it.
    pub(super) async fn delete(&mut self, key: &str, over: &[u8]) -> Result<bool, MirrorError> {
        on_each!(self, place => place.delete(key, over))
    }
}

async fn within<T>(exchange: impl Future<Output = Result<T, MirrorError>>) -> Result<T, MirrorError> {
    timeout(DEADLINE, exchange).await.unwrap_or(Err(MirrorError::Timeout))
}
