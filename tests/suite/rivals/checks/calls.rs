//! I4 and I5: how often WeChat is called, and that the history says so.

use wxtoken::wechat::sandbox::{CallKind, Entry};

use super::super::instance::LEASE_MILLIS;
use super::super::plan::Account;
use super::super::record::{Of, Record, Row};

/// The program's clock is the database's as well as it could be measured; the sandbox has its own.
const CLOCK_TOLERANCE: i64 = 500;
/// A proxy may hold a request back for so long, and deliver it when its sender has given it up.
const HELD_BACK: i64 = 3_500;
const FORCED_A_DAY: usize = 20;
const FORCED_GAP: i64 = 30_000;
/// One token's calls in a second: an order, its probe and its repair, at several instances at once.
const CALLS_A_SECOND: usize = 10;

/// I4: WeChat's budgets are kept, no token is asked for in a loop, and none more often than its lifetime asks for.
pub(super) fn within_budget(record: &Record) -> Vec<String> {
    let mut found = Vec::new();
    for account in &record.accounts {
        let appid = &account.appid;
        let ours: Vec<_> = ours(record).filter(|call| call.appid.as_ref() == Some(appid)).collect();
        let forced: Vec<_> = ours.iter().filter(|call| call.force).map(|call| call.at_ms).collect();
        if forced.len() > FORCED_A_DAY {
            found.push(format!("{} forced refreshes of {appid}", forced.len()));
        }
        if forced.windows(2).any(|pair| pair[1] - pair[0] < FORCED_GAP - HELD_BACK) {
            found.push(format!("forced refreshes of {appid} at {forced:?}"));
        }
        if ours.windows(CALLS_A_SECOND).any(|calls| calls[CALLS_A_SECOND - 1].at_ms - calls[0].at_ms < 1_000) {
            found.push(format!("{CALLS_A_SECOND} calls for {appid} in a second"));
        }
        found.extend(fetched_too_often(record, account, &ours));
    }
    found
}

/// A token is replaced in the last quarter of its life. An edit makes it due at once, and so does a call that failed whoever ordered it. An instance
/// without the database goes by the token that it knew, and when its own comes to be stored, the plan for the one before may stand.
fn fetched_too_often(record: &Record, account: &Account, calls: &[&Entry]) -> Option<String> {
    let of_token = |row: &&Row| row.appid == account.appid && row.token_type == "access_token";
    let rows = || record.rows.iter().filter(of_token);
    let scheduled = rows().filter(|row| row.outcome == "success" && row.trigger_name == "schedule").count();
    let failed = rows().filter(|row| !is_answered(row) || row.errcode.is_some()).count();
    let edits = record.edits.iter().filter(|(_, edited)| *edited == account.appid).count();
    let lasting = calls.last()?.at_ms - calls.first()?.at_ms + CLOCK_TOLERANCE;
    let lives = usize::try_from(lasting / (i64::from(account.lifetime) * 750)).unwrap_or(0);
    let away = record.troubles.iter().filter(|trouble| matches!(trouble.of, Of::Database(_) | Of::Machine)).count();
    let most = lives + 1 + edits + failed + 2 * away;
    (scheduled > most).then(|| format!("{scheduled} tokens of {} where {most} would do", account.appid))
}

/// The calls that instances made.
fn ours(record: &Record) -> impl Iterator<Item = &Entry> {
    record.calls.iter().filter(|call| {
        matches!(call.call, CallKind::Token | CallKind::StableToken | CallKind::Ticket | CallKind::Probe)
    })
}

/// What a call asks for: appid, token type, and whether it is a probe.
type Subject<'a> = (&'a str, &'a str, bool);

fn subject_of_call(call: &Entry) -> Option<Subject<'_>> {
    let token_type = match call.call {
        CallKind::Ticket => call.line?.token_type(),
        _ => "access_token",
    };
    Some((call.appid.as_deref()?, token_type, call.call == CallKind::Probe))
}

fn subject_of_row(row: &Row) -> Subject<'_> {
    (&row.appid, &row.token_type, row.call_kind == "probe")
}

/// Whether WeChat's answer is in the row, so that there must have been a call.
fn is_answered(row: &Row) -> bool {
    row.errcode.is_some() || !matches!(row.outcome.as_str(), "failure" | "lost" | "superseded")
}

/// When the call of this row can have reached WeChat.
fn window(row: &Row) -> (i64, i64) {
    let lasting = match row.outcome.as_str() {
        // Of a lost claim only the time of the claim is known.
        "lost" => LEASE_MILLIS + HELD_BACK,
        _ if is_answered(row) => row.duration_ms.unwrap_or(0),
        _ => row.duration_ms.unwrap_or(0) + HELD_BACK,
    };
    (row.started_at - CLOCK_TOLERANCE, row.started_at + lasting + CLOCK_TOLERANCE)
}

