//! Old history rows go, a few at a time, so that nobody waits for them.

use std::sync::Arc;
use std::time::Duration;

use super::Refresher;

const BATCH: u32 = 1_000;
const BETWEEN_BATCHES: Duration = Duration::from_millis(200);
const BETWEEN_SWEEPS: Duration = Duration::from_hours(1);

impl Refresher {
    /// Removes history rows older than `days`, now and every hour, until told to stop.
    pub async fn prune(self: Arc<Self>, days: u32) {
        let age = Duration::from_hours(24) * days;
        loop {
            let pause = match self.store.prune_history(self.clock.now().minus(age), BATCH).await {
                Ok(removed) if removed >= u64::from(BATCH) => BETWEEN_BATCHES,
                Ok(_) => BETWEEN_SWEEPS,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "old history rows could not be removed");
                    BETWEEN_SWEEPS
                }
            };
            if self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }
}
