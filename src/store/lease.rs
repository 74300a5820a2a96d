//! Claims: the transaction before a call to WeChat, and the one that gives a claim back. The protocol is told in `refresher`.

use std::time::Duration;

use super::db::{Tx, bind};
use super::history::{self, Refresh};
use super::token::{TABLE, TokenRow, budget_limit, select};
use super::{Store, StoreError, retrying};
use crate::domain::account::Mode;
use crate::domain::budget::Exhausted;
use crate::domain::refresh::{CallKind, Trigger};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Claim, NOTICE, Standing, Token, TokenKey};
use crate::fail_point;

/// Due tokens of one standing, the longest overdue first. Its plan must be the index on the refresh time.
pub const DUE_SCAN: &str = select!(
    "WHERE refresh_at <= ? AND leased_until <= ? AND failures >= ? AND failures <= ? \
     AND expires_at >= ? AND expires_at <= ? ORDER BY refresh_at LIMIT ? {skip_locked}"
);

/// How long a row that does not read is left alone, in case somebody has mended it by then.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

/// What came of an attempt to claim one token.
#[derive(Debug)]
pub enum Attempt {
    /// The call may be made.
    Claimed(Box<Claim>),
    /// Somebody's call is under way; or the call would end a value in doubt, and that has to be announced first.
    Busy,
    /// The day's budget forbids the call.
    Exhausted(Exhausted),
    /// The token is not what the caller has seen any more; here it is.
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
    /// Claim only while the token is what the caller saw.
    pub seen: Seen,
}

/// What a caller who wants to claim a token has seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing that matters.
    Anything,
    /// This version of its value.
    Version(i64),
    /// This state of its row: since then no call was settled and no edit made.
    Revision(i64),
}

impl Seen {
    /// Whether `token` is still what was seen.
    pub const fn covers(self, token: &Token) -> bool {
        match self {
            Self::Anything => true,
            Self::Version(version) => version == token.version,
            Self::Revision(revision) => revision == token.revision,
        }
    }
}

impl Store {
    /// Claims up to `limit` tokens of this standing that were due by `due_by`, but none that `is_excepted`. A token whose budget is spent is put
    /// off instead.
    pub async fn claim_due(
        &self,
        standing: Standing,
        limit: u32,
        due_by: Timestamp,
        lease: Duration,
        now: Timestamp,
        is_excepted: &(dyn Fn(&TokenKey) -> bool + Sync),
    ) -> Result<Vec<Claim>, StoreError> {
        retrying!(self.try_claim_due(standing, limit, due_by, lease, now, is_excepted))
    }

