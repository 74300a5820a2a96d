//! Claim and settle: the two transactions around a call to WeChat. Their protocol is told in `refresher`.

use std::time::Duration;

use super::db::{Tx, bind};
use super::history::{self, Refresh};
use super::token::{TABLE, TokenRow, budget_limit, select};
use super::{Store, StoreError, retrying};
use crate::domain::account::{Mode, TokenType};
use crate::domain::budget::Exhausted;
use crate::domain::refresh::{CallKind, Outcome, Trigger};
use crate::domain::settlement::{CallResult, EndedCall, settle};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Claim, Token, TokenKey};
use crate::seal::Place;

/// Due tokens, the longest overdue first. Its plan must be the index on the refresh time.
pub const DUE_SCAN: &str = select!(
    "WHERE refresh_at <= ? AND leased_until <= ? AND failures >= ? AND failures <= ? \
     ORDER BY refresh_at LIMIT ? {skip_locked}"
);

/// How long a row that does not read is left alone, in case somebody has mended it by then.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

/// Which due tokens a scan takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Those whose last call succeeded.
    Healthy,
    /// Those whose last call failed.
    Failing,
}

/// What came of an attempt to claim one token.
#[derive(Debug)]
pub enum Attempt {
    /// The call may be made.
    Claimed(Box<Claim>),
    /// Somebody's call is under way.
    Busy,
    /// The day's budget forbids the call.
    Exhausted(Exhausted),
    /// The token has another version than the caller meant; here it is.
    Moved(Box<Token>),
    /// No such token is kept.
    Absent,
}

/// What a claim for one token asks for.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// What to ask of WeChat.
    pub call: CallKind,
    /// Why.
    pub trigger: Trigger,
    /// Claim only while the token has this version.
    pub version: Option<i64>,
}

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

