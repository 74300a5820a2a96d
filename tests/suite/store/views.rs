//! The views for people: their columns, their values, and that they say what the rest of the program says.

use wxtoken::clock::Clock;
use wxtoken::domain::account::{AccountPatch, Mode, NewAccount, TokenType};
use wxtoken::domain::health::Health;
use wxtoken::domain::refresh::CallKind;
use wxtoken::domain::timestamp::Timestamp;

use super::fixture::{ACCESS, Home, JSAPI, LIMITS, account, actor, failed, key, noon};
use super::raw::Raw;
use crate::support::database::{Kind, on_every_database};

const REFRESHES: [&str; 12] = [
    "started_at",
    "appid",
    "account_name",
    "token_type",
    "trigger_name",
    "outcome",
    "errcode",
    "errmsg",
    "duration_ms",
    "expires_in",
    "instance",
    "version",
];
const ACCOUNTS: [&str; 10] = [
    "appid",
    "token_type",
    "health",
    "valid_until",
    "last_success_at",
    "consecutive_failures",
    "last_errcode",
    "refreshes_today",
    "forced_today",
    "budget_left",
];

/// The contract's columns come first; more may stand behind them. The named ones are real timestamps.
async fn check_columns(raw: &mut Raw, kind: Kind, view: &str, contract: &[&str], timestamps: &[&str]) {
    let columns = raw.columns(&format!("SELECT * FROM {view}")).await;
    let names: Vec<_> = columns.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..contract.len()], *contract);
    let real = match kind {
        Kind::Sqlite => return,
        Kind::Postgres => "TIMESTAMPTZ",
        Kind::Mysql => "DATETIME",
    };
    for name in timestamps {
        let found = columns.iter().find(|(column, _)| column == name).map(|(_, kind)| kind.as_str());
        assert_eq!(found, Some(real), "{view}.{name}");
    }
}

/// The time as each database writes it.
fn written(kind: Kind, moment: Timestamp) -> String {
    let text = moment.to_rfc3339().replace('T', " ").replace('Z', "");
    match kind {
        Kind::Sqlite => text,
        Kind::Postgres => format!("{}+00", text.trim_end_matches('0').trim_end_matches('.')),
        Kind::Mysql => text + "000",
    }
}

async fn set(raw: &mut Raw, appid: &str, token_type: TokenType, assignments: &str) {
    let sql = format!("UPDATE wx_token SET {assignments} WHERE appid = '{appid}' AND token_type = '{token_type}'");
    assert_eq!(raw.run(&sql).await, 1, "{sql}");
}

/// One column of a token's row in the view.
async fn reported(raw: &mut Raw, appid: &str, token_type: TokenType, column: &str) -> String {
    let from = format!("FROM wx_report_accounts WHERE appid = '{appid}' AND token_type = '{token_type}'");
    raw.one(&format!("SELECT {column} {from}")).await
}

