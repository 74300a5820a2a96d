//! Copies of tokens where SDKs look for them. What is written where is said in [`crate::domain::mirror`]; this room moves the bytes.
//!
//! Every instance writes every mirror. There is a worker for each target, so that one that hangs delays no other and nothing else:
//!
//! - When the live view has a new value, whoever obtained it, the worker writes it at once.
//! - Every 5 s it reads everything back, and writes what is missing, differs, or stays too long: the target was restarted, emptied, or somebody else
//!   wrote there.
//! - Each exchange has 2 s. A target that is down is tried again after 1 to 30 s; the log says once that it is down and once that it is back.
//!
//! # Never an older value over a newer one
//!
//! The view of an instance may be up to 2 s behind another's, and without the database it is behind for as long as that lasts. So a value is written only
//! over what was read a moment before, and only if that is known to be older: it is the value before this one, or this worker wrote it itself. Anything
//! else may be newer than what this instance knows. It is replaced if 3 s later it is still there, the database was asked meanwhile and has answered, and
//! it is still not what it should be.
//!
//! Redis and Memcached compare and set. A file system does not: between the reading of a file and the renaming another instance's write can be lost, and
//! the next look finds it.
//!
//! # What stays behind
//!
//! When a mirror is removed its keys are deleted, so that the SDK asks for a token itself instead of going on with one that nobody replaces; but not
//! what somebody else wrote there since. Nothing is written for an account that is disabled; what is there ends with its time. A target
//! that is down at that moment keeps its keys until then, too.

mod error;
mod file;
mod judge;
mod memcached;
mod place;
mod redis;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::mirror::Mirror;
use crate::live::LiveView;
pub use error::MirrorError;
use worker::Worker;

/// How long a target is left alone after its worker broke off.
const PAUSE: Duration = Duration::from_secs(1);

type Assignment = watch::Sender<Vec<Arc<Mirror>>>;

/// Writes every mirror.
pub struct Mirroring {
    live: Arc<LiveView>,
    clock: Clock,
    stop: CancellationToken,
}

impl Mirroring {
    /// The room for one instance, until `stop`.
    pub fn new(live: Arc<LiveView>, clock: Clock, stop: CancellationToken) -> Self {
        Self { live, clock, stop }
    }

    /// Keeps a worker for each target, until told to stop.
    pub async fn run(self) {
        let stop = self.stop.clone();
        stop.run_until_cancelled_owned(Box::pin(self.assign())).await;
    }

    /// Gives each target's mirrors to a worker of its own.
    async fn assign(self) {
        let mut changes = self.live.mirrors().changes();
        let mut workers: HashMap<String, Assignment> = HashMap::new();
        // They end with this.
        let mut running = JoinSet::new();
        loop {
            let mut wanted: HashMap<String, Vec<Arc<Mirror>>> = HashMap::new();
            let mirrors = self.live.mirrors_in_use();
            self.live.mirrors().forget_statuses(&mirrors);
            for mirror in mirrors {
                wanted.entry(mirror.target.expose().to_owned()).or_default().push(mirror);
            }
            // One without mirrors tidies up and ends.
            workers.retain(|target, worker| wanted.contains_key(target) || worker.send(Vec::new()).is_ok());
            for (target, mirrors) in wanted {
                if workers.get(&target).is_none_or(|worker| !assign_to(worker, &mirrors)) {
                    let (send, receive) = watch::channel(mirrors);
                    running.spawn(Worker::new(Arc::clone(&self.live), self.clock.clone(), receive).run());
                    workers.insert(target, send);
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                Some(ended) = running.join_next() => {
                    if ended.is_err() {
                        tracing::error!("the worker of a mirror's target broke off and begins again");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }
}

/// Gives a worker its mirrors, if they are others than it has; a mirror never changes. `false` when the worker has ended.
fn assign_to(worker: &Assignment, mirrors: &[Arc<Mirror>]) -> bool {
    worker.send_if_modified(|held| {
        let is_same = held.iter().map(|mirror| &mirror.id).eq(mirrors.iter().map(|mirror| &mirror.id));
        if !is_same {
            *held = mirrors.to_vec();
        }
        !is_same
    });
    !worker.is_closed()
}
