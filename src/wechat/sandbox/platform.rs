//! The whole of the simulated platform: accounts, every value they were given, and the record of calls.

use std::collections::{BTreeMap, HashMap};

use rand::RngExt;
use serde::Serialize;

use super::account::{Account, Grant};
use super::chain::{Issue, Line, Verdict};
use super::fault::{self, CallKind, Fault};
use super::inquiry::Inquiries;
use super::quota::Usage;
use super::record::{Entry, Log, WitnessKey, Witnesses};
use super::request::Request;
use super::settings::Settings;
use super::spelling;
use super::user::Users;
use crate::domain::timestamp::Timestamp;

/// What a value presented to the sandbox is worth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Its standing in its line.
    pub verdict: Verdict,
    /// Whether a business call with it succeeds now. Differs from the verdict during the replication delay.
    pub accepted: bool,
    /// The account it was issued to.
    pub appid: Option<String>,
    /// The line it belongs to.
    pub line: Option<Line>,
    /// How much longer it is honoured, in milliseconds; 0 when it is not.
    pub remaining_ms: u64,
}

/// One value of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ValueState {
    /// The value itself.
    pub value: String,
    /// What it is worth.
    pub verdict: Verdict,
    /// When it was minted, in milliseconds since the epoch.
    pub minted_at_ms: i64,
    /// How much longer it is honoured, in milliseconds; 0 when it is not.
    pub remaining_ms: u64,
}

/// The newest two values of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineState {
    /// The line.
    pub line: Line,
    /// The newest value, whatever it is worth.
    pub current: Option<ValueState>,
    /// The one before it, whatever it is worth.
    pub previous: Option<ValueState>,
}

/// An account as the control API shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccountState {
    /// Its identifier.
    pub appid: String,
    /// Its behaviour.
    pub settings: Settings,
    /// Its lines, in the order of [`Line::ALL`].
    pub lines: Vec<LineState>,
    /// What it has used of its quotas.
    pub usage: Usage,
}

/// What the HTTP side must know of a request before it is processed.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) seq: u64,
    /// Set for calls that are counted while they are in flight.
    pub(super) witness: Option<WitnessKey>,
    pub(super) fault: Option<Fault>,
    pub(super) latency_ms: u64,
}

/// The simulated platform.
#[derive(Debug, Default)]
pub(super) struct Platform {
    pub(super) accounts: BTreeMap<String, Account>,
    /// Where each remembered value belongs.
    owners: HashMap<String, (String, Line)>,
    pub(super) log: Log,
    pub(super) witnesses: Witnesses,
    pub(super) inquiries: Inquiries,
    pub(super) users: Users,
}

impl Platform {
    /// The account and line that `value` was issued to.
    pub(super) fn owner(&self, value: &str) -> Option<(&str, Line)> {
        self.owners.get(value).map(|(appid, line)| (appid.as_str(), *line))
    }

    /// Removes an account and everything it was given.
    pub(super) fn remove(&mut self, appid: &str) -> bool {
        let Some(account) = self.accounts.remove(appid) else { return false };
        for value in Line::ALL.into_iter().flat_map(|line| account.chain(line).values()) {
            self.owners.remove(value);
        }
        self.users.remove(appid);
        true
    }

    /// Enters a grant's value under its owner.
    pub(super) fn file(&mut self, appid: &str, line: Line, grant: &Grant) {
        if let Some(forgotten) = &grant.forgotten {
            self.owners.remove(forgotten);
        }
        if grant.minted {
            self.owners.insert(grant.value.clone(), (appid.to_owned(), line));
        }
    }

    /// Mints on behalf of somebody who is not the caller of WeChat's endpoints.
    pub(super) fn foreign_mint(&mut self, appid: &str, line: Line, now: Timestamp) -> Option<Grant> {
        self.catch_up(appid, now);
        let grant = self.accounts.get_mut(appid)?.mint(line, now);
        self.record_foreign(appid, line, &grant, now);
        Some(grant)
    }

    fn record_foreign(&mut self, appid: &str, line: Line, grant: &Grant, at: Timestamp) {
        self.file(appid, line, grant);
        self.witnesses.of(&(appid.to_owned(), line.token_type())).foreign_mints += 1;
        self.log.push(Entry {
            line: Some(line),
            ended_ms: Some(at.as_millis()),
            force: line == Line::Stable,
            minted: true,
            errcode: Some(0),
            value_tail: Some(spelling::tail(&grant.value)),
            ..Entry::new(CallKind::ForeignMint, Some(appid.to_owned()), at)
        });
    }

    /// Takes back the current and the previous value of a line.
    pub(super) fn kill(&mut self, appid: &str, line: Line, now: Timestamp) -> bool {
        self.catch_up(appid, now);
        let Some(account) = self.accounts.get_mut(appid) else { return false };
        account.withdraw(line, now);
        self.log.push(Entry {
            line: Some(line),
            ended_ms: Some(now.as_millis()),
            ..Entry::new(CallKind::Kill, Some(appid.to_owned()), now)
        });
        true
    }

