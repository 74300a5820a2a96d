//! I3 and I7: what readers are given, and how fast.

use std::collections::{BTreeMap, BTreeSet};

use super::super::record::{Of, Read, Record, longest_calm};
use super::deaths::{Cause, deaths, tail};

/// Two clocks and the way between them.
const CLOCK_TOLERANCE: i64 = 500;
/// The promise is that an instance knows within 2 s what another has stored; a machine that runs dozens of instances has a second more.
const STALENESS: i64 = 3_000;
/// A token that a lost answer or a late call of ours has ended. With calls of 8 s the promise is 30 s, of which calls, leases and
/// detection shrink with the deadline to a tenth, which is 3 s; the backoff after three failures, up to 8 s, does not shrink.
const DETECTION: i64 = 11_000;
/// A read from memory. It takes less than a millisecond; the rest is for a machine that runs dozens of instances.
const FROM_MEMORY: i64 = 1_000;
/// While a value in doubt is replaced, readers wait for the new one for at most 1.1 s.
const WITHHELD: i64 = 1_100;
/// A value this close to its end may have ended when the request arrived.
const NEAR_ITS_END: i64 = 1_000;

/// Nothing is served beyond the end that WeChat has set to it, whatever happens; and nobody is told a later end.
pub(super) fn nothing_expired_is_served(record: &Record) -> Vec<String> {
    let deaths = deaths(record);
    let mut found = Vec::new();
    for read in &record.reads {
        let Some(given) = &read.given else { continue };
        if read.token_type != "access_token" {
            if !given.accepted {
                found.push(format!("a ticket that WeChat refuses: {}", told(read)));
            }
            continue;
        }
        match deaths.get(tail(&given.value)) {
            None => found.push(format!("a value that WeChat never gave: {}", told(read))),
            Some(death) if death.cause == Cause::Expired => {
                if read.sent > death.at + CLOCK_TOLERANCE {
                    found.push(format!("a value that had expired at {}: {}", death.at, told(read)));
                }
                if given.expires_at > death.at + CLOCK_TOLERANCE {
                    found.push(format!("an end {} that is later than WeChat's, {}", given.expires_at, death.at));
                }
            }
            Some(_) => {}
        }
    }
    found
}

/// What one instance serves, every other serves within the bound, unless it or the first cannot reach the database or does not run.
pub(super) fn what_one_knows_all_know_soon(record: &Record) -> Vec<String> {
    let mut known = BTreeMap::new();
    for read in &record.reads {
        let Some(given) = &read.given else { continue };
        let versions: &mut BTreeMap<_, i64> = known.entry((&read.appid, read.token_type)).or_default();
        let first = versions.entry((given.version, read.instance)).or_insert(read.received);
        *first = read.received.min(*first);
    }
    let mut found = Vec::new();
    for read in &record.reads {
        let Some(given) = &read.given else { continue };
        let newer = known[&(&read.appid, read.token_type)].range((given.version + 1, 0)..);
        for ((version, knower), since) in newer.filter(|(_, since)| **since + STALENESS < read.sent) {
            let troubles = record.troubles.iter().filter(|trouble| {
                let instance = trouble.of.instance();
                let theirs = instance == Some(read.instance) || instance == Some(*knower);
                trouble.of == Of::Machine || (theirs && !matches!(trouble.of, Of::Wechat(_)))
            });
            if longest_calm(troubles, *since, read.sent) > STALENESS {
                found.push(format!("instance {knower} served version {version} at {since}, and later: {}", told(read)));
                break;
            }
        }
    }
    found
}

/// A token that calls of ours have ended at WeChat is not served for longer than it takes to find out.
pub(super) fn what_we_ended_ourselves_is_found_out(record: &Record) -> Vec<String> {
    let deaths = deaths(record);
    let mut found = Vec::new();
    for read in record.reads.iter().filter(|read| read.token_type == "access_token") {
        let Some(given) = read.given.as_ref().filter(|given| !given.accepted) else { continue };
        let Some(death) = deaths.get(tail(&given.value)).filter(|death| death.cause == Cause::Ours) else { continue };
        let troubles = record.troubles.iter().filter(|trouble| match &trouble.of {
            Of::Account(appid) => *appid == read.appid,
            Of::Machine => true,
            of => of.instance() == Some(read.instance),
        });
        if longest_calm(troubles, death.at, read.sent) > DETECTION {
            found.push(format!("a value that we ended at {}: {}", death.at, told(read)));
        }
    }
    found
}

