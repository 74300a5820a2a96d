//! I6, I8 and I9.

use std::collections::BTreeSet;

use super::super::record::{Of, Record};

/// I6: no secret and no token in anything that a process printed.
pub(super) fn secrets_in_the_output(record: &Record) -> Vec<String> {
    let leaked = record.secrets.iter().filter(|(text, _)| record.output.contains(text));
    leaked.map(|(_, what)| format!("{what} was printed")).collect()
}

/// I8: everything was fresh in time after the last fault.
pub(super) fn stale_at_the_end(record: &Record) -> Vec<String> {
    record.stale.iter().map(|token| format!("not fresh after the last fault: {token}")).collect()
}

/// I9: an account that needs a human is called once, and again after each edit: the first pause is a minute, longer than a short run; of a
/// longer one each doubled pause may bring one call. A call without an answer tells nothing, so it may be made again. Instances that cannot reach
/// the database go by themselves.
pub(super) fn hammering(record: &Record) -> Vec<String> {
    let (first, last) = match (record.calls.first(), record.calls.last()) {
        (Some(first), Some(last)) => (first.at_ms, last.at_ms),
        _ => return Vec::new(),
    };
    let minutes = (last - first) / 60_000;
    // 1 + 2 + 4 + … minutes lie between the calls.
    let pauses = usize::try_from((minutes + 1).ilog2()).unwrap_or(0);
    let away: BTreeSet<_> = record
        .troubles
        .iter()
        .filter_map(|trouble| match trouble.of {
            Of::Database(instance) => Some(Some(instance)),
            Of::Machine => Some(None),
            _ => None,
        })
        .collect();
    let broken = record.accounts.iter().filter(|account| !account.secret_is_right);
    broken
        .filter_map(|account| {
            let edits = record.edits.iter().filter(|(_, appid)| *appid == account.appid).count();
            let rows = record.rows.iter().filter(|row| row.appid == account.appid);
            let unanswered = rows.filter(|row| row.errcode.is_none()).count();
            let calls = record.calls.iter().filter(|call| call.appid.as_ref() == Some(&account.appid)).count();
            let allowed = (1 + edits) * (1 + pauses) * (1 + away.len()) + unanswered;
            (calls > allowed).then(|| format!("{calls} calls for {}, where {allowed} were due", account.appid))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use wxtoken::wechat::sandbox::CallKind;

    use super::super::sound;
    use super::*;

    #[test]
    fn a_leak_is_found() {
        let mut record = sound::record();
        assert_eq!(secrets_in_the_output(&record), Vec::<String>::new());
        record.output.push_str(&record.secrets[0].0.clone());
        assert_eq!(secrets_in_the_output(&record).len(), 1);
    }

    #[test]
    fn what_is_stale_is_told() {
        let mut record = sound::record();
        record.stale.push("wx1".to_owned());
        assert_eq!(stale_at_the_end(&record).len(), 1);
    }

    #[test]
    fn an_account_that_is_hammered_is_found() {
        let mut record = sound::record();
        record.accounts[0].secret_is_right = false;
        record.calls.truncate(1);
        record.rows.truncate(1);
        record.rows[0].errcode = Some(40_125);
        assert_eq!(hammering(&record), Vec::<String>::new());
        record.calls.push(sound::mint("x", 3_000, CallKind::Token));
        assert_eq!(hammering(&record).len(), 1);
        record.edits.push((2_000, sound::APPID.to_owned()));
        assert_eq!(hammering(&record), Vec::<String>::new());
    }
}
