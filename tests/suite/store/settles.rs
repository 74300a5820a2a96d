//! What a settled call leaves in the token's row and in the history.

use std::time::Duration;

use wxtoken::domain::refresh::{CallKind, Outcome, Trigger};
use wxtoken::domain::schedule::Life;
use wxtoken::domain::secret::TokenValue;
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::domain::token::Standing;
use wxtoken::store::history::Refresh;

use super::claims::history;
use super::fixture::{ACCESS, CALL, CARD, Home, JSAPI, TWO_HOURS, after, failed, key, noon};
use crate::support::database::on_every_database;

async fn newest(home: &Home) -> Refresh {
    history(home).await.into_iter().next().expect("there is a row")
}

fn text(value: &str) -> TokenValue {
    TokenValue::parse(value).expect("a token's text")
}

on_every_database! {
    async fn a_new_value_is_stored_whole(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let claim = home.due(Standing::New, 1, noon()).await.remove(0);
        let settled = home.settle(&claim, &home.brought("value-1", TWO_HOURS, after(1))).await.expect("the claim holds");
        assert_eq!(settled.outcome, Outcome::Success);
        assert!(settled.next.is_none() && settled.exhausted.is_none());
        let token = home.token(&claim.token.key).await;
        assert_eq!(token, settled.token, "the caller and the database agree");
        let value = token.value.as_ref().expect("there is a value");
        assert_eq!((&value.text, value.life), (&text("value-1"), Life { since: after(1), until: after(7_201) }));
        assert_eq!(value.fingerprint, home.sealer.fingerprint(&text("value-1")));
        assert_eq!((token.version, token.previous, token.refresh_at), (1, None, after(7_201 - 240)));
        assert_eq!((token.leased_by, token.leased_until), (None, Timestamp::ZERO));
        assert_eq!(token.record.last_success_at, after(1).plus(CALL));
        assert_eq!(token.record.last_call_at, after(1).plus(CALL));
        assert_eq!((token.record.last_outcome, token.record.last_trigger), (Some(Outcome::Success), Some(Trigger::Schedule)));
        let row = newest(&home).await;
        assert_eq!((row.outcome, row.trigger, row.call), (Outcome::Success, Trigger::Schedule, CallKind::Mint));
        assert_eq!((row.started_at, row.duration_ms, row.expires_in), (after(1), Some(120), Some(7_200)));
        assert_eq!((row.version, row.generation, row.instance.as_str()), (1, 1, "one"));
        assert_eq!(row.fingerprint, Some(home.sealer.fingerprint(&text("value-1"))));
    }

    async fn the_value_before_is_kept_beside_the_new_one(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        home.give(&token, "value-1", noon()).await;
        home.give(&token, "value-2", after(100)).await;
        home.give(&token, "value-3", after(200)).await;
        let row = home.token(&token).await;
        assert_eq!((row.version, row.previous), (3, Some(text("value-2"))));
        assert_eq!(row.value.map(|value| value.text), Some(text("value-3")));
    }

    async fn the_same_value_again_replaces_nothing(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        home.give(&token, "value", noon()).await;
        let claim = home.claim(&token, CallKind::Mint, after(6_960)).await;
        let settled = home.settle(&claim, &home.brought("value", 240, after(6_960))).await.expect("the claim holds");
        assert_eq!(settled.outcome, Outcome::Unchanged);
        let row = home.token(&token).await;
        assert_eq!((row.version, row.previous), (1, None));
        let life = row.value.expect("there is a value").life;
        assert_eq!(life, Life { since: noon(), until: after(7_200) });
        assert!(row.refresh_at > after(6_960), "it is asked for again later");
        assert_eq!(newest(&home).await.outcome, Outcome::Unchanged);
    }

    async fn a_ticket_that_comes_again_lives_no_longer(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, JSAPI], noon()).await;
        home.give(&key("wx1", ACCESS), "value", noon()).await;
        let first = home.give(&key("wx1", JSAPI), "ticket", noon()).await;
        assert_eq!(first.token.refresh_at, after(1_800), "after a quarter of its life");
        let again = home.give(&key("wx1", JSAPI), "ticket", after(1_800)).await;
        assert_eq!(again.outcome, Outcome::Unchanged);
        let row = home.token(&key("wx1", JSAPI)).await;
        assert_eq!(row.value.expect("there is a value").life.until, after(7_200));
        assert!(row.refresh_at > after(1_800));
    }

    async fn a_failure_keeps_the_value_and_says_when_to_try_again(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        let token = key("wx1", ACCESS);
        home.give(&token, "value", noon()).await;
        let message = "不合法的 IP 😡 not in whitelist ".repeat(8);
        let ended_at = after(6_960).plus(CALL);
        for (failures, wait) in [(1, 60), (2, 120), (3, 240)] {
            let claim = home.claim(&token, CallKind::Mint, after(6_960)).await;
            let call = failed(40_164, &message, after(6_960));
            assert_eq!(home.settle(&claim, &call).await.expect("the claim holds").outcome, Outcome::Failure);
            let row = home.token(&token).await;
            assert_eq!(row.valid(after(6_960)).map(|value| value.text.clone()), Some(text("value")));
            assert_eq!((row.version, row.record.failures), (1, failures));
            assert_eq!(row.refresh_at, ended_at.plus(Duration::from_secs(wait)));
            assert_eq!((row.record.last_errcode, row.record.last_errmsg), (Some(40_164), Some(message.clone())));
            assert_eq!(row.record.last_success_at, noon().plus(CALL));
        }
        let row = newest(&home).await;
        assert_eq!((row.outcome, row.errcode, row.errmsg), (Outcome::Failure, Some(40_164), Some(message)));
        assert_eq!((row.fingerprint, row.expires_in), (Some(home.sealer.fingerprint(&text("value"))), None));
        let settled = home.give(&token, "value-2", after(7_000)).await;
        assert_eq!((settled.token.record.failures, settled.token.record.last_errcode), (0, None));
    }

    async fn tickets_that_waited_for_an_access_token_are_woken_by_it(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, JSAPI, CARD], noon()).await;
        home.register("wx2", &[ACCESS, JSAPI], noon()).await;
        for token in [key("wx1", JSAPI), key("wx2", JSAPI)] {
            let claim = home.claim(&token, CallKind::Ticket, noon()).await;
            home.store.release(&claim, after(60)).await.expect("it is put back");
        }
        let failing = home.claim(&key("wx1", CARD), CallKind::Ticket, noon()).await;
        home.settle(&failing, &failed(48_001, "unauthorised", noon())).await.expect("the claim holds");
        let backoff = home.token(&key("wx1", CARD)).await.refresh_at;
        let failed_before = home.claim(&key("wx2", JSAPI), CallKind::Ticket, after(61)).await;
        home.settle(&failed_before, &failed(-1, "busy", after(61))).await.expect("the claim holds");
        let put_back = home.claim(&key("wx2", JSAPI), CallKind::Ticket, after(70)).await;
        home.store.release(&put_back, after(130)).await.expect("it is put back");
        home.give(&key("wx1", ACCESS), "value", after(5)).await;
        assert_eq!(home.token(&key("wx1", JSAPI)).await.refresh_at, after(5).plus(CALL), "woken");
        assert_eq!(home.token(&key("wx1", CARD)).await.refresh_at, backoff, "a failing one keeps its pace");
        assert_eq!(home.token(&key("wx2", JSAPI)).await.refresh_at, after(130), "another account's sleeps on");
        home.give(&key("wx2", ACCESS), "value", after(80)).await;
        let woken = home.token(&key("wx2", JSAPI)).await.refresh_at;
        assert_eq!(woken, after(80).plus(CALL), "one that failed before it had to wait, too");
    }

    async fn a_ticket_that_is_being_put_back_does_not_miss_its_access_token(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS, JSAPI], noon()).await;
        let ticket = home.claim(&key("wx1", JSAPI), CallKind::Ticket, noon()).await;
        home.give(&key("wx1", ACCESS), "value", after(1)).await;
        home.store.release(&ticket, after(60)).await.expect("it is put back");
        assert_eq!(home.token(&key("wx1", JSAPI)).await.refresh_at, after(1).plus(CALL));
    }

    async fn each_instance_signs_its_calls(database: TestDatabase) {
        let home = Home::new(database).await;
        home.register("wx1", &[ACCESS], noon()).await;
        home.give(&key("wx1", ACCESS), "value-1", noon()).await;
        let home = home.restarted(super::fixture::LIMITS).await;
        home.give(&key("wx1", ACCESS), "value-2", after(1)).await;
        let instances: Vec<_> = history(&home).await.into_iter().map(|row| row.instance).collect();
        assert_eq!(instances, ["two", "one"]);
    }
}
