//! Settles: the transaction after a call to WeChat. The rule for what is written is in `domain::settlement`; the protocol is told in
//! `refresher`.

use std::time::Duration;

use super::db::{Tx, bind};
use super::history::{self, Refresh};
use super::lease::{expect_one, lock_row};
use super::token::{TABLE, TokenRow};
use super::{Store, StoreError, retrying};
use crate::domain::account::{Mode, TokenType};
use crate::domain::budget::Exhausted;
use crate::domain::refresh::{CallKind, Outcome, Trigger};
use crate::domain::settlement::{CallResult, EndedCall, Follow, settle};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Claim, Token, TokenKey};
use crate::seal::Place;

/// A settled call.
#[derive(Debug)]
pub struct Settled {
    /// The token as it is stored now.
    pub token: Token,
    /// How the call ended.
    pub outcome: Outcome,
    /// The call that must follow under the same lease: the probe found the token dead.
    pub next: Option<Claim>,
    /// The budget would not allow the call that should follow, so a gentler one or none does.
    pub exhausted: Option<Exhausted>,
}

/// What came of an attempt to settle.
#[derive(Debug)]
pub enum Ending {
    /// The call is stored.
    Settled(Box<Settled>),
    /// The answer came too late: somebody newer owns the token, which is as it says. Only the history row was written.
    Superseded(Option<Box<Token>>),
    /// The row knows nothing of the claim: the database was restored from a copy made before it. Nothing was written.
    Forgotten,
}

/// How to settle.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The longest lead before a token's expiry.
    pub ahead: Duration,
    /// The lease for a call that must follow.
    pub lease: Duration,
    /// Random, in `0.0..1.0`.
    pub roll: f64,
}

