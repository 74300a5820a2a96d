//! Tokens and refreshes on demand: the first use of a token, a reader who needs more time, an admin's order, a check.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{LastFailure, RefreshError, Refreshed, Refresher};
use crate::domain::account::{AppId, Mode, TokenType};
use crate::domain::refresh::{CallKind, Outcome, Trigger};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Claim, Token, TokenKey};
use crate::live::LiveToken;
use crate::store::lease::{Attempt, Seen, Wish};

/// How often to look whether somebody else's call has been settled.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How long a reader for whom there is a valid token waits for a better one. WeChat answers in 50 to 700 ms.
const LONGEST_WAIT_FOR_BETTER: Duration = Duration::from_millis(1_100);
/// The least time between a call and the next one that somebody orders.
const BETWEEN_ORDERS: Duration = Duration::from_secs(1);

/// One wish for a refresh, by which several callers with the same wish share a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Order {
    key: TokenKey,
    call: CallKind,
    trigger: Trigger,
}

impl Refresher {
    /// The token in memory, if this instance knows the account and the account keeps the type.
    pub fn held(&self, key: &TokenKey) -> Result<Arc<LiveToken>, RefreshError> {
        let account = self.live.account(key.appid.as_str()).ok_or(RefreshError::UnknownAccount)?;
        if !account.account.enabled {
            return Err(RefreshError::Disabled);
        }
        account.token(key.token_type).ok_or(RefreshError::NotKept)
    }

    /// A valid token. From memory if there is one; otherwise one call to WeChat is made for all who wait.
    ///
    /// `min_ttl` asks for a refresh first when less time is left. It is granted only where a new value can be had (in stable mode not
    /// before the last 300 s), up to half of the token's life, and at most once in a 120th of its life; what is left is returned then.
    pub async fn obtain(self: &Arc<Self>, key: &TokenKey, min_ttl: Duration) -> Result<Arc<LiveToken>, RefreshError> {
        let now = self.clock.now();
        let held = self.held(key)?;
        match held.servable(now) {
            Some(_) if !wants_more(&held.token, min_ttl, now) => return Ok(held),
            Some(_) => briefly(self.renew(key, held.token.revision)).await,
            None if held.token.valid(now).is_some() => {
                briefly(self.withheld_no_more(key)).await;
            }
            None => self.first_value(key).await?,
        }
        self.held(key)
    }

    /// Waits until a valid token is not withheld any more: the call that it was withheld for may have come to nothing.
    async fn withheld_no_more(self: &Arc<Self>, key: &TokenKey) -> Result<(), RefreshError> {
        let _ = self.first_value(key).await;
        loop {
            let (held, now) = (self.held(key)?, self.clock.now());
            if held.token.valid(now).is_none() || held.servable(now).is_some() {
                return Ok(());
            }
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    }

    /// Refreshes a valid token for a reader who needs more time, unless somebody else has done so meanwhile, or tried.
    async fn renew(self: &Arc<Self>, key: &TokenKey, revision: i64) -> Result<(), RefreshError> {
        let order = Order { key: key.clone(), call: key.ordinary_call(), trigger: Trigger::FirstUse };
        self.order(order, Seen::Revision(revision)).await.map(drop)
    }

    async fn first_value(self: &Arc<Self>, key: &TokenKey) -> Result<(), RefreshError> {
        let refresher = Arc::clone(self);
        let work = || refresher.first_use(key.clone());
        self.first_uses.join(key.clone(), &self.tasks, work).await.map(drop)
    }

    /// Boxed, because the first use of a ticket is also one of its access token.
    fn first_use(self: Arc<Self>, key: TokenKey) -> BoxFuture<'static, Result<Token, RefreshError>> {
        let work = async move {
            if self.database_is_away()
                && let Some(supplied) = self.supply_first(&key).await
            {
                return supplied;
            }
            match self.fetch_first(&key).await {
                Err(RefreshError::Database(error)) if error.is_away() => {
                    self.supply_first(&key).await.unwrap_or(Err(RefreshError::Database(error)))
                }
                fetched => fetched,
            }
        };
        work.boxed()
    }

