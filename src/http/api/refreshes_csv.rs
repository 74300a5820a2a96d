//! The refresh history as CSV: every row of the filter, page by page, so that neither side holds more than a page in memory.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, Stream};

use super::refreshes::RefreshView;
use crate::http::Rooms;
use crate::http::problem::Problem;
use crate::store::history::{Refresh, RefreshCursor, RefreshFilter};

const PAGE: u32 = 1_000;
/// The most rows of one file. Narrow the filter for more.
const MOST_ROWS: usize = 1_000_000;
const COLUMNS: [&str; 14] = [
    "id",
    "started_at",
    "appid",
    "token_type",
    "call",
    "trigger",
    "outcome",
    "errcode",
    "errmsg",
    "duration_ms",
    "expires_in",
    "fingerprint",
    "version",
    "instance",
];

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The file as it grows. The first page is read before the answer begins, so that a database that is away is a problem and no broken file;
/// a failure later breaks the transfer off, which callers notice.
pub(super) async fn stream(
    rooms: Arc<Rooms>,
    filter: RefreshFilter,
    after: Option<RefreshCursor>,
) -> Result<Response, Problem> {
    let first = rooms.store.refreshes(&filter, after.as_ref(), PAGE).await?;
    let header = record(COLUMNS).map_err(Problem::internal)?;
    let pages = stream::once(async move { Ok::<_, Failure>(header) }).chain(pages(rooms, filter, first));
    let headers =
        [(CONTENT_TYPE, "text/csv; charset=utf-8"), (CONTENT_DISPOSITION, "attachment; filename=\"refreshes.csv\"")];
    Ok((headers, Body::from_stream(pages)).into_response())
}

fn pages(
    rooms: Arc<Rooms>,
    filter: RefreshFilter,
    first: Vec<Refresh>,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send {
    stream::try_unfold((Some(first), 0), move |(page, written)| {
        let (rooms, filter) = (Arc::clone(&rooms), filter.clone());
        async move {
            let Some(rows) = page.filter(|rows| !rows.is_empty()) else {
                return Ok(None);
            };
            let written = written + rows.len();
            let full = rows.len() == PAGE as usize && written < MOST_ROWS;
            let last = rows.last().map(|row| RefreshCursor { started_at: row.started_at, id: row.id.clone() });
            let bytes = page_of(rows)?;
            let next = if full { Some(rooms.store.refreshes(&filter, last.as_ref(), PAGE).await?) } else { None };
            Ok(Some((bytes, (next, written))))
        }
    })
}

fn page_of(rows: Vec<Refresh>) -> Result<Bytes, csv::Error> {
    let mut bytes = Vec::new();
    for row in rows {
        bytes.extend_from_slice(&record(cells(RefreshView::from(row)))?);
    }
    Ok(bytes.into())
}

fn cells(row: RefreshView) -> [String; 14] {
    let number = |number: Option<i64>| number.map_or_else(String::new, |number| number.to_string());
    [
        guarded(row.id),
        row.started_at,
        guarded(row.appid),
        row.token_type.to_owned(),
        row.call.to_owned(),
        row.trigger.to_owned(),
        row.outcome.to_owned(),
        number(row.errcode),
        guarded(row.errmsg.unwrap_or_default()),
        number(row.duration_ms),
        number(row.expires_in),
        guarded(row.fingerprint.unwrap_or_default()),
        row.version.to_string(),
        guarded(row.instance),
    ]
}

/// A text that a spreadsheet would take for a formula gets an apostrophe in front.
fn guarded(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { format!("'{text}") } else { text }
}

fn record<T: AsRef<[u8]>>(cells: impl IntoIterator<Item = T>) -> Result<Bytes, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(cells)?;
    writer.into_inner().map(Bytes::from).map_err(|error| error.into_error().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_disarmed() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            assert_eq!(guarded(formula.to_owned()), format!("'{formula}"));
        }
        assert_eq!(guarded("invalid ip 1.2.3.4".to_owned()), "invalid ip 1.2.3.4");
    }

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let line = record(["a,b", "c\"d", "e"]).unwrap();
        assert_eq!(&line[..], b"\"a,b\",\"c\"\"d\",e\n");
    }
}
