//! A plain token's value that may not be WeChat's newest: every instance hears of it before it is ended.

use std::time::Duration;

use wxtoken::domain::account::{Mode, NewAccount};
use wxtoken::domain::budget::Limits;
use wxtoken::domain::refresh::{CallKind, Failure, FailureClass, Outcome, Trigger};
use wxtoken::domain::settlement::CallResult;
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::domain::token::{Claim, NOTICE};
use wxtoken::store::lease::Attempt;

use super::claims::history;
use super::fixture::{ACCESS, CALL, Home, LEASE, LIMITS, TWO_HOURS, account, after, ended, failure, key, noon};
use crate::support::database::{TestDatabase, on_every_database};

const MOMENT: Duration = Duration::from_millis(1);

async fn home(database: TestDatabase) -> Home {
    let home = Home::new(database).await.restarted(Limits { plain_per_day: 100, ..LIMITS }).await;
    home.register_as(NewAccount { mode: Mode::Plain, ..account("wx1") }, noon()).await;
    home
}

/// Gives the token a value, and loses a mint that follows. Returns it and when its lease is over.
async fn lose_a_mint(home: &Home) -> (Claim, Timestamp) {
    home.give(&key("wx1", ACCESS), "value", noon()).await;
    let lost = home.claim(&key("wx1", ACCESS), CallKind::Mint, after(100)).await;
    (lost, after(100).plus(LEASE))
}

on_every_database! {
    async fn a_mint_after_a_lost_one_is_announced_before_it_is_made(database: TestDatabase) {
        let home = home(database).await;
        let (lost, over) = lose_a_mint(&home).await;
        let seen = home.token(&lost.token.key).await;
        assert!(home.any_due(9, over).await.is_empty(), "announced, not claimed");
        let announced = home.token(&lost.token.key).await;
        assert!(announced.in_doubt && announced.revision > seen.revision);
        assert_eq!((announced.refresh_at, announced.leased_by.as_deref()), (over.plus(NOTICE), None));
        let changed = home.store.tokens_changed_since(over).await.expect("the tokens read");
        assert_eq!(changed.len(), 1, "every instance hears of it");
        let last = over.plus(NOTICE).minus(MOMENT);
        assert!(home.any_due(9, last).await.is_empty() && !announced.is_ending(last));
        assert!(matches!(home.attempt(&lost.token.key, CallKind::Mint, last).await, Attempt::Busy), "orders wait, too");
        assert_eq!(home.token(&lost.token.key).await, announced, "and do not put it off");
        assert!(announced.is_ending(over.plus(NOTICE)));
        let claims = home.any_due(9, over.plus(NOTICE)).await;
        assert_eq!(claims.len(), 1);
        assert_eq!((claims[0].call, claims[0].trigger), (CallKind::Mint, Trigger::Recovery));
        let outcomes: Vec<_> = history(&home).await.into_iter().map(|row| row.outcome).collect();
        assert_eq!(outcomes, [Outcome::Lost, Outcome::Success]);
    }

    async fn an_answer_that_comes_after_the_announcement_is_fenced_off(database: TestDatabase) {
        let home = home(database).await;
        let (lost, over) = lose_a_mint(&home).await;
        home.any_due(9, over).await;
        assert!(home.settle(&lost, &home.brought("late", TWO_HOURS, after(101))).await.is_none());
        let row = home.token(&lost.token.key).await;
        assert_eq!((row.version, row.in_doubt), (1, true));
        assert_eq!(history(&home).await[0].outcome, Outcome::Superseded);
    }

    async fn a_token_without_a_living_value_is_minted_again_at_once(database: TestDatabase) {
        let home = home(database).await;
        home.claim(&key("wx1", ACCESS), CallKind::Mint, noon()).await;
        let second = home.any_due(9, after(30)).await.pop().expect("there is no value to announce the end of");
        home.settle(&second, &home.brought("value", TWO_HOURS, after(30))).await.expect("the claim holds");
        home.claim(&second.token.key, CallKind::Mint, after(100)).await;
        assert_eq!(home.any_due(9, after(30 + TWO_HOURS)).await.len(), 1, "it is over");
    }

    async fn doubt_waits_for_a_call_under_way_and_is_over_with_the_next_value(database: TestDatabase) {
        let home = home(database).await;
        let token = key("wx1", ACCESS);
        let cast = async |seconds| home.store.cast_doubt(&token, after(seconds)).await.expect("the row is written");
        assert!(matches!(home.store.cast_doubt(&key("wx2", ACCESS), noon()).await, Ok(Attempt::Absent)));
        let (under_way, _) = lose_a_mint(&home).await;
        assert!(matches!(cast(101).await, Attempt::Busy));
        home.settle(&under_way, &home.brought("value-2", TWO_HOURS, after(101))).await.expect("the claim holds");
        let Attempt::Moved(doubtful) = cast(102).await else { panic!("nothing is in the way") };
        assert_eq!(*doubtful, home.token(&token).await);
        assert!(doubtful.is_doubtful(after(102)) && doubtful.valid(after(102)).is_some(), "it is served on");
        assert!(home.any_due(9, after(103)).await.is_empty());
        let claim = home.any_due(9, after(104)).await.pop().expect("it is due");
        home.settle(&claim, &home.brought("value-3", TWO_HOURS, after(104))).await.expect("the claim holds");
        let row = home.token(&token).await;
        assert!(!row.in_doubt && row.version == 3);
    }

    async fn a_probe_that_finds_the_value_alive_leaves_its_end_announced(database: TestDatabase) {
        let home = home(database).await;
        let (lost, over) = lose_a_mint(&home).await;
        let probe = home.claim(&lost.token.key, CallKind::Probe, over).await;
        let alive = ended(CallResult::Accepted, over);
        home.settle(&probe, &alive).await.expect("the claim holds");
        let row = home.token(&lost.token.key).await;
        assert_eq!((row.in_doubt, row.refresh_at), (true, alive.ended_at.plus(NOTICE)));
    }

    async fn while_a_mint_without_an_answer_is_looked_into_its_value_is_not_withheld(database: TestDatabase) {
        let home = home(database).await;
        let (mint, _) = lose_a_mint(&home).await;
        let silence = Failure { class: FailureClass::Transient, maybe_done: true, ..failure(-1, "no answer") };
        let silence = CallResult::Failed(silence);
        let settled = home.settle(&mint, &ended(silence, after(101))).await.expect("the claim holds");
        let probe = settled.next.expect("a probe follows");
        let row = home.token(&mint.token.key).await;
        assert!(row.in_doubt && row.refresh_at >= after(101).plus(NOTICE) && !row.is_ending(after(102)), "{row:?}");
        // It hangs until long after that.
        home.settle(&probe, &ended(CallResult::Failed(failure(-1, "no answer")), after(110))).await.expect("it holds");
        assert_eq!(home.token(&mint.token.key).await.refresh_at, after(110).plus(CALL).plus(NOTICE));
    }
}
