//! When each value died at WeChat, and by whom: read from the sandbox's log.

use std::collections::BTreeMap;

use wxtoken::wechat::sandbox::{CallKind, Entry, Line};

use super::super::record::Record;

/// Why WeChat does not accept a value any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its time was over.
    Expired,
    /// A mint of ours ended it.
    Ours,
    /// Somebody else did; we cannot know before a reader tells us.
    Foreign,
}

/// The end of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) at: i64,
    pub(super) cause: Cause,
}

/// The death of every access token that was minted, by the end of its text, which is what the log has of it.
pub(super) fn deaths(record: &Record) -> BTreeMap<String, Death> {
    let mut all = BTreeMap::new();
    for account in &record.accounts {
        for line in [Line::Plain, Line::Stable] {
            let terms = (i64::from(account.lifetime) * 1_000, i64::from(account.overlap) * 1_000);
            let entries = record.calls.iter().filter(|entry| entry.appid.as_deref() == Some(&account.appid));
            let issues = issues(entries.filter(|entry| entry.line == Some(line)), terms);
            all.extend(issues.into_iter().map(|issue| (issue.tail, issue.death)));
        }
    }
    all
}

struct Issue {
    tail: String,
    death: Death,
}

impl Issue {
    fn ends(&mut self, at: i64, cause: Cause) {
        if at < self.death.at {
            self.death = Death { at, cause };
        }
    }
}

/// The values of one line, in the order in which they were minted.
fn issues<'a>(entries: impl Iterator<Item = &'a Entry>, (lifetime, overlap): (i64, i64)) -> Vec<Issue> {
    let mut issues: Vec<Issue> = Vec::new();
    for entry in entries {
        let now = entry.at_ms;
        match (entry.call, &entry.value_tail) {
            (CallKind::Kill, _) => issues.iter_mut().for_each(|issue| issue.ends(now, Cause::Foreign)),
            (call, Some(tail)) if entry.minted => {
                let cause = if call == CallKind::ForeignMint { Cause::Foreign } else { Cause::Ours };
                // Only the one before the newest is honoured beside it; a replaced one may outlive its own time.
                let mut others = issues.iter_mut().rev();
                if let Some(previous) = others.next().filter(|issue| issue.death.at > now) {
                    let expired = previous.death.cause == Cause::Expired;
                    if expired {
                        previous.death = Death { at: now + overlap, cause };
                    }
                }
                others.for_each(|issue| issue.ends(now, cause));
                issues.push(Issue { tail: tail.clone(), death: Death { at: now + lifetime, cause: Cause::Expired } });
            }
            _ => {}
        }
    }
    issues
}

/// The end of a value's text, as the sandbox's log has it.
pub(super) fn tail(value: &str) -> &str {
    value.len().checked_sub(8).and_then(|from| value.get(from..)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::super::sound;
    use super::*;

    #[test]
    fn a_value_ends_by_time_by_its_successor_or_by_somebody_else() {
        let entries = [
            sound::mint("a", 0, CallKind::Token),
            sound::mint("b", 5_000, CallKind::Token),
            sound::mint("c", 6_000, CallKind::ForeignMint),
            sound::mint("d", 7_000, CallKind::Token),
            sound::kill(8_000),
            sound::mint("e", 20_000, CallKind::Token),
        ];
        let issues = issues(entries.iter(), (6_000, 4_000));
        let ends: Vec<_> =
            issues.iter().map(|issue| (issue.tail.as_str(), issue.death.at, issue.death.cause)).collect();
        let expected = [
            ("a", 6_000, Cause::Foreign),
            ("b", 7_000, Cause::Ours),
            ("c", 8_000, Cause::Foreign),
            ("d", 8_000, Cause::Foreign),
            ("e", 26_000, Cause::Expired),
        ];
        assert_eq!(ends, expected);
    }

    #[test]
    fn the_tail_is_that_of_the_log() {
        assert_eq!((tail("0123456789"), tail("short")), ("23456789", "short"));
    }
}
