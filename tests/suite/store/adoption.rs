//! The registration of an account with a token that lives already.

use wxtoken::domain::account::Mode;
use wxtoken::domain::refresh::{CallKind, Outcome, Trigger};
use wxtoken::domain::schedule::Life;
use wxtoken::domain::secret::TokenValue;
use wxtoken::domain::settlement::CallResult;
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::domain::token::{Claim, Value};
use wxtoken::store::adoption::{Adopted, Opening};
use wxtoken::store::history::{Refresh, RefreshFilter};
use wxtoken::store::settle::Ending;

use super::fixture::{
    ACCESS, Home, JSAPI, LEASE, TERMS, account, actor, after, ended, failed, key, noon, refused, types,
};
use crate::support::database::on_every_database;

impl Home {
    fn living(&self, text: &str) -> Value {
        let text = TokenValue::parse(text).expect("a token's text");
        let fingerprint = self.sealer.fingerprint(&text);
        Value { text, life: Life { since: noon(), until: after(3_600) }, fingerprint }
    }

    async fn open(&self, text: &str, now: Timestamp) -> Opening {
        let (key, value) = (key("wx1", ACCESS), self.living(text));
        self.store.claim_unregistered(&key, Mode::Plain, &value, LEASE, now).await.expect("the claim runs")
    }

    async fn opened(&self, text: &str, now: Timestamp) -> Claim {
        match self.open(text, now).await {
            Opening::Claimed(claim) => *claim,
            other => panic!("the appid should be free: {other:?}"),
        }
    }

    async fn adopt(&self, claim: &Claim, now: Timestamp) -> Option<Adopted> {
        let new = wxtoken::domain::account::NewAccount {
            mode: Mode::Plain,
            token_types: types(&[ACCESS, JSAPI]),
            ..account("wx1")
        };
        let call = ended(CallResult::Accepted, now);
        self.store.adopt_account(&new, claim, &call, &actor(), TERMS, now).await.expect("the registration runs")
    }

    async fn calls(&self) -> Vec<Refresh> {
        self.store.refreshes(&RefreshFilter::default(), None, 10).await.expect("the list reads")
    }

    async fn outcomes(&self) -> Vec<(i64, Outcome)> {
        self.calls().await.iter().rev().map(|row| (row.generation, row.outcome)).collect()
    }

    async fn is_registered(&self) -> bool {
        self.store.account("wx1").await.expect("the account reads").is_some()
    }
}

