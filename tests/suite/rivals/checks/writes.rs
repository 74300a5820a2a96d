//! I1 and I2: what is stored goes forward, one step at a time, and every instance sees the same.

use std::collections::{BTreeMap, BTreeSet};

use super::super::record::{Of, Read, Record};

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

/// Reads of instances that go by what is stored. One that cannot reach the database numbers what it is told in the meantime by what it last
/// knew, and learns the true numbers when it can store it.
fn of_stored(record: &Record) -> Vec<&Read> {
    let is_away = |read: &Read| {
        record.troubles.iter().any(|trouble| {
            trouble.of == Of::Database(read.instance) && (trouble.from..=trouble.until).contains(&read.received)
        })
    };
    let mut reads: Vec<_> = record.reads.iter().filter(|read| !is_away(read)).collect();
    reads.sort_by_key(|read| read.sent);
    reads
}

/// No version ever stood for two values, whichever instance was asked.
pub(super) fn one_value_for_each_version(record: &Record) -> Vec<String> {
    let mut values = BTreeMap::new();
    let mut found = BTreeSet::new();
    for read in of_stored(record) {
        let Some(given) = &read.given else { continue };
        let first = values.entry((&read.appid, read.token_type, given.version)).or_insert(&given.value);
        if *first != &given.value {
            found.insert(format!(
                "version {} of the {} of {} is two values",
                given.version, read.token_type, read.appid
            ));
        }
    }
    found.into_iter().collect()
}

/// A reader who stays with one instance never sees a version go back, not even when that instance is restarted.
pub(super) fn versions_never_go_back(record: &Record) -> Vec<String> {
    let mut newest = BTreeMap::new();
    let mut found = Vec::new();
    for read in of_stored(record) {
        let Some(given) = &read.given else { continue };
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
    use super::super::super::record::Trouble;
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
        record.reads[0].given.as_mut().expect("a value").value.push('x');
        assert_eq!(one_value_for_each_version(&record).len(), 1);
    }

    #[test]
    fn a_version_that_goes_back_is_found_across_a_restart() {
        let mut record = sound::record();
        record.reads.push(Read { start: 2, ..sound::read(1, 7_500, 1) });
        assert_eq!(versions_never_go_back(&record).len(), 1);
        record.troubles.push(Trouble { from: 7_400, until: 7_600, of: Of::Database(1) });
        assert_eq!(versions_never_go_back(&record), Vec::<String>::new());
    }
}