/// I5: calls for which the history has no row.
pub(in super::super) fn without_a_row(record: &Record) -> Vec<String> {
    let mut rows: Vec<_> = record.rows.iter().map(|row| (subject_of_row(row), window(row))).collect();
    let mut found = Vec::new();
    let due = |call: &&Entry| call.seq <= record.last_call && !may_have_died_untold(record, call);
    for call in ours(record).filter(due) {
        let Some(subject) = subject_of_call(call) else {
            found.push(format!("a call for nobody: {call:?}"));
            continue;
        };
        // Of the rows that fit, the one that fits no longest: then as many calls as possible find a row.
        let fits =
            |(of, (from, until)): &(Subject<'_>, (i64, i64))| *of == subject && (*from..=*until).contains(&call.at_ms);
        let fitting = rows.iter().enumerate().filter(|(_, row)| fits(row));
        match fitting.min_by_key(|(_, (_, (_, until)))| *until).map(|(index, _)| index) {
            Some(index) => drop(rows.swap_remove(index)),
            None => found.push(format!("no row for the call at {} for {subject:?}, {:?}", call.at_ms, call.fault)),
        }
    }
    found
}

/// A call that was made without a claim because the database was away, and whose instance ended before it was back.
fn may_have_died_untold(record: &Record, call: &Entry) -> bool {
    record.troubles.iter().any(|away| {
        let Of::Database(instance) = away.of else { return false };
        let ended = |down: &&super::super::record::Trouble| {
            down.of == Of::Down(instance) && (call.at_ms..=away.until).contains(&down.from)
        };
        (away.from..=away.until).contains(&call.at_ms) && record.troubles.iter().any(|down| ended(&down))
    })
}

/// I5: rows that tell of an answer to a call that nobody made.
pub(super) fn rows_without_a_call(record: &Record) -> Vec<String> {
    let mut calls: Vec<_> = ours(record).filter_map(|call| Some((subject_of_call(call)?, call.at_ms))).collect();
    let mut rows: Vec<_> = record.rows.iter().filter(|row| is_answered(row)).collect();
    rows.sort_by_key(|row| window(row).1);
    let mut found = Vec::new();
    for row in rows {
        let (from, until) = window(row);
        let fits = |(subject, at): &(Subject<'_>, i64)| *subject == subject_of_row(row) && (from..=until).contains(at);
        let fitting = calls.iter().enumerate().filter(|(_, call)| fits(call));
        match fitting.min_by_key(|(_, (_, at))| *at).map(|(index, _)| index) {
            Some(index) => drop(calls.swap_remove(index)),
            None => found.push(format!("no call for the row {row:?}")),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::super::record::Trouble;
    use super::super::sound;
    use super::*;

    #[test]
    fn a_call_without_a_row_is_found() {
        let mut record = sound::record();
        record.rows.pop();
        assert_eq!(without_a_row(&record).len(), 1);
        let trouble = |from, until, of| Trouble { from, until, of };
        record.troubles = vec![trouble(4_000, 9_000, Of::Database(1)), trouble(6_000, 7_000, Of::Down(1))];
        assert_eq!(without_a_row(&record), Vec::<String>::new(), "its instance died before it could tell");
    }

    #[test]
    fn two_calls_under_one_row_are_found() {
        let mut record = sound::record();
        record.calls.push(sound::mint("x", 5_015, CallKind::Token));
        assert_eq!(without_a_row(&record).len(), 1);
    }

    #[test]
    fn a_row_without_a_call_is_found_unless_there_may_have_been_none() {
        let mut record = sound::record();
        record.rows.push(Row { outcome: "lost".to_owned(), ..sound::success(3, 9_000) });
        assert_eq!(rows_without_a_call(&record), Vec::<String>::new());
        record.rows.push(sound::success(4, 9_000));
        assert_eq!(rows_without_a_call(&record).len(), 1);
    }

    #[test]
    fn a_budget_that_is_overdrawn_is_found() {
        let forced = |at| Entry { force: true, ..sound::mint("x", at, CallKind::StableToken) };
        let mut record = sound::record();
        record.calls.extend([forced(6_000), forced(20_000)]);
        assert_eq!(within_budget(&record).len(), 1);
    }

    #[test]
    fn a_loop_is_found() {
        let mut record = sound::record();
        record.calls.extend((0..10).map(|call| sound::mint("x", 6_000 + call, CallKind::Probe)));
        assert_eq!(within_budget(&record).len(), 1);
    }

    #[test]
    fn tokens_that_are_replaced_too_early_are_found() {
        let mut record = sound::record();
        record.rows.push(sound::success(3, 5_200));
        assert_eq!(within_budget(&record).len(), 1);
    }
}
