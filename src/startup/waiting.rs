//! A start that waits for its database.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::store::{FailureKind, StoreError};

/// A start that takes longer is said to wait, and answers requests meanwhile.
const QUIET: Duration = Duration::from_secs(2);
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const BETWEEN_WORDS: Duration = Duration::from_secs(30);
/// An attempt that takes longer is given up: its connection may be dead. It leaves time for a migration of millions of rows.
const LONGEST_ATTEMPT: Duration = Duration::from_mins(10);

/// A start that waits for a database on a server.
pub(super) struct Waiting {
    /// Where requests are answered meanwhile.
    address: SocketAddr,
    /// The database, without its password.
    database: String,
    /// Cancelled when requests are to be answered.
    answering: CancellationToken,
    began: Instant,
    told_at: Option<Instant>,
}

impl Waiting {
    pub(super) fn new(address: SocketAddr, database: String, answering: CancellationToken) -> Self {
        Self { address, database, answering, began: Instant::now(), told_at: None }
    }

    /// Runs `open` until it succeeds, or fails for a reason that does not pass by itself.
    pub(super) async fn until_open<T>(
        mut self,
        mut open: impl AsyncFnMut() -> Result<T, StartError>,
    ) -> Result<T, StartError> {
        let mut pause = SHORTEST_PAUSE;
        loop {
            match self.attempt(open()).await {
                Err(StartError::Store(error)) if error.passes() => self.tell(&error),
                ended => {
                    if self.told_at.is_some() && ended.is_ok() {
                        tracing::info!("the database is there, after {} s", self.began.elapsed().as_secs());
                    }
                    return ended;
                }
            }
            // Instances that wait for one database do not come all at once.
            sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt<T>(&mut self, open: impl Future<Output = Result<T, StartError>>) -> Result<T, StartError> {
        let mut open = Box::pin(timeout(LONGEST_ATTEMPT, open));
        let ended = if let Ok(ended) = timeout(QUIET, &mut open).await {
            ended
        } else {
            self.tell(&silent());
            open.await
        };
        ended.unwrap_or_else(|_| Err(silent().into()))
    }

    fn tell(&mut self, error: &StoreError) {
        let error = error as &dyn std::error::Error;
        let Self { address, database, .. } = self;
        match self.told_at {
            Some(told_at) if told_at.elapsed() < BETWEEN_WORDS => return,
            Some(_) => {
                tracing::warn!(error, "still waiting for {database}, for {} s now", self.began.elapsed().as_secs());
            }
            None => tracing::warn!(
                error,
                "listening on http://{address} and waiting for the database {database}; requests are answered with 503 until it is there"
            ),
        }
        self.told_at = Some(Instant::now());
        self.answering.cancel();
    }
}

fn silent() -> StoreError {
    StoreError::Statement { kind: FailureKind::Unavailable, source: "the database has not answered yet".into() }
}