    async fn fetch_first(self: &Arc<Self>, key: &TokenKey) -> Result<Token, RefreshError> {
        let (now, asked) = (self.clock.now(), Instant::now());
        let token = self.store.token(key).await?.filter(|token| token.kept).ok_or(RefreshError::NotKept)?;
        self.live.publish_token(token.clone(), asked);
        let is_leased = self.held(key)?.token.version == token.version && now < token.leased_until;
        let is_ending = token.is_ending(now);
        if token.valid(now).is_some() && !is_leased && !is_ending {
            return Ok(token);
        }
        if token.record.failures > 0 && now < token.refresh_at {
            return Err(RefreshError::BackingOff(LastFailure::of(&token)));
        }
        if key.token_type.is_ticket() {
            let access_token = TokenKey::new(key.appid.clone(), TokenType::AccessToken);
            self.obtain(&access_token, Duration::ZERO).await?;
        }
        let trigger = if is_ending { Trigger::Recovery } else { Trigger::FirstUse };
        let refreshed =
            match self.claim_or_follow(key, key.ordinary_call(), trigger, Seen::Revision(token.revision)).await? {
                Won::Claim(claim) => self.carry_out(*claim).await?,
                Won::Token(token) if token.valid(self.clock.now()).is_some() => return Ok(*token),
                Won::Token(token) => return Err(without_value(&token)),
            };
        match refreshed.call.error {
            Some(error) => Err(RefreshError::Call(error)),
            None if refreshed.token.valid(self.clock.now()).is_some() => Ok(refreshed.token),
            None => Err(without_value(&refreshed.token)),
        }
    }

    /// Refreshes a token because an admin says so. `force` ends the present value in stable mode; in plain mode every refresh does.
    pub async fn refresh(self: &Arc<Self>, key: &TokenKey, force: bool) -> Result<Refreshed, RefreshError> {
        let held = self.held(key)?;
        let forced = force && held.token.mode == Mode::Stable && !key.token_type.is_ticket();
        let call = if forced { CallKind::Force } else { key.ordinary_call() };
        self.order(Order { key: key.clone(), call, trigger: Trigger::Manual }, Seen::Anything).await
    }

    /// Finds out with one call whether an account's credentials work: in stable mode, and where there is no valid token, by asking for the
    /// token; in plain mode by a probe of the token there is, because asking would end it.
    pub async fn check(self: &Arc<Self>, appid: &AppId) -> Result<Refreshed, RefreshError> {
        let key = TokenKey::new(appid.clone(), TokenType::AccessToken);
        let held = self.held(&key)?;
        let probe = held.token.mode == Mode::Plain && held.token.valid(self.clock.now()).is_some();
        let call = if probe { CallKind::Probe } else { CallKind::Mint };
        self.order(Order { key, call, trigger: Trigger::Manual }, Seen::Anything).await
    }

    async fn order(self: &Arc<Self>, order: Order, seen: Seen) -> Result<Refreshed, RefreshError> {
        let refresher = Arc::clone(self);
        let Order { key, call, trigger } = order.clone();
        let work = || async move {
            if !refresher.database_is_away() {
                refresher.keep_pace(&key).await?;
            }
            let claim = match refresher.claim_or_follow(&key, call, trigger, seen).await? {
                Won::Claim(claim) => claim,
                Won::Token(_) => return Err(RefreshError::Superseded),
            };
            let refreshed = refresher.carry_out(*claim).await?;
            match (refreshed.outcome, &refreshed.call.error) {
                (Outcome::Failure, None) => Err(RefreshError::SecretUnreadable),
                _ => Ok(refreshed),
            }
        };
        self.refreshes.join(order, &self.tasks, work).await
    }

