//! What becomes of an account's tokens when the account changes.

use std::time::Duration;

use wxtoken::domain::account::{AccountPatch, Mode};
use wxtoken::domain::refresh::{CallKind, Outcome};
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::store::history::RefreshFilter;
use wxtoken::store::lease::Attempt;
use wxtoken::store::settle::{Ending, Terms};

use super::fixture::{ACCESS, CARD, Home, JSAPI, account, actor, after, failed, key, noon, secret, types};
use crate::support::database::on_every_database;

async fn patch(home: &Home, patch: AccountPatch, now: Timestamp) {
    let changed = home.store.update_account("wx1", &patch, &actor(), now).await.expect("the change is written");
    changed.expect("there is such an account");
}

async fn remove(home: &Home, now: Timestamp) {
    home.store.remove_account("wx1", &actor(), now).await.expect("it is removed").expect("it was there");
}

on_every_database! {
    async fn an_account_registered_again_goes_on_counting(database: TestDatabase) {
        let home = Home::new(database).await;
        let token = key("wx1", ACCESS);
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&token, "first-value", noon()).await;
        let late = home.claim(&token, CallKind::Mint, after(100)).await;
        remove(&home, after(101)).await;
        assert!(home.store.account("wx1").await.expect("it reads").is_none());
        assert!(home.store.app_secret(&late.token.key.appid).await.expect("it reads").is_none());
        let gone = home.token(&token).await;
        assert_eq!((gone.kept, gone.value, gone.previous, gone.refresh_at), (false, None, None, Timestamp::NEVER));
        assert!(matches!(home.attempt(&token, CallKind::Mint, after(102)).await, Attempt::Absent));

        let again = home.store.create_account(&account("wx1"), &actor(), after(110)).await.expect("it is written");
        assert_eq!(again.expect("it may be registered again").revision, 3);
        assert!(home.settle(&late, &home.brought("late-value", 7_200, after(100))).await.is_none(), "superseded");
        let token = home.token(&token).await;
        assert_eq!((token.value, token.version, token.refresh_at), (None, 1, after(110)));
        assert!(token.generation > late.generation);
        assert_eq!(token.record.last_outcome, None);
        let settled = home.give(&token.key, "second-value", after(120)).await;
        assert_eq!((settled.token.version, settled.token.previous), (2, None));
        assert!(settled.token.revision > token.revision);
    }

    async fn a_call_in_flight_at_the_removal_has_its_one_row(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let late = home.claim(&key("wx1", ACCESS), CallKind::Mint, after(1)).await;
        remove(&home, after(2)).await;
        let outcomes = async || {
            let rows = home.store.refreshes(&RefreshFilter::default(), None, 10).await.expect("they read");
            rows.into_iter().map(|row| row.outcome).collect::<Vec<_>>()
        };
        assert_eq!(outcomes().await, [Outcome::Lost]);
        assert!(home.settle(&late, &home.brought("late-value", 7_200, after(1))).await.is_none());
        assert_eq!(outcomes().await, [Outcome::Superseded]);
    }

    async fn a_settle_that_commits_late_is_news_for_the_other_instances(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let claim = home.claim(&key("wx1", ACCESS), CallKind::Mint, after(1)).await;
        let call = home.brought("value", 7_200, after(1));
        let terms = Terms { ahead: Duration::from_secs(240), lease: Duration::from_secs(20), roll: 0.0 };
        let settled = home.store.settle(&claim, &call, terms, after(600)).await.expect("the settle runs");
        let Ending::Settled(settled) = settled else { panic!("nobody was newer: {settled:?}") };
        assert_eq!(settled.token.record.last_call_at, call.ended_at);
        let news = home.store.tokens_changed_since(after(599)).await.expect("they read");
        assert_eq!(news.len(), 1, "a poll that looks at the last second sees it");
    }

    async fn token_types_come_and_go(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, JSAPI], noon()).await;
        home.give(&key("wx1", ACCESS), "access-value", noon()).await;
        home.give(&key("wx1", JSAPI), "ticket-value", noon()).await;
        let before = home.token(&key("wx1", ACCESS)).await;
        let kept = |kept: &[_]| AccountPatch { token_types: Some(types(kept)), ..AccountPatch::default() };
        patch(&home, kept(&[CARD]), after(10)).await;
        assert_eq!(home.token(&key("wx1", ACCESS)).await, before, "the access token is left alone");
        let dropped = home.token(&key("wx1", JSAPI)).await;
        assert_eq!((dropped.kept, dropped.value.is_none(), dropped.version), (false, true, 1));
        assert_eq!(home.token(&key("wx1", CARD)).await.refresh_at, after(10));
        patch(&home, kept(&[JSAPI]), after(20)).await;
        let revived = home.token(&key("wx1", JSAPI)).await;
        assert_eq!((revived.kept, revived.refresh_at, revived.version), (true, after(20), 1));
        assert!(revived.generation > dropped.generation - 1 && revived.revision > dropped.revision);
        let changed = home.store.tokens_changed_since(after(20)).await.expect("they read");
        let mut changed: Vec<_> = changed.into_iter().map(|token| token.expect("it opens").key.token_type).collect();
        changed.sort();
        assert_eq!(changed, [JSAPI, CARD], "the one that came and the one that went");
    }

    async fn a_disabled_account_is_not_due_until_it_is_enabled(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, JSAPI], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        let enabled = |enabled| AccountPatch { enabled: Some(enabled), ..AccountPatch::default() };
        patch(&home, enabled(false), after(10)).await;
        assert_eq!(home.token(&key("wx1", ACCESS)).await.refresh_at, Timestamp::NEVER);
        assert!(home.any_due(10, after(100_000)).await.is_empty());
        patch(&home, enabled(true), after(100_001)).await;
        assert_eq!(home.any_due(10, after(100_001)).await.len(), 2);
    }

    async fn a_call_under_way_does_not_enable_a_disabled_account(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, JSAPI], noon()).await;
        let access = home.claim(&key("wx1", ACCESS), CallKind::Mint, noon()).await;
        let ticket = home.claim(&key("wx1", JSAPI), CallKind::Ticket, noon()).await;
        patch(&home, AccountPatch { enabled: Some(false), ..AccountPatch::default() }, after(1)).await;
        home.settle(&access, &home.brought("value", 7_200, noon())).await.expect("the claim holds");
        home.store.release(&ticket, after(60)).await.expect("it is put back");
        assert_eq!(home.token(&access.token.key).await.refresh_at, Timestamp::NEVER);
        assert_eq!(home.token(&ticket.token.key).await.refresh_at, Timestamp::NEVER);
    }

    async fn a_new_secret_makes_tokens_due_with_a_clean_record(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, JSAPI], noon()).await;
        let token = key("wx1", ACCESS);
        let claim = home.claim(&token, CallKind::Mint, noon()).await;
        home.settle(&claim, &failed(40_125, "invalid appsecret", noon())).await.expect("the claim holds");
        assert!(home.token(&token).await.refresh_at > after(30));
        patch(&home, AccountPatch { secret: Some(secret("right")), ..AccountPatch::default() }, after(30)).await;
        let mended = home.token(&token).await;
        assert_eq!((mended.refresh_at, mended.record.failures), (after(30), 0));
        assert_eq!(home.token(&key("wx1", JSAPI)).await.refresh_at, after(30));
    }

    async fn an_edit_in_between_outlives_the_failure_of_the_old_secret(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        let claim = home.claim(&token, CallKind::Mint, noon()).await;
        patch(&home, AccountPatch { secret: Some(secret("right")), ..AccountPatch::default() }, after(2)).await;
        let settled = home.settle(&claim, &failed(40_125, "invalid appsecret", after(1))).await.expect("the claim holds");
        assert_eq!(settled.outcome, Outcome::Failure);
        let token = home.token(&token).await;
        assert_eq!((token.refresh_at, token.record.failures), (after(2), 0));
        assert_eq!(home.any_due(10, after(3)).await.len(), 1, "the new secret is tried at once");
    }

    async fn a_new_mode_reaches_the_tokens(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        patch(&home, AccountPatch { mode: Some(Mode::Plain), ..AccountPatch::default() }, after(9)).await;
        let token = home.token(&key("wx1", ACCESS)).await;
        assert_eq!((token.mode, token.refresh_at, token.version), (Mode::Plain, after(9), 1));
        assert!(token.valid(after(9)).is_some(), "the old value is served until there is a new one");
    }
}
