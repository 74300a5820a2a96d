//! The day's budgets, as the database keeps them.

use wxtoken::domain::account::{Mode, NewAccount};
use wxtoken::domain::budget::{Exhausted, ExhaustedLimit, Limits};
use wxtoken::domain::refresh::CallKind;
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::domain::token::TokenKey;
use wxtoken::store::lease::Attempt;

use super::fixture::{ACCESS, Home, LIMITS, account, after, key, noon};
use crate::support::database::on_every_database;

/// Spends one call and settles it as a failure, so that the next may follow at once.
async fn spend(home: &Home, token: &TokenKey, call: CallKind, now: Timestamp) {
    let claim = home.claim(token, call, now).await;
    home.settle(&claim, &super::fixture::failed(-1, "busy", now)).await.expect("the claim holds");
}

async fn refusal(home: &Home, token: &TokenKey, call: CallKind, now: Timestamp) -> Exhausted {
    match home.attempt(token, call, now).await {
        Attempt::Exhausted(exhausted) => exhausted,
        other => panic!("the budget should be spent: {other:?}"),
    }
}

on_every_database! {
    async fn forced_refreshes_keep_their_gap_and_their_day_over_a_restart(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        spend(&home, &token, CallKind::Force, noon()).await;
        let home = home.restarted(LIMITS).await;
        let gap = Exhausted { until: after(30), limit: ExhaustedLimit::ForcedGap };
        assert_eq!(refusal(&home, &token, CallKind::Force, after(29)).await, gap);
        spend(&home, &token, CallKind::Force, after(30)).await;
        let home = home.restarted(LIMITS).await;
        let midnight = noon().next_beijing_midnight();
        let day = Exhausted { until: midnight, limit: ExhaustedLimit::ForcedPerDay };
        assert_eq!(refusal(&home, &token, CallKind::Force, after(3_600)).await, day);
        spend(&home, &token, CallKind::Mint, after(3_600)).await;
        assert_eq!(home.token(&token).await.spent.calls, 3, "an ordinary call in stable mode is free");
        spend(&home, &token, CallKind::Force, midnight).await;
        let spent = home.token(&token).await.spent;
        assert_eq!((spent.day, spent.calls, spent.forced), (midnight.beijing_day(), 1, 1));
    }

    async fn a_refused_claim_changes_nothing(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        spend(&home, &token, CallKind::Force, noon()).await;
        let before = home.token(&token).await;
        refusal(&home, &token, CallKind::Force, after(1)).await;
        assert_eq!(home.token(&token).await, before);
    }

    async fn plain_mints_are_counted_across_restarts_and_days(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register_as(NewAccount { mode: Mode::Plain, ..account("wx1") }, noon()).await;
        let token = key("wx1", ACCESS);
        spend(&home, &token, CallKind::Mint, noon()).await;
        let home = home.restarted(LIMITS).await;
        spend(&home, &token, CallKind::Force, after(1)).await;
        let midnight = noon().next_beijing_midnight();
        let day = Exhausted { until: midnight, limit: ExhaustedLimit::PlainPerDay };
        assert_eq!(refusal(&home, &token, CallKind::Mint, after(2)).await, day);
        let probe = home.claim(&token, CallKind::Probe, after(2)).await;
        assert_eq!(probe.token.spent.calls, 2, "a probe is not counted");
        let home = home.restarted(Limits { plain_per_day: 3, ..LIMITS }).await;
        spend(&home, &token, CallKind::Mint, after(30)).await;
        spend(&home, &token, CallKind::Mint, midnight).await;
        assert_eq!(home.token(&token).await.spent.plain, 1);
    }

    async fn the_schedule_puts_off_what_the_budget_forbids(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register_as(NewAccount { mode: Mode::Plain, ..account("wx1") }, noon()).await;
        home.register("wx2", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        for _ in 0..2 {
            home.give(&token, "value", noon()).await;
        }
        home.raw().await.run("UPDATE wx_token SET refresh_at = 1 WHERE appid = 'wx1'").await;
        let before = home.token(&token).await;
        let claims = home.any_due(9, after(5)).await;
        assert_eq!(super::fixture::appids(&claims), ["wx2"]);
        let off = home.token(&token).await;
        let midnight = noon().next_beijing_midnight();
        assert_eq!((off.refresh_at, off.generation, off.leased_by.as_deref()), (midnight, before.generation, None));
        assert_eq!(off.record.last_errmsg.as_deref(), Some("the day's budget of calls for this account is spent"));
        assert!(off.revision > before.revision && off.valid(after(5)).is_some());
        let claims = home.any_due(9, midnight).await;
        let claim = claims.iter().find(|claim| claim.token.key == token).expect("a new day");
        assert_eq!(claim.token.spent.plain, 1);
    }
}
