//! Pages of lists. A cursor is the place of the last row, in base64: opaque to callers, and checked like any other input when it comes back.
//! It grants nothing: a forged one shows no more than a list from its beginning would.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::problem::{Code, Problem};
use crate::domain::Invalid;
use crate::domain::account::AppId;
use crate::domain::timestamp::Timestamp;
use crate::store::history::RefreshCursor;

const DEFAULT_LIMIT: u32 = 50;
/// The most rows of a page.
pub(super) const LARGEST_LIMIT: u32 = 500;
const LONGEST_CURSOR: usize = 200;

/// A page of a list.
#[derive(Debug, Serialize)]
pub(super) struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

impl<T> Page<T> {
    /// A page of at most `limit` items from `rows`, which are one more if there is a next page.
    pub(super) fn of<R: Place>(mut rows: Vec<R>, limit: u32, show: impl FnMut(R) -> T) -> Self {
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next = rows.last().filter(|_| more).map(|row| encode(&row.place()));
        Self { items: rows.into_iter().map(show).collect(), next }
    }
}

/// A row that knows its place in its list.
pub(super) trait Place {
    /// The place, with a first character that names the list.
    fn place(&self) -> String;
}

/// How many rows the caller wants.
pub(super) fn checked_limit(limit: Option<u32>) -> Result<u32, Invalid> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=LARGEST_LIMIT).contains(&limit) {
        Ok(limit)
    } else {
        Err(Invalid::new("limit", "a page has between 1 and 500 items"))
    }
}

/// The place of an account.
pub(super) fn account_place(appid: &AppId) -> String {
    format!("a{appid}")
}

/// The place of a key.
pub(super) fn key_place(id: &str) -> String {
    format!("k{id}")
}

/// The place of a history row.
pub(super) fn refresh_place(started_at: Timestamp, id: &str) -> String {
    format!("r{}.{id}", started_at.as_millis())
}

/// The account behind which to go on.
pub(super) fn read_account(cursor: Option<&str>) -> Result<Option<AppId>, Problem> {
    read(cursor, 'a', |place| AppId::parse(place).ok())
}

/// The key behind which to go on.
pub(super) fn read_key(cursor: Option<&str>) -> Result<Option<String>, Problem> {
    read(cursor, 'k', |place| is_id(place).then(|| place.to_owned()))
}

/// The history row behind which to go on.
pub(super) fn read_refresh(cursor: Option<&str>) -> Result<Option<RefreshCursor>, Problem> {
    read(cursor, 'r', |place| {
        let (millis, id) = place.split_once('.')?;
        let millis = millis.parse().ok().filter(|millis| (0..=Timestamp::NEVER.as_millis()).contains(millis))?;
        is_id(id).then(|| RefreshCursor { started_at: Timestamp::from_millis(millis), id: id.to_owned() })
    })
}

fn read<T>(cursor: Option<&str>, list: char, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Problem> {
    let Some(cursor) = cursor else {
        return Ok(None);
    };
    let place = Some(cursor).filter(|cursor| cursor.len() <= LONGEST_CURSOR).and_then(|cursor| {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        parse(std::str::from_utf8(&bytes).ok()?.strip_prefix(list)?)
    });
    place.map(Some).ok_or_else(|| {
        let detail = "this cursor is not one of this list; start without a cursor, and go on with `next` of the answer";
        Problem::new(Code::InvalidRequest, detail).field("/cursor".to_owned(), detail)
    })
}

fn encode(place: &str) -> String {
    URL_SAFE_NO_PAD.encode(place)
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip() {
        let appid = AppId::parse("wx1").unwrap();
        assert_eq!(read_account(Some(&encode(&account_place(&appid)))).unwrap(), Some(appid));
        assert_eq!(read_key(Some(&encode(&key_place("01-a")))).unwrap(), Some("01-a".to_owned()));
        let place = RefreshCursor { started_at: Timestamp::from_millis(7), id: "01-a".to_owned() };
        assert_eq!(read_refresh(Some(&encode("r7.01-a"))).unwrap(), Some(place));
        assert_eq!(read_refresh(None).unwrap(), None);
    }

    #[test]
    fn what_we_never_made_is_refused() {
        let foreign = encode("awx1");
        let injected = encode("r7.' OR 1=1");
        for bad in
            ["", "%%%", "!", &foreign, &injected, &encode("r-1.x"), &encode("r7"), &encode("rx.y"), &"A".repeat(300)]
        {
            assert_eq!(read_refresh(Some(bad)).unwrap_err().code(), Code::InvalidRequest, "{bad}");
        }
        assert!(read_key(Some(&foreign)).is_err());
    }

    #[test]
    fn only_a_page_with_more_behind_it_has_a_next() {
        struct Row(u8);
        impl Place for Row {
            fn place(&self) -> String {
                format!("k{}", self.0)
            }
        }
        let page = |count: u8| Page::of((0..count).map(Row).collect(), 2, |row| row.0);
        assert_eq!((page(2).items, page(2).next), (vec![0, 1], None));
        assert_eq!((page(3).items, page(3).next), (vec![0, 1], Some(encode("k1"))));
    }
}
