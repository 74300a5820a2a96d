//! The ground of the other tests: what they stand on does what it says.

mod own_servers;
mod proxy;

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection, SqliteConnection};

use crate::support::database::{Kind, TestDatabase, on_every_database};
use crate::support::wait::eventually;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(50);

/// Runs a script on one connection and gives the error of its last statement.
async fn run(kind: Kind, url: &str, script: &'static str) -> Result<(), sqlx::Error> {
    let query = sqlx::raw_sql(AssertSqlSafe(script));
    match kind {
        Kind::Sqlite => {
            let made_on_demand = format!("{url}?mode=rwc");
            query.execute(&mut SqliteConnection::connect(&made_on_demand).await?).await.map(drop)
        }
        Kind::Postgres => query.execute(&mut PgConnection::connect(url).await?).await.map(drop),
        Kind::Mysql => query.execute(&mut MySqlConnection::connect(url).await?).await.map(drop),
    }
}

on_every_database! {
    async fn a_database_keeps_rows_of_its_own(db: TestDatabase) {
        let script = "CREATE TABLE note (id INTEGER PRIMARY KEY); INSERT INTO note VALUES (1); SELECT id FROM note";
        let other = TestDatabase::create(db.kind()).await;
        run(db.kind(), db.url(), script).await.expect("the first database takes the table");
        run(other.kind(), other.url(), script).await.expect("the second database does not have it yet");
    }

    async fn a_database_goes_with_its_value(db: TestDatabase) {
        let (kind, url, path) = (db.kind(), db.url().to_owned(), db.path());
        run(kind, &url, "SELECT 1").await.expect("it is there");
        assert_eq!(path.is_some(), kind == Kind::Sqlite);
        drop(db);
        run(kind, &url, "SELECT 1").await.expect_err("it is gone");
        assert!(path.is_none_or(|path| !path.exists()));
    }

    async fn a_database_goes_while_it_is_in_use(db: TestDatabase) {
        let (kind, url) = (db.kind(), db.url().to_owned());
        if kind == Kind::Postgres {
            let mut connection = PgConnection::connect(&url).await.expect("it is there");
            drop(db);
            connection.ping().await.expect_err("the connection is cut");
        } else {
            drop(db);
        }
        run(kind, &url, "SELECT 1").await.expect_err("it is gone");
    }
}

#[tokio::test]
async fn the_default_collation_on_mysql_ignores_case() {
    let db = TestDatabase::create(Kind::Mysql).await;
    let script = "CREATE TABLE note (name VARCHAR(9) PRIMARY KEY); INSERT INTO note VALUES ('a'), ('A')";
    let error = run(Kind::Mysql, db.url(), script).await.expect_err("the two names are one");
    assert!(error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation), "{error}");
}

#[tokio::test]
async fn databases_made_at_once_are_different() {
    for kind in Kind::ALL {
        let (one, two) = tokio::join!(TestDatabase::create(kind), TestDatabase::create(kind));
        assert_eq!(BTreeSet::from([one.url(), two.url()]).len(), 2);
    }
}

#[tokio::test]
async fn waiting_ends_with_the_first_answer() {
    let mut looks = 0;
    let answer = eventually(LONG, "the third look", async || {
        looks += 1;
        (looks == 3).then_some(looks)
    });
    assert_eq!(answer.await, 3);
}

#[tokio::test]
#[should_panic(expected = "waited 50ms in vain for what never comes")]
async fn waiting_fails_at_its_bound() {
    eventually(SHORT, "what never comes", async || None::<()>).await;
}

#[tokio::test]
#[should_panic(expected = "waited 50ms in vain for a look that never ends")]
async fn waiting_is_bounded_even_when_a_look_hangs() {
    eventually(SHORT, "a look that never ends", async || std::future::pending::<Option<()>>().await).await;
}
