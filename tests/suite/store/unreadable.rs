//! Rows that do not read: one must not stop the others, and there is a way to mend it.

use wxtoken::domain::refresh::CallKind;
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::domain::token::Standing;
use wxtoken::store::StoreError;
use wxtoken::store::lease::Wish;

use super::fixture::{ACCESS, Home, LEASE, account, actor, after, appid, appids, key, noon};
use crate::support::database::on_every_database;

/// Ways to spoil a token's row, each with the column that the error must name.
const SPOILED: [(&str, &str); 7] = [
    ("value_sealed = 'AAAA'", "value_sealed"),
    ("value_sealed = ''", "value_sealed"),
    ("previous_sealed = 'not base64!'", "previous_sealed"),
    ("fingerprint = NULL", "fingerprint"),
    ("last_outcome = 'exploded'", "last_outcome"),
    ("mode = 'turbo'", "mode"),
    ("failures = -1", "failures"),
];

fn column(error: &StoreError) -> &'static str {
    match error {
        StoreError::Corrupt { table: "wx_token", column, row }
        | StoreError::Sealed { table: "wx_token", column, row, .. } => {
            assert_eq!(row, "(wx1, access_token)");
            column
        }
        other => panic!("it should name the row: {other}"),
    }
}

on_every_database! {
    async fn a_row_that_does_not_read_does_not_stop_the_others(database: TestDatabase) {
        let home = Home::new(database).await;
        for name in ["wx1", "wx2"] {
            home.register(name, &[ACCESS], noon()).await;
        }
        home.give(&key("wx2", ACCESS), "value", noon()).await;
        let mut raw = home.raw().await;
        for (spoil, _) in &SPOILED[..6] {
            home.give(&key("wx1", ACCESS), "value", noon()).await;
            raw.run(&format!("UPDATE wx_token SET {spoil}, refresh_at = 1 WHERE appid = 'wx1'")).await;
            raw.run("UPDATE wx_token SET refresh_at = 2, leased_until = 0, leased_by = NULL WHERE appid = 'wx2'").await;
            // There is room for one only, and the unreadable one stands first.
            assert!(home.due(Standing::Proven, 1, noon()).await.is_empty(), "{spoil}");
            assert_eq!(appids(&home.due(Standing::Proven, 1, noon()).await), ["wx2"], "{spoil}");
            home.store.remove_account("wx1", &actor(), noon()).await.expect("it runs").expect("it was there");
            home.store.create_account(&account("wx1"), &actor(), noon()).await.expect("it runs").expect("it is new");
            assert_eq!(appids(&home.any_due(9, noon()).await), ["wx1"], "mended: {spoil}");
            raw.run("UPDATE wx_token SET leased_until = 0, leased_by = NULL").await;
        }
    }

    async fn a_row_that_does_not_read_is_named(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        home.give(&token, "one", noon()).await;
        home.give(&token, "two", noon()).await;
        let mut raw = home.raw().await;
        raw.run("CREATE TABLE spare AS SELECT * FROM wx_token").await;
        for (spoil, named) in SPOILED {
            raw.run(&format!("UPDATE wx_token SET {spoil}")).await;
            assert_eq!(column(&home.store.token(&token).await.expect_err("it does not read")), named);
            let wish = Wish { call: CallKind::Mint, trigger: wxtoken::domain::refresh::Trigger::Manual, seen: wxtoken::store::lease::Seen::Anything };
            assert_eq!(column(&home.store.claim(&token, wish, LEASE, after(1)).await.expect_err("nor is it claimed")), named);
            let listed = home.store.tokens_changed_since(Timestamp::ZERO).await.expect("the others are told");
            assert_eq!(column(listed[0].as_ref().expect_err("this one is reported")), named);
            raw.run("DELETE FROM wx_token").await;
            raw.run("INSERT INTO wx_token SELECT * FROM spare").await;
        }
    }

    async fn an_account_that_does_not_read_is_named(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.register("wx2", &[ACCESS], noon()).await;
        let mut raw = home.raw().await;
        raw.run("UPDATE wx_account SET secret_sealed = 'AAAA' WHERE appid = 'wx1'").await;
        let error = home.store.app_secret(&appid("wx1")).await.expect_err("it does not open");
        assert!(matches!(error, StoreError::Sealed { table: "wx_account", column: "secret_sealed", .. }), "{error}");
        raw.run("UPDATE wx_account SET token_types = 'refresh_token' WHERE appid = 'wx1'").await;
        let changes = home.store.accounts_changed_since(noon()).await.expect("the others are told");
        assert_eq!(changes.iter().filter(|change| change.is_ok()).count(), 1);
        let error = changes.into_iter().find_map(Result::err).expect("this one is reported");
        assert!(error.to_string().contains("wx_account, row wx1: the column token_types"), "{error}");
    }

    async fn a_row_from_the_far_future_is_only_late(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let mut raw = home.raw().await;
        raw.run("UPDATE wx_token SET generation = 9000000000000, expires_at = -5, leased_until = 253402300799999").await;
        assert!(home.any_due(9, after(1)).await.is_empty());
        raw.run("UPDATE wx_token SET leased_until = 0").await;
        let settled = home.give(&key("wx1", ACCESS), "value", after(1)).await;
        assert_eq!((settled.token.generation, settled.token.version), (9_000_000_000_001, 1));
    }
}
