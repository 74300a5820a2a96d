//! The scheduler: finds due tokens and sees to it that each is refreshed.

use std::sync::{Arc, PoisonError};

use tokio::time::Instant;

use super::Refresher;
use super::seats::{Seat, Share};
use crate::domain::token::{Claim, Standing, TokenKey};
use crate::fail_point;
use crate::store::StoreError;

/// How long an instance that does not reach WeChat leaves a due token to its peers, in scans.
const SCANS_LEFT_TO_PEERS: u32 = 3;

impl Refresher {
    /// Looks for due tokens until told to stop. A database that is away is reported once when it goes and once when it is back.
    pub async fn run(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            *self.turned_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            fail_point::pass("scheduler").await;
            let claimed = self.run_once().await;
            let news = self.note_database(&claimed);
            match claimed {
                Ok(claimed) => {
                    if news && !self.database_is_away() {
                        tracing::info!("the database is back; refreshing goes on");
                    }
                    if claimed > 0 {
                        continue;
                    }
                }
                Err(error) if news || !error.is_away() => {
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

    /// Claims what is due, as far as there are seats for calls, and starts the calls. Returns how many there were, and none while WeChat is out
    /// of reach: then one claim a scan is enough, of a token that no peer has taken for a while.
    pub async fn run_once(self: &Arc<Self>) -> Result<usize, StoreError> {
        let is_lost = self.reach.is_lost();
        let mut claimed = 0;
        for standing in [Standing::Proven, Standing::New, Standing::Failing] {
            let share = Share::of_scheduled(standing);
            let free = self.seats.free(share);
            let room = if is_lost { free.min(1 - claimed) } else { free };
            let claims = self.claim(standing, room).await?;
            claimed += claims.len();
            for claim in claims {
                self.start(claim, self.seats.take(share));
            }
        }
        Ok(if is_lost { 0 } else { claimed })
    }

    async fn claim(&self, standing: Standing, room: usize) -> Result<Vec<Claim>, StoreError> {
        let limit = u32::try_from(room).unwrap_or(u32::MAX);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let now = self.clock.now();
        let due_by =
            if self.reach.is_lost() { now.minus(self.policy.scan_interval * SCANS_LEFT_TO_PEERS) } else { now };
        // Such a row is due because it does not know of that call; a claim would fence off what it brings.
        let is_called = |key: &TokenKey| self.kept.holds_value(key) || self.under_way.holds(key);
        self.store.claim_due(standing, limit, due_by, self.policy.lease(), now, &is_called).await
    }

    /// Carries a claim out in a task of its own. Without a seat, because a caller was quicker, it waits for one.
    pub(super) fn start(self: &Arc<Self>, claim: Claim, seat: Option<Seat>) {
        let refresher = Arc::clone(self);
        self.tasks.spawn(async move {
            // What went wrong was logged where it happened, and the row says when to try again.
            let _ = refresher.carry_out_from(claim, seat).await;
        });
    }
}
