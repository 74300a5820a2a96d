//! Whether this instance lives and whether it can serve. Neither asks anybody for anything, a key included.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

use super::Rooms;
use super::body::Parameters;
use super::problem::Problem;
use super::routes::{Routes, Verb};
use crate::clock::Reading;
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
    if scheduler_turns(&rooms) {
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

fn scheduler_turns(rooms: &Rooms) -> bool {
    // A database that is slow or away does not stop it: nothing that is said to one takes longer than a few seconds.
    let patience = LEAST_PATIENCE.max(rooms.refresher.policy().scan_interval * 10);
    rooms.draining.is_cancelled() || rooms.refresher.since_last_turn() < patience
}

/// A line for each thing that an operator may want to know.
fn describe(rooms: &Rooms, now: Timestamp) -> String {
    let synced_at = rooms.live.synced_at();
    let age = now.since(synced_at);
    let (view, database) = match synced_at {
        Timestamp::ZERO => ("not loaded yet".to_owned(), "not reached yet".to_owned()),
        _ => (
            format!("agreed with the database {} ms ago", age.as_millis()),
            if age > BEHIND { format!("not reached since {}", synced_at.to_rfc3339()) } else { "reachable".to_owned() },
        ),
    };
    let lines = [
        ("view", view),
        ("database", database),
        ("wechat", if rooms.refresher.is_cut_off() { "not reached" } else { "reachable" }.to_owned()),
        ("unstored", format!("{} answers of WeChat wait for the database", rooms.refresher.unstored())),
        ("clock", describe_clock(rooms.clock.reading(), now)),
        ("accounts", rooms.live.count_accounts().to_string()),
        ("mirrors", rooms.live.mirrors().describe(&rooms.live.mirrors_in_use())),
        ("scheduler", format!("looked for due tokens {} ms ago", rooms.refresher.since_last_turn().as_millis())),
        ("restarts", rooms.restarts.describe()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    lines.into_iter().fold(String::new(), |all, (name, text)| all + name + ": " + &text + "\n")
}

fn describe_clock(clock: Reading, now: Timestamp) -> String {
    let Reading { ahead_of_host, measured_at, gap } = clock;
    let measured = match measured_at {
        None => "the database's was never read".to_owned(),
        Some(at) => format!("the database's was {gap:+} ms off it {} s ago", now.since(at).as_secs()),
    };
    format!("{ahead_of_host:+} ms off this host's clock; {measured}")
}

/// How often each round of this instance panicked and was begun again.
#[derive(Debug, Default)]
pub struct Restarts(Mutex<BTreeMap<&'static str, u64>>);

impl Restarts {
    /// Counts one of this round.
    pub fn note(&self, round: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(round).or_default() += 1;
    }

    fn describe(&self) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rounds: Vec<_> = counts.iter().map(|(round, count)| format!("{round} {count}")).collect();
        if rounds.is_empty() { "none".to_owned() } else { rounds.join(", ") }
    }
}
