//! A late writer changes nothing but the history.

use wxtoken::domain::refresh::{CallKind, Outcome};
use wxtoken::domain::token::{Claim, Standing};
use wxtoken::store::settle::{Ending, Terms};

use super::claims::history;
use super::fixture::{ACCESS, Home, LEASE, TERMS, TWO_HOURS, actor, after, failed, key, noon, refused};
use crate::support::database::on_every_database;

/// A claim whose lease has run out.
async fn late_claim(home: &Home) -> Claim {
    home.register("wx1", &[ACCESS], noon()).await;
    home.claim(&key("wx1", ACCESS), CallKind::Mint, noon()).await
}

async fn outcomes(home: &Home) -> Vec<(i64, Outcome)> {
    let mut rows: Vec<_> = history(home).await.into_iter().map(|row| (row.generation, row.outcome)).collect();
    rows.sort_by_key(|(generation, _)| *generation);
    rows
}

on_every_database! {
    async fn an_answer_that_comes_too_late_is_recorded_and_not_stored(database: TestDatabase) {
        let home = Home::new(database).await;
        let late = late_claim(&home).await;
        let newer = home.claim(&late.token.key, CallKind::Mint, noon().plus(LEASE)).await;
        home.settle(&newer, &home.brought("newer-value", TWO_HOURS, after(21))).await.expect("the newer claim holds");
        let before = home.token(&late.token.key).await;
        assert_eq!(outcomes(&home).await, [(1, Outcome::Lost), (2, Outcome::Success)]);
        for call in [home.brought("late-value", 7_000, after(2)), failed(40_125, "no", after(2))] {
            assert!(home.settle(&late, &call).await.is_none());
            assert_eq!(home.token(&late.token.key).await, before);
            assert_eq!(outcomes(&home).await, [(1, Outcome::Superseded), (2, Outcome::Success)]);
        }
        let row = history(&home).await.into_iter().find(|row| row.generation == 1).expect("there is one");
        assert_eq!((row.started_at, row.duration_ms, row.expires_in), (after(2), Some(120), Some(7_000)));
        let late_value = wxtoken::domain::secret::TokenValue::parse("late-value").expect("a token's text");
        assert_eq!(row.fingerprint, Some(home.sealer.fingerprint(&late_value)), "it can be recognised at WeChat");
    }

    async fn a_late_answer_leaves_a_call_under_way_alone(database: TestDatabase) {
        let home = Home::new(database).await;
        let late = late_claim(&home).await;
        let newer = home.claim(&late.token.key, CallKind::Mint, after(30)).await;
        let before = home.token(&late.token.key).await;
        assert!(home.settle(&late, &home.brought("late-value", TWO_HOURS, after(2))).await.is_none());
        assert_eq!(home.token(&late.token.key).await, before);
        let settled = home.settle(&newer, &home.brought("newer-value", TWO_HOURS, after(31))).await;
        assert_eq!(settled.expect("the newer claim holds").token.version, 1);
    }

    async fn an_answer_after_its_lease_is_stored_while_nobody_newer_has_claimed(database: TestDatabase) {
        let home = Home::new(database).await;
        let claim = late_claim(&home).await;
        let settled = home.settle(&claim, &home.brought("value", TWO_HOURS, after(300))).await;
        assert_eq!(settled.expect("the generation is still ours").outcome, Outcome::Success);
        assert_eq!(outcomes(&home).await, [(1, Outcome::Success)]);
    }

    async fn the_answer_for_a_removed_account_is_recorded_only(database: TestDatabase) {
        let home = Home::new(database).await;
        let claim = late_claim(&home).await;
        home.store.remove_account("wx1", &actor(), after(1)).await.expect("it runs").expect("it was there");
        let before = home.token(&claim.token.key).await;
        assert!(home.settle(&claim, &home.brought("value", TWO_HOURS, after(2))).await.is_none());
        assert_eq!(home.token(&claim.token.key).await, before);
        assert_eq!(outcomes(&home).await, [(1, Outcome::Superseded)]);
    }

    async fn a_settle_that_is_tried_again_after_its_commit_tells_what_is_stored(database: TestDatabase) {
        let home = Home::new(database).await;
        let claim = late_claim(&home).await;
        let call = home.brought("value", TWO_HOURS, after(1));
        let first = home.settle(&claim, &call).await.expect("the claim holds");
        let again = home.settle(&claim, &call).await.expect("it is known");
        assert_eq!((again.outcome, &again.token), (Outcome::Success, &first.token));
        assert_eq!(home.token(&claim.token.key).await, first.token, "nothing is written twice");
        assert_eq!(outcomes(&home).await, [(1, Outcome::Success)]);
    }

    async fn a_settle_that_is_tried_again_later_does_not_rewrite_history(database: TestDatabase) {
        let home = Home::new(database).await;
        let claim = late_claim(&home).await;
        let call = home.brought("value", TWO_HOURS, after(1));
        home.settle(&claim, &call).await.expect("the claim holds");
        home.claim(&claim.token.key, CallKind::Mint, after(2)).await;
        let again = home.settle(&claim, &call).await.expect("it was stored, and that is no late answer");
        assert_eq!((again.outcome, again.token.generation), (Outcome::Success, 2));
        assert_eq!(outcomes(&home).await, [(1, Outcome::Success)]);
    }

    async fn a_probe_that_is_settled_twice_stays_what_it_was(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        let probe = home.claim(&key("wx1", ACCESS), CallKind::Probe, after(1)).await;
        home.settle(&probe, &refused(after(1))).await.expect("the claim holds");
        let again = home.settle(&probe, &refused(after(1))).await.expect("it is known");
        assert_eq!((again.outcome, again.next.map(|_| ())), (Outcome::ForeignRefresh, None));
        assert_eq!(outcomes(&home).await, [(1, Outcome::Success), (2, Outcome::ForeignRefresh)]);
    }

    async fn an_answer_for_a_claim_that_a_restored_copy_lacks_is_not_taken_for_a_late_one(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        let claim = home.claim(&key("wx1", ACCESS), CallKind::Mint, after(1)).await;
        let ended = home.brought("newer-value", TWO_HOURS, after(1));
        let mut raw = home.raw().await;
        raw.run("UPDATE wx_token SET generation = 1, leased_by = NULL, leased_until = 0").await;
        let before = home.token(&claim.token.key).await;
        let settle = async || home.store.settle(&claim, &ended, TERMS, after(2)).await.expect("the settle runs");
        assert!(matches!(settle().await, Ending::Forgotten), "the copy was made before the claim");
        assert_eq!((home.token(&claim.token.key).await, outcomes(&home).await), (before, vec![(1, Outcome::Success)]));
        let theirs = home.claim(&claim.token.key, CallKind::Mint, after(3)).await;
        raw.run("UPDATE wx_token SET leased_by = 'another'").await;
        assert!(matches!(settle().await, Ending::Forgotten), "another has claimed the same generation since");
        assert_eq!(outcomes(&home).await, [(1, Outcome::Success)]);
        raw.run("UPDATE wx_token SET leased_by = 'one'").await;
        home.settle(&theirs, &home.brought("their-value", TWO_HOURS, after(3))).await.expect("the claim holds");
        raw.run("UPDATE wx_refresh_history SET instance = 'another' WHERE generation = 2").await;
        assert!(matches!(settle().await, Ending::Forgotten), "and has settled it");
    }

    async fn a_crowd_of_rivals_writes_one_row_for_each_claim(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        let mut rivals = tokio::task::JoinSet::new();
        for number in 0..6_u64 {
            let store = home.rival(&format!("rival-{number}")).await;
            let calls: Vec<_> = (0..10)
                .map(|turn| home.brought(&format!("value-{number}-{turn}"), TWO_HOURS, after(turn * 6 + number)))
                .collect();
            rivals.spawn(async move {
                let mut claimed = 0;
                for call in calls {
                    // A lease that is over at once: every claim after it makes this one late.
                    let lease = std::time::Duration::ZERO;
                    let claims = store.claim_due(Standing::Proven, 1, after(100_000), lease, after(100_000), &|_| false).await.expect("the scan runs");
                    for claim in claims {
                        claimed += 1;
                        store.settle(&claim, &call, Terms { ahead: lease, lease, roll: 0.0 }, call.ended_at).await.expect("the settle runs");
                    }
                }
                claimed
            });
        }
        let claimed = 1 + rivals.join_all().await.into_iter().sum::<i64>();
        let rows = outcomes(&home).await;
        assert!(claimed > 1);
        assert_eq!(rows.iter().map(|(generation, _)| *generation).collect::<Vec<_>>(), (1..=claimed).collect::<Vec<_>>());
        let stored = rows.iter().filter(|(_, outcome)| *outcome == Outcome::Success).count();
        assert_eq!(home.token(&key("wx1", ACCESS)).await.version, i64::try_from(stored).expect("a small number"));
        assert!(rows.iter().all(|(_, outcome)| matches!(outcome, Outcome::Success | Outcome::Superseded)));
    }
}
