//! Listing the history, newest first.

use wxtoken::domain::account::TokenType;
use wxtoken::domain::refresh::{Outcome, Trigger};
use wxtoken::store::history::{Refresh, RefreshCursor, RefreshFilter};

use super::fixture::{ACCESS, Home, JSAPI, after, appid, noon};
use super::raw::Raw;
use crate::support::database::on_every_database;

/// Rows `first..last`, three to a moment, in a mix of accounts, types, outcomes and triggers.
async fn write(raw: &mut Raw, first: usize, last: usize) {
    for number in first..last {
        let token_type = TokenType::ALL[number % 3];
        let outcome = Outcome::ALL[number % Outcome::ALL.len()];
        let trigger = Trigger::ALL[number % Trigger::ALL.len()];
        let sql = format!(
            "INSERT INTO wx_refresh_history (id, appid, token_type, generation, call_kind, trigger_name, outcome, errcode, \
             errmsg, started_at, duration_ms, expires_in, fingerprint, version, instance) VALUES ('row-{:04}', 'wx{}', \
             '{token_type}', {number}, 'mint', '{trigger}', '{outcome}', NULL, NULL, {}, 1, NULL, NULL, 1, 'one')",
            (number * 37) % 1_000,
            number % 2,
            after(u64::try_from(number / 3).expect("a small number")).as_millis(),
        );
        raw.run(&sql).await;
    }
}

fn cursor(row: &Refresh) -> RefreshCursor {
    RefreshCursor { started_at: row.started_at, id: row.id.clone() }
}

async fn walk(home: &Home, filter: &RefreshFilter, page: u32, raw: &mut Option<Raw>) -> Vec<Refresh> {
    let mut rows: Vec<Refresh> = Vec::new();
    loop {
        let after = rows.last().map(cursor);
        let found = home.store.refreshes(filter, after.as_ref(), page).await.expect("the page reads");
        if found.is_empty() {
            return rows;
        }
        rows.extend(found);
        assert!(rows.len() < 1_000, "the walk does not end");
        if let Some(raw) = raw {
            let next = 60 + rows.len();
            write(raw, next, next + 1).await;
        }
    }
}

type LetsThrough = fn(&Refresh) -> bool;

fn ids(rows: &[Refresh]) -> Vec<&str> {
    rows.iter().map(|row| row.id.as_str()).collect()
}

on_every_database! {
    async fn pages_walk_every_row_once_and_newest_first(database: TestDatabase) {
        let home = Home::new(database).await;
        write(&mut home.raw().await, 0, 60).await;
        let everything = RefreshFilter::default();
        let all = home.store.refreshes(&everything, None, 1_000).await.expect("it reads");
        assert_eq!(all.len(), 60);
        assert!(all.is_sorted_by(|a, b| (a.started_at, &a.id) > (b.started_at, &b.id)));
        for page in [1, 2, 7, 60] {
            assert_eq!(ids(&walk(&home, &everything, page, &mut None).await), ids(&all), "pages of {page}");
            let filter = RefreshFilter { appid: Some(appid("wx1")), ..RefreshFilter::default() };
            let own: Vec<_> = all.iter().filter(|row| row.appid.as_str() == "wx1").map(|row| row.id.as_str()).collect();
            assert_eq!(ids(&walk(&home, &filter, page, &mut None).await), own, "pages of {page} of one account");
        }
    }

    async fn a_walk_is_not_disturbed_by_new_rows(database: TestDatabase) {
        let home = Home::new(database).await;
        let mut raw = home.raw().await;
        write(&mut raw, 0, 60).await;
        let all = home.store.refreshes(&RefreshFilter::default(), None, 1_000).await.expect("it reads");
        let walked = walk(&home, &RefreshFilter::default(), 7, &mut Some(raw)).await;
        assert_eq!(ids(&walked), ids(&all));
    }

    async fn each_filter_lets_through_its_own(database: TestDatabase) {
        let home = Home::new(database).await;
        write(&mut home.raw().await, 0, 60).await;
        let all = home.store.refreshes(&RefreshFilter::default(), None, 1_000).await.expect("it reads");
        let none = RefreshFilter::default;
        let filters: [(RefreshFilter, LetsThrough); 8] = [
            (RefreshFilter { appid: Some(appid("wx0")), ..none() }, |row| row.appid.as_str() == "wx0"),
            (RefreshFilter { appid: Some(appid("WX0")), ..none() }, |_| false),
            (RefreshFilter { token_type: Some(JSAPI), ..none() }, |row| row.token_type == JSAPI),
            (RefreshFilter { outcome: Some(Outcome::Lost), ..none() }, |row| row.outcome == Outcome::Lost),
            (RefreshFilter { trigger: Some(Trigger::Report), ..none() }, |row| row.trigger == Trigger::Report),
            (RefreshFilter { from: Some(after(7)), ..none() }, |row| row.started_at >= after(7)),
            (RefreshFilter { to: Some(after(7)), ..none() }, |row| row.started_at < after(7)),
            (
                RefreshFilter {
                    appid: Some(appid("wx0")),
                    token_type: Some(ACCESS),
                    outcome: Some(Outcome::Success),
                    trigger: Some(Trigger::Schedule),
                    from: Some(noon()),
                    to: Some(after(19)),
                },
                |row| row.appid.as_str() == "wx0" && row.token_type == ACCESS && row.outcome == Outcome::Success
                    && row.trigger == Trigger::Schedule && row.started_at < after(19),
            ),
        ];
        for (filter, lets_through) in filters {
            let expected: Vec<_> = all.iter().filter(|row| lets_through(row)).map(|row| row.id.as_str()).collect();
            assert_eq!(ids(&walk(&home, &filter, 5, &mut None).await), expected, "{filter:?}");
        }
    }
}
