//! Calls that were made without a claim, because the database was away: their answers come to be stored when it is back.

use std::time::Duration;

use super::audit::new_id;
use super::db::Tx;
use super::history::{self, Refresh};
use super::lease::{append_lost, lock_row};
use super::settle::{Terms, wake_tickets};
use super::token::TokenRow;
use super::{Store, StoreError, retrying};
use crate::domain::account::TokenType;
use crate::domain::refresh::{CallKind, Outcome, Trigger};
use crate::domain::settlement::{CallResult, EndedCall, settle};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Claim, Token, TokenKey};

/// A call that was made without a claim.
#[derive(Debug, Clone)]
pub struct UnclaimedCall {
    /// The id of its history row, by which a second attempt to store it is known.
    pub id: String,
    /// The token.
    pub key: TokenKey,
    /// What was asked.
    pub call: CallKind,
    /// Why.
    pub trigger: Trigger,
}

/// What came of storing an unclaimed call.
#[derive(Debug)]
pub enum Late {
    /// The token as it is stored now, with this call or with a later one.
    Stored(Box<Token>),
    /// Somebody's call for the token is under way; it must not be fenced off.
    Busy,
    /// There is no row for the token, not even of a removed account: a copy without it was restored, or is being restored.
    Absent,
}

impl UnclaimedCall {
    /// A call that is to be sent at `now`.
    pub fn new(key: TokenKey, call: CallKind, trigger: Trigger, now: Timestamp) -> Self {
        Self { id: new_id(now), key, call, trigger }
    }
}

impl Store {
    /// Stores what came of a call that was made without a claim: as a settle does, or as `superseded` when a later call has been settled.
    pub async fn settle_unclaimed(
        &self,
        made: &UnclaimedCall,
        call: &EndedCall,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Late, StoreError> {
        retrying!(self.try_settle_unclaimed(made, call, terms, now))
    }

    async fn try_settle_unclaimed(
        &self,
        made: &UnclaimedCall,
        call: &EndedCall,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Late, StoreError> {
        let mut tx = self.db.begin().await?;
        let Some(row) = lock_row(&mut tx, &made.key).await? else {
            return Ok(Late::Absent);
        };
        if row.is_leased(now) {
            return Ok(Late::Busy);
        }
        // Several instances may store again what a restored copy has lost.
        let known = made.trigger == Trigger::Recovery && row.has_value(call);
        if known || history::exists(&mut tx, &made.id).await? {
            return Ok(Late::Stored(Box::new(row.into_token(&self.sealer)?)));
        }
        let (present, claim) = self.claim_late(&mut tx, row, made, call).await?;
        let token = if present.kept && is_news(&present, call, now) {
            let settlement = settle(&present, &claim, call, terms.ahead, terms.roll);
            self.append_late(&mut tx, made, &claim, call, settlement.outcome, &settlement.token).await?;
            if settlement.outcome == Outcome::Success && made.key.token_type == TokenType::AccessToken {
                wake_tickets(&mut tx, &made.key, now).await?;
            }
            settlement.token
        } else {
            self.append_late(&mut tx, made, &claim, call, Outcome::Superseded, &present).await?;
            present
        };
        self.write_token(&mut tx, &token, now).await?;
        tx.commit().await?;
        Ok(Late::Stored(Box::new(token)))
    }

    /// Gives the call a generation of its own, and its place in the budget, which cannot forbid it any more.
    async fn claim_late(
        &self,
        tx: &mut Tx,
        row: TokenRow,
        made: &UnclaimedCall,
        call: &EndedCall,
    ) -> Result<(Token, Claim), StoreError> {
        let lost = row.lost()?;
        let mut token = row.into_token(&self.sealer)?;
        append_lost(tx, &mut token, lost).await?;
        let spent = token.spent.spend(made.call, token.mode, &self.limits, call.sent_at);
        token.spent = spent.unwrap_or(token.spent);
        let generation = token.generation + 1;
        let claim = Claim {
            token: token.clone(),
            call: made.call,
            trigger: made.trigger,
            generation,
            claimed_at: call.sent_at,
            follows_failure: false,
        };
        self.write_lease(tx, &claim, Duration::ZERO).await?;
        token.generation = generation;
        Ok((token, claim))
    }

    async fn append_late(
        &self,
        tx: &mut Tx,
        made: &UnclaimedCall,
        claim: &Claim,
        call: &EndedCall,
        outcome: Outcome,
        after: &Token,
    ) -> Result<(), StoreError> {
        let row = self.history_row(claim, call, outcome, after);
        history::append(tx, &Refresh { id: made.id.clone(), ..row }).await
    }
}

/// Whether the row knows nothing better. A value is news unless the row has a later one: that another instance's call has failed since does not
/// make it worthless. A failure is news only while the row is due: when it is not, somebody's later plan or backoff stands.
fn is_news(present: &Token, call: &EndedCall, now: Timestamp) -> bool {
    match (&call.result, &present.value) {
        (CallResult::Value { .. }, Some(value)) => value.life.since < call.sent_at,
        (CallResult::Value { .. }, None) => true,
        _ => present.record.last_call_at < call.ended_at && present.refresh_at <= now,
    }
}
