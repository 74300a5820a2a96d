//! Calls that were made without a claim while the database was away, and are stored when it is back.

use wxtoken::domain::refresh::{CallKind, Outcome, Trigger};
use wxtoken::domain::settlement::EndedCall;
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::domain::token::{Token, TokenKey};
use wxtoken::store::late::{Late, UnclaimedCall};

use super::claims::history;
use super::fixture::{ACCESS, CARD, Home, TERMS, TWO_HOURS, after, failed, key, noon};
use crate::support::database::on_every_database;

fn made(key: &TokenKey, now: Timestamp) -> UnclaimedCall {
    UnclaimedCall::new(key.clone(), CallKind::Mint, Trigger::Schedule, now)
}

async fn store(home: &Home, made: &UnclaimedCall, call: &EndedCall) -> Token {
    match home.store.settle_unclaimed(made, call, TERMS, after(5_000)).await {
        Ok(Late::Stored(token)) => *token,
        other => panic!("it could be stored: {other:?}"),
    }
}

async fn outcomes(home: &Home) -> Vec<(i64, Outcome)> {
    history(home).await.into_iter().map(|row| (row.generation, row.outcome)).collect()
}

on_every_database! {
    async fn a_value_that_was_fetched_without_a_claim_is_stored_with_its_row(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, CARD], noon()).await;
        let token = key("wx1", ACCESS);
        home.give(&token, "value-1", noon()).await;
        let stored = store(&home, &made(&token, after(100)), &home.brought("value-2", TWO_HOURS, after(100))).await;
        assert_eq!(stored, home.token(&token).await, "the caller and the database agree");
        assert_eq!((stored.version, stored.generation), (2, 2));
        assert_eq!(stored.value.map(|value| value.text.expose().to_owned()), Some("value-2".to_owned()));
        assert_eq!(stored.spent.calls, 2);
        assert_eq!(outcomes(&home).await, [(2, Outcome::Success), (1, Outcome::Success)]);
        assert_eq!(home.token(&key("wx1", CARD)).await.refresh_at, after(5_000), "the ticket that waits for it is woken");
    }

    async fn what_is_stored_twice_leaves_one_row(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        let (made, call) = (made(&token, after(100)), home.brought("value-1", TWO_HOURS, after(100)));
        let first = store(&home, &made, &call).await;
        assert_eq!(store(&home, &made, &call).await, first);
        assert_eq!(outcomes(&home).await, [(1, Outcome::Success)]);
    }

    async fn an_answer_that_is_older_than_what_is_stored_is_recorded_only(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        home.give(&token, "value-2", after(200)).await;
        for call in [home.brought("value-1", TWO_HOURS, after(100)), failed(-1, "busy", after(150))] {
            let stored = store(&home, &made(&token, after(100)), &call).await;
            assert_eq!(stored.value.map(|value| value.text.expose().to_owned()), Some("value-2".to_owned()));
            assert_eq!(stored.record.failures, 0);
        }
        let expected = [(3, Outcome::Superseded), (2, Outcome::Superseded), (1, Outcome::Success)];
        let mut found = outcomes(&home).await;
        found.sort_by_key(|(generation, _)| -generation);
        assert_eq!(found, expected);
    }

    async fn a_good_answer_outlives_a_later_failure_of_another_instance(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        home.give(&token, "value-1", noon()).await;
        let failing = home.claim(&token, CallKind::Mint, after(150)).await;
        home.settle(&failing, &failed(-1, "busy", after(150))).await.expect("the claim holds");
        let stored = store(&home, &made(&token, after(100)), &home.brought("value-2", TWO_HOURS, after(100))).await;
        assert_eq!(stored.value.map(|value| value.text.expose().to_owned()), Some("value-2".to_owned()));
        assert_eq!((stored.version, stored.record.failures), (2, 0));
        assert!(outcomes(&home).await.contains(&(3, Outcome::Success)));
    }

    async fn a_failure_does_not_end_a_backoff(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        let failing = home.claim(&token, CallKind::Mint, after(100)).await;
        home.settle(&failing, &failed(40_125, "invalid appsecret", after(100))).await.expect("the claim holds");
        let backing_off = home.token(&token).await;
        let call = failed(40_125, "invalid appsecret", after(120));
        let late = home.store.settle_unclaimed(&made(&token, after(120)), &call, TERMS, after(130)).await;
        assert!(matches!(late, Ok(Late::Stored(_))), "{late:?}");
        let row = home.token(&token).await;
        assert_eq!((row.refresh_at, row.record.failures), (backing_off.refresh_at, 1));
        assert!(outcomes(&home).await.contains(&(2, Outcome::Superseded)));
    }

    async fn a_call_under_way_is_not_fenced_off(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        let claim = home.claim(&token, CallKind::Mint, after(4_999)).await;
        let (made, call) = (made(&token, after(100)), home.brought("value-1", TWO_HOURS, after(100)));
        let late = home.store.settle_unclaimed(&made, &call, TERMS, after(5_000)).await;
        assert!(matches!(late, Ok(Late::Busy)), "{late:?}");
        assert!(home.settle(&claim, &home.brought("value-2", TWO_HOURS, after(5_000))).await.is_some());
    }

    async fn a_claim_that_was_lost_meanwhile_has_its_row(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        home.claim(&token, CallKind::Mint, noon()).await;
        store(&home, &made(&token, after(100)), &home.brought("value-1", TWO_HOURS, after(100))).await;
        assert_eq!(outcomes(&home).await, [(2, Outcome::Success), (1, Outcome::Lost)]);
    }

    async fn an_account_that_was_disabled_or_removed_meanwhile_stays_so(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.register("wx2", &[ACCESS], noon()).await;
        let disable = wxtoken::domain::account::AccountPatch { enabled: Some(false), ..Default::default() };
        home.store.update_account("wx1", &disable, &super::fixture::actor(), noon()).await.expect("it is there");
        home.store.remove_account("wx2", &super::fixture::actor(), noon()).await.expect("it is there");
        for appid in ["wx1", "wx2"] {
            let token = key(appid, ACCESS);
            let stored = store(&home, &made(&token, after(100)), &home.brought("value-1", TWO_HOURS, after(100))).await;
            assert_eq!(stored.refresh_at, Timestamp::NEVER, "{appid}");
            assert_eq!(stored.value.is_some(), appid == "wx1", "{appid}");
        }
        let mut found = outcomes(&home).await;
        found.sort_by_key(|(generation, _)| *generation);
        assert_eq!(found, [(1, Outcome::Success), (2, Outcome::Superseded)]);
    }

    async fn what_a_restored_copy_has_lost_is_stored_again_by_the_first_instance_that_remembers_it(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        home.give(&token, "value-of-the-copy", noon()).await;
        let rival = home.rival("two").await;
        let call = home.brought("younger-value", TWO_HOURS, after(100));
        let again = || UnclaimedCall::new(token.clone(), CallKind::Mint, Trigger::Recovery, after(100));
        let stored = store(&home, &again(), &call).await;
        let late = rival.settle_unclaimed(&again(), &call, TERMS, after(5_001)).await;
        assert!(matches!(&late, Ok(Late::Stored(token)) if **token == stored), "{late:?}");
        assert_eq!(outcomes(&home).await, [(2, Outcome::Success), (1, Outcome::Success)]);
    }
}