    async fn try_claim_due(
        &self,
        standing: Standing,
        limit: u32,
        due_by: Timestamp,
        lease: Duration,
        now: Timestamp,
        is_excepted: &(dyn Fn(&TokenKey) -> bool + Sync),
    ) -> Result<Vec<Claim>, StoreError> {
        // The end of a token without a value is zero.
        let ((fewest, most), (from, to)) = match standing {
            Standing::Proven => ((0_u32, 0_u32), (1, i64::MAX)),
            Standing::New => ((0, 0), (i64::MIN, 0)),
            Standing::Failing => ((1, u32::MAX), (i64::MIN, i64::MAX)),
        };
        let mut tx = self.db.begin().await?;
        let rows: Vec<TokenRow> = tx.fetch_all(DUE_SCAN, bind![due_by, now, fewest, most, from, to, limit]).await?;
        let mut claims = Vec::with_capacity(rows.len());
        for row in rows {
            // Asked only now: the wait for the database may have been long.
            if row.key().is_ok_and(|key| is_excepted(&key)) {
                continue;
            }
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
        let lost = row.lost()?;
        let mut token = row.into_token(&self.sealer)?;
        if !token.kept && wish.is_none() {
            append_lost(tx, &mut token, lost).await?;
            lay_aside(tx, &token).await?;
            return Ok(Attempt::Absent);
        }
        if let Some(hindrance) = hindrance(&token, now) {
            return Ok(hindrance);
        }
        if wish.is_some_and(|wish| !wish.seen.covers(&token)) {
            return Ok(Attempt::Moved(Box::new(token)));
        }
        let scheduled = if lost.is_some() || token.in_doubt { Trigger::Recovery } else { Trigger::Schedule };
        let (call, trigger) = wish.map_or((token.key.ordinary_call(), scheduled), |wish| (wish.call, wish.trigger));
        let spent = match token.spent.spend(call, token.mode, &self.limits, now) {
            Ok(spent) => spent,
            Err(exhausted) => {
                if wish.is_none() {
                    put_off(tx, &token, exhausted.until, now).await?;
                }
                return Ok(Attempt::Exhausted(exhausted));
            }
        };
        let mut token = Token { spent, ..token };
        let is_news = lost.is_some() || now.plus(NOTICE) < token.refresh_at;
        append_lost(tx, &mut token, lost).await?;
        if call == CallKind::Mint && token.is_doubtful(now) && (is_news || now < token.refresh_at) {
            if is_news {
                announce(tx, &token, now).await?;
            }
            return Ok(Attempt::Busy);
        }
        let generation = token.generation + 1;
        let claim = Claim { token, call, trigger, generation, claimed_at: now, follows_failure: false };
        self.write_lease(tx, &claim, lease).await?;
        fail_point::pass("before_claim_commit").await;
        Ok(Attempt::Claimed(Box::new(claim)))
    }

    /// Notes that a plain token's value may not be WeChat's newest, so that it is replaced. Returns the token as [`Attempt::Moved`].
    pub async fn cast_doubt(&self, key: &TokenKey, now: Timestamp) -> Result<Attempt, StoreError> {
        retrying!(self.try_cast_doubt(key, now))
    }

    async fn try_cast_doubt(&self, key: &TokenKey, now: Timestamp) -> Result<Attempt, StoreError> {
        let mut tx = self.db.begin().await?;
        let Some(row) = lock_row(&mut tx, key).await? else {
            return Ok(Attempt::Absent);
        };
        let lost = row.lost()?;
        let mut token = row.into_token(&self.sealer)?;
        if let Some(hindrance) = hindrance(&token, now) {
            return Ok(hindrance);
        }
        if token.mode != Mode::Plain {
            return Ok(Attempt::Absent);
        }
        append_lost(&mut tx, &mut token, lost).await?;
        let token = announce(&mut tx, &token, now).await?;
        tx.commit().await?;
        Ok(Attempt::Moved(Box::new(token)))
    }

    /// The row stays due while it is leased, so that a claim that is lost is soon made again. Only the probe after a mint without an answer
    /// leaves it as it is: that the value ends is announced for the time that the row names.
    pub(super) async fn write_lease(&self, tx: &mut Tx, claim: &Claim, lease: Duration) -> Result<(), StoreError> {
        let (token, now) = (&claim.token, claim.claimed_at);
        let refresh_at = if claim.follows_failure { token.refresh_at } else { token.refresh_at.min(now) };
        let sql = "UPDATE wx_token SET generation = ?, leased_by = ?, leased_until = ?, leased_at = ?, \
                   lease_trigger = ?, lease_call = ?, refresh_at = ?, budget_day = ?, calls_today = ?, \
                   forced_today = ?, plain_today = ?, forced_at = ?, budget_limit = ?, in_doubt = ? \
                   WHERE appid = ? AND token_type = ? AND generation = ?";
        let values = bind![
            claim.generation,
            self.instance.as_str(),
            now.plus(lease),
            now,
            claim.trigger.as_str(),
            claim.call.as_str(),
            refresh_at,
            token.spent.day,
            token.spent.calls,
            token.spent.forced,
            token.spent.plain,
            token.spent.forced_at,
            budget_limit(token.mode, &self.limits),
            token.in_doubt,
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

    /// Ends every lease, of which only a process that is gone can be the holder: on SQLite, at start, where the file is ours alone.
    pub async fn end_leases(&self) -> Result<u64, StoreError> {
        let mut tx = self.db.begin().await?;
        let ended = tx.execute("UPDATE wx_token SET leased_until = 0 WHERE leased_until > 0", &[]).await?;
        tx.commit().await?;
        Ok(ended)
    }
}

pub(super) async fn lock_row(tx: &mut Tx, key: &TokenKey) -> Result<Option<TokenRow>, StoreError> {
    let sql = select!("WHERE appid = ? AND token_type = ? {for_update}");
    tx.fetch_optional(sql, bind![key.appid.as_str(), key.token_type.as_str()]).await
}

/// Why the token can be claimed by nobody now, if that is so.
fn hindrance(token: &Token, now: Timestamp) -> Option<Attempt> {
    // The tokens of a disabled account are never due, and an order that came just before it was disabled must not make them so.
    if !token.kept || token.refresh_at == Timestamp::NEVER {
        return Some(Attempt::Absent);
    }
    (now < token.leased_until).then_some(Attempt::Busy)
}

/// Writes down what became of a claim that nobody settled. A mint that may have been made leaves a plain token's value in doubt.
pub(super) async fn append_lost(tx: &mut Tx, token: &mut Token, lost: Option<Refresh>) -> Result<(), StoreError> {
    let Some(lost) = lost else {
        return Ok(());
    };
    token.in_doubt |= token.mode == Mode::Plain && lost.call == CallKind::Mint;
    history::append(tx, &lost).await
}

/// Tells every instance that the token's value is in doubt and will be ended in a moment. The row is due then, and nobody has it: who had is
/// fenced off.
async fn announce(tx: &mut Tx, token: &Token, now: Timestamp) -> Result<Token, StoreError> {
    let ends = token.value.as_ref().map_or(now, |value| value.life.until.max(now));
    let announced = Token {
        in_doubt: true,
        generation: token.generation + 1,
        revision: token.revision + 1,
        refresh_at: now.plus(NOTICE).min(ends),
        leased_until: Timestamp::ZERO,
        leased_by: None,
        ..token.clone()
    };
    let sql = "UPDATE wx_token SET in_doubt = ?, generation = ?, revision = ?, refresh_at = ?, leased_until = 0, \
               leased_by = NULL, changed_at = ? WHERE appid = ? AND token_type = ?";
    let values = bind![
        announced.in_doubt,
        announced.generation,
        announced.revision,
        announced.refresh_at,
        now,
        token.key.appid.as_str(),
        token.key.token_type.as_str(),
    ];
    expect_one(tx.execute(sql, values).await?, token)?;
    Ok(announced)
}

/// Ends the claim of a probe before a registration that came to nothing. The row is not kept; nobody claims it but another registration.
async fn lay_aside(tx: &mut Tx, token: &Token) -> Result<(), StoreError> {
    let sql = "UPDATE wx_token SET refresh_at = ?, leased_until = 0, leased_by = NULL \
               WHERE appid = ? AND token_type = ? AND kept = ?";
    let values = bind![Timestamp::NEVER, token.key.appid.as_str(), token.key.token_type.as_str(), false];
    expect_one(tx.execute(sql, values).await?, token)
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

/// The row is locked and was just read, so anything but one changed row is a defect.
pub(super) fn expect_one(changed: u64, token: &Token) -> Result<(), StoreError> {
    if changed == 1 { Ok(()) } else { Err(StoreError::corrupt(TABLE, "generation", &token.key)) }
}
