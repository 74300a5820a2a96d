//! Whether this instance lives and whether it can serve. Neither asks anybody for anything, a key included.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

use super::Rooms;
use super::body::Parameters;
use super::problem::Problem;
use super::routes::{Routes, Verb};
use crate::domain::timestamp::Timestamp;

/// The view is behind when its last agreement with the database is older than this; it is renewed twice a second.
const BEHIND: Duration = Duration::from_secs(3);
/// The least time without a scan after which the scheduler counts as stuck.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn add_to(routes: Routes) -> Routes {
    routes.open(Verb::Get, "/livez", live).open(Verb::Get, "/healthz", live).open(Verb::Get, "/readyz", ready)
}

/// Alive while the scheduler turns; a process whose scheduler is stuck must be started again.
async fn live(State(rooms): State<Arc<Rooms>>) -> (StatusCode, &'static str) {
    if scheduler_turns(&rooms, rooms.clock.now()) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the scheduler is stuck\n")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detail {
    verbose: Option<String>,
}

/// Ready while there is a view to serve from, whether or not the database is there, and until the shutdown begins.
async fn ready(
    State(rooms): State<Arc<Rooms>>,
    Parameters(detail): Parameters<Detail>,
) -> Result<(StatusCode, String), Problem> {
    let (ready, word) = match (rooms.draining.is_cancelled(), rooms.live.synced_at()) {
        (true, _) => (false, "shutting down"),
        (false, Timestamp::ZERO) => (false, "the view is not loaded yet"),
        (false, _) => (true, "ok"),
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = detail.verbose.is_some().then(|| describe(&rooms, rooms.clock.now()));
    Ok((status, format!("{word}\n{}", verbose.unwrap_or_default())))
}

fn scheduler_turns(rooms: &Rooms, now: Timestamp) -> bool {
    let patience = LEAST_PATIENCE.max(rooms.refresher.policy().scan_interval * 10);
    // Before the first scan the time since the start counts.
    now < rooms.refresher.last_scan().max(rooms.started_at).plus(patience)
}

fn describe(rooms: &Rooms, now: Timestamp) -> String {
    let synced_at = rooms.live.synced_at();
    let age = now.since(synced_at);
    let (view, database) = match synced_at {
        Timestamp::ZERO => ("not loaded yet".to_owned(), "not reached yet".to_owned()),
        _ if age > BEHIND => {
            let since = synced_at.to_rfc3339();
            (format!("agreed with the database {} ms ago", age.as_millis()), format!("not reached since {since}"))
        }
        _ => (format!("agreed with the database {} ms ago", age.as_millis()), "reachable".to_owned()),
    };
    let last_scan = rooms.refresher.last_scan();
    let scheduler = match last_scan {
        Timestamp::ZERO => "has not looked for due tokens yet".to_owned(),
        _ => format!("looked for due tokens {} ms ago", now.since(last_scan).as_millis()),
    };
    let (accounts, version) = (rooms.live.count_accounts(), env!("CARGO_PKG_VERSION"));
    format!("view: {view}\ndatabase: {database}\naccounts: {accounts}\nscheduler: {scheduler}\nversion: {version}\n")
}