/// I7: who holds a live token answers with it at once, whoever else cannot be reached.
pub(super) fn slow_or_failed_with_a_live_token(record: &Record) -> Vec<String> {
    let deaths = deaths(record);
    let plain: BTreeSet<_> =
        record.accounts.iter().filter(|account| account.mode == "plain").map(|account| &account.appid).collect();
    let mut reads: Vec<_> = record.reads.iter().collect();
    reads.sort_by_key(|read| read.sent);
    let mut held: BTreeMap<_, (u32, &Read)> = BTreeMap::new();
    let mut found = Vec::new();
    for read in reads {
        let reader = (read.instance, &read.appid, read.token_type);
        let before = held.get(&reader).filter(|(start, _)| *start == read.start).map(|(_, read)| *read);
        if let Some(given) = before.and_then(|before| before.given.as_ref())
            && given.expires_at > read.received + NEAR_ITS_END
            && deaths.get(tail(&given.value)).is_none_or(|death| death.at > read.received)
            && runs(record, read)
        {
            let bound = FROM_MEMORY + if plain.contains(&read.appid) { WITHHELD } else { 0 };
            if read.status != 200 || read.received - read.sent > bound {
                found.push(format!("{} with a live token in memory", told(read)));
            }
        }
        if read.given.is_some() {
            held.insert(reader, (read.start, read));
        }
    }
    found
}

/// Whether the instance ran all the time, as fast as it can.
fn runs(record: &Record, read: &Read) -> bool {
    record.troubles.iter().all(|trouble| {
        let is_off = [Of::Down(read.instance), Of::Frozen(read.instance), Of::Machine].contains(&trouble.of);
        !is_off || trouble.until < read.sent || read.received < trouble.from
    })
}

fn told(read: &Read) -> String {
    let Read { instance, start, appid, token_type, sent, received, status, given } = read;
    let version = given.as_ref().map(|given| given.version);
    let tail = given.as_ref().map(|given| tail(&given.value));
    format!(
        "start {start} of instance {instance} answered {status} for the {token_type} of {appid} at {sent}, in {} ms, \
         version {version:?} ({tail:?})",
        received - sent
    )
}

#[cfg(test)]
mod tests {
    use wxtoken::wechat::sandbox::CallKind;

    use super::super::super::record::Trouble;
    use super::super::sound;
    use super::*;

    #[test]
    fn an_expired_value_is_found() {
        let mut record = sound::record();
        record.reads.push(sound::read(0, 11_600, 2));
        assert_eq!(nothing_expired_is_served(&record).len(), 1);
    }

    #[test]
    fn a_later_end_than_wechats_is_found() {
        let mut record = sound::record();
        record.reads[2].given.as_mut().expect("a value").expires_at += 5_000;
        assert_eq!(nothing_expired_is_served(&record).len(), 1);
    }

    #[test]
    fn a_value_from_nowhere_is_found() {
        let mut record = sound::record();
        record.reads[2].given.as_mut().expect("a value").value.push('x');
        assert_eq!(nothing_expired_is_served(&record).len(), 1);
    }

    #[test]
    fn a_refused_ticket_is_found() {
        let mut record = sound::record();
        record.reads[2].token_type = "jsapi_ticket";
        record.reads[2].given.as_mut().expect("a value").accepted = false;
        assert_eq!(nothing_expired_is_served(&record).len(), 1);
    }

    #[test]
    fn an_instance_that_stays_behind_is_found_unless_it_is_in_trouble() {
        let mut record = sound::record();
        record.reads.push(sound::read(1, 9_000, 1));
        assert_eq!(what_one_knows_all_know_soon(&record).len(), 1);
        record.troubles.push(Trouble { from: 7_000, until: 8_000, of: Of::Database(1) });
        assert_eq!(what_one_knows_all_know_soon(&record), Vec::<String>::new());
    }

    #[test]
    fn a_value_that_we_ended_is_found_when_it_is_served_on() {
        let mut record = sound::record();
        record.calls.push(sound::mint("value-03", 5_020, CallKind::Token));
        let mut late = sound::read(0, 5_030 + DETECTION, 1);
        late.given.as_mut().expect("a value").accepted = false;
        record.reads.push(late);
        assert_eq!(what_we_ended_ourselves_is_found_out(&record).len(), 1);
        record.troubles.push(Trouble { from: 5_000, until: 5_100, of: Of::Wechat(0) });
        assert_eq!(what_we_ended_ourselves_is_found_out(&record), Vec::<String>::new());
    }

    #[test]
    fn a_slow_and_a_failed_read_are_found_unless_the_instance_was_frozen() {
        for (status, lasting, expected) in [(200, 5, 0), (200, 2_500, 1), (503, 5, 1), (0, 5, 1)] {
            let mut record = sound::record();
            let read = sound::read(0, 6_500, 2);
            let given = read.given.clone().filter(|_| status == 200);
            record.reads.push(Read { status, given, received: read.sent + lasting, ..read });
            assert_eq!(slow_or_failed_with_a_live_token(&record).len(), expected, "{status} {lasting}");
            record.troubles.push(Trouble { from: 6_400, until: 6_600, of: Of::Frozen(0) });
            assert_eq!(slow_or_failed_with_a_live_token(&record), Vec::<String>::new());
        }
    }
}
