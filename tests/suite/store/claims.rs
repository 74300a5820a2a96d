//! Claiming due tokens, and one token.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use wxtoken::domain::account::AccountPatch;
use wxtoken::domain::refresh::{CallKind, Outcome, Trigger};
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::domain::token::{Standing, TokenKey};
use wxtoken::store::history::{Refresh, RefreshFilter};
use wxtoken::store::lease::{Attempt, Seen, Wish};

use super::fixture::{ACCESS, Home, JSAPI, LEASE, TWO_HOURS, account, actor, after, appids, failed, key, noon, types};
use super::raw::Raw;
use crate::support::database::{Kind, on_every_database};

pub(super) async fn history(home: &Home) -> Vec<Refresh> {
    home.store.refreshes(&RefreshFilter::default(), None, 1_000).await.expect("the history reads")
}

/// Two hundred accounts that are due, written in a few statements.
async fn register_two_hundred(raw: &mut Raw, now: Timestamp) {
    for number in 0..200 {
        let sql = format!(
            "INSERT INTO wx_token (appid, token_type, mode, refresh_at, changed_at) \
             VALUES ('wx{number:03}', 'access_token', 'stable', {}, 0)",
            now.as_millis()
        );
        raw.run(&sql).await;
    }
}

on_every_database! {
    async fn the_longest_overdue_are_claimed_first(database: TestDatabase) {
        let home = Home::new(database).await;
        for (name, seconds) in [("wx3", 30), ("wx1", 10), ("wx4", 40), ("wx2", 20)] {
            home.register(name, &[ACCESS], after(seconds)).await;
        }
        let claims = home.due(Standing::New, 2, after(40)).await;
        assert_eq!(appids(&claims), ["wx1", "wx2"]);
        assert_eq!(appids(&home.due(Standing::New, 9, after(39)).await), ["wx3"], "leased and not due are left alone");
        assert_eq!(appids(&home.due(Standing::New, 9, after(40)).await), ["wx4"], "due in the very millisecond");
        let claim = &claims[0];
        assert_eq!((claim.call, claim.trigger, claim.generation), (CallKind::Mint, Trigger::Schedule, 1));
        let row = home.token(&claim.token.key).await;
        assert_eq!((row.leased_by.as_deref(), row.leased_until), (Some("one"), after(40).plus(LEASE)));
        assert_eq!((row.generation, row.spent.calls, row.refresh_at), (1, 1, after(10)));
    }

    async fn proven_and_new_and_failing_tokens_are_scanned_apart(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, JSAPI], noon()).await;
        let claim = home.claim(&key("wx1", ACCESS), CallKind::Mint, noon()).await;
        home.settle(&claim, &failed(40_125, "no", noon())).await.expect("the claim holds");
        home.register("wx2", &[ACCESS], noon()).await;
        home.give(&key("wx2", ACCESS), "one", noon()).await;
        let late = after(TWO_HOURS);
        for (standing, expected) in [
            (Standing::New, ("wx1", JSAPI, CallKind::Ticket)),
            (Standing::Failing, ("wx1", ACCESS, CallKind::Mint)),
            (Standing::Proven, ("wx2", ACCESS, CallKind::Mint)),
        ] {
            let claims = home.due(standing, 9, late).await;
            let found = claims.iter().map(|claim| (claim.token.key.appid.as_str(), claim.token.key.token_type, claim.call));
            assert_eq!(found.collect::<Vec<_>>(), [expected], "{standing:?}");
            assert!(claims.iter().all(|claim| claim.token.standing() == standing));
        }
    }

    async fn eight_rivals_never_claim_one_token_twice(database: TestDatabase) {
        let home = Home::new(database).await;
        register_two_hundred(&mut home.raw().await, noon()).await;
        let mut rivals = tokio::task::JoinSet::new();
        for number in 0..8 {
            let store = home.rival(&format!("rival-{number}")).await;
            rivals.spawn(async move {
                let mut won: Vec<TokenKey> = Vec::new();
                loop {
                    let claims = store.claim_due(Standing::New, 7, noon(), LEASE, noon(), &|_| false).await.expect("the scan runs");
                    if claims.is_empty() {
                        break won;
                    }
                    won.extend(claims.into_iter().map(|claim| claim.token.key));
                }
            });
        }
        let mut won: Vec<_> = rivals.join_all().await.into_iter().flatten().collect();
        won.extend(home.due(Standing::New, 200, noon()).await.into_iter().map(|claim| claim.token.key));
        assert_eq!(won.len(), 200);
        assert_eq!(won.iter().collect::<BTreeSet<_>>().len(), 200);
        assert_eq!(home.raw().await.one("SELECT COUNT(*) FROM wx_token WHERE generation <> 1").await, "0");
    }

    async fn a_row_that_somebody_has_locked_is_passed_over(database: TestDatabase) {
        let home = Home::new(database).await;
        if home.database.kind() == Kind::Sqlite {
            return; // One writer: no row is ever locked by another.
        }
        for name in ["wx1", "wx2", "wx3"] {
            home.register(name, &[ACCESS], noon()).await;
        }
        let mut holder = home.raw().await;
        holder.run("BEGIN").await;
        holder.rows("SELECT appid FROM wx_token WHERE appid = 'wx1' FOR UPDATE").await;
        // To wait for the lock would end in an error after the sessions' lock timeout.
        assert_eq!(appids(&home.due(Standing::New, 9, noon()).await), ["wx2", "wx3"]);
        holder.run("ROLLBACK").await;
        assert_eq!(appids(&home.due(Standing::New, 9, noon()).await), ["wx1"]);
    }

    async fn a_lease_that_ran_out_leaves_one_lost_row(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        let first = home.claim(&token, CallKind::Force, after(1)).await;
        assert!(home.due(Standing::New, 9, after(20)).await.is_empty(), "the lease holds");
        let home = home.restarted(super::fixture::LIMITS).await;
        let again = home.due(Standing::New, 9, after(21)).await;
        assert_eq!((again[0].generation, again[0].trigger), (first.generation + 1, Trigger::Recovery));
        let [lost] = <[Refresh; 1]>::try_from(history(&home).await).expect("one row");
        assert_eq!((lost.outcome, lost.generation, lost.instance.as_str()), (Outcome::Lost, first.generation, "one"));
        assert_eq!((lost.trigger, lost.call, lost.started_at), (Trigger::Manual, CallKind::Force, after(1)));
        assert_eq!((lost.duration_ms, lost.errcode, lost.expires_in), (None, None, None));
        home.settle(&again[0], &home.brought("value", 7_200, after(22))).await.expect("the claim holds");
        home.claim(&token, CallKind::Mint, after(30)).await;
        assert_eq!(history(&home).await.len(), 2, "the settled claim is not lost");
    }

    async fn leases_of_a_process_that_is_gone_are_ended(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, JSAPI], noon()).await;
        home.claim(&key("wx1", ACCESS), CallKind::Mint, noon()).await;
        assert_eq!(home.store.end_leases().await.expect("it runs"), 1);
        let claims = home.due(Standing::New, 9, after(1)).await;
        assert_eq!(claims.len(), 2);
        assert_eq!(history(&home).await.len(), 1, "the ended claim is lost, and that is recorded");
    }

    async fn a_token_under_way_is_busy(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        home.claim(&token, CallKind::Mint, noon()).await;
        assert!(matches!(home.attempt(&token, CallKind::Probe, after(19)).await, Attempt::Busy));
        assert!(matches!(home.attempt(&token, CallKind::Probe, after(20)).await, Attempt::Claimed(_)));
    }

    async fn a_token_that_moved_is_handed_back(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        home.give(&token, "value", noon()).await;
        let wish = |version| Wish { call: CallKind::Probe, trigger: Trigger::Report, seen: Seen::Version(version) };
        match home.store.claim(&token, wish(0), LEASE, after(1)).await.expect("it runs") {
            Attempt::Moved(moved) => assert_eq!(*moved, home.token(&token).await),
            other => panic!("the token has moved: {other:?}"),
        }
        let attempt = home.store.claim(&token, wish(1), LEASE, after(1)).await.expect("it runs");
        assert!(matches!(attempt, Attempt::Claimed(claim) if claim.trigger == Trigger::Report));
    }

    async fn a_token_that_is_not_kept_is_absent(database: TestDatabase) {
        let home = Home::new(database).await;
        assert!(matches!(home.attempt(&key("wx1", ACCESS), CallKind::Mint, noon()).await, Attempt::Absent));
        home.register("wx1", &[ACCESS, JSAPI], noon()).await;
        let patch = AccountPatch { token_types: Some(types(&[ACCESS])), ..AccountPatch::default() };
        home.store.update_account("wx1", &patch, &actor(), after(1)).await.expect("it is written");
        assert!(matches!(home.attempt(&key("wx1", JSAPI), CallKind::Ticket, after(2)).await, Attempt::Absent));
    }

    async fn a_claim_given_back_costs_nothing(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register_as(wxtoken::domain::account::NewAccount { mode: wxtoken::domain::account::Mode::Plain, ..account("wx1") }, noon()).await;
        let token = key("wx1", ACCESS);
        for call in [CallKind::Probe, CallKind::Mint, CallKind::Mint, CallKind::Mint] {
            let claim = home.claim(&token, call, after(1)).await;
            home.store.release(&claim, after(60)).await.expect("it is put back");
            home.store.release(&claim, after(60)).await.expect("and may be put back twice");
        }
        let row = home.token(&token).await;
        assert_eq!((row.spent.calls, row.spent.plain, row.refresh_at), (0, 0, after(60)));
        assert_eq!((row.leased_by, row.leased_until, row.generation), (None, Timestamp::ZERO, 4));
        assert!(history(&home).await.is_empty(), "there was no call");
        let late = home.claim(&token, CallKind::Mint, after(61)).await;
        let newer = home.claim(&token, CallKind::Mint, after(61).plus(LEASE)).await;
        home.store.release(&late, after(999)).await.expect("it runs");
        assert_eq!(home.token(&token).await.leased_until, newer.claimed_at.plus(LEASE), "a newer claim is left alone");
    }

    async fn one_slow_writer_makes_nobody_fail(database: TestDatabase) {
        let home = Arc::new(Home::new(database).await);
        home.register("wx1", &[ACCESS], noon()).await;
        let mut holder = home.raw().await;
        holder.run(if home.database.kind() == Kind::Sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" }).await;
        holder.run("UPDATE wx_token SET changed_at = 1 WHERE appid = 'wx1'").await;
        let waiting = Arc::clone(&home);
        let claim = tokio::spawn(async move { waiting.claim(&key("wx1", ACCESS), CallKind::Mint, noon()).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!claim.is_finished(), "it waits for the lock");
        holder.run("COMMIT").await;
        assert_eq!(claim.await.expect("it gets its turn").generation, 1);
    }
}
