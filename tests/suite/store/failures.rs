//! What a caller is told about a failed statement, by errors that the databases themselves make.

use std::time::Duration;

use wxtoken::store::db::{Db, Dialect};
use wxtoken::store::{FailureKind, StoreError};

use super::fixture::{ACCESS, Home, noon};
use super::raw::Raw;
use crate::support::database::{Kind, on_every_database};

fn kind(error: sqlx::Error) -> FailureKind {
    StoreError::from(error).kind().expect("it is a statement's")
}

fn begin(home: &Home) -> &'static str {
    if home.database.kind() == Kind::Sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" }
}

/// Waits for locks as briefly as this database can.
async fn impatient(home: &Home) -> Raw {
    let mut raw = home.raw().await;
    raw.run(match home.database.kind() {
        Kind::Sqlite => "PRAGMA busy_timeout = 10",
        Kind::Postgres => "SET lock_timeout = '10ms'",
        Kind::Mysql => "SET SESSION innodb_lock_wait_timeout = 1",
    })
    .await;
    raw
}

on_every_database! {
    async fn a_row_that_is_there_already_is_a_duplicate(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let sql = "INSERT INTO wx_token (appid, token_type, mode, refresh_at, changed_at) VALUES ('wx1', 'access_token', 'stable', 0, 0)";
        assert_eq!(kind(home.raw().await.try_run(sql).await.expect_err("the key is taken")), FailureKind::Duplicate);
    }

    async fn a_lock_that_somebody_else_holds_is_a_conflict(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let (mut holder, mut waiter) = (home.raw().await, impatient(&home).await);
        holder.run(begin(&home)).await;
        holder.run("UPDATE wx_token SET changed_at = 1").await;
        let error = waiter.try_run("UPDATE wx_token SET changed_at = 2").await.expect_err("it is locked");
        assert_eq!(kind(error), FailureKind::Conflict);
    }

    async fn a_deadlock_is_a_conflict(database: TestDatabase) {
        let home = Home::new(database).await;
        if home.database.kind() == Kind::Sqlite {
            return; // With one writer there is none.
        }
        home.register("wx1", &[ACCESS], noon()).await;
        home.register("wx2", &[ACCESS], noon()).await;
        let lock = |name: &str| format!("UPDATE wx_token SET changed_at = 1 WHERE appid = '{name}'");
        let (mut one, mut two) = (home.raw().await, home.raw().await);
        one.run("BEGIN").await;
        two.run("BEGIN").await;
        one.run(&lock("wx1")).await;
        two.run(&lock("wx2")).await;
        // The one that is chosen to fail must let go before the other can go on.
        let crossed = async |raw: &mut Raw, name: &str| {
            let result = raw.try_run(&lock(name)).await;
            raw.run("ROLLBACK").await;
            result
        };
        let (first, second) = tokio::join!(crossed(&mut one, "wx2"), crossed(&mut two, "wx1"));
        let errors: Vec<_> = [first, second].into_iter().filter_map(Result::err).map(kind).collect();
        assert_eq!(errors, [FailureKind::Conflict]);
    }

    async fn a_statement_that_is_wrong_is_a_defect(database: TestDatabase) {
        let home = Home::new(database).await;
        let error = home.raw().await.try_run("SELECT nonsense FROM wx_token").await.expect_err("it is wrong");
        assert_eq!(kind(error), FailureKind::Other);
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_named_without_its_password() {
    for scheme in ["postgres", "mysql", "mariadb"] {
        let opening = Db::open(Box::leak(format!("{scheme}://user:hunter2@127.0.0.1:9/db").into_boxed_str()));
        let result = tokio::time::timeout(Duration::from_secs(10), opening).await.expect("it does not wait for ever");
        let error = result.err().expect("there is no server");
        let said = format!("{error} {error:?}");
        assert!(said.contains("cannot open the database at the") && !said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn urls_that_cannot_work_are_refused_by_reason() {
    let refusal = async |url: &str| Db::open(url).await.err().expect("it is refused");
    assert!(matches!(refusal("oracle://db").await, StoreError::UnknownScheme));
    assert!(matches!(refusal("sqlite::memory:").await, StoreError::InMemory));
    let malformed = refusal("postgres://user:hun/ter2@host:notaport/db").await;
    assert!(matches!(malformed, StoreError::MalformedUrl) && !malformed.to_string().contains("ter2"), "{malformed}");
    assert_eq!(Dialect::of_url("postgresql://x"), Some(Dialect::Postgres));
}
