//! Tokens while the database is away.
//!
//! Without the database there are no claims, so several instances may call for one token. In stable mode that is harmless: WeChat names the
//! same token to everybody who asks, and mints none before the last minutes of the old one. The same holds for tickets. So each instance goes by
//! the rows as it has them in memory, and what it is told is kept for the database. In plain mode each call would end the value that
//! another instance has just fetched; there the token in memory is served to its end, unless nobody else can be using the database.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::kept::Kept;
use super::seats::{Seat, Share};
use super::{LastFailure, RefreshError, Refresher, call};
use crate::domain::account::{Mode, TokenType};
use crate::domain::refresh::Trigger;
use crate::domain::settlement::settle;
use crate::domain::token::{Claim, Token, TokenKey};
use crate::live::{LiveAccount, LiveToken};
use crate::store::StoreError;
use crate::store::late::UnclaimedCall;

/// The tokens for which this instance is calling.
#[derive(Default)]
pub(super) struct UnderWay(Mutex<HashSet<TokenKey>>);

/// A place in [`UnderWay`].
pub(super) struct Calling<'a> {
    under_way: &'a UnderWay,
    key: TokenKey,
}

impl UnderWay {
    /// `None` while another call of this instance for the token is under way.
    pub(super) fn enter(&self, key: &TokenKey) -> Option<Calling<'_>> {
        let entered = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        entered.then(|| Calling { under_way: self, key: key.clone() })
    }

    /// Whether a call for the token is under way.
    pub(super) fn holds(&self, key: &TokenKey) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.under_way.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Refresher {
    /// Sees to what is due while the database is away, until told to stop.
    pub async fn supply(self: Arc<Self>) {
        while self.stop.run_until_cancelled(tokio::time::sleep(self.policy.scan_interval)).await.is_some() {
            if self.database_is_away() {
                self.supply_due();
            }
        }
    }

    fn supply_due(self: &Arc<Self>) {
        let due =
            self.live.due_tokens(self.clock.now()).into_iter().filter(|(_, held)| self.needs_no_claim(&held.token));
        for (account, held) in due {
            let Some(seat) = self.seats.take(Share::of_scheduled(held.token.standing())) else {
                continue;
            };
            let refresher = Arc::clone(self);
            self.tasks.spawn(async move {
                // What went wrong is in the token's record, and in the log.
                let _ = refresher.call_unclaimed(&account, &held, Trigger::Schedule, Some(seat)).await;
            });
        }
    }

    /// A first value while the database is away; `None` where only a claim can bring one.
    pub(super) async fn supply_first(self: &Arc<Self>, key: &TokenKey) -> Option<Result<Token, RefreshError>> {
        let account = self.live.account(key.appid.as_str())?;
        let held = account.token(key.token_type).filter(|held| self.needs_no_claim(&held.token))?;
        let now = self.clock.now();
        if held.token.valid(now).is_some() {
            return Some(Ok(held.token.clone()));
        }
        if held.token.record.failures > 0 && now < held.token.refresh_at {
            return Some(Err(RefreshError::BackingOff(LastFailure::of(&held.token))));
        }
        Some(self.call_unclaimed(&account, &held, Trigger::FirstUse, None).await)
    }

    /// Whether calls by several instances at once do no harm, or there are no others.
    fn needs_no_claim(&self, token: &Token) -> bool {
        token.mode == Mode::Stable || token.key.token_type.is_ticket() || self.policy.alone
    }

    async fn call_unclaimed(
        self: &Arc<Self>,
        account: &LiveAccount,
        held: &LiveToken,
        trigger: Trigger,
        seat: Option<Seat>,
    ) -> Result<Token, RefreshError> {
        self.check_running()?;
        let Token { key, mode, .. } = &held.token;
        let _calling = self.under_way.enter(key).ok_or(RefreshError::StillBusy)?;
        let asking = self.prepare_unclaimed(account, key)?;
        let call = key.ordinary_call();
        let spent = held.token.spent.spend(call, *mode, self.store.limits(), self.clock.now());
        let spent = spent.map_err(RefreshError::Exhausted)?;
        let token = Token { spent, ..held.token.clone() };
        let _seat = match seat {
            Some(seat) => seat,
            None => self.seats.wait_for(Share::of(&token, trigger)).await,
        };
        let generation = token.generation;
        let claimed_at = self.clock.now();
        let made = UnclaimedCall::new(key.clone(), call, trigger, claimed_at);
        let claim = Claim { token, call, trigger, generation, claimed_at, follows_failure: false };
        let (ended, error) = self.ask(&claim, &asking).await;
        let settlement = settle(&claim.token, &claim, &ended, self.policy.ahead, rand::random());
        tracing::info!("the {key}: {} while the database is away", settlement.outcome);
        self.live.publish_unstored(settlement.token.clone());
        self.kept.keep(Kept::Unclaimed(made, ended));
        error.map_or(Ok(settlement.token), |error| Err(RefreshError::Call(error)))
    }

    fn prepare_unclaimed(&self, account: &LiveAccount, key: &TokenKey) -> Result<call::Asking, RefreshError> {
        if key.token_type.is_ticket() {
            let access_token = account.token(TokenType::AccessToken).ok_or(RefreshError::NotKept)?;
            let value = access_token.token.valid(self.clock.now()).ok_or(RefreshError::NoAccessToken)?;
            return Ok(call::Asking::Ticket(value.text.clone()));
        }
        let secret = account.secret.as_ref().ok_or(RefreshError::UnknownAccount)?;
        let opened = self.store.open_secret(&key.appid, secret).map_err(|_| RefreshError::SecretUnreadable)?;
        Ok(call::Asking::Mint(opened))
    }

    /// Whether the database was away when it was last asked for due tokens.
    pub fn database_is_away(&self) -> bool {
        self.database_is_away.load(Ordering::Relaxed)
    }

    /// Notes whether the database is there. One that answers and takes nothing, because its disk is full, is not: while what is due is kept here
    /// there is nothing to claim, and no claim to fail. Says whether that is news.
    pub(super) fn note_database<T>(&self, answer: &Result<T, StoreError>) -> bool {
        let away = answer.as_ref().is_err_and(StoreError::is_away) || self.kept.is_refused();
        self.database_is_away.swap(away, Ordering::Relaxed) != away
    }
}
