//! A probe that is settled, and the call that follows it under the same lease.

use wxtoken::domain::account::{Mode, NewAccount};
use wxtoken::domain::budget::ExhaustedLimit;
use wxtoken::domain::refresh::{CallKind, Outcome, Trigger};
use wxtoken::domain::settlement::CallResult;
use wxtoken::store::lease::Attempt;
use wxtoken::store::settle::Settled;

use super::claims::history;
use super::fixture::{ACCESS, CALL, Home, LEASE, TWO_HOURS, account, after, ended, failed, key, noon, refused};
use crate::support::database::on_every_database;

/// Gives the access token a value, and has a probe find it refused at this second.
async fn refused_probe(home: &Home, seconds: u64) -> Settled {
    let probe = home.claim(&key("wx1", ACCESS), CallKind::Probe, after(seconds)).await;
    home.settle(&probe, &refused(after(seconds))).await.expect("the claim holds")
}

on_every_database! {
    async fn a_refused_token_is_replaced_under_the_same_lease(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        let settled = refused_probe(&home, 100).await;
        let next = settled.next.expect("a call must follow");
        assert_eq!((settled.outcome, settled.exhausted), (Outcome::ForeignRefresh, None));
        assert_eq!((next.call, next.trigger, next.generation), (CallKind::Force, Trigger::Manual, 3));
        let row = home.token(&next.token.key).await;
        assert_eq!((row.generation, row.spent.forced), (3, 1));
        assert_eq!(row.leased_until, after(100).plus(CALL).plus(LEASE));
        assert!(row.valid(after(101)).is_none(), "it is dead");
        assert!(matches!(home.attempt(&row.key, CallKind::Mint, after(101)).await, Attempt::Busy), "no claim comes between");
        let settled = home.settle(&next, &home.brought("value-2", TWO_HOURS, after(101))).await.expect("the claim holds");
        assert_eq!((settled.outcome, settled.token.version), (Outcome::Success, 2));
        let rows = history(&home).await;
        let seen: Vec<_> = rows.iter().rev().map(|row| (row.generation, row.call, row.outcome)).collect();
        assert_eq!(seen, [
            (1, CallKind::Mint, Outcome::Success),
            (2, CallKind::Probe, Outcome::ForeignRefresh),
            (3, CallKind::Force, Outcome::Success),
        ]);
    }

    async fn the_claim_that_follows_outlives_its_instance(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        refused_probe(&home, 100).await;
        let claims = home.any_due(9, after(200)).await;
        assert_eq!(claims.len(), 1, "the dead token is due");
        let lost = history(&home).await.into_iter().find(|row| row.generation == 3).expect("there is a row");
        assert_eq!((lost.outcome, lost.call), (Outcome::Lost, CallKind::Force));
    }

    async fn a_spent_budget_makes_the_replacement_gentler(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        let forced = home.claim(&key("wx1", ACCESS), CallKind::Force, after(90)).await;
        home.settle(&forced, &home.brought("value-2", TWO_HOURS, after(90))).await.expect("the claim holds");
        let settled = refused_probe(&home, 100).await;
        let next = settled.next.expect("a call must follow");
        assert_eq!(next.call, CallKind::Mint, "it brings what somebody else forced");
        assert_eq!(settled.exhausted.expect("the gap is not over").limit, ExhaustedLimit::ForcedGap);
        assert_eq!(home.token(&next.token.key).await.spent.forced, 1);
    }

    async fn in_plain_mode_a_refused_token_is_minted_anew_while_the_budget_lasts(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register_as(NewAccount { mode: Mode::Plain, ..account("wx1") }, noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        let settled = refused_probe(&home, 100).await;
        let next = settled.next.expect("a call must follow");
        assert_eq!((next.call, next.token.spent.plain), (CallKind::Mint, 2));
        home.settle(&next, &home.brought("value-2", TWO_HOURS, after(101))).await.expect("the claim holds");
        let settled = refused_probe(&home, 200).await;
        assert!(settled.next.is_none(), "two mints are the day's budget");
        let exhausted = settled.exhausted.expect("the budget is spent");
        assert_eq!((exhausted.limit, exhausted.until), (ExhaustedLimit::PlainPerDay, noon().next_beijing_midnight()));
        let row = home.token(&key("wx1", ACCESS)).await;
        assert_eq!((row.leased_by.as_deref(), row.generation), (None, 4));
        assert_eq!(row, settled.token);
    }

    async fn an_accepted_token_stays_as_it_is(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let before = home.give(&key("wx1", ACCESS), "value", noon()).await.token;
        let probe = home.claim(&before.key, CallKind::Probe, after(100)).await;
        let settled = home.settle(&probe, &ended(CallResult::Accepted, after(100))).await.expect("the claim holds");
        assert_eq!(settled.outcome, Outcome::StillValid);
        let row = home.token(&before.key).await;
        assert_eq!((row.value, row.version, row.refresh_at), (before.value, 1, before.refresh_at));
        assert_eq!((row.record.failures, row.spent.calls), (0, 1));
    }

    async fn a_probe_that_fails_says_nothing_about_the_token(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let before = home.give(&key("wx1", ACCESS), "value", noon()).await.token;
        let probe = home.claim(&before.key, CallKind::Probe, after(100)).await;
        let settled = home.settle(&probe, &failed(-1, "busy", after(100))).await.expect("the claim holds");
        assert_eq!((settled.outcome, settled.token.record.failures), (Outcome::Failure, 0));
        let row = home.token(&before.key).await;
        assert_eq!((row.value, row.refresh_at), (before.value, before.refresh_at));
    }

    async fn a_token_refused_at_its_end_is_no_foreign_refresh(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        assert_eq!(refused_probe(&home, TWO_HOURS).await.outcome, Outcome::Refused);
    }
}
