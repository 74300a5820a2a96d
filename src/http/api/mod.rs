//! The API under `/v1`, for services and admins.

mod account_view;
mod accounts;
mod events;
mod keys;
mod mirrors;
mod refreshes;
mod refreshes_csv;
mod signature;
mod tokens;

use std::time::Duration;

pub use events::Streams;

use super::Rooms;
use super::routes::Routes;
use crate::domain::timestamp::Timestamp;

/// The bound within which the view's poll would bring a change anyway.
const VIEW_PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn add_to(routes: Routes) -> Routes {
    let routes = events::add_to(accounts::add_to(routes));
    let routes = signature::add_to(tokens::add_to(routes));
    keys::add_to(refreshes::add_to(mirrors::add_to(routes)))
}

/// A time as callers see it; `None` for the two that stand for "no such time".
fn shown(time: Timestamp) -> Option<String> {
    (time != Timestamp::ZERO && time != Timestamp::NEVER).then(|| time.to_rfc3339())
}

/// Brings a change that was just committed into the view of this instance. If the database goes away at that moment the change stands
/// all the same: the caller is not kept waiting for it, and the view's own poll brings it later.
async fn show_in_view(rooms: &Rooms) {
    let caught_up = tokio::time::timeout(VIEW_PATIENCE, rooms.live.catch_up(&rooms.store, rooms.clock.now())).await;
    if let Err(error) = caught_up.unwrap_or(Ok(())) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a change was stored, and the live view will show it when the database is back"
        );
    }
}
