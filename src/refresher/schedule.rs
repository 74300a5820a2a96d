//! The scheduler: finds due tokens and sees to it that each is refreshed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Refresher;
use super::kept::is_away;
use crate::domain::token::Claim;
use crate::store::StoreError;
use crate::store::lease::Due;

impl Refresher {
    /// Looks for due tokens until told to stop. A database that is away is reported once when it goes and once when it is back.
    pub async fn run(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            let claimed = self.run_once().await;
            let news = self.note_database(&claimed);
            match claimed {
                Ok(claimed) => {
                    if news {
                        tracing::info!("the database is back; refreshing goes on");
                    }
                    if claimed > 0 {
                        continue;
                    }
                }
                Err(error) if news || !is_away(&error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "due tokens cannot be claimed; trying again every {:?}",
                        self.policy.scan_interval
                    );
                }
                Err(_) => {}
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.due.notified() => {}
                () = tokio::time::sleep(self.policy.scan_interval) => {}
            }
        }
    }

    /// Claims what is due, as far as there is room for calls, and starts the calls. Returns how many.
    pub async fn run_once(self: &Arc<Self>) -> Result<usize, StoreError> {
        self.last_scan.store(self.clock.now().as_millis(), Ordering::Relaxed);
        let healthy = self.claim(Due::Healthy, self.calls.available_permits()).await?;
        let claimed = healthy.len();
        for claim in healthy {
            self.start(claim, None);
        }
        // The tasks just started may not have taken their permits yet.
        let room = self.calls.available_permits().saturating_sub(claimed).min(self.failing.available_permits());
        let failing = self.claim(Due::Failing, room).await?;
        let claimed = claimed + failing.len();
        for claim in failing {
            let seat = Arc::clone(&self.failing).try_acquire_owned().ok();
            self.start(claim, seat);
        }
        Ok(claimed)
    }

    async fn claim(&self, due: Due, room: usize) -> Result<Vec<Claim>, StoreError> {
        let limit = u32::try_from(room).unwrap_or(u32::MAX);
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.store.claim_due(due, limit, self.policy.lease(), self.clock.now()).await
    }

    /// Carries a claim out in a task of its own, which keeps `seat` until it ends.
    pub(super) fn start(self: &Arc<Self>, claim: Claim, seat: Option<tokio::sync::OwnedSemaphorePermit>) {
        let refresher = Arc::clone(self);
        self.tasks.spawn(async move {
            // What went wrong was logged where it happened, and the row says when to try again.
            let _ = refresher.carry_out(claim).await;
            drop(seat);
        });
    }
}
