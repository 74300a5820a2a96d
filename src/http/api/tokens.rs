//! Reading, reporting and refreshing tokens.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;

use crate::domain::Invalid;
use crate::domain::secret::TokenValue;
use crate::domain::token::TokenKey;
use crate::http::Rooms;
use crate::http::answer::TokenAnswer;
use crate::http::body::{Parameters, Submitted, SubmittedOrNot};
use crate::http::caller::{Caller, ReadTokens, RefreshTokens, ReportTokens, TokenInPath};
use crate::http::problem::Problem;
use crate::http::routes::{Routes, Verb};
use crate::live::LiveToken;
use crate::refresher::RefreshError;

pub(super) fn add_to(routes: Routes) -> Routes {
    routes
        .guarded(Verb::Get, "/v1/accounts/{appid}/tokens/{token_type}", read)
        .guarded(Verb::Post, "/v1/accounts/{appid}/tokens/{token_type}/report", report)
        .guarded(Verb::Post, "/v1/accounts/{appid}/tokens/{token_type}/refresh", refresh)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadParameters {
    min_ttl: Option<u64>,
}

impl ReadParameters {
    fn min_ttl(&self) -> Result<Duration, Invalid> {
        match self.min_ttl {
            None => Ok(Duration::ZERO),
            Some(seconds @ 1..=7_200) => Ok(Duration::from_secs(seconds)),
            Some(_) => Err(Invalid::new("min_ttl", "min_ttl is a number of seconds between 1 and 7200")),
        }
    }
}

async fn read(
    _caller: Caller<ReadTokens>,
    TokenInPath(key): TokenInPath,
    State(rooms): State<Arc<Rooms>>,
    Parameters(parameters): Parameters<ReadParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let live = obtain(&rooms, &key, parameters.min_ttl()?).await?;
    answer(&rooms, &live).map(|answer| answer.into_response_unless_known(&headers))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportedValue {
    value: String,
}

async fn report(
    _caller: Caller<ReportTokens>,
    TokenInPath(key): TokenInPath,
    State(rooms): State<Arc<Rooms>>,
    Submitted(reported): Submitted<ReportedValue>,
) -> Result<Response, Problem> {
    let report = rooms.refresher.report(&key, &TokenValue::parse(&reported.value)?).await?;
    Ok(answer(&rooms, &report.token)?.within("verdict", report.verdict.as_str()))
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RefreshOrder {
    #[serde(default)]
    force: bool,
}

async fn refresh(
    _caller: Caller<RefreshTokens>,
    TokenInPath(key): TokenInPath,
    State(rooms): State<Arc<Rooms>>,
    SubmittedOrNot(order): SubmittedOrNot<RefreshOrder>,
) -> Result<Response, Problem> {
    let refreshed = rooms.refresher.refresh(&key, order.force).await?;
    if let Some(error) = refreshed.call.error {
        return Err(RefreshError::Call(error).into());
    }
    let answer = TokenAnswer::of(&refreshed.token, rooms.clock.now());
    Ok(answer.ok_or_else(Problem::ended)?.within("outcome", refreshed.outcome.as_str()))
}

/// A valid token, or why there is none.
pub(super) async fn obtain(rooms: &Rooms, key: &TokenKey, min_ttl: Duration) -> Result<Arc<LiveToken>, Problem> {
    rooms.refresher.obtain(key, min_ttl).await.map_err(|error| {
        let refresh_at = rooms.refresher.held(key).ok().map(|held| held.token.refresh_at);
        Problem::no_token(error, refresh_at)
    })
}

fn answer(rooms: &Rooms, live: &LiveToken) -> Result<TokenAnswer, Problem> {
    TokenAnswer::of_live(live, rooms.clock.now()).ok_or_else(Problem::ended)
}
