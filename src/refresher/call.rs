//! Carries out a claim: the call, its settle, and the publication of what came of it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::kept::Kept;
use super::seats::{Seat, Share};
use super::{RefreshError, Refreshed, Refresher};
use crate::domain::account::{AppId, Mode, TokenType};
use crate::domain::budget::Exhausted;
use crate::domain::refresh::{CallKind, Failure, FailureClass, Outcome};
use crate::domain::secret::{AppSecret, TokenValue};
use crate::domain::settlement::{CallResult, EndedCall, Settlement, settle};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Claim, Token, TokenKey};
use crate::fail_point;
use crate::store::StoreError;
use crate::store::settle::{Ending, Settled};
use crate::wechat::{Answer, CallError};

/// When to look again for an access token to fetch a ticket with. The settle that brings one wakes the ticket before that.
const TICKET_PAUSE: Duration = Duration::from_mins(1);
/// The same for a ticket whose last call failed: no settle wakes that, so that it keeps the pace of its failures.
const FAILING_TICKET_PAUSE: Duration = Duration::from_secs(5);

/// How long a settle may take before what it settles is served.
const PROMPT: Duration = Duration::from_millis(200);

/// What one call was like.
#[derive(Debug, Clone)]
pub struct CallReport {
    /// What was asked.
    pub call: CallKind,
    /// How long WeChat took.
    pub latency: Duration,
    /// Why the call failed, if it did.
    pub error: Option<CallError>,
    /// The limit that kept a call that should have been made from being made.
    pub exhausted: Option<Exhausted>,
}

/// A call that was made, or why none was.
pub(super) enum Made {
    Ended(EndedCall, Option<CallError>),
    /// The claim was given back.
    Released(RefreshError),
}

/// A call with what it needs.
pub(super) enum Asking {
    Mint(AppSecret),
    Probe(TokenValue),
    Ticket(TokenValue),
}

impl Refresher {
    /// Makes the claimed call and settles it, and the call that must follow, if one must. Reports the last call that was to bring a value, or the
    /// probe if that was all.
    pub(super) async fn carry_out(self: &Arc<Self>, claim: Claim) -> Result<Refreshed, RefreshError> {
        self.carry_out_from(claim, None).await
    }

    /// The same, for a claim for whose call there is a seat already.
    pub(super) async fn carry_out_from(
        self: &Arc<Self>,
        claim: Claim,
        seat: Option<Seat>,
    ) -> Result<Refreshed, RefreshError> {
        let (mut claim, mut seat) = (claim, seat);
        let mut exhausted = None;
        let mut failed: Option<Refreshed> = None;
        loop {
            let (ended, error) = match self.make_call(&claim, seat.take()).await? {
                Made::Ended(ended, error) => (ended, error),
                Made::Released(reason) => return Err(reason),
            };
            fail_point::pass("before_settle").await;
            let asked = Instant::now();
            let settled = match self.settle_or_serve(&claim, &ended).await {
                Err(failure) if failure.is_unavailable() => {
                    return self.keep(claim, ended, error, failure);
                }
                settled => settled.inspect_err(|error| {
                    log_unsettled(&claim, error);
                    self.live.conclude(&claim.token.key);
                })?,
            };
            fail_point::pass("after_settle").await;
            let settled = match settled {
                Ending::Settled(settled) => *settled,
                Ending::Superseded(_) => {
                    self.live.conclude(&claim.token.key);
                    self.superseded(&claim, &ended);
                    return Err(RefreshError::Superseded);
                }
                Ending::Forgotten => return self.keep_unclaimed(&claim, ended, error),
            };
            self.live.publish_token(settled.token.clone(), asked);
            log_settled(&claim, &ended, &settled);
            exhausted = exhausted.or(settled.exhausted);
            let latency = ended.ended_at.since(ended.sent_at);
            let call = CallReport { call: claim.call, latency, error, exhausted };
            let refreshed = Refreshed { outcome: settled.outcome, token: settled.token, call };
            match settled.next {
                // The probe that follows a failed mint only shows what the failure left behind.
                Some(next) if next.follows_failure => (claim, failed) = (next, Some(refreshed)),
                Some(next) => claim = next,
                None => {
                    let token = refreshed.token.clone();
                    return Ok(failed.map_or(refreshed, |failed| Refreshed { token, ..failed }));
                }
            }
        }
    }

    pub(super) async fn make_call(self: &Arc<Self>, claim: &Claim, seat: Option<Seat>) -> Result<Made, RefreshError> {
        // Counted from before the claim's transaction: this process may have been stopped during that, too.
        let held_for = self.clock.now().since(claim.claimed_at);
        let latest = Instant::now() + (self.policy.lease() / 2).saturating_sub(held_for);
        let asking = match self.prepare(claim).await? {
            Ok(asking) => asking,
            Err(instead) => return Ok(instead),
        };
        let _calling = self.under_way.enter(&claim.token.key);
        let seat = match seat {
            Some(seat) => Some(seat),
            // Who has waited too long leaves the line, so that every seat goes to somebody who can use it.
            None => timeout_at(latest, self.seats.wait_for(Share::of(&claim.token, claim.trigger))).await.ok(),
        };
        let Some(_seat) = seat.filter(|_| Instant::now() < latest) else {
            return self.give_back(claim, claim.token.refresh_at, RefreshError::StillBusy).await;
        };
        fail_point::pass("before_call").await;
        self.withhold_doubtful(claim);
        let (ended, error) = self.ask(claim, &asking).await;
        Ok(Made::Ended(ended, error))
    }

