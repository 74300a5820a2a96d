//! Statements that run all the time, or over all the rows, are served by their indexes.

use wxtoken::store::db::{Dialect, render};
use wxtoken::store::history::{END_OF_BATCH, NEWEST, NEWEST_OF_ACCOUNT, PRUNE};
use wxtoken::store::lease::DUE_SCAN;
use wxtoken::store::{account, key, mirror, token};

use super::fixture::{Home, noon};
use super::raw::Raw;
use crate::support::database::{Kind, on_every_database};

const ROWS: i64 = 20_000;
const AT_ONCE: i64 = 1_000;
/// The end of time.
const END: &str = "253402300799999";

/// Inserts rows whose times are a second apart, the last of them at noon.
async fn fill(raw: &mut Raw, table: &str, columns: &str, row: impl Fn(i64, i64) -> String) {
    for first in (0..ROWS).step_by(usize::try_from(AT_ONCE).expect("a small number")) {
        let rows = (first..first + AT_ONCE).map(|number| row(number, noon().as_millis() - (ROWS - 1 - number) * 1_000));
        let rows = rows.collect::<Vec<_>>().join(", ");
        raw.run(&format!("INSERT INTO {table} ({columns}) VALUES {rows}")).await;
    }
}

async fn fill_all(raw: &mut Raw, kind: Kind) {
    raw.run("BEGIN").await;
    let columns = "appid, token_type, mode, refresh_at, changed_at";
    fill(raw, "wx_token", columns, |n, at| format!("('wx{n}', 'access_token', 'stable', {at}, {at})")).await;
    let columns = "appid, name, mode, token_types, enabled, note, revision, created_at, updated_at, changed_at";
    fill(raw, "wx_account", columns, |n, at| {
        format!("('wx{n}', '', 'stable', 'access_token', TRUE, '', 1, 0, 0, {at})")
    })
    .await;
    let columns = "id, name, role, accounts, actions, key_hash, hint, created_at, expires_at, changed_at";
    fill(raw, "wx_key", columns, |n, at| format!("('{n}', '', 'service', '*', '', '{n}', '', 0, 0, {at})")).await;
    let columns = "id, appid, format, revision, created_at, changed_at";
    fill(raw, "wx_mirror", columns, |n, at| format!("('{n}', 'wx{n}', 'wxjava', 1, 0, {at})")).await;
    let columns = "id, appid, token_type, generation, call_kind, trigger_name, outcome, started_at, version, instance";
    fill(raw, "wx_refresh_history", columns, |n, at| {
        format!("('{n:08}', 'wx{}', 'access_token', {n}, 'mint', 'schedule', 'success', {at}, 1, 'one')", n % 100)
    })
    .await;
    raw.run("COMMIT").await;
    for table in ["wx_token", "wx_account", "wx_key", "wx_mirror", "wx_refresh_history"] {
        let table = if kind == Kind::Mysql { format!("TABLE {table}") } else { table.to_owned() };
        raw.run(&format!("ANALYZE {table}")).await;
    }
}

/// The statement with these literals for its placeholders.
fn filled(kind: Kind, sql: &str, literals: &[String]) -> String {
    let dialect = match kind {
        Kind::Sqlite => Dialect::Sqlite,
        Kind::Postgres => Dialect::Postgres,
        Kind::Mysql => Dialect::Mysql,
    };
    let rendered = render(dialect, sql);
    // The last first: `$1` is also the beginning of `$12`.
    literals.iter().enumerate().rev().fold(rendered, |sql, (at, literal)| {
        let place = if kind == Kind::Postgres { format!("${}", at + 1) } else { "?".to_owned() };
        let at = sql.rfind(&place).unwrap_or_else(|| panic!("{sql} has no {place}"));
        format!("{}{literal}{}", &sql[..at], &sql[at + place.len()..])
    })
}

