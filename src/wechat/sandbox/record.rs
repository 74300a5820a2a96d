//! What the sandbox remembers of its calls: the log, and the witness of calls that overlapped.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::chain::Line;
use super::fault::{CallKind, FaultKind};
use crate::domain::timestamp::Timestamp;

/// How many entries the log holds; beyond it the oldest are dropped.
pub const LOG_ENTRIES: usize = 200_000;

/// One call, one foreign mint or one withdrawal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Counts all entries since the sandbox was made, from 1.
    pub seq: u64,
    /// When the request had arrived, in milliseconds since the epoch.
    pub at_ms: i64,
    /// When the answer was handed to the socket or given up; `None` while the call is in flight.
    pub ended_ms: Option<i64>,
    /// The account: as the caller named it, or the one that the presented token belongs to.
    pub appid: Option<String>,
    /// What kind of call it was.
    pub call: CallKind,
    /// The path that was called; empty for what the control API did.
    pub path: String,
    /// The line that the call asked or touched.
    pub line: Option<Line>,
    /// Whether it asked for a forced refresh.
    pub force: bool,
    /// Whether it minted a new value.
    pub minted: bool,
    /// How WeChat would log it: 0, or the refusal's code. `None` when it was not processed.
    pub errcode: Option<i64>,
    /// The fault that struck it.
    pub fault: Option<FaultKind>,
    /// The caller's address and port.
    pub remote: String,
    /// The last eight characters of the value answered or, on calls that only present a token, of that one.
    pub value_tail: Option<String>,
}

impl Entry {
    /// An entry for something that begins at `now`; [`Log::push`] numbers it.
    pub(super) fn new(call: CallKind, appid: Option<String>, now: Timestamp) -> Self {
        Self {
            seq: 0,
            at_ms: now.as_millis(),
            ended_ms: None,
            appid,
            call,
            path: String::new(),
            line: None,
            force: false,
            minted: false,
            errcode: None,
            fault: None,
            remote: String::new(),
            value_tail: None,
        }
    }
}

/// The newest [`LOG_ENTRIES`] entries.
#[derive(Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    last_seq: u64,
}

impl Log {
    /// Numbers and adds `entry`; returns its number.
    pub(super) fn push(&mut self, entry: Entry) -> u64 {
        self.last_seq += 1;
        self.entries.push_back(Entry { seq: self.last_seq, ..entry });
        if self.entries.len() > LOG_ENTRIES {
            self.entries.pop_front();
        }
        self.last_seq
    }

    /// The entry of that number, unless it was dropped.
    pub(super) fn entry(&mut self, seq: u64) -> Option<&mut Entry> {
        let first = self.entries.front()?.seq;
        let index = usize::try_from(seq.checked_sub(first)?).ok()?;
        self.entries.get_mut(index)
    }

    /// The entries after number `seq`, of one account or of all.
    pub(super) fn after(&self, seq: u64, appid: Option<&str>) -> Vec<Entry> {
        let start = self.entries.partition_point(|entry| entry.seq <= seq);
        let wanted = |entry: &&Entry| appid.is_none_or(|appid| entry.appid.as_deref() == Some(appid));
        self.entries.range(start..).filter(wanted).cloned().collect()
    }

    /// Drops every entry; the numbers go on.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

/// The account and token type that calls are counted under.
pub(super) type WitnessKey = (String, &'static str);

/// How one token of one account was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Witness {
    /// The account.
    pub appid: String,
    /// `access_token` (both lines together), `jsapi_ticket`, `wx_card_ticket` or `app_login_ticket`.
    pub token_type: &'static str,
    /// Requests for it, whatever their answer.
    pub calls: u64,
    /// Requests that minted a new value.
    pub mints: u64,
    /// Calls of the probe endpoints with its value.
    pub probes: u64,
    /// Mints by the control API and by interference. They are not among `mints`.
    pub foreign_mints: u64,
    /// Requests for it in flight now.
    pub in_flight: u32,
    /// The most requests for it that were in flight at once, from arrival to answer sent.
    pub most_in_flight: u32,
}

/// The witnesses of every account.
#[derive(Debug, Default)]
pub(super) struct Witnesses(BTreeMap<WitnessKey, Witness>);

impl Witnesses {
    /// The witness of `key`.
    pub(super) fn of(&mut self, key: &WitnessKey) -> &mut Witness {
        self.0.entry(key.clone()).or_insert_with(|| Witness {
            appid: key.0.clone(),
            token_type: key.1,
            ..Witness::default()
        })
    }

    /// A request for `key` arrived.
    pub(super) fn begin(&mut self, key: &WitnessKey) {
        let witness = self.of(key);
        witness.calls += 1;
        witness.in_flight += 1;
        witness.most_in_flight = witness.most_in_flight.max(witness.in_flight);
    }

    /// Its answer was sent or given up.
    pub(super) fn end(&mut self, key: &WitnessKey) {
        let witness = self.of(key);
        witness.in_flight = witness.in_flight.saturating_sub(1);
    }

    /// All of them, by appid and token type.
    pub(super) fn all(&self) -> Vec<Witness> {
        self.0.values().cloned().collect()
    }

    /// Starts every count again; what is in flight stays counted.
    pub(super) fn clear(&mut self) {
        self.0.retain(|_, witness| witness.in_flight > 0);
        for (key, witness) in &mut self.0 {
            let in_flight = witness.in_flight;
            *witness = Witness {
                appid: key.0.clone(),
                token_type: key.1,
                in_flight,
                most_in_flight: in_flight,
                ..Witness::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(appid: &str) -> Entry {
        Entry::new(CallKind::Token, Some(appid.to_owned()), Timestamp::ZERO)
    }

    #[test]
    fn the_log_keeps_the_newest_entries() {
        let mut log = Log::default();
        for _ in 0..LOG_ENTRIES + 2 {
            log.push(entry("wx1"));
        }
        assert!(log.entry(2).is_none());
        assert_eq!(log.entry(3).unwrap().seq, 3);
        assert_eq!(log.after(0, None).len(), LOG_ENTRIES);
    }

    #[test]
    fn the_log_is_read_from_a_number_on() {
        let mut log = Log::default();
        for appid in ["wx1", "wx2", "wx1"] {
            log.push(entry(appid));
        }
        assert_eq!(log.after(1, Some("wx1")).iter().map(|entry| entry.seq).collect::<Vec<_>>(), [3]);
        log.clear();
        assert_eq!(log.push(entry("wx1")), 4);
    }

    #[test]
    fn the_witness_remembers_the_worst_moment() {
        let mut witnesses = Witnesses::default();
        let key = ("wx1".to_owned(), "access_token");
        witnesses.begin(&key);
        witnesses.begin(&key);
        witnesses.end(&key);
        assert_eq!((witnesses.of(&key).in_flight, witnesses.of(&key).most_in_flight), (1, 2));
        witnesses.clear();
        assert_eq!((witnesses.of(&key).in_flight, witnesses.of(&key).most_in_flight), (1, 1));
    }
}