    /// Makes up for the interference since the account was last looked at.
    pub(super) fn catch_up(&mut self, appid: &str, now: Timestamp) {
        let Some(account) = self.accounts.get_mut(appid) else { return };
        for (line, at, grant) in account.catch_up(now) {
            self.record_foreign(appid, line, &grant, at);
        }
    }

    /// [`Platform::catch_up`] for every account.
    pub(super) fn catch_up_all(&mut self, now: Timestamp) {
        let disturbed = self.accounts.iter().filter(|(_, account)| account.settings.interference.is_some());
        for appid in disturbed.map(|(appid, _)| appid.clone()).collect::<Vec<_>>() {
            self.catch_up(&appid, now);
        }
    }

    /// What `value` is worth.
    pub(super) fn judge(&mut self, value: &str, now: Timestamp) -> Judgement {
        let owner = self.owner(value).map(|(appid, line)| (appid.to_owned(), line));
        let unknown =
            Judgement { verdict: Verdict::Unknown, accepted: false, appid: None, line: None, remaining_ms: 0 };
        let Some((appid, line)) = owner else { return unknown };
        self.catch_up(&appid, now);
        match self.accounts.get(&appid).and_then(|account| account.chain(line).find(value)) {
            None => unknown,
            Some(issue) => Judgement {
                verdict: issue.verdict(now),
                accepted: issue.is_accepted(now),
                appid: Some(appid),
                line: Some(line),
                remaining_ms: remaining_ms(issue, now),
            },
        }
    }

    /// The account as the control API shows it.
    pub(super) fn state(&mut self, appid: &str, now: Timestamp) -> Option<AccountState> {
        self.catch_up(appid, now);
        let account = self.accounts.get(appid)?;
        let lines = Line::ALL.map(|line| {
            let chain = account.chain(line);
            let shown = |issue: Option<&Issue>| issue.map(|issue| value_state(issue, now));
            LineState { line, current: shown(chain.newest()), previous: shown(chain.previous()) }
        });
        Some(AccountState {
            appid: appid.to_owned(),
            settings: account.settings.clone(),
            lines: lines.to_vec(),
            usage: account.quotas.usage(account.periods(now)),
        })
    }

    /// Enters a request in the log and tells what will happen to it on the wire.
    pub(super) fn arrive(&mut self, request: &Request, now: Timestamp) -> Arrival {
        let owner_of = |token| self.owner(token).map(|(appid, _)| appid).or_else(|| self.users.appid_of(token));
        let owner = request.access_token().and_then(owner_of);
        let appid = request.claimed_appid().or(owner).map(str::to_owned);
        let call = request.endpoint.kind();
        let mut arrival = Arrival { seq: 0, witness: None, fault: None, latency_ms: 0 };
        if let Some(appid) = &appid {
            self.catch_up(appid, now);
        }
        if let Some((appid, account)) = appid.as_ref().and_then(|appid| self.accounts.get_key_value(appid)) {
            arrival.latency_ms = latency(&account.settings);
            arrival.witness = request.asked_type().map(|token_type| (appid.clone(), token_type));
        }
        if let Some(account) = appid.as_ref().and_then(|appid| self.accounts.get_mut(appid)) {
            arrival.fault = fault::strike(&mut account.settings.faults, call, now);
        }
        if let Some(key) = &arrival.witness {
            self.witnesses.begin(key);
        }
        arrival.seq = self.log.push(Entry {
            path: request.path.clone(),
            line: request.line(),
            force: request.is_forced(),
            fault: arrival.fault.as_ref().map(|fault| fault.kind),
            remote: request.remote.to_string(),
            ..Entry::new(call, appid, now)
        });
        arrival
    }

    /// A request's answer was sent or given up.
    pub(super) fn depart(&mut self, seq: u64, witness: Option<&WitnessKey>, now: Timestamp) {
        if let Some(key) = witness {
            self.witnesses.end(key);
        }
        if let Some(entry) = self.log.entry(seq) {
            entry.ended_ms = Some(now.as_millis());
        }
    }
}

fn latency(settings: &Settings) -> u64 {
    let mut random = rand::rng();
    let (usual, tail) = (settings.latency_ms, settings.latency_tail_ms);
    if tail.probability > 0.0 && random.random_bool(tail.probability) {
        return random.random_range(tail.min..=tail.max);
    }
    random.random_range(usual.min..=usual.max)
}

fn remaining_ms(issue: &Issue, now: Timestamp) -> u64 {
    match issue.verdict(now) {
        Verdict::Current | Verdict::Previous => {
            u64::try_from(issue.ends_at().since(now).as_millis()).unwrap_or(u64::MAX)
        }
        _ => 0,
    }
}

fn value_state(issue: &Issue, now: Timestamp) -> ValueState {
    ValueState {
        value: issue.value.clone(),
        verdict: issue.verdict(now),
        minted_at_ms: issue.minted_at.as_millis(),
        remaining_ms: remaining_ms(issue, now),
    }
}