impl Store {
    /// Stores what came of a call: the token's new state and its history row, or only the row when somebody newer owns the token. `now` is the
    /// time of this attempt, which may be long after the call.
    pub async fn settle(
        &self,
        claim: &Claim,
        call: &EndedCall,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Ending, StoreError> {
        retrying!(self.try_settle(claim, call, terms, now))
    }

    async fn try_settle(
        &self,
        claim: &Claim,
        call: &EndedCall,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Ending, StoreError> {
        let mut tx = self.db.begin().await?;
        let Some(row) = lock_row(&mut tx, &claim.token.key).await? else {
            return Ok(Ending::Forgotten);
        };
        let is_others = row.leased_by.as_ref().is_some_and(|holder| *holder != self.instance);
        if row.generation < claim.generation || (row.generation == claim.generation && is_others) {
            return Ok(Ending::Forgotten);
        }
        if row.generation != claim.generation || row.leased_by.is_none() {
            return self.settle_late(tx, row, claim, call).await;
        }
        let present = row.into_token(&self.sealer)?;
        let settlement = settle(&present, claim, call, terms.ahead, terms.roll);
        let mut token = settlement.token;
        history::append(&mut tx, &self.history_row(claim, call, settlement.outcome, &token)).await?;
        self.write_token(&mut tx, &token, now).await?;
        if settlement.outcome == Outcome::Success && token.key.token_type == TokenType::AccessToken {
            wake_tickets(&mut tx, &token.key, now).await?;
        }
        let (next, exhausted) = match settlement.follow {
            Follow::Nothing => (None, None),
            Follow::Probe => (Some(follow_up(&token, CallKind::Probe, claim.trigger, now)), None),
            Follow::Replace => self.replacement(&token, claim.trigger, now),
        };
        if let Some(next) = &next {
            self.write_lease(&mut tx, next, terms.lease).await?;
            token.generation = next.generation;
        }
        tx.commit().await?;
        Ok(Ending::Settled(Box::new(Settled { token, outcome: settlement.outcome, next, exhausted })))
    }

    /// The claim is not ours any more: its lease ran out, or the answer to an earlier commit of this settle did not reach us.
    async fn settle_late(
        &self,
        mut tx: Tx,
        row: TokenRow,
        claim: &Claim,
        call: &EndedCall,
    ) -> Result<Ending, StoreError> {
        let is_next = row.generation != claim.generation;
        let token = row.into_token(&self.sealer).map(Box::new);
        let recorded = history::recorded(&mut tx, &claim.token.key, claim.generation).await?;
        match recorded {
            // A generation that was given out again: our claim was lost with a restored copy.
            Some((_, instance)) if instance != self.instance => return Ok(Ending::Forgotten),
            Some((Outcome::Superseded, _)) => {}
            // Given back: nobody waits for it.
            None if !is_next => {}
            None | Some((Outcome::Lost, _)) => {
                let row = self.history_row(claim, call, Outcome::Superseded, &claim.token);
                history::record_superseded(&mut tx, &row, recorded.is_some()).await?;
                tx.commit().await?;
            }
            Some((outcome, _)) => {
                let settled = Settled { token: *token?, outcome, next: None, exhausted: None };
                return Ok(Ending::Settled(Box::new(settled)));
            }
        }
        // A row that does not read has been told of by whoever claimed it.
        Ok(Ending::Superseded(token.ok()))
    }

    /// The call that replaces a dead token: a forced refresh in stable mode, or an ordinary one, which brings what somebody else forced, when the
    /// budget for forced ones is spent; a mint in plain mode, if the budget allows one.
    fn replacement(&self, token: &Token, trigger: Trigger, now: Timestamp) -> (Option<Claim>, Option<Exhausted>) {
        let claim = |call| {
            let spent = token.spent.spend(call, token.mode, &self.limits, now)?;
            Ok(follow_up(&Token { spent, ..token.clone() }, call, trigger, now))
        };
        match token.mode {
            Mode::Plain => {
                claim(CallKind::Mint).map_or_else(|exhausted| (None, Some(exhausted)), |claim| (Some(claim), None))
            }
            Mode::Stable => match claim(CallKind::Force) {
                Ok(claim) => (Some(claim), None),
                Err(exhausted) => (claim(CallKind::Mint).ok(), Some(exhausted)),
            },
        }
    }

    pub(super) async fn write_token(&self, tx: &mut Tx, token: &Token, now: Timestamp) -> Result<(), StoreError> {
        let sealed = |column, text: &str| {
            let place = Place {
                table: TABLE,
                column,
                appid: token.key.appid.as_str(),
                token_type: token.key.token_type.as_str(),
            };
            self.sealer.seal(place, text).map_err(StoreError::Seal)
        };
        let value = token.value.as_ref();
        let value_sealed = value.map(|value| sealed("value_sealed", value.text.expose())).transpose()?;
        let previous = token.previous.as_ref();
        let previous_sealed = previous.map(|text| sealed("previous_sealed", text.expose())).transpose()?;
        let record = &token.record;
        let sql = "UPDATE wx_token SET value_sealed = ?, fingerprint = ?, obtained_at = ?, expires_at = ?, \
                   previous_sealed = ?, in_doubt = ?, version = ?, revision = ?, refresh_at = ?, leased_until = 0, leased_by = NULL, \
                   failures = ?, last_success_at = ?, last_call_at = ?, last_outcome = ?, last_trigger = ?, \
                   last_errcode = ?, last_errmsg = ?, changed_at = ? \
                   WHERE appid = ? AND token_type = ? AND generation = ?";
        let values = bind![
            value_sealed.as_deref(),
            value.map(|value| value.fingerprint.as_str()),
            value.map_or(Timestamp::ZERO, |value| value.life.since),
            value.map_or(Timestamp::ZERO, |value| value.life.until),
            previous_sealed.as_deref(),
            token.in_doubt,
            token.version,
            token.revision,
            token.refresh_at,
            record.failures,
            record.last_success_at,
            record.last_call_at,
            record.last_outcome.map(Outcome::as_str),
            record.last_trigger.map(Trigger::as_str),
            record.last_errcode,
            record.last_errmsg.as_deref(),
            now,
            token.key.appid.as_str(),
            token.key.token_type.as_str(),
            token.generation,
        ];
        expect_one(tx.execute(sql, values).await?, token)
    }

    pub(super) fn history_row(&self, claim: &Claim, call: &EndedCall, outcome: Outcome, after: &Token) -> Refresh {
        let duration = call.ended_at.since(call.sent_at).as_millis();
        let mut row = Refresh {
            outcome,
            generation: claim.generation,
            duration_ms: i64::try_from(duration).ok(),
            version: after.version,
            instance: self.instance.clone(),
            fingerprint: claim.token.value.as_ref().map(|value| value.fingerprint.clone()),
            ..Refresh::lost(claim.token.key.clone(), claim.call, claim.trigger, call.sent_at)
        };
        match &call.result {
            CallResult::Value { fingerprint, expires_in, .. } => {
                row.fingerprint = Some(fingerprint.clone());
                row.expires_in = i64::try_from(expires_in.as_secs()).ok();
            }
            CallResult::Accepted => {}
            CallResult::Refused(failure) | CallResult::Failed(failure) => {
                row.errcode = failure.errcode;
                row.errmsg = Some(failure.errmsg.clone());
            }
        }
        row
    }
}

/// The claim for a call that follows another at once. A probe that follows comes after a mint that failed.
fn follow_up(token: &Token, call: CallKind, trigger: Trigger, now: Timestamp) -> Claim {
    let generation = token.generation + 1;
    Claim { token: token.clone(), call, trigger, generation, claimed_at: now, follows_failure: call == CallKind::Probe }
}

/// Tickets that were waiting for an access token are due now; one that is being put back for want of it too, so that it is not put off. One that
/// failed before waits for an access token if no call came of its last claim; otherwise it waits for its own time.
pub(super) async fn wake_tickets(tx: &mut Tx, key: &TokenKey, now: Timestamp) -> Result<(), StoreError> {
    let sql = "UPDATE wx_token SET refresh_at = ? WHERE appid = ? AND token_type <> ? AND kept = ? \
               AND expires_at <= ? AND (failures = 0 OR leased_at > last_call_at) AND refresh_at < ?";
    let own = key.token_type.as_str();
    tx.execute(sql, bind![now, key.appid.as_str(), own, true, now, Timestamp::NEVER]).await.map(drop)
}