on_every_database! {
    async fn the_report_of_refreshes_is_the_contract(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        let claim = home.claim(&key("wx1", ACCESS), CallKind::Mint, noon()).await;
        home.settle(&claim, &failed(40_164, "IP 不在白名单", noon())).await.expect("the claim holds");
        let (mut raw, kind) = (home.raw().await, home.database.kind());
        check_columns(&mut raw, kind, "wx_report_refreshes", &REFRESHES, &["started_at"]).await;
        let rows = raw.rows("SELECT * FROM wx_report_refreshes ORDER BY errcode IS NULL, errcode").await;
        let shown = |row: &Vec<Option<String>>| {
            row[..12].iter().map(|cell| cell.clone().unwrap_or_else(|| "-".to_owned())).collect::<Vec<_>>()
        };
        let at = written(kind, noon());
        let own = [at.as_str(), "wx1", "Account wx1", "access_token", "manual"];
        assert_eq!(shown(&rows[0]), [&own[..], &["failure", "40164", "IP 不在白名单", "120", "-", "one", "1"]].concat());
        assert_eq!(shown(&rows[1]), [&own[..], &["success", "-", "-", "120", "7200", "one", "1"]].concat());
        home.store.remove_account("wx1", &actor(), noon()).await.expect("it runs").expect("it was there");
        assert_eq!(raw.rows("SELECT * FROM wx_report_refreshes").await.len(), 2, "the history stays");
    }

    async fn times_are_right_to_the_millisecond(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        let (mut raw, kind) = (home.raw().await, home.database.kind());
        check_columns(&mut raw, kind, "wx_report_accounts", &ACCOUNTS, &["valid_until", "last_success_at"]).await;
        for millis in (0..1_000).step_by(37).chain([1, 999, 9_999_999_999_999]) {
            let moment = Timestamp::from_millis(noon().as_millis() / 1_000 * 1_000 + millis);
            set(&mut raw, "wx1", ACCESS, &format!("expires_at = {0}, last_success_at = {0}", moment.as_millis())).await;
            for column in ["valid_until", "last_success_at"] {
                assert_eq!(reported(&mut raw, "wx1", ACCESS, column).await, written(kind, moment));
            }
        }
        set(&mut raw, "wx1", ACCESS, "expires_at = 0, last_success_at = 0, refresh_at = 253402300799999").await;
        for column in ["valid_until", "last_success_at", "next_refresh_at"] {
            assert_eq!(reported(&mut raw, "wx1", ACCESS, column).await, "NULL", "{column}");
        }
    }

    async fn the_word_for_health_is_the_programs(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, JSAPI], noon()).await;
        let (mut raw, mut seen) = (home.raw().await, Vec::new());
        for enabled in [true, false] {
            let patch = AccountPatch { enabled: Some(enabled), ..AccountPatch::default() };
            home.store.update_account("wx1", &patch, &actor(), noon()).await.expect("it is written");
            for life in [None, Some(3_600_000), Some(-3_600_000)] {
                let token_type = if life.is_none() { JSAPI } else { ACCESS };
                if let Some(millis) = life {
                    // A disabled account keeps the value that it had, and nobody can claim it.
                    if enabled {
                        home.give(&key("wx1", ACCESS), "value", noon()).await;
                    }
                    let until = Clock::new().now().as_millis() + millis;
                    set(&mut raw, "wx1", ACCESS, &format!("expires_at = {until}")).await;
                }
                for failures in [0, 1, 7] {
                    set(&mut raw, "wx1", token_type, &format!("failures = {failures}")).await;
                    let health = Health::of(&home.token(&key("wx1", token_type)).await, enabled, Clock::new().now());
                    assert_eq!(reported(&mut raw, "wx1", token_type, "health").await, health.as_str());
                    let told = reported(&mut raw, "wx1", token_type, "consecutive_failures").await;
                    assert_eq!(told, failures.to_string());
                    seen.push(health);
                }
            }
        }
        for health in [Health::Healthy, Health::Pending, Health::Disabled, Health::Degraded, Health::Down] {
            assert!(seen.contains(&health), "{health:?} was not tried");
        }
    }

    async fn what_is_left_of_a_budget_is_what_the_program_allows(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.register_as(NewAccount { mode: Mode::Plain, ..account("wx2") }, noon()).await;
        let mut raw = home.raw().await;
        for (name, back) in [("wx1", 0), ("wx1", 1), ("wx1", 40), ("wx2", 0), ("wx2", 1)] {
            for (forced, plain) in [(0, 0), (1, 0), (0, 1), (2, 1), (5, 5)] {
                let day = Clock::new().now().beijing_day() - back;
                let calls = forced + plain + 3;
                let counted = format!("calls_today = {calls}, forced_today = {forced}, plain_today = {plain}");
                set(&mut raw, name, ACCESS, &format!("budget_day = {day}, {counted}")).await;
                let token = home.token(&key(name, ACCESS)).await;
                let spent = token.spent.as_of(Clock::new().now());
                let told = [
                    reported(&mut raw, name, ACCESS, "refreshes_today").await,
                    reported(&mut raw, name, ACCESS, "forced_today").await,
                    reported(&mut raw, name, ACCESS, "budget_left").await,
                ];
                let left = token.spent.left(token.mode, &LIMITS, Clock::new().now());
                assert_eq!(told, [spent.calls, spent.forced, left].map(|number| number.to_string()), "{name} {counted}");
            }
        }
    }

    async fn a_budget_is_told_by_mode_and_by_the_limits_of_the_last_claim(database: TestDatabase) {
        let home = Home::new(database).await;
        let now = Clock::new().now();
        home.register("wx1", &[ACCESS, JSAPI], now).await;
        let mut raw = home.raw().await;
        assert_eq!(reported(&mut raw, "wx1", ACCESS, "budget_left").await, "2");
        assert_eq!(reported(&mut raw, "wx1", JSAPI, "budget_left").await, "NULL");
        let home = home.restarted(wxtoken::domain::budget::Limits { forced_per_day: 9, plain_per_day: 500, ..LIMITS }).await;
        home.give(&key("wx1", ACCESS), "value", now).await;
        assert_eq!(reported(&mut raw, "wx1", ACCESS, "budget_left").await, "9");
        let patch = AccountPatch { mode: Some(Mode::Plain), ..AccountPatch::default() };
        home.store.update_account("wx1", &patch, &actor(), now).await.expect("it is written");
        assert_eq!(reported(&mut raw, "wx1", ACCESS, "budget_left").await, "500");
        assert_eq!(reported(&mut raw, "wx1", ACCESS, "mode").await, "plain");
    }

    async fn tokens_that_are_not_kept_are_not_reported(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, JSAPI], noon()).await;
        home.register("wx2", &[ACCESS], noon()).await;
        let patch = AccountPatch { token_types: Some(super::fixture::types(&[ACCESS])), ..AccountPatch::default() };
        home.store.update_account("wx1", &patch, &actor(), noon()).await.expect("it is written");
        home.store.remove_account("wx2", &actor(), noon()).await.expect("it runs").expect("it was there");
        let rows = home.raw().await.rows("SELECT appid, token_type FROM wx_report_accounts").await;
        assert_eq!(rows, [[Some("wx1".to_owned()), Some("access_token".to_owned())]]);
    }
}