impl Store {
    /// Claims up to `limit` due tokens. A token whose budget is spent is put off instead.
    pub async fn claim_due(
        &self,
        due: Due,
        limit: u32,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Vec<Claim>, StoreError> {
        retrying!(self.try_claim_due(due, limit, lease, now))
    }

    async fn try_claim_due(
        &self,
        due: Due,
        limit: u32,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Vec<Claim>, StoreError> {
        let (fewest, most) = match due {
            Due::Healthy => (0_u32, 0_u32),
            Due::Failing => (1, u32::MAX),
        };
        let mut tx = self.db.begin().await?;
        let rows: Vec<TokenRow> = tx.fetch_all(DUE_SCAN, bind![now, now, fewest, most, limit]).await?;
        let mut claims = Vec::with_capacity(rows.len());
        for row in rows {
            let key = (row.appid.clone(), row.token_type.clone());
            match self.lease_row(&mut tx, row, None, lease, now).await {
                Ok(Attempt::Claimed(claim)) => claims.push(*claim),
                Ok(_) => {}
                // One row that does not read must not stop the others. Left due it would stand before them in every scan.
                Err(error @ (StoreError::Corrupt { .. } | StoreError::Sealed { .. })) => {
                    tracing::error!(error = %error, "a token cannot be refreshed; remove its account and register it again");
                    put_off_unreadable(&mut tx, &key, now).await?;
                }
                Err(error) => return Err(error),
            }
        }
        tx.commit().await?;
        Ok(claims)
    }

    /// Claims one token, due or not.
    pub async fn claim(
        &self,
        key: &TokenKey,
        wish: Wish,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Attempt, StoreError> {
        retrying!(self.try_claim(key, wish, lease, now))
    }

    async fn try_claim(
        &self,
        key: &TokenKey,
        wish: Wish,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Attempt, StoreError> {
        let mut tx = self.db.begin().await?;
        let Some(row) = lock_row(&mut tx, key).await? else {
            return Ok(Attempt::Absent);
        };
        let attempt = self.lease_row(&mut tx, row, Some(wish), lease, now).await?;
        tx.commit().await?;
        Ok(attempt)
    }

    /// Writes a lease on a locked row, and the history row of an earlier claim that was lost. Without a wish the call is the one that the
    /// schedule makes.
    async fn lease_row(
        &self,
        tx: &mut Tx,
        row: TokenRow,
        wish: Option<Wish>,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Attempt, StoreError> {
        let lost = row.unsettled()?;
        let token = row.into_token(&self.sealer)?;
        // The tokens of a disabled account are never due, and an order that came just before it was disabled must not make them so.
        if !token.kept || token.refresh_at == Timestamp::NEVER {
            return Ok(Attempt::Absent);
        }
        if now < token.leased_until {
            return Ok(Attempt::Busy);
        }
        if wish.and_then(|wish| wish.version).is_some_and(|version| version != token.version) {
            return Ok(Attempt::Moved(Box::new(token)));
        }
        let ordinary = if token.key.token_type.is_ticket() { CallKind::Ticket } else { CallKind::Mint };
        let scheduled = if lost.is_some() { Trigger::Recovery } else { Trigger::Schedule };
        let (call, trigger) = wish.map_or((ordinary, scheduled), |wish| (wish.call, wish.trigger));
        let spent = match token.spent.spend(call, token.mode, &self.limits, now) {
            Ok(spent) => spent,
            Err(exhausted) => {
                if wish.is_none() {
                    put_off(tx, &token, exhausted.until, now).await?;
                }
                return Ok(Attempt::Exhausted(exhausted));
            }
        };
        if let Some(lost) = lost {
            let (started_at, call, trigger) = (lost.claimed_at, lost.call, lost.trigger);
            let row = Refresh { instance: lost.instance, ..blank_row(&token, call, trigger, started_at) };
            history::append(tx, &row).await?;
        }
        let claim =
            Claim { generation: token.generation + 1, token: Token { spent, ..token }, call, trigger, claimed_at: now };
        self.write_lease(tx, &claim, lease).await?;
        Ok(Attempt::Claimed(Box::new(claim)))
    }

    /// The row stays due while it is leased, so that a claim that is lost is soon made again.
    async fn write_lease(&self, tx: &mut Tx, claim: &Claim, lease: Duration) -> Result<(), StoreError> {
        let (token, now) = (&claim.token, claim.claimed_at);
        let sql = "UPDATE wx_token SET generation = ?, leased_by = ?, leased_until = ?, leased_at = ?, \
                   lease_trigger = ?, lease_call = ?, refresh_at = ?, budget_day = ?, calls_today = ?, \
                   forced_today = ?, plain_today = ?, forced_at = ?, budget_limit = ? \
                   WHERE appid = ? AND token_type = ? AND generation = ?";
        let values = bind![
            claim.generation,
            self.instance.as_str(),
            now.plus(lease),
            now,
            claim.trigger.as_str(),
            claim.call.as_str(),
            token.refresh_at.min(now),
            token.spent.day,
            token.spent.calls,
            token.spent.forced,
            token.spent.plain,
            token.spent.forced_at,
            budget_limit(token.mode, &self.limits),
            token.key.appid.as_str(),
            token.key.token_type.as_str(),
            claim.generation - 1,
        ];
        expect_one(tx.execute(sql, values).await?, token)
    }

    /// Gives a claim back without a call having been made; the token is due again at `refresh_at`, and the call is not counted.
    pub async fn release(&self, claim: &Claim, refresh_at: Timestamp) -> Result<(), StoreError> {
        retrying!(self.try_release(claim, refresh_at))
    }

    async fn try_release(&self, claim: &Claim, refresh_at: Timestamp) -> Result<(), StoreError> {
        let key = &claim.token.key;
        let is_mint = matches!(claim.call, CallKind::Mint | CallKind::Force);
        let is_forced = claim.call == CallKind::Force && claim.token.mode == Mode::Stable;
        let mut tx = self.db.begin().await?;
        // The claim left the row due. If it is not, an admin or an edit has set another time since, and that stands.
        let sql = "UPDATE wx_token SET leased_until = 0, leased_by = NULL, calls_today = calls_today - ?, \
                   forced_today = forced_today - ?, plain_today = plain_today - ?, \
                   refresh_at = CASE WHEN refresh_at > ? THEN refresh_at ELSE ? END \
                   WHERE appid = ? AND token_type = ? AND generation = ? AND leased_by IS NOT NULL";
        let values = bind![
            i64::from(claim.call != CallKind::Probe),
            i64::from(is_forced),
            i64::from(is_mint && claim.token.mode == Mode::Plain),
            claim.claimed_at,
            refresh_at,
            key.appid.as_str(),
            key.token_type.as_str(),
            claim.generation,
        ];
        tx.execute(sql, values).await?;
        tx.commit().await
    }

    /// Stores what came of a call: the token's new state and its history row, or only the row when somebody newer owns the token.
    ///
    /// `None` when the answer came too late. `ahead` and `roll` as in [`settle`]; `lease` is for a call that must follow.
    pub async fn settle(
        &self,
        claim: &Claim,
        call: &EndedCall,
        ahead: Duration,
        lease: Duration,
        roll: f64,
    ) -> Result<Option<Settled>, StoreError> {
        retrying!(self.try_settle(claim, call, ahead, lease, roll))
    }

    async fn try_settle(
        &self,
        claim: &Claim,
        call: &EndedCall,
        ahead: Duration,
        lease: Duration,
        roll: f64,
    ) -> Result<Option<Settled>, StoreError> {
        let mut tx = self.db.begin().await?;
        let row = lock_row(&mut tx, &claim.token.key).await?;
        let Some(row) = row.filter(|row| row.generation == claim.generation) else {
            history::record_superseded(&mut tx, &self.history_row(claim, call, Outcome::Superseded, &claim.token))
                .await?;
            tx.commit().await?;
            return Ok(None);
        };
        let is_claimed = row.leased_by.is_some();
        let present = row.into_token(&self.sealer)?;
        if !is_claimed {
            // Settled before: the answer to that commit did not reach us, and we try again.
            let outcome = history::outcome_of(&mut tx, &claim.token.key, claim.generation).await?;
            return Ok(outcome.map(|outcome| Settled { token: present, outcome, next: None, exhausted: None }));
        }
        let settlement = settle(&present, claim, call, ahead, roll);
        let mut token = settlement.token;
        history::append(&mut tx, &self.history_row(claim, call, settlement.outcome, &token)).await?;
        self.write_token(&mut tx, &token, call.ended_at).await?;
        if settlement.outcome == Outcome::Success && token.key.token_type == TokenType::AccessToken {
            wake_tickets(&mut tx, &token.key, call.ended_at).await?;
        }
        let (mut next, mut exhausted) = (None, None);
        if settlement.replace_now {
            (next, exhausted) = self.lease_replacement(&mut tx, &token, claim.trigger, lease, call.ended_at).await?;
            if let Some(next) = &next {
                token.generation = next.generation;
            }
        }
        tx.commit().await?;
        Ok(Some(Settled { token, outcome: settlement.outcome, next, exhausted }))
    }

    /// Claims the call that replaces a dead token: a forced refresh in stable mode, or an ordinary one, which brings what somebody else
    /// forced, when the budget for forced ones is spent; a mint in plain mode, if the budget allows one.
    async fn lease_replacement(
        &self,
        tx: &mut Tx,
        token: &Token,
        trigger: Trigger,
        lease: Duration,
        now: Timestamp,
    ) -> Result<(Option<Claim>, Option<Exhausted>), StoreError> {
        let spend = |call| token.spent.spend(call, token.mode, &self.limits, now);
        let (call, spent, exhausted) = match (spend(CallKind::Force), token.mode) {
            (Ok(spent), Mode::Stable) => (CallKind::Force, spent, None),
            (Ok(spent), Mode::Plain) => (CallKind::Mint, spent, None),
            (Err(exhausted), Mode::Plain) => return Ok((None, Some(exhausted))),
            (Err(exhausted), Mode::Stable) => match spend(CallKind::Mint) {
                Ok(spent) => (CallKind::Mint, spent, Some(exhausted)),
                Err(_) => return Ok((None, Some(exhausted))),
            },
        };
        let token = Token { spent, ..token.clone() };
        let claim = Claim { generation: token.generation + 1, token, call, trigger, claimed_at: now };
        self.write_lease(tx, &claim, lease).await?;
        Ok((Some(claim), exhausted))
    }

    async fn write_token(&self, tx: &mut Tx, token: &Token, now: Timestamp) -> Result<(), StoreError> {
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
                   previous_sealed = ?, version = ?, revision = ?, refresh_at = ?, leased_until = 0, leased_by = NULL, \
                   failures = ?, last_success_at = ?, last_call_at = ?, last_outcome = ?, last_trigger = ?, \
                   last_errcode = ?, last_errmsg = ?, changed_at = ? \
                   WHERE appid = ? AND token_type = ? AND generation = ?";
        let values = bind![
            value_sealed.as_deref(),
            value.map(|value| value.fingerprint.as_str()),
            value.map_or(Timestamp::ZERO, |value| value.life.since),
            value.map_or(Timestamp::ZERO, |value| value.life.until),
            previous_sealed.as_deref(),
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

    fn history_row(&self, claim: &Claim, call: &EndedCall, outcome: Outcome, after: &Token) -> Refresh {
        let duration = call.ended_at.since(call.sent_at).as_millis();
        let mut row = Refresh {
            outcome,
            generation: claim.generation,
            duration_ms: i64::try_from(duration).ok(),
            version: after.version,
            instance: self.instance.clone(),
            ..blank_row(&claim.token, claim.call, claim.trigger, call.sent_at)
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

    /// Ends every lease, of which only a process that is gone can be the holder: on SQLite, at start, where the file is ours alone.
    pub async fn end_leases(&self) -> Result<u64, StoreError> {
        let mut tx = self.db.begin().await?;
        let ended = tx.execute("UPDATE wx_token SET leased_until = 0 WHERE leased_until > 0", &[]).await?;
        tx.commit().await?;
        Ok(ended)
    }
}

async fn lock_row(tx: &mut Tx, key: &TokenKey) -> Result<Option<TokenRow>, StoreError> {
    let sql = select!("WHERE appid = ? AND token_type = ? {for_update}");
    tx.fetch_optional(sql, bind![key.appid.as_str(), key.token_type.as_str()]).await
}

/// Puts off a token that the budget does not allow to be refreshed.
async fn put_off(tx: &mut Tx, token: &Token, until: Timestamp, now: Timestamp) -> Result<(), StoreError> {
    let sql = "UPDATE wx_token SET refresh_at = ?, last_errcode = NULL, last_errmsg = ?, revision = revision + 1, \
               changed_at = ? WHERE appid = ? AND token_type = ?";
    let message = "the day's budget of calls for this account is spent";
    let values = bind![until, message, now, token.key.appid.as_str(), token.key.token_type.as_str()];
    tx.execute(sql, values).await.map(drop)
}

/// Puts off a token whose row does not read. Nothing of it but its key is relied on.
async fn put_off_unreadable(
    tx: &mut Tx,
    (appid, token_type): &(String, String),
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "UPDATE wx_token SET refresh_at = ?, failures = 1, last_errcode = NULL, last_errmsg = ?, \
               revision = revision + 1, changed_at = ? WHERE appid = ? AND token_type = ?";
    let message = "the stored token does not read; remove the account and register it again";
    let values = bind![now.plus(UNREADABLE_PAUSE), message, now, appid, token_type];
    tx.execute(sql, values).await.map(drop)
}

/// Tickets that were waiting for an access token are due now; one that is being put back for want of it too, so that it is not put off.
async fn wake_tickets(tx: &mut Tx, key: &TokenKey, now: Timestamp) -> Result<(), StoreError> {
    let sql = "UPDATE wx_token SET refresh_at = ? WHERE appid = ? AND token_type <> ? AND kept = ? \
               AND value_sealed IS NULL AND failures = 0 AND refresh_at < ?";
    let own = key.token_type.as_str();
    tx.execute(sql, bind![now, key.appid.as_str(), own, true, Timestamp::NEVER]).await.map(drop)
}

/// A history row for a claim of which nothing more is known: lost.
fn blank_row(token: &Token, call: CallKind, trigger: Trigger, started_at: Timestamp) -> Refresh {
    Refresh {
        id: Refresh::new_id(started_at),
        appid: token.key.appid.clone(),
        token_type: token.key.token_type,
        generation: token.generation,
        call,
        trigger,
        outcome: Outcome::Lost,
        errcode: None,
        errmsg: None,
        started_at,
        duration_ms: None,
        expires_in: None,
        fingerprint: token.value.as_ref().map(|value| value.fingerprint.clone()),
        version: token.version,
        instance: String::new(),
    }
}

/// The row is locked and was just read, so anything but one changed row is a defect.
fn expect_one(changed: u64, token: &Token) -> Result<(), StoreError> {
    if changed == 1 { Ok(()) } else { Err(StoreError::corrupt(TABLE, "generation", &token.key)) }
}