    /// The call itself.
    pub(super) async fn ask(self: &Arc<Self>, claim: &Claim, asking: &Asking) -> (EndedCall, Option<CallError>) {
        let sent_at = self.clock.now();
        let result = match asking {
            Asking::Mint(secret) => self.mint(claim, secret).await.map(Some),
            Asking::Probe(token) => self.wechat.probe(token).await.map(|()| None),
            Asking::Ticket(token) => self.fetch_ticket(claim, token).await.map(Some),
        };
        let ended_at = self.clock.now();
        self.reach.note(&result);
        match result {
            Ok(answer) => (EndedCall { sent_at, ended_at, result: self.taken(answer) }, None),
            Err(error) => {
                let refused = claim.call == CallKind::Probe && error.token_refused();
                let result = if refused { CallResult::Refused } else { CallResult::Failed };
                (EndedCall { sent_at, ended_at, result: result(error.failure()) }, Some(error))
            }
        }
    }

    /// Settles. When that takes long the answer is served meanwhile.
    async fn settle_or_serve(&self, claim: &Claim, ended: &EndedCall) -> Result<Ending, StoreError> {
        let mut settling = pin!(self.store.settle(claim, ended, self.terms(), self.clock.now()));
        if let Ok(settled) = timeout(PROMPT, &mut settling).await {
            return settled;
        }
        self.serve_unstored(claim, ended);
        settling.await
    }

    /// Publishes what a call came to before it is stored: a value is served, and one that WeChat refused is not.
    fn serve_unstored(&self, claim: &Claim, ended: &EndedCall) -> Settlement {
        let mut settlement = settle(&claim.token, claim, ended, self.policy.ahead, rand::random());
        settlement.token.generation = claim.generation;
        self.live.publish_unstored(settlement.token.clone());
        settlement
    }

    /// The answer cannot be stored now. What it came to is published, and stored later: the generation keeps a late settle harmless.
    fn keep(
        &self,
        claim: Claim,
        ended: EndedCall,
        error: Option<CallError>,
        failure: StoreError,
    ) -> Result<Refreshed, RefreshError> {
        tracing::warn!(
            error = &failure as &dyn std::error::Error,
            "what WeChat answered for the {} cannot be stored now; it is kept until it can",
            claim.token.key
        );
        let served = self.served(&claim, &ended, error);
        self.kept.keep(Kept::Claimed(Box::new(claim), ended));
        served.ok_or_else(|| failure.into())
    }

    /// The database has gone back to a time before the claim.
    fn keep_unclaimed(
        &self,
        claim: &Claim,
        ended: EndedCall,
        error: Option<CallError>,
    ) -> Result<Refreshed, RefreshError> {
        tracing::warn!("the database does not know that the {} was claimed; its call is stored anew", claim.token.key);
        let served = self.served(claim, &ended, error);
        self.keep_forgotten_call(claim, ended);
        served.ok_or(RefreshError::Superseded)
    }

    /// What whoever waits for the call is told while it is not stored: its value, if it brought one.
    fn served(&self, claim: &Claim, ended: &EndedCall, error: Option<CallError>) -> Option<Refreshed> {
        let Settlement { token, outcome, .. } = self.serve_unstored(claim, ended);
        let latency = ended.ended_at.since(ended.sent_at);
        let call = CallReport { call: claim.call, latency, error, exhausted: None };
        matches!(ended.result, CallResult::Value { .. }).then_some(Refreshed { outcome, token, call })
    }

    /// What the call needs; or what comes instead of a call that cannot be made.
    async fn prepare(&self, claim: &Claim) -> Result<Result<Asking, Made>, RefreshError> {
        let (key, now) = (&claim.token.key, self.clock.now());
        let instead = match claim.call {
            CallKind::Mint | CallKind::Force => match self.store.app_secret(&key.appid).await {
                Ok(Some(secret)) => return Ok(Ok(Asking::Mint(secret))),
                Ok(None) => self.give_back(claim, Timestamp::NEVER, RefreshError::UnknownAccount).await?,
                Err(StoreError::Sealed { .. } | StoreError::Corrupt { .. }) => {
                    Made::Ended(unreadable_secret(now), None)
                }
                // The claim is won; the database need not be there for the call.
                Err(error) => match self.held_secret(&key.appid).filter(|_| error.is_away()) {
                    Some(secret) => return Ok(Ok(Asking::Mint(secret))),
                    None => return Err(error.into()),
                },
            },
            CallKind::Probe => match &claim.token.value {
                Some(value) => return Ok(Ok(Asking::Probe(value.text.clone()))),
                None => self.give_back(claim, claim.token.refresh_at, RefreshError::NoAccessToken).await?,
            },
            CallKind::Ticket => match self.access_token(key, now).await? {
                Some(token) => return Ok(Ok(Asking::Ticket(token))),
                None => self.give_back(claim, now.plus(ticket_pause(claim)), RefreshError::NoAccessToken).await?,
            },
        };
        Ok(Err(instead))
    }

