//! Carries out a claim: the call, its settle, and the publication of what came of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{RefreshError, Refreshed, Refresher, fail_point};
use crate::domain::account::{Mode, TokenType};
use crate::domain::budget::Exhausted;
use crate::domain::refresh::{CallKind, Failure, FailureClass, Outcome, Trigger};
use crate::domain::secret::TokenValue;
use crate::domain::settlement::{CallResult, EndedCall};
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Claim, Token, TokenKey};
use crate::store::StoreError;
use crate::store::settle::Settled;
use crate::wechat::{Answer, CallError};

/// The pauses between attempts to settle, while the database is away.
const SETTLE_PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(2)];

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
enum Made {
    Ended(EndedCall, Option<CallError>),
    /// The claim was given back.
    Released(RefreshError),
}

impl Refresher {
    /// Makes the claimed call and settles it; if that was a probe that found the token dead, makes the replacing call too. Reports the last
    /// call.
    pub(super) async fn carry_out(self: &Arc<Self>, claim: Claim) -> Result<Refreshed, RefreshError> {
        let mut claim = claim;
        let mut exhausted = None;
        loop {
            let (ended, error) = match self.make_call(&claim).await? {
                Made::Ended(ended, error) => (ended, error),
                Made::Released(reason) => return Err(reason),
            };
            fail_point::pass("before_settle").await;
            let settled = self.settle(&claim, &ended).await?;
            fail_point::pass("after_settle").await;
            let Some(settled) = settled else {
                self.superseded(&claim, &ended);
                return Err(RefreshError::Superseded);
            };
            self.live.publish_token(settled.token.clone());
            log_settled(&claim, &ended, &settled);
            exhausted = exhausted.or(settled.exhausted);
            if let Some(next) = settled.next {
                claim = next;
                continue;
            }
            let latency = ended.ended_at.since(ended.sent_at);
            let call = CallReport { call: claim.call, latency, error, exhausted };
            return Ok(Refreshed { outcome: settled.outcome, token: settled.token, call });
        }
    }

    async fn make_call(self: &Arc<Self>, claim: &Claim) -> Result<Made, RefreshError> {
        let won = Instant::now();
        // Never fails: the semaphore is not closed.
        let _permit = self.calls.acquire().await;
        if won.elapsed() > self.policy.lease() / 2 {
            return self.give_back(claim, self.clock.now(), RefreshError::StillBusy).await;
        }
        fail_point::pass("before_call").await;
        self.withhold_doubtful(claim);
        let sent_at = self.clock.now();
        let result = match claim.call {
            CallKind::Mint | CallKind::Force => match self.store.credentials(&claim.token.key.appid).await {
                Ok(Some(credentials)) => self.mint(claim, &credentials).await,
                Ok(None) => return self.give_back(claim, Timestamp::NEVER, RefreshError::UnknownAccount).await,
                Err(StoreError::Sealed { .. } | StoreError::Corrupt { .. }) => {
                    return Ok(Made::Ended(unreadable_secret(sent_at), None));
                }
                Err(error) => return Err(error.into()),
            },
            CallKind::Probe => match &claim.token.value {
                Some(value) => self.wechat.probe(&value.text).await.map(|()| None),
                None => return self.give_back(claim, sent_at, RefreshError::NoAccessToken).await,
            },
            CallKind::Ticket => match self.access_token(&claim.token.key, sent_at) {
                Ok(text) => self.fetch_ticket(claim, text).await,
                Err(again) => return self.give_back(claim, again, RefreshError::NoAccessToken).await,
            },
        };
        let ended_at = self.clock.now();
        Ok(match result {
            Ok(answer) => Made::Ended(EndedCall { sent_at, ended_at, result: self.taken(answer) }, None),
            Err(error) => {
                let refused = claim.call == CallKind::Probe && error.token_refused();
                let result = if refused { CallResult::Refused } else { CallResult::Failed };
                Made::Ended(EndedCall { sent_at, ended_at, result: result(error.failure()) }, Some(error))
            }
        })
    }

    /// In plain mode a lost claim may have minted a value that nobody stored. Then ours is the one before it, and one more mint ends ours at
    /// once, without the overlap: whoever reads during that call waits for it.
    fn withhold_doubtful(&self, claim: &Claim) {
        let key = &claim.token.key;
        if claim.trigger == Trigger::Recovery
            && claim.call == CallKind::Mint
            && claim.token.mode == Mode::Plain
            && let Ok(held) = self.held(key)
        {
            held.withhold(self.clock.now().plus(self.policy.patience()));
        }
    }

