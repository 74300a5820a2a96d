//! The registration of an account with a token that lives already.
//!
//! The probe that comes first is a call like any other: it has a claim, and its history row. The claim stands on the token's row before there is
//! an account; such a row is not `kept`, so nobody sees it. If the probe is lost with its process, the scan for due tokens finds the row and
//! writes `lost`.

use std::time::Duration;

use super::account::{AccountChange, lock_account};
use super::audit::Actor;
use super::db::{Tx, bind};
use super::history;
use super::lease::{append_lost, expect_one, lock_row};
use super::settle::Terms;
use super::token::{TABLE, budget_limit};
use super::{FailureKind, Store, StoreError, retrying};
use crate::domain::account::{Mode, NewAccount};
use crate::domain::adoption::adopt;
use crate::domain::refresh::{CallKind, Outcome, Trigger};
use crate::domain::settlement::EndedCall;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Claim, Token, TokenKey, Value};

/// What came of an attempt to claim the token of an account that is to be registered.
#[derive(Debug)]
pub enum Opening {
    /// The value may be probed.
    Claimed(Box<Claim>),
    /// Somebody else's registration is under way.
    Busy,
    /// The appid is registered already.
    Registered,
}

/// An account that was registered with its token.
#[derive(Debug)]
pub struct Adopted {
    /// The account.
    pub change: AccountChange,
    /// Its access token.
    pub token: Token,
}

impl Store {
    /// Claims the access token `key` of an account that is not registered, to probe `value`.
    pub async fn claim_unregistered(
        &self,
        key: &TokenKey,
        mode: Mode,
        value: &Value,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Opening, StoreError> {
        match retrying!(self.try_claim_unregistered(key, mode, value, lease, now)) {
            // Somebody else has just made the row.
            Err(error) if error.kind() == Some(FailureKind::Duplicate) => Ok(Opening::Busy),
            result => result,
        }
    }

    async fn try_claim_unregistered(
        &self,
        key: &TokenKey,
        mode: Mode,
        value: &Value,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Opening, StoreError> {
        let mut tx = self.db.begin().await?;
        if is_registered(&mut tx, key).await? {
            return Ok(Opening::Registered);
        }
        let row = if let Some(row) = lock_row(&mut tx, key).await? {
            row
        } else {
            self.insert_unkept(&mut tx, key, mode, now).await?;
            lock_row(&mut tx, key).await?.ok_or_else(|| StoreError::corrupt(TABLE, "appid", key))?
        };
        if row.is_leased(now) {
            return Ok(Opening::Busy);
        }
        let lost = row.lost()?;
        let row = row.into_token(&self.sealer)?;
        let mut token = Token { mode, value: Some(value.clone()), refresh_at: Timestamp::NEVER, ..row };
        append_lost(&mut tx, &mut token, lost).await?;
        let generation = token.generation + 1;
        let (call, trigger) = (CallKind::Probe, Trigger::Manual);
        let claim = Claim { token, call, trigger, generation, claimed_at: now, follows_failure: false };
        self.write_lease(&mut tx, &claim, lease).await?;
        tx.commit().await?;
        Ok(Opening::Claimed(Box::new(claim)))
    }

    async fn insert_unkept(&self, tx: &mut Tx, key: &TokenKey, mode: Mode, now: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT INTO wx_token (mode, refresh_at, budget_limit, changed_at, kept, appid, token_type) \
                   VALUES (?, ?, ?, ?, ?, ?, ?)";
        let limit = budget_limit(mode, &self.limits);
        let (appid, token_type) = (key.appid.as_str(), key.token_type.as_str());
        let values = bind![mode.as_str(), Timestamp::NEVER, limit, now, false, appid, token_type];
        tx.execute(sql, values).await.map(drop)
    }

    /// Registers the account with the value that `call`, made under `claim`, has shown to be accepted, and records the call.
    ///
    /// `None` when the claim is not ours any more or somebody else has registered the appid. Nothing is written then, not the call either.
    pub async fn adopt_account(
        &self,
        new: &NewAccount,
        claim: &Claim,
        call: &EndedCall,
        actor: &Actor,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Option<Adopted>, StoreError> {
        retrying!(self.try_adopt_account(new, claim, call, actor, terms, now))
    }

    async fn try_adopt_account(
        &self,
        new: &NewAccount,
        claim: &Claim,
        call: &EndedCall,
        actor: &Actor,
        terms: Terms,
        now: Timestamp,
    ) -> Result<Option<Adopted>, StoreError> {
        let key = &claim.token.key;
        let mut tx = self.db.begin().await?;
        if is_registered(&mut tx, key).await? || !self.holds(&mut tx, claim).await? {
            return Ok(None);
        }
        // The claim is over before the account's rows are made, or they would find it lost.
        let end = "UPDATE wx_token SET leased_until = 0, leased_by = NULL \
                   WHERE appid = ? AND token_type = ? AND generation = ?";
        let values = bind![key.appid.as_str(), key.token_type.as_str(), claim.generation];
        expect_one(tx.execute(end, values).await?, &claim.token)?;
        let Some(change) = self.register(&mut tx, new, actor, now).await? else { return Ok(None) };
        let (Some(row), Some(value)) = (lock_row(&mut tx, key).await?, claim.token.value.clone()) else {
            return Err(StoreError::corrupt(TABLE, "value_sealed", key));
        };
        let token = adopt(&row.into_token(&self.sealer)?, value, call, terms.ahead, terms.roll);
        history::append(&mut tx, &self.history_row(claim, call, Outcome::StillValid, &token)).await?;
        self.write_token(&mut tx, &token, now).await?;
        tx.commit().await?;
        Ok(Some(Adopted { change, token }))
    }

    /// Whether the claim is unsettled and still ours.
    async fn holds(&self, tx: &mut Tx, claim: &Claim) -> Result<bool, StoreError> {
        let row = lock_row(tx, &claim.token.key).await?;
        Ok(row.is_some_and(|row| {
            row.generation == claim.generation && row.leased_by.as_deref() == Some(self.instance.as_str())
        }))
    }
}

async fn is_registered(tx: &mut Tx, key: &TokenKey) -> Result<bool, StoreError> {
    Ok(lock_account(tx, key.appid.as_str()).await?.is_some_and(|found| !found.removed))
}
