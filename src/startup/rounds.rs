//! What goes on until the server stops: the scheduler, the view that follows the database, and the like. A round that panics begins again.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::task::TaskTracker;

use super::timekeeping;
use crate::http::Rooms;
use crate::mirror::Mirroring;

/// Between a panic and the new beginning, more or less.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts every round.
pub(super) fn start(rooms: &Arc<Rooms>, history_days: u32) -> TaskTracker {
    let rounds = TaskTracker::new();
    rounds.spawn(supervised(Arc::clone(rooms), "scheduler", |rooms| Arc::clone(&rooms.refresher).run()));
    rounds.spawn(supervised(Arc::clone(rooms), "supply", |rooms| Arc::clone(&rooms.refresher).supply()));
    rounds.spawn(supervised(Arc::clone(rooms), "kept answers", |rooms| Arc::clone(&rooms.refresher).store_kept()));
    rounds
        .spawn(supervised(Arc::clone(rooms), "pruning", move |rooms| Arc::clone(&rooms.refresher).prune(history_days)));
    rounds.spawn(supervised(Arc::clone(rooms), "clock", |rooms| {
        timekeeping::keep(Arc::clone(&rooms.store), rooms.clock.clone(), rooms.draining.clone())
    }));
    rounds.spawn(supervised(Arc::clone(rooms), "view", |rooms| {
        let rooms = Arc::clone(rooms);
        async move { rooms.live.follow(&rooms.store, &rooms.clock, rooms.draining.clone()).await }
    }));
    rounds.spawn(supervised(Arc::clone(rooms), "mirrors", |rooms| {
        Mirroring::new(Arc::clone(&rooms.live), rooms.clock.clone(), rooms.draining.clone()).run()
    }));
    rounds.close();
    rounds
}

/// Runs a round until it ends by itself. What the panic said has been logged where it happened.
async fn supervised<F: Future<Output = ()>>(
    rooms: Arc<Rooms>,
    name: &'static str,
    mut round: impl FnMut(&Arc<Rooms>) -> F,
) {
    while AssertUnwindSafe(round(&rooms)).catch_unwind().await.is_err() {
        rooms.restarts.note(name);
        let pause = PAUSE.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        tracing::error!("the round `{name}` broke off and begins again in {} ms", pause.as_millis());
        if rooms.draining.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}
