//! Nothing secret is readable in the database, and a sealed text opens only where it belongs.

use wxtoken::domain::account::{AccountPatch, Mode, NewAccount};
use wxtoken::domain::refresh::CallKind;
use wxtoken::seal::SealError;
use wxtoken::store::StoreError;

use super::fixture::{ACCESS, Home, JSAPI, TWO_HOURS, account, actor, after, appid, failed, key, noon, secret, types};
use super::keys::{admin, text as key_text};
use super::mirrors::easywechat;
use super::raw::TextRow;
use crate::support::database::{Kind, on_every_database};

const CANARY: &str = "CANARY";
const TABLES: [&str; 7] =
    ["wx_account", "wx_token", "wx_refresh_history", "wx_key", "wx_mirror", "wx_audit", "wx_master_key"];

/// Secrets and values in every column that ever holds one, current, replaced and removed.
async fn fill_with_canaries(home: &Home) {
    wxtoken_enroll(home).await;
    let new = NewAccount { secret: secret("secret-CANARY-1"), token_types: types(&[ACCESS, JSAPI]), ..account("wx1") };
    home.register_as(new, noon()).await;
    for turn in 0..3 {
        home.give(&key("wx1", ACCESS), &format!("value-CANARY-{turn}"), after(turn)).await;
        home.give(&key("wx1", JSAPI), &format!("ticket-CANARY-{turn}"), after(turn)).await;
    }
    let late = home.claim(&key("wx1", ACCESS), CallKind::Mint, after(10)).await;
    let failing = home.claim(&key("wx1", JSAPI), CallKind::Ticket, after(10)).await;
    home.settle(&failing, &failed(-1, "busy", after(10))).await.expect("the claim holds");
    home.claim(&key("wx1", ACCESS), CallKind::Mint, after(100)).await;
    assert!(home.settle(&late, &home.brought("late-CANARY", TWO_HOURS, after(10))).await.is_none());
    let patch = AccountPatch { secret: Some(secret("secret-CANARY-2")), ..AccountPatch::default() };
    home.store.update_account("wx1", &patch, &actor(), after(200)).await.expect("it is written");
    let mirror = easywechat("wx1", "redis://me:CANARY@h/1", "secret-CANARY");
    home.store.create_mirror(&mirror, &actor(), noon()).await.expect("it is written");
    let text = key_text("wxt_a_CANARY");
    home.store.create_key(&text, &admin("operator"), &actor(), noon()).await.expect("it is written");
}

async fn wxtoken_enroll(home: &Home) {
    if home.database.kind() != Kind::Sqlite {
        let db = wxtoken::store::db::Db::open(home.database.url()).await.expect("it opens");
        wxtoken::store::master_key::enroll(&db, &home.sealer, noon()).await.expect("the first key is taken");
    }
}

async fn dump(home: &Home) -> Vec<TextRow> {
    let mut raw = home.raw().await;
    let mut rows = Vec::new();
    for table in TABLES {
        rows.extend(raw.rows(&format!("SELECT * FROM {table}")).await);
    }
    rows
}

on_every_database! {
    async fn no_secret_is_readable_in_the_database(database: TestDatabase) {
        let home = Home::new(database).await;
        fill_with_canaries(&home).await;
        let dump = dump(&home).await;
        let found: Vec<_> = dump.iter().flatten().flatten().filter(|text| text.contains(CANARY)).collect();
        assert!(found.is_empty(), "{found:?}");
        assert!(dump.iter().flatten().flatten().any(|text| text == "wx1"), "the dump holds the rows");
        let Some(directory) = home.database.directory() else { return };
        let mut bytes = Vec::new();
        for entry in std::fs::read_dir(directory).expect("the directory reads") {
            bytes.extend(std::fs::read(entry.expect("an entry").path()).expect("a file reads"));
        }
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(holds("Account wx1"), "the files hold the rows");
        assert!(!holds(CANARY), "nor do the pages and the log of the file");
    }

    async fn values_moved_to_another_row_do_not_open(database: TestDatabase) {
        let home = Home::new(database).await;
        for name in ["wx1", "wx2"] {
            home.register(name, &[ACCESS], noon()).await;
            for turn in 1..=2 {
                home.give(&key(name, ACCESS), &format!("value-{turn}-of-{name}"), after(turn)).await;
            }
        }
        let mut raw = home.raw().await;
        for column in ["value_sealed", "previous_sealed"] {
            for name in ["wx1", "wx2"] {
                let sql = format!("SELECT {column} FROM wx_token WHERE appid = '{name}'");
                let own = raw.one(&sql).await;
                let other = raw.one(&sql.replace(name, if name == "wx1" { "wx2" } else { "wx1" })).await;
                raw.run(&format!("UPDATE wx_token SET {column} = '{other}' WHERE appid = '{name}'")).await;
                let error = home.store.token(&key(name, ACCESS)).await.expect_err("it does not open");
                assert!(matches!(error, StoreError::Sealed { source: SealError::Altered, .. }), "{error}");
                raw.run(&format!("UPDATE wx_token SET {column} = '{own}' WHERE appid = '{name}'")).await;
            }
        }
        raw.run("UPDATE wx_token SET value_sealed = previous_sealed").await;
        home.store.token(&key("wx1", ACCESS)).await.expect_err("nor does the previous value pass for the current one");
    }

    async fn secrets_moved_to_another_account_do_not_open(database: TestDatabase) {
        let home = Home::new(database).await;
        for name in ["wx1", "wx2"] {
            home.register_as(NewAccount { mode: Mode::Plain, ..account(name) }, noon()).await;
        }
        let mut raw = home.raw().await;
        let moved = raw.one("SELECT secret_sealed FROM wx_account WHERE appid = 'wx2'").await;
        raw.run(&format!("UPDATE wx_account SET secret_sealed = '{moved}' WHERE appid = 'wx1'")).await;
        let error = home.store.app_secret(&appid("wx1")).await.expect_err("it does not open");
        assert!(matches!(error, StoreError::Sealed { source: SealError::Altered, .. }), "{error}");
        assert!(home.store.app_secret(&appid("wx2")).await.is_ok());
    }

    async fn a_removed_account_leaves_no_secret(database: TestDatabase) {
        let home = Home::new(database).await;
        fill_with_canaries(&home).await;
        home.store.remove_account("wx1", &actor(), after(300)).await.expect("it runs").expect("it was there");
        let mut raw = home.raw().await;
        assert_eq!(raw.one("SELECT COUNT(*) FROM wx_account WHERE secret_sealed IS NOT NULL").await, "0");
        let sql = "SELECT COUNT(*) FROM wx_token WHERE value_sealed IS NOT NULL OR previous_sealed IS NOT NULL";
        assert_eq!(raw.one(sql).await, "0");
        let sql = "SELECT COUNT(*) FROM wx_mirror WHERE target_sealed IS NOT NULL OR secret_sealed IS NOT NULL";
        assert_eq!(raw.one(sql).await, "0");
        assert_eq!(raw.one("SELECT COUNT(*) FROM wx_mirror").await, "1", "its row stays");
    }
}
