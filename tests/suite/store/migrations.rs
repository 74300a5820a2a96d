//! Bringing the schema up to date, and who may open a database.

use std::path::Path;
use std::sync::Arc;

use wxtoken::store::db::Db;
use wxtoken::store::migrate::{Schema, bring_up_to_date, inspect, latest};
use wxtoken::store::{Store, StoreError};

use super::fixture::{ACCESS, Home, LIMITS, account, actor, key, noon};
use super::raw::Raw;
use crate::support::database::{Kind, TestDatabase, on_every_database};

/// Takes back what the last step made.
pub(super) const UNDO_LAST_STEP: &str = "DROP TABLE wx_mirror";

async fn open(database: &TestDatabase) -> Arc<Db> {
    Arc::new(Db::open(database.url()).await.expect("it opens"))
}

fn contents(path: Option<&Path>) -> Option<Vec<u8>> {
    path.map(|path| std::fs::read(path).expect("the file reads"))
}

on_every_database! {
    async fn an_empty_database_is_brought_up_to_date_once(database: TestDatabase) {
        let db = open(&database).await;
        assert_eq!(inspect(&db).await.expect("it reads"), Schema::Empty);
        assert_eq!(bring_up_to_date(&db).await.expect("it works"), Schema::Empty);
        assert_eq!(inspect(&db).await.expect("it reads"), Schema::Current);
        assert_eq!(bring_up_to_date(&db).await.expect("it is done already"), Schema::Current);
        let mut raw = Raw::connect(database.kind(), database.url()).await;
        assert_eq!(raw.one("SELECT COUNT(*) FROM wx_migrations").await, latest().to_string());
    }

    async fn four_instances_bring_it_up_to_date_at_once(database: TestDatabase) {
        let first = open(&database).await;
        let one_of_them = async || {
            let db = if database.kind() == Kind::Sqlite { Arc::clone(&first) } else { open(&database).await };
            bring_up_to_date(&db).await.expect("it works");
            inspect(&db).await.expect("it reads")
        };
        let (a, b, c, d) = tokio::join!(one_of_them(), one_of_them(), one_of_them(), one_of_them());
        assert_eq!([a, b, c, d], [Schema::Current; 4]);
        let mut raw = Raw::connect(database.kind(), database.url()).await;
        assert_eq!(raw.one("SELECT COUNT(*) FROM wx_migrations").await, latest().to_string());
        raw.rows("SELECT * FROM wx_report_accounts").await;
    }

    async fn a_step_that_is_missing_is_made_up_for(database: TestDatabase) {
        let db = open(&database).await;
        bring_up_to_date(&db).await.expect("it works");
        let mut raw = Raw::connect(database.kind(), database.url()).await;
        raw.run(UNDO_LAST_STEP).await;
        raw.run(&format!("DELETE FROM wx_migrations WHERE version = {}", latest())).await;
        assert_eq!(inspect(&db).await.expect("it reads"), Schema::Older { found: latest() - 1 });
        bring_up_to_date(&db).await.expect("it works");
        raw.rows("SELECT * FROM wx_mirror").await;
    }

    async fn a_newer_schema_is_refused_without_a_write(database: TestDatabase) {
        let db = open(&database).await;
        bring_up_to_date(&db).await.expect("it works");
        let mut raw = Raw::connect(database.kind(), database.url()).await;
        let newer = latest() + 7;
        let sql = format!("UPDATE wx_migrations SET version = {newer}, description = 'x' WHERE version = {}", latest());
        raw.run(&sql).await;
        let before = raw.rows("SELECT version, success FROM wx_migrations ORDER BY version").await;
        let error = bring_up_to_date(&db).await.expect_err("it is refused");
        assert!(matches!(error, StoreError::NewerSchema { found, known } if found == newer && known == latest()));
        assert!(error.to_string().contains("run the newer wxtoken"), "{error}");
        assert_eq!(raw.rows("SELECT version, success FROM wx_migrations ORDER BY version").await, before);
    }

    async fn a_step_that_was_begun_and_not_done_is_done(database: TestDatabase) {
        if database.kind() != Kind::Mysql {
            return; // The others undo a step that is interrupted.
        }
        let db = open(&database).await;
        bring_up_to_date(&db).await.expect("it works");
        let mut raw = Raw::connect(database.kind(), database.url()).await;
        for step in [latest(), 3] {
            raw.run(UNDO_LAST_STEP).await;
            if step < latest() {
                raw.run("DROP VIEW wx_report_accounts").await;
            }
            raw.run(&format!("DELETE FROM wx_migrations WHERE version > {step}")).await;
            raw.run(&format!("UPDATE wx_migrations SET success = FALSE WHERE version = {step}")).await;
            assert_eq!(inspect(&db).await.expect("it reads"), Schema::Older { found: step - 1 });
            bring_up_to_date(&db).await.expect("it is made again");
            raw.rows("SELECT * FROM wx_mirror").await;
            raw.rows("SELECT * FROM wx_report_accounts").await;
        }
    }

    async fn a_database_opened_read_only_cannot_be_changed(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let Home { store, sealer, database } = home;
        store.close().await;
        drop(store);
        let path = database.path();
        let before = contents(path.as_deref());
        let db = Db::open_read_only(database.url()).await.expect("it opens");
        assert_eq!(bring_up_to_date(&db).await.expect("there is nothing to do"), Schema::Current);
        let store = Store::new(db, sealer, LIMITS, "one".to_owned());
        assert!(store.token(&key("wx1", ACCESS)).await.expect("it reads").is_some());
        let error = store.create_account(&account("wx2"), &actor(), noon()).await.expect_err("it is not written");
        assert!(error.passes(), "{error:?}");
        assert_eq!(store.accounts(None, 9).await.expect("they read").len(), 1);
        store.close().await;
        assert_eq!(contents(path.as_deref()), before);
    }
}

#[tokio::test]
async fn an_sqlite_file_has_one_process_that_writes() {
    let database = TestDatabase::create(Kind::Sqlite).await;
    let first = Db::open(database.url()).await.expect("it opens");
    let error = Db::open(database.url()).await.err().expect("a second is refused");
    let path = database.path().expect("there is a file");
    assert!(matches!(&error, StoreError::InUse { path: named } if *named == path), "{error:?}");
    let said = error.to_string();
    assert!(said.contains(&path.display().to_string()) && said.contains("another wxtoken process"), "{said}");
    bring_up_to_date(&first).await.expect("the first works on");
    let reader = Db::open_read_only(database.url()).await.expect("readers are welcome");
    assert_eq!(inspect(&reader).await.expect("it reads"), Schema::Current);
    first.close().await;
    drop(first);
    Db::open(database.url()).await.expect("the file is free again");
}

#[tokio::test]
async fn reading_an_sqlite_file_does_not_make_it() {
    let database = TestDatabase::create(Kind::Sqlite).await;
    let error = Db::open_read_only(database.url()).await.err().expect("there is no file");
    assert!(error.to_string().contains("cannot open the database at"), "{error}");
    assert!(!database.path().expect("a path").exists());
}
