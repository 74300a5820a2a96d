//! I1 and I2: what is stored goes forward, one step at a time, and every instance sees the same.

use std::collections::{BTreeMap, BTreeSet};

use super::super::record::{Of, Record, Row, longest_calm};

/// At most one settled write for each generation, and versions that count the values.
pub(super) fn one_settle_for_each_generation(record: &Record) -> Vec<String> {
    let mut found = Vec::new();
    let mut generations = BTreeSet::new();
    let mut newest = BTreeMap::new();
    let mut rows: Vec<_> = record.rows.iter().collect();
    rows.sort_by_key(|row| (&row.appid, &row.token_type, row.generation));
    for row in rows {
        let token = (row.appid.as_str(), row.token_type.as_str());
        if !generations.insert((token, row.generation)) {
            found.push(format!("two rows for generation {} of {token:?}", row.generation));
        }
        let newest = newest.entry(token).or_insert(0);
        if row.outcome == "success" {
            if row.version != *newest + 1 {
                found.push(format!("version {} of {token:?} was stored after version {newest}", row.version));
            }
            *newest = row.version;
        }
    }
    found
}

/// How long an instance that has fetched a value without the database may go on with a number of its own for it, once the database has a
/// value under that number: until it can store what it has.
const RENUMBERING: i64 = 6_000;

/// No version stands for two values. An instance that cannot reach the database numbers what it is told in the meantime by what it last
/// knew, and learns the true numbers when it can store it.
pub(super) fn one_value_for_each_version(record: &Record) -> Vec<String> {
    let stored = stored(record);
    let mut found = BTreeSet::new();
    for read in &record.reads {
        let Some(given) = &read.given else { continue };
        let version = (read.appid.as_str(), read.token_type, given.version);
        let Some((fingerprint, since)) = stored.get(&version) else { continue };
        if record.fingerprints.get(&given.value) != fingerprint.as_ref() {
            let troubles = record
                .troubles
                .iter()
                .filter(|trouble| trouble.of == Of::Machine || trouble.of.instance() == Some(read.instance));
            if longest_calm(troubles, *since, read.sent) > RENUMBERING {
                found.insert(format!("{version:?} is two values"));
            }
        }
    }
    found.into_iter().collect()
}

type Version<'a> = (&'a str, &'a str, i64);

/// Each version that was stored: the fingerprint of its value, and since when.
fn stored(record: &Record) -> BTreeMap<Version<'_>, (Option<String>, i64)> {
    let successes = record.rows.iter().filter(|row| row.outcome == "success");
    let version = |row: &'_ Row| (row.fingerprint.clone(), row.started_at + row.duration_ms.unwrap_or(0));
    successes.map(|row| ((row.appid.as_str(), row.token_type.as_str(), row.version), version(row))).collect()
}

/// A reader who stays with one instance never sees a stored version go back, not even when that instance is restarted.
pub(super) fn versions_never_go_back(record: &Record) -> Vec<String> {
    let stored = stored(record);
    let mut newest = BTreeMap::new();
    let mut found = Vec::new();
    let mut reads: Vec<_> = record.reads.iter().collect();
    reads.sort_by_key(|read| read.sent);
    for read in reads {
        let Some(given) = &read.given else { continue };
        let version = (read.appid.as_str(), read.token_type, given.version);
        let fingerprint = stored.get(&version).and_then(|(fingerprint, _)| fingerprint.as_ref());
        if fingerprint.is_none() || record.fingerprints.get(&given.value) != fingerprint {
            continue;
        }
        let token = (read.instance, &read.appid, read.token_type);
        let seen = newest.entry(token).or_insert(given.version);
        if given.version < *seen {
            found.push(format!("{token:?} went back from version {seen} to {} at {}", given.version, read.sent));
        }
        *seen = given.version.max(*seen);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::super::record::Read;
    use super::super::sound;
    use super::*;

    #[test]
    fn a_generation_that_was_settled_twice_is_found() {
        let mut record = sound::record();
        record.rows.push(record.rows[0].clone());
        assert!(!one_settle_for_each_generation(&record).is_empty());
    }

    #[test]
    fn a_version_that_is_left_out_is_found() {
        let mut record = sound::record();
        record.rows[1].version += 1;
        assert_eq!(one_settle_for_each_generation(&record).len(), 1);
    }

    #[test]
    fn one_version_with_two_values_is_found() {
        let mut record = sound::record();
        let mut other = sound::read(0, 1_000, 1);
        other.given.as_mut().expect("a value").value.push('x');
        record.reads.push(other.clone());
        assert_eq!(one_value_for_each_version(&record), Vec::<String>::new(), "it may not know better yet");
        record.reads.push(Read { sent: 8_000, ..other });
        assert_eq!(one_value_for_each_version(&record).len(), 1);
    }

    #[test]
    fn a_version_that_goes_back_is_found_across_a_restart() {
        let mut record = sound::record();
        record.reads.push(Read { start: 2, ..sound::read(1, 7_500, 1) });
        assert_eq!(versions_never_go_back(&record).len(), 1);
        record.rows.pop();
        assert_eq!(versions_never_go_back(&record), Vec::<String>::new(), "the later version was never stored");
    }
}
