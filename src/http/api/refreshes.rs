//! The refresh history.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::refreshes_csv;
use crate::domain::Invalid;
use crate::domain::account::{AppId, TokenType};
use crate::domain::key::AccountScope;
use crate::domain::refresh::{Outcome, Trigger};
use crate::domain::timestamp::Timestamp;
use crate::http::Rooms;
use crate::http::body::Parameters;
use crate::http::caller::{Caller, ReadHistory};
use crate::http::cursor::{Page, Place, checked_limit, read_refresh, refresh_place};
use crate::http::problem::{Code, Problem};
use crate::http::routes::{Routes, Verb};
use crate::store::history::{Refresh, RefreshFilter};

pub(super) fn add_to(routes: Routes) -> Routes {
    routes.guarded(Verb::Get, "/v1/refreshes", list)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParameters {
    appid: Option<String>,
    token_type: Option<String>,
    outcome: Option<String>,
    trigger: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

impl ListParameters {
    fn filter(&self) -> Result<RefreshFilter, Invalid> {
        Ok(RefreshFilter {
            appid: self.appid.as_deref().map(AppId::parse).transpose()?,
            token_type: named("token_type", self.token_type.as_deref(), TokenType::parse)?,
            outcome: named("outcome", self.outcome.as_deref(), Outcome::parse)?,
            trigger: named("trigger", self.trigger.as_deref(), Trigger::parse)?,
            from: moment("from", self.from.as_deref())?,
            to: moment("to", self.to.as_deref())?,
        })
    }
}

fn named<T>(field: &'static str, text: Option<&str>, parse: fn(&str) -> Option<T>) -> Result<Option<T>, Invalid> {
    let wrong = || Invalid::new(field, "there is no such word; see the documentation for the list");
    text.map(|text| parse(text).ok_or_else(wrong)).transpose()
}

fn moment(field: &'static str, text: Option<&str>) -> Result<Option<Timestamp>, Invalid> {
    let wrong = || Invalid::new(field, "write a time like 2026-11-20T08:00:00Z");
    // The plus of an offset that was not percent-encoded arrives as a space.
    text.map(|text| Timestamp::parse_rfc3339(&text.replace(' ', "+")).ok_or_else(wrong)).transpose()
}

/// One call to WeChat; as JSON and as a row of the CSV.
#[derive(Serialize)]
pub(super) struct RefreshView {
    pub(super) id: String,
    pub(super) started_at: String,
    pub(super) appid: String,
    pub(super) token_type: &'static str,
    pub(super) call: &'static str,
    pub(super) trigger: &'static str,
    pub(super) outcome: &'static str,
    pub(super) errcode: Option<i64>,
    pub(super) errmsg: Option<String>,
    pub(super) duration_ms: Option<i64>,
    pub(super) expires_in: Option<i64>,
    pub(super) fingerprint: Option<String>,
    pub(super) version: i64,
    pub(super) instance: String,
}

impl From<Refresh> for RefreshView {
    fn from(row: Refresh) -> Self {
        Self {
            id: row.id,
            started_at: row.started_at.to_rfc3339(),
            appid: row.appid.to_string(),
            token_type: row.token_type.as_str(),
            call: row.call.as_str(),
            trigger: row.trigger.as_str(),
            outcome: row.outcome.as_str(),
            errcode: row.errcode,
            errmsg: row.errmsg,
            duration_ms: row.duration_ms,
            expires_in: row.expires_in,
            fingerprint: row.fingerprint,
            version: row.version,
            instance: row.instance,
        }
    }
}

impl Place for Refresh {
    fn place(&self) -> String {
        refresh_place(self.started_at, &self.id)
    }
}

async fn list(
    caller: Caller<ReadHistory>,
    State(rooms): State<Arc<Rooms>>,
    Parameters(parameters): Parameters<ListParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let filter = parameters.filter()?;
    check_scope(&caller, &filter)?;
    let limit = checked_limit(parameters.limit)?;
    let after = read_refresh(parameters.cursor.as_deref())?;
    if wants_csv(&headers) {
        return refreshes_csv::stream(rooms, filter, after).await;
    }
    let rows = rooms.store.refreshes(&filter, after.as_ref(), limit + 1).await?;
    Ok(Json(Page::of(rows, limit, RefreshView::from)).into_response())
}

/// A key for some accounts sees the history of one of them at a time.
fn check_scope(caller: &Caller<ReadHistory>, filter: &RefreshFilter) -> Result<(), Problem> {
    match (&filter.appid, &caller.key.accounts) {
        (Some(appid), _) => caller.check_reach(appid),
        (None, AccountScope::All) => Ok(()),
        (None, AccountScope::Listed(_)) => {
            let detail = "this key reaches some accounts only; name one of them with `appid`";
            Err(Problem::new(Code::AccountOutOfScope, detail))
        }
    }
}

fn wants_csv(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok()).any(|accept| {
        accept
            .split(',')
            .any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/csv")))
    })
}