/// The plan must use this index, read no whole table, and sort nothing.
async fn check(raw: &mut Raw, kind: Kind, sql: &str, literals: &[String], index: &str) {
    let sql = filled(kind, sql, literals);
    let explain = if kind == Kind::Sqlite { "EXPLAIN QUERY PLAN" } else { "EXPLAIN" };
    let rows = raw.rows(&format!("{explain} {sql}")).await;
    let plan: Vec<_> = rows.into_iter().map(|row| row.into_iter().flatten().collect::<Vec<_>>().join(" | ")).collect();
    let plan = plan.join("\n");
    assert!(plan.contains(index), "{index} should serve\n{sql}\nand the plan is\n{plan}");
    let forbidden: &[&str] = match kind {
        Kind::Sqlite => &["SCAN ", "TEMP B-TREE"],
        Kind::Postgres => &["Seq Scan", "Sort"],
        Kind::Mysql => &["| ALL |", "| index |", "filesort", "temporary"],
    };
    for word in forbidden {
        assert!(!plan.contains(word), "there should be no {word:?} in the plan of\n{sql}\nwhich is\n{plan}");
    }
    if kind == Kind::Mysql {
        assert_eq!(plan.split(" | ").find(|cell| cell.starts_with("wx_") && *cell == index), Some(index), "{plan}");
    }
}

/// The literals of a list of the history: no filter, or one on the outcome; from the beginning, or after a row.
fn listing(outcome: &str, cursor: bool) -> Vec<String> {
    let middle = noon().as_millis() - 10_000_000;
    let (before, id) = if cursor { (middle, "'00010000'") } else { (253_402_300_799_999, "''") };
    let null = || "NULL".to_owned();
    let mut literals = vec!["0".to_owned(), END.to_owned(), before.to_string(), id.to_owned()];
    literals.extend([null(), null(), outcome.to_owned(), outcome.to_owned(), null(), null()]);
    literals.extend([before.to_string(), "20".to_owned()]);
    literals
}

on_every_database! {
    async fn the_busy_statements_are_served_by_their_indexes(database: TestDatabase) {
        let home = Home::new(database).await;
        let (mut raw, kind) = (home.raw().await, home.database.kind());
        fill_all(&mut raw, kind).await;
        let now = noon().as_millis();
        for (due, limit) in [(5, 64), (50, 64), (500, 64), (500, 1)] {
            let now = (now - (ROWS - due) * 1_000).to_string();
            // Of new tokens, of failing ones, and of those with a value.
            for [fewest, most, from, to] in [["0", "0", "0", "0"], ["1", "4294967295", "0", END], ["0", "0", "1", END]] {
                let literals = [&now, &now, fewest, most, from, to, &limit.to_string()].map(ToString::to_string);
                check(&mut raw, kind, DUE_SCAN, &literals, "wx_token_due").await;
            }
        }
        for outcome in ["NULL", "'success'"] {
            for cursor in [false, true] {
                let mut literals = listing(outcome, cursor);
                check(&mut raw, kind, NEWEST, &literals, "wx_refresh_history_time").await;
                literals.insert(0, "'wx7'".to_owned());
                check(&mut raw, kind, NEWEST_OF_ACCOUNT, &literals, "wx_refresh_history_account").await;
            }
        }
        let a_thousand = (now - (ROWS - 1_000) * 1_000).to_string();
        check(&mut raw, kind, END_OF_BATCH, &[now.to_string(), "999".to_owned()], "wx_refresh_history_time").await;
        check(&mut raw, kind, PRUNE, &[a_thousand], "wx_refresh_history_time").await;
        let lately = [(now - 10_000).to_string()];
        check(&mut raw, kind, token::CHANGED, &lately, "wx_token_changed").await;
        check(&mut raw, kind, account::CHANGED, &lately, "wx_account_changed").await;
        check(&mut raw, kind, key::CHANGED, &lately, "wx_key_changed").await;
        check(&mut raw, kind, mirror::CHANGED, &lately, "wx_mirror_changed").await;
    }
}
