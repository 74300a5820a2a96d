//! What a run leaves behind, from which alone its checks decide.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::{Connection, MySqlConnection, PgConnection};
use wxtoken::wechat::sandbox::Entry;

use super::plan::Account;
use crate::support::database::{Kind, TestDatabase};

/// One run. Times are milliseconds by the sandbox's clock.
#[derive(Default)]
pub(super) struct Record {
    pub(super) accounts: Vec<Account>,
    pub(super) reads: Vec<Read>,
    /// The sandbox's log.
    pub(super) calls: Vec<Entry>,
    /// The last one before the rows were read.
    pub(super) last_call: u64,
    pub(super) rows: Vec<Row>,
    pub(super) troubles: Vec<Trouble>,
    /// When an admin edited which account.
    pub(super) edits: Vec<(i64, String)>,
    /// The fingerprint of each value that a reader was given, by which the history names it.
    pub(super) fingerprints: BTreeMap<String, String>,
    /// What every process printed.
    pub(super) output: String,
    /// What must not be printed, and what it is.
    pub(super) secrets: Vec<(String, &'static str)>,
    /// What was not fresh at the end of the time for it.
    pub(super) stale: Vec<String>,
}

impl Record {
    /// Writes it down for people, everything in the order of its time.
    pub(super) fn keep(&self, path: &Path) {
        let mut lines: Vec<(i64, String)> = Vec::new();
        lines.extend(self.reads.iter().map(|read| (read.sent, format!("{read:?}"))));
        lines.extend(self.calls.iter().map(|call| (call.at_ms, format!("{call:?}"))));
        lines.extend(self.rows.iter().map(|row| (row.started_at, format!("{row:?}"))));
        lines.extend(self.troubles.iter().map(|trouble| (trouble.from, format!("{trouble:?}"))));
        lines.sort();
        let lines: Vec<_> = lines.into_iter().map(|(at, line)| format!("{at} {line}")).collect();
        // What cannot be written is missed by nobody but the one who looks for it.
        std::fs::write(path, lines.join("\n") + "\n" + &self.output).ok();
    }
}

/// One read of a token. Each token of each instance has a reader of its own, which reads one time after the other.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) instance: usize,
    /// Counts the starts of the instance.
    pub(super) start: u32,
    pub(super) appid: String,
    pub(super) token_type: &'static str,
    pub(super) sent: i64,
    pub(super) received: i64,
    /// 0 without an answer.
    pub(super) status: u16,
    /// What came, if the status is 200.
    pub(super) given: Option<Given>,
}

/// A token as a reader was given it.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) value: String,
    pub(super) version: i64,
    pub(super) expires_at: i64,
    /// Whether WeChat accepted it the moment after.
    pub(super) accepted: bool,
}

/// A row of `wx_refresh_history`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Row {
    pub(super) appid: String,
    pub(super) token_type: String,
    pub(super) generation: i64,
    pub(super) call_kind: String,
    pub(super) trigger_name: String,
    pub(super) outcome: String,
    pub(super) errcode: Option<i64>,
    pub(super) started_at: i64,
    pub(super) duration_ms: Option<i64>,
    pub(super) version: i64,
    pub(super) fingerprint: Option<String>,
}

impl Row {
    /// Every row, in the order of the generations.
    pub(super) async fn all(database: &TestDatabase) -> Result<Vec<Self>, sqlx::Error> {
        let sql = "SELECT appid, token_type, generation, call_kind, trigger_name, outcome, errcode, started_at, \
                   duration_ms, version, fingerprint FROM wx_refresh_history ORDER BY appid, token_type, generation";
        if database.kind() == Kind::Postgres {
            sqlx::query_as(sql).fetch_all(&mut PgConnection::connect(database.url()).await?).await
        } else {
            sqlx::query_as(sql).fetch_all(&mut MySqlConnection::connect(database.url()).await?).await
        }
    }
}

/// Asks the database something that costs nothing, on a connection of its own.
pub(super) async fn ask(database: &TestDatabase) -> Result<(), sqlx::Error> {
    if database.kind() == Kind::Postgres {
        PgConnection::connect(database.url()).await?.ping().await
    } else {
        MySqlConnection::connect(database.url()).await?.ping().await
    }
}

/// A span in which less is promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) from: i64,
    pub(super) until: i64,
    pub(super) of: Of,
}

/// Whose trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Of {
    /// It does not run, or is just starting.
    Down(usize),
    /// It is frozen.
    Frozen(usize),
    /// The instance and the database.
    Database(usize),
    /// The instance and WeChat.
    Wechat(usize),
    /// What WeChat answers for the account.
    Account(String),
    /// Nobody runs as fast as promised: the machine has more to do than it can.
    Machine,
}

impl Of {
    /// The instance in trouble, if it is a single one.
    pub(super) fn instance(&self) -> Option<usize> {
        match self {
            Self::Down(instance) | Self::Frozen(instance) | Self::Database(instance) | Self::Wechat(instance) => {
                Some(*instance)
            }
            Self::Account(_) | Self::Machine => None,
        }
    }
}

/// The longest span between `from` and `until` without any of `troubles`.
pub(super) fn longest_calm<'a>(troubles: impl Iterator<Item = &'a Trouble>, from: i64, until: i64) -> i64 {
    let mut spans: Vec<_> = troubles.map(|trouble| (trouble.from, trouble.until)).collect();
    spans.sort_unstable();
    let (mut longest, mut calm_since) = (0, from);
    for (begins, ends) in spans {
        longest = longest.max(begins.min(until) - calm_since);
        calm_since = calm_since.max(ends);
    }
    longest.max(until - calm_since)
}

#[test]
fn calm_is_what_lies_between_troubles() {
    let trouble = |from, until| Trouble { from, until, of: Of::Down(0) };
    let troubles = [trouble(40, 50), trouble(10, 20), trouble(15, 30)];
    let calm = |from, until| longest_calm(troubles.iter(), from, until);
    assert_eq!((calm(0, 100), calm(0, 55), calm(22, 48), calm(12, 18), calm(0, 5)), (50, 10, 10, 0, 5));
}