    /// The AppSecret as this instance last knew it.
    fn held_secret(&self, appid: &AppId) -> Option<AppSecret> {
        let account = self.live.account(appid.as_str())?;
        self.store.open_secret(appid, account.secret.as_ref()?).ok()
    }

    async fn mint(&self, claim: &Claim, secret: &AppSecret) -> Result<Answer, CallError> {
        let appid = &claim.token.key.appid;
        // The claim was counted against the budget of the mode that it saw; that mode is the one to use.
        match claim.token.mode {
            Mode::Stable => self.wechat.stable_token(appid, secret, claim.call == CallKind::Force).await,
            Mode::Plain => self.wechat.plain_token(appid, secret).await,
        }
    }

    async fn fetch_ticket(self: &Arc<Self>, claim: &Claim, access_token: &TokenValue) -> Result<Answer, CallError> {
        let result = self.wechat.ticket(access_token, claim.token.key.token_type).await;
        if result.as_ref().is_err_and(CallError::token_refused) {
            self.repair_for_ticket(&claim.token.key, access_token);
        }
        result
    }

    fn taken(&self, answer: Option<Answer>) -> CallResult {
        match answer {
            None => CallResult::Accepted,
            Some(Answer { value, expires_in }) => {
                let fingerprint = self.store.sealer().fingerprint(&value);
                CallResult::Value { text: value, fingerprint, expires_in }
            }
        }
    }

    /// The access token to fetch a ticket with, if there is a valid one: in memory, or in the database, where another instance may just have
    /// put it.
    async fn access_token(&self, ticket: &TokenKey, now: Timestamp) -> Result<Option<TokenValue>, StoreError> {
        let key = TokenKey::new(ticket.appid.clone(), TokenType::AccessToken);
        if let Ok(held) = self.held(&key)
            && let Some(value) = held.token.valid(now)
        {
            return Ok(Some(value.text.clone()));
        }
        let stored = self.store.token(&key).await?;
        Ok(stored.as_ref().and_then(|token| token.valid(now)).map(|value| value.text.clone()))
    }

    async fn give_back(&self, claim: &Claim, again: Timestamp, reason: RefreshError) -> Result<Made, RefreshError> {
        self.store.release(claim, again).await?;
        Ok(Made::Released(reason))
    }
}

fn ticket_pause(claim: &Claim) -> Duration {
    if claim.token.record.failures == 0 { TICKET_PAUSE } else { FAILING_TICKET_PAUSE }
}

fn unreadable_secret(now: Timestamp) -> EndedCall {
    let errmsg = "the stored AppSecret does not open; enter it again".to_owned();
    let class = FailureClass::NeedsHuman;
    let failure = Failure {
        class,
        errcode: None,
        errmsg,
        wait_at_least: Duration::ZERO,
        until_midnight: false,
        maybe_done: false,
    };
    EndedCall { sent_at: now, ended_at: now, result: CallResult::Failed(failure) }
}

pub(super) fn log_unsettled(claim: &Claim, error: &StoreError) {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "what WeChat answered for the {} cannot be stored",
        claim.token.key
    );
}

pub(super) fn log_settled(claim: &Claim, call: &EndedCall, settled: &Settled) {
    let Token { key, version, refresh_at, .. } = &settled.token;
    let (appid, token_type) = (key.appid.as_str(), key.token_type.as_str());
    let (outcome, trigger) = (settled.outcome.as_str(), claim.trigger.as_str());
    let duration_ms = call.ended_at.since(call.sent_at).as_millis();
    match &call.result {
        CallResult::Value { .. } | CallResult::Accepted => tracing::info!(
            appid,
            token_type,
            outcome,
            trigger,
            version,
            duration_ms,
            next = refresh_at.to_rfc3339(),
            "the {key}: {outcome}"
        ),
        CallResult::Refused(failure) | CallResult::Failed(failure) => tracing::warn!(
            appid,
            token_type,
            outcome,
            trigger,
            version,
            duration_ms,
            errcode = failure.errcode,
            next = refresh_at.to_rfc3339(),
            "the {key}: {outcome}: {}",
            failure.errmsg
        ),
    }
    if settled.outcome == Outcome::ForeignRefresh {
        tracing::warn!(appid, "somebody else fetches access tokens for {appid} and so ends ours; find and stop them");
    }
}