    /// Waits until a second has passed since the last call for this token, so that orders in a loop stay far below WeChat's daily limits.
    async fn keep_pace(&self, key: &TokenKey) -> Result<(), RefreshError> {
        let next = self.held(key)?.token.record.last_call_at.plus(BETWEEN_ORDERS);
        tokio::time::sleep(next.since(self.clock.now()).min(BETWEEN_ORDERS)).await;
        Ok(())
    }

    /// Claims a token, waiting while somebody else's call is under way; or returns the token when it is not what the caller has seen any more.
    pub(super) async fn claim_or_follow(
        &self,
        key: &TokenKey,
        call: CallKind,
        trigger: Trigger,
        seen: Seen,
    ) -> Result<Won, RefreshError> {
        let started = Instant::now();
        let lease = self.policy.lease();
        loop {
            if let Err(draining) = self.check_running() {
                return self.follow(key, seen, draining).await;
            }
            // A claim would fence off an answer that this instance is about to store.
            let is_called = self.kept.holds_value(key) || self.under_way.holds(key);
            if is_called && started.elapsed() < self.policy.patience() && !self.database_is_away() {
                tokio::time::sleep(BUSY_PAUSE).await;
                continue;
            }
            let asked = Instant::now();
            match self.store.claim(key, Wish { call, trigger, seen }, lease, self.clock.now()).await? {
                Attempt::Claimed(claim) => return Ok(Won::Claim(claim)),
                Attempt::Moved(token) => {
                    self.live.publish_token(token.as_ref().clone(), asked);
                    return Ok(Won::Token(token));
                }
                Attempt::Exhausted(exhausted) => return Err(RefreshError::Exhausted(exhausted)),
                Attempt::Absent => return Err(RefreshError::NotKept),
                Attempt::Busy if started.elapsed() > self.policy.patience() => return Err(RefreshError::StillBusy),
                Attempt::Busy => {}
            }
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    }

    /// While this instance shuts down nothing is claimed, but who waits for a call in flight is still answered with what it brings:
    /// the shutdown waits for that call anyway.
    async fn follow(&self, key: &TokenKey, seen: Seen, draining: RefreshError) -> Result<Won, RefreshError> {
        loop {
            let asked = Instant::now();
            let token = self.store.token(key).await?.ok_or(RefreshError::NotKept)?;
            if !seen.covers(&token) {
                self.live.publish_token(token.clone(), asked);
                return Ok(Won::Token(Box::new(token)));
            }
            if token.leased_until <= self.clock.now() {
                return Err(draining);
            }
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    }
}

/// What came of waiting for a claim.
pub(super) enum Won {
    Claim(Box<Claim>),
    /// Somebody else's call settled the matter.
    Token(Box<Token>),
}

/// Waits for `work`, but not for long; a reader for whom there is a valid token is not failed because a better one could not be had.
async fn briefly(work: impl Future<Output = Result<(), RefreshError>>) {
    let _ = tokio::time::timeout(LONGEST_WAIT_FOR_BETTER, work).await;
}

/// Why there is no valid value after a call: it failed, or what it brought is over already.
fn without_value(token: &Token) -> RefreshError {
    if token.record.failures > 0 { RefreshError::BackingOff(LastFailure::of(token)) } else { RefreshError::StillBusy }
}

fn wants_more(token: &Token, min_ttl: Duration, now: Timestamp) -> bool {
    let Some(value) = &token.value else {
        return true;
    };
    let left = value.life.until.since(now);
    let wanted = min_ttl.min(value.life.length() / 2);
    let pause = (value.life.length() / 120).max(Duration::from_secs(1));
    let stable = token.mode == Mode::Stable && !token.key.token_type.is_ticket();
    let obtainable = !stable || left <= Duration::from_mins(5);
    let backing_off = token.record.failures > 0 && now < token.refresh_at;
    left < wanted && obtainable && !backing_off && now >= token.record.last_call_at.plus(pause)
}
