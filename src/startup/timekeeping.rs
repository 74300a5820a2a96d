//! Keeps the program's clock with the database's.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Measurement};
use crate::store::db::{Db, Dialect};
use crate::store::{Store, StoreError};

const BETWEEN_MEASUREMENTS: Duration = Duration::from_mins(1);
/// After a measurement that failed: a database that comes back may be another host's.
const UNTIL_NEXT_ATTEMPT: Duration = Duration::from_secs(2);

/// Sets the clock at the start.
pub(super) async fn set(db: &Db, clock: &Clock) -> Result<(), StoreError> {
    clock.set(measure(db, clock).await?);
    let ahead = clock.reading().ahead_of_host;
    if ahead.abs() > 5_000 {
        tracing::warn!(
            "this host's clock differs from the database's by {} s; the database's counts, but set this host's clock right",
            ahead / 1_000
        );
    }
    Ok(())
}

/// Measures every minute until told to stop.
pub(super) async fn keep(store: Arc<Store>, clock: Clock, stop: CancellationToken) {
    let mut pause = BETWEEN_MEASUREMENTS;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        pause = match measure(store.db(), &clock).await {
            Ok(measured) => {
                if let Some(gap) = clock.follow(measured) {
                    tracing::warn!(
                        "the database's clock is {} s off the time kept here; somebody set a clock, or this machine was paused",
                        gap / 1_000
                    );
                }
                BETWEEN_MEASUREMENTS
            }
            // That the database is away is said by those who need it for more.
            Err(_) => UNTIL_NEXT_ATTEMPT,
        };
    }
}

async fn measure(db: &Db, clock: &Clock) -> Result<Measurement, StoreError> {
    // The first answer may have had to wait for a connection.
    db.time().await?;
    let asked_at = clock.now();
    let told = db.time().await?;
    Ok(Measurement { told, asked_at, answered_at: clock.now(), elsewhere: db.dialect() != Dialect::Sqlite })
}