    async fn mint(
        &self,
        claim: &Claim,
        credentials: &crate::store::account::Credentials,
    ) -> Result<Option<Answer>, CallError> {
        let appid = &claim.token.key.appid;
        // The claim was counted against the budget of the mode that it saw; that mode is the one to use.
        match claim.token.mode {
            Mode::Stable => {
                self.wechat.stable_token(appid, &credentials.secret, claim.call == CallKind::Force).await.map(Some)
            }
            Mode::Plain => self.wechat.plain_token(appid, &credentials.secret).await.map(Some),
        }
    }

    async fn fetch_ticket(
        self: &Arc<Self>,
        claim: &Claim,
        access_token: TokenValue,
    ) -> Result<Option<Answer>, CallError> {
        let result = self.wechat.ticket(&access_token, claim.token.key.token_type).await;
        if result.as_ref().is_err_and(CallError::token_refused) {
            self.repair_for_ticket(&claim.token.key, &access_token);
        }
        result.map(Some)
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

    /// The access token to fetch a ticket with, or when to look again. The settle that brings an access token wakes the ticket before that.
    fn access_token(&self, ticket: &TokenKey, now: Timestamp) -> Result<TokenValue, Timestamp> {
        let live = self.live.account(ticket.appid.as_str()).and_then(|account| account.token(TokenType::AccessToken));
        let held = live.as_ref().and_then(|live| live.token.valid(now));
        held.map(|value| value.text.clone()).ok_or(now.plus(Duration::from_mins(1)))
    }

    async fn give_back(&self, claim: &Claim, again: Timestamp, reason: RefreshError) -> Result<Made, RefreshError> {
        self.store.release(claim, again).await?;
        Ok(Made::Released(reason))
    }

    /// Settles, again and again while the database is away, as long as this instance runs: the generation keeps a late settle harmless.
    async fn settle(&self, claim: &Claim, call: &EndedCall) -> Result<Option<Settled>, RefreshError> {
        let mut attempt = 0;
        loop {
            let lease = self.policy.lease();
            match self.store.settle(claim, call, self.policy.ahead, lease, rand::random()).await {
                Err(error) if error.is_unavailable() => {
                    if attempt == 0 {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "what WeChat answered for the {} cannot be stored now; trying on",
                            claim.token.key
                        );
                    }
                    let pause = SETTLE_PAUSES[attempt.min(SETTLE_PAUSES.len() - 1)];
                    attempt += 1;
                    tokio::time::sleep(pause).await;
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "what WeChat answered for the {} cannot be stored",
                        claim.token.key
                    );
                    return Err(error.into());
                }
                Ok(settled) => return Ok(settled),
            }
        }
    }

    /// Somebody newer owns the token. In plain mode a value that came too late may be the one that WeChat honours now, so one more is minted.
    fn superseded(self: &Arc<Self>, claim: &Claim, call: &EndedCall) {
        let key = claim.token.key.clone();
        tracing::warn!("an answer for the {key} came after its lease and was not stored");
        let minted = matches!(call.result, CallResult::Value { .. }) && claim.call != CallKind::Ticket;
        if minted && claim.token.mode == Mode::Plain {
            let refresher = Arc::clone(self);
            self.tasks.spawn(async move {
                if let Err(error) = refresher.mint_again(&key).await {
                    tracing::error!(error = &error as &dyn std::error::Error, "the {key} could not be verified");
                }
            });
        }
    }

    async fn mint_again(self: &Arc<Self>, key: &TokenKey) -> Result<(), RefreshError> {
        let claim = self.claim_patiently(key, CallKind::Mint, Trigger::Recovery).await?;
        self.carry_out(claim).await.map(drop)
    }
}

fn unreadable_secret(now: Timestamp) -> EndedCall {
    let errmsg = "the stored AppSecret does not open; enter it again".to_owned();
    let class = FailureClass::NeedsHuman;
    let failure = Failure { class, errcode: None, errmsg, wait_at_least: Duration::ZERO, until_midnight: false };
    EndedCall { sent_at: now, ended_at: now, result: CallResult::Failed(failure) }
}

fn log_settled(claim: &Claim, call: &EndedCall, settled: &Settled) {
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