on_every_database! {
    async fn an_accepted_value_is_registered_with_its_account_and_due_in_its_own_time(database: TestDatabase) {
        let home = Home::new(database).await;
        let claim = home.opened("value-1", noon()).await;
        assert!(!home.is_registered().await);
        assert!(home.any_due(9, after(1)).await.is_empty());
        let adopted = home.adopt(&claim, after(1)).await.expect("the claim holds");
        let token = home.token(&key("wx1", ACCESS)).await;
        assert_eq!(token, adopted.token);
        assert_eq!(token.value, Some(home.living("value-1")));
        assert_eq!((token.version, token.kept, token.mode, token.previous), (1, true, Mode::Plain, None));
        assert_eq!(token.refresh_at, after(3_600 - 240));
        assert_eq!(token.record.last_outcome, Some(Outcome::StillValid));
        let calls = home.calls().await;
        assert_eq!(calls.len(), 1);
        let call = &calls[0];
        assert_eq!((call.call, call.trigger, call.outcome), (CallKind::Probe, Trigger::Manual, Outcome::StillValid));
        assert_eq!((call.fingerprint.as_ref(), call.version), (Some(&home.living("value-1").fingerprint), 1));
        // The ticket is due at once, the access token not before its time.
        let due: Vec<_> = home.any_due(9, after(10)).await.iter().map(|claim| claim.token.key.token_type).collect();
        assert_eq!(due, [JSAPI]);
        assert!(home.any_due(9, after(3_359)).await.iter().all(|claim| claim.token.key.token_type == JSAPI));
        assert_eq!(home.any_due(9, after(3_361)).await.iter().filter(|claim| claim.token.key.token_type == ACCESS).count(), 1);
    }

    async fn a_value_that_is_not_accepted_leaves_its_call_and_nothing_else(database: TestDatabase) {
        let home = Home::new(database).await;
        for (second, call) in [(0, refused(noon())), (1, failed(-1, "busy", after(1)))] {
            let claim = home.opened("value-1", after(second)).await;
            let settled = home.settle(&claim, &call).await.expect("the claim holds");
            assert_eq!((settled.next.is_none(), settled.token.refresh_at), (true, Timestamp::NEVER));
        }
        assert_eq!(home.outcomes().await, [(1, Outcome::Refused), (2, Outcome::Failure)]);
        assert_eq!(home.calls().await[1].fingerprint, Some(home.living("value-1").fingerprint));
        assert!(!home.is_registered().await && home.any_due(9, after(3_600)).await.is_empty());
        home.register("wx1", &[ACCESS], after(10)).await;
        let token = home.token(&key("wx1", ACCESS)).await;
        assert_eq!((token.value, token.version, token.refresh_at), (None, 0, after(10)));
        assert_eq!((token.record.last_outcome, token.record.last_errcode), (None, None));
    }

    async fn a_probe_that_was_lost_is_found_without_anybodys_help(database: TestDatabase) {
        let home = Home::new(database).await;
        let claim = home.opened("value-1", noon()).await;
        assert!(home.any_due(9, after(19)).await.is_empty());
        assert_eq!(home.outcomes().await, []);
        for second in [20, 21, 3_600] {
            assert!(home.any_due(9, after(second)).await.is_empty());
            assert_eq!(home.outcomes().await, [(1, Outcome::Lost)]);
        }
        // The one who was thought lost comes back.
        assert!(home.adopt(&claim, after(30)).await.is_none());
        assert!(!home.is_registered().await);
        home.settle(&claim, &ended(CallResult::Accepted, after(30))).await;
        assert_eq!(home.outcomes().await, [(1, Outcome::Superseded)]);
        let again = home.opened("value-1", after(40)).await;
        assert!(home.adopt(&again, after(41)).await.is_some());
        assert_eq!(home.outcomes().await, [(1, Outcome::Superseded), (2, Outcome::StillValid)]);
    }

    async fn whoever_registers_the_account_meanwhile_is_first(database: TestDatabase) {
        let home = Home::new(database).await;
        let claim = home.opened("value-1", noon()).await;
        assert!(matches!(home.open("value-2", after(1)).await, Opening::Busy));
        home.register("wx1", &[ACCESS], after(2)).await;
        assert!(matches!(home.open("value-2", after(3)).await, Opening::Registered));
        assert!(home.adopt(&claim, after(3)).await.is_none());
        let late = home.store.settle(&claim, &ended(CallResult::Accepted, after(3)), TERMS, after(3)).await;
        assert!(matches!(late, Ok(Ending::Superseded(_))), "{late:?}");
        assert_eq!(home.outcomes().await, [(1, Outcome::Superseded)]);
        let due = home.any_due(9, after(3)).await;
        assert_eq!(due.iter().map(|claim| claim.call).collect::<Vec<_>>(), [CallKind::Mint]);
        assert_eq!(due[0].token.value, None);
    }

    async fn a_removed_account_can_be_taken_over_again(database: TestDatabase) {
        let home = Home::new(database).await;
        let claim = home.opened("value-1", noon()).await;
        home.adopt(&claim, after(1)).await.expect("the claim holds");
        home.store.remove_account("wx1", &actor(), after(2)).await.expect("it is there");
        let claim = home.opened("value-2", after(3)).await;
        let adopted = home.adopt(&claim, after(4)).await.expect("the claim holds");
        assert_eq!((adopted.token.version, adopted.token.previous), (2, None));
        assert_eq!(home.outcomes().await.len(), 2);
    }
}
