//! The check value by which a master key proves itself.

use std::sync::Arc;

use wxtoken::seal::{MasterKey, Sealer};
use wxtoken::store::StoreError;
use wxtoken::store::db::Db;
use wxtoken::store::master_key::{Seal, enroll, verify};
use wxtoken::store::migrate::bring_up_to_date;

use super::fixture::noon;
use crate::support::database::{Kind, TestDatabase, on_every_database};

fn sealer() -> Sealer {
    Sealer::new(&MasterKey::generate().expect("there is randomness"))
}

async fn open(database: &TestDatabase) -> Arc<Db> {
    let db = Db::open(database.url()).await.expect("it opens");
    bring_up_to_date(&db).await.expect("the schema is brought up to date");
    Arc::new(db)
}

on_every_database! {
    async fn the_first_key_becomes_the_key_of_the_database(database: TestDatabase) {
        let db = Db::open(database.url()).await.expect("it opens");
        let (first, other) = (sealer(), sealer());
        assert_eq!(verify(&db, &first).await.expect("an empty database takes any key"), Seal::Unset);
        bring_up_to_date(&db).await.expect("the schema is brought up to date");
        assert_eq!(verify(&db, &first).await.expect("so does one without a key"), Seal::Unset);
        enroll(&db, &first, noon()).await.expect("it is the first");
        assert_eq!(verify(&db, &first).await.expect("it is the key"), Seal::Proven);
        enroll(&db, &first, noon()).await.expect("to enroll it again changes nothing");
        for error in [verify(&db, &other).await.map(drop), enroll(&db, &other, noon()).await] {
            match error.expect_err("another key is refused") {
                StoreError::OtherMasterKey { expected, present } => {
                    assert_eq!((expected, present), (first.key_id(), other.key_id()));
                }
                error => panic!("both keys should be named: {error}"),
            }
        }
        assert_eq!(verify(&db, &first).await.expect("it stays the key"), Seal::Proven);
    }

    async fn of_two_first_keys_at_once_one_wins(database: TestDatabase) {
        let db = open(&database).await;
        let rival = if database.kind() == Kind::Sqlite { Arc::clone(&db) } else { open(&database).await };
        let keys = [sealer(), sealer()];
        let (one, two) = tokio::join!(enroll(&db, &keys[0], noon()), enroll(&rival, &keys[1], noon()));
        let results = [one, two];
        let won = results.iter().position(Result::is_ok).expect("one wins");
        assert!(matches!(results[1 - won], Err(StoreError::OtherMasterKey { .. })), "{results:?}");
        assert_eq!(verify(&db, &keys[won]).await.expect("it is the key"), Seal::Proven);
    }
}
