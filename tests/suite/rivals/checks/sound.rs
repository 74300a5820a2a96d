//! A record of which nothing is to be said, for the tests of the checks to break.

use wxtoken::wechat::sandbox::{CallKind, Entry, Line};

use super::super::plan::Account;
use super::super::record::{Given, Read, Record, Row};

pub(super) const APPID: &str = "wx1";

/// Two instances, one account in plain mode, a token and its successor after 5 s.
pub(super) fn record() -> Record {
    let account = Account {
        appid: APPID.to_owned(),
        mode: "plain",
        lifetime: 6,
        overlap: 4,
        with_ticket: false,
        secret_is_right: true,
    };
    Record {
        accounts: vec![account],
        calls: vec![mint("value-01", 10, CallKind::Token), mint("value-02", 5_010, CallKind::Token)],
        rows: vec![success(1, 0), success(2, 5_000)],
        reads: vec![read(0, 1_000, 1), read(1, 1_000, 1), read(0, 5_500, 2), read(1, 6_000, 1), read(1, 7_000, 2)],
        fingerprints: [1, 2].map(|version| (value(version), format!("print of {version}"))).into(),
        secrets: vec![("a secret".to_owned(), "a secret")],
        output: "nothing of interest".to_owned(),
        ..Record::default()
    }
}

pub(super) fn mint(tail: &str, at: i64, call: CallKind) -> Entry {
    Entry { minted: true, errcode: Some(0), value_tail: Some(tail.to_owned()), ..entry(at, call) }
}

pub(super) fn kill(at: i64) -> Entry {
    entry(at, CallKind::Kill)
}

fn entry(at: i64, call: CallKind) -> Entry {
    Entry {
        seq: 0,
        at_ms: at,
        ended_ms: Some(at + 10),
        appid: Some(APPID.to_owned()),
        call,
        path: String::new(),
        line: Some(Line::Plain),
        force: false,
        minted: false,
        errcode: None,
        fault: None,
        remote: String::new(),
        value_tail: None,
    }
}

pub(super) fn success(version: i64, started_at: i64) -> Row {
    Row {
        appid: APPID.to_owned(),
        token_type: "access_token".to_owned(),
        generation: version,
        call_kind: "mint".to_owned(),
        trigger_name: "schedule".to_owned(),
        outcome: "success".to_owned(),
        errcode: None,
        started_at,
        duration_ms: Some(20),
        version,
        fingerprint: Some(format!("print of {version}")),
    }
}

pub(super) fn read(instance: usize, sent: i64, version: i64) -> Read {
    let given = Given { value: value(version), version, expires_at: version * 5_000 + 1_000, accepted: true };
    Read {
        instance,
        start: 1,
        appid: APPID.to_owned(),
        token_type: "access_token",
        sent,
        received: sent + 5,
        status: 200,
        given: Some(given),
    }
}

fn value(version: i64) -> String {
    format!("the text of value-0{version}")
}

#[test]
fn of_a_sound_record_nothing_is_said() {
    assert_eq!(super::violations(&record()), Vec::<String>::new());
}
