//! What must be true of every run, decided from its record alone. Each check gives a sentence for each violation.

pub(super) mod calls;
mod deaths;
mod promises;
mod reads;
#[cfg(test)]
mod sound;
mod writes;

use super::record::Record;

type Check = fn(&Record) -> Vec<String>;

/// Every violation of I1 to I9.
pub(super) fn violations(record: &Record) -> Vec<String> {
    let checks: &[(&str, Check)] = &[
        ("I1", writes::one_settle_for_each_generation),
        ("I1", writes::one_value_for_each_version),
        ("I2", writes::versions_never_go_back),
        ("I3", reads::nothing_expired_is_served),
        ("I3", reads::what_one_knows_all_know_soon),
        ("I3", reads::what_we_ended_ourselves_is_found_out),
        ("I4", calls::within_budget),
        ("I5", calls::without_a_row),
        ("I5", calls::rows_without_a_call),
        ("I6", promises::secrets_in_the_output),
        ("I7", reads::slow_or_failed_with_a_live_token),
        ("I8", promises::stale_at_the_end),
        ("I9", promises::hammering),
    ];
    checks
        .iter()
        .flat_map(|(number, check)| check(record).into_iter().map(move |found| format!("{number}: {found}")))
        .collect()
}
