//! Answers of WeChat that the database could not take. They are kept, and stored when it can.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Refresher, call};
use crate::domain::refresh::Trigger;
use crate::domain::settlement::{CallResult, EndedCall};
use crate::domain::token::{Claim, Token, TokenKey};
use crate::store::StoreError;
use crate::store::late::{Late, UnclaimedCall};
use crate::store::settle::{Ending, Terms};

/// Between two attempts while the database is away, or somebody's call is under way.
const PAUSE: Duration = Duration::from_millis(500);
/// Failed calls are not kept beyond this; answers with a value always are. At one failure a minute for each of 1,000 tokens this is an hour.
const MOST_KEPT: usize = 60_000;

/// A call that ended and is not in the database yet.
pub(super) enum Kept {
    /// It was made under a claim.
    Claimed(Box<Claim>, EndedCall),
    /// It was made without one.
    Unclaimed(UnclaimedCall, EndedCall),
}

/// Calls that ended and are not in the database yet, oldest first. One stays here while it is being stored: whoever is stopped in the midst of
/// that has lost nothing.
#[derive(Default)]
pub(super) struct KeptCalls {
    calls: Mutex<VecDeque<Arc<Kept>>>,
    refused: AtomicBool,
}

/// What came of an attempt to store the oldest of them.
enum Progress {
    Nothing,
    Stored,
    /// Somebody's call for the token is under way. It stands behind the others now.
    Busy,
    Stuck,
}

/// Whether a call is in the database.
enum Stored {
    /// It is, and here is its token as it is stored now, if there is one.
    There(Option<Box<Token>>),
    /// It cannot be yet.
    NotNow,
}

impl Kept {
    fn key(&self) -> &TokenKey {
        match self {
            Self::Claimed(claim, _) => &claim.token.key,
            Self::Unclaimed(made, _) => &made.key,
        }
    }

    fn has_value(&self) -> bool {
        let (Self::Claimed(_, ended) | Self::Unclaimed(_, ended)) = self;
        matches!(ended.result, CallResult::Value { .. })
    }
}

impl KeptCalls {
    pub(super) fn len(&self) -> usize {
        self.locked().len()
    }

    pub(super) fn keep(&self, kept: Kept) {
        let mut calls = self.locked();
        if calls.len() < MOST_KEPT || kept.has_value() {
            calls.push_back(Arc::new(kept));
        } else {
            tracing::error!(
                "{MOST_KEPT} calls wait for the database; the failed call for the {} is not recorded",
                kept.key()
            );
        }
    }

    pub(super) fn holds(&self, key: &TokenKey) -> bool {
        self.locked().iter().any(|kept| kept.key() == key)
    }

    /// Whether a value for the token is among them: a claim would fence it off.
    pub(super) fn holds_value(&self, key: &TokenKey) -> bool {
        self.locked().iter().any(|kept| kept.key() == key && kept.has_value())
    }

    fn put_back(&self, kept: Arc<Kept>) {
        let mut calls = self.locked();
        calls.retain(|other| !Arc::ptr_eq(other, &kept));
        calls.push_back(kept);
    }

    /// Whether the database could not take one of them when it was last asked to.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn oldest(&self) -> Option<Arc<Kept>> {
        self.locked().front().cloned()
    }

    fn remove(&self, kept: &Arc<Kept>) {
        self.locked().retain(|other| !Arc::ptr_eq(other, kept));
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Kept>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refresher {
    /// How many calls have ended and are not in the database yet.
    pub fn unstored(&self) -> usize {
        self.kept.len()
    }

    /// Stores kept answers until told to stop.
    pub async fn store_kept(self: Arc<Self>) {
        let mut busy = 0;
        loop {
            let pause = match self.store_oldest().await {
                Progress::Stored => continue,
                // Those behind it need not wait.
                Progress::Busy if busy < self.kept.len() => {
                    busy += 1;
                    continue;
                }
                Progress::Busy | Progress::Stuck => PAUSE.mul_f64(0.5 + rand::random::<f64>()),
                Progress::Nothing => PAUSE,
            };
            busy = 0;
            if self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Stores what is kept, as long as it takes.
    pub(super) async fn flush_kept(self: &Arc<Self>) {
        loop {
            match self.store_oldest().await {
                Progress::Nothing => return,
                Progress::Stored => {}
                Progress::Busy | Progress::Stuck => tokio::time::sleep(PAUSE / 5).await,
            }
        }
    }

    /// A database that was restored from a copy has lost younger values; they are stored as if they had been fetched without it.
    fn keep_forgotten(&self) {
        for token in self.live.take_forgotten() {
            let Some(value) = token.valid(self.clock.now()) else {
                self.live.conclude(&token.key);
                continue;
            };
            let (text, fingerprint) = (value.text.clone(), value.fingerprint.clone());
            let result = CallResult::Value { text, fingerprint, expires_in: value.life.length() };
            let ended = EndedCall { sent_at: value.life.since, ended_at: token.record.last_success_at, result };
            let call = token.key.ordinary_call();
            let made = UnclaimedCall::new(token.key.clone(), call, Trigger::Recovery, ended.sent_at);
            self.kept.keep(Kept::Unclaimed(made, ended));
        }
    }

    async fn store_oldest(self: &Arc<Self>) -> Progress {
        self.keep_forgotten();
        let Some(kept) = self.kept.oldest() else {
            self.kept.refused.store(false, Ordering::Relaxed);
            return Progress::Nothing;
        };
        let key = kept.key().clone();
        let asked = Instant::now();
        let stored = match &*kept {
            Kept::Claimed(claim, ended) => self.store_claimed(claim, ended).await,
            Kept::Unclaimed(made, ended) => self.store_unclaimed(made, ended).await,
        };
        self.kept.refused.store(stored.as_ref().is_err_and(StoreError::is_away), Ordering::Relaxed);
        let token = match stored {
            Ok(Stored::There(token)) => token.map(|token| *token),
            Ok(Stored::NotNow) => {
                self.kept.put_back(kept);
                return Progress::Busy;
            }
            Err(error) if error.is_unavailable() => return Progress::Stuck,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "what WeChat answered for the {key} cannot be stored and is given up"
                );
                None
            }
        };
        self.kept.remove(&kept);
        if !self.kept.holds(&key) {
            self.live.conclude(&key);
            if let Some(token) = token {
                self.live.publish_token(token, asked);
            }
        }
        Progress::Stored
    }

    async fn store_claimed(self: &Arc<Self>, claim: &Claim, ended: &EndedCall) -> Result<Stored, StoreError> {
        Ok(Stored::There(match self.store.settle(claim, ended, self.terms(), self.clock.now()).await? {
            Ending::Settled(settled) => {
                call::log_settled(claim, ended, &settled);
                if let Some(next) = settled.next {
                    self.start(next, None);
                }
                Some(Box::new(settled.token))
            }
            Ending::Superseded(token) => {
                self.superseded(claim, ended);
                token
            }
            Ending::Forgotten => {
                self.keep_forgotten_call(claim, ended.clone());
                None
            }
        }))
    }

    /// The database does not know of this claim any more; the call is stored like one that was made without a claim.
    pub(super) fn keep_forgotten_call(&self, claim: &Claim, ended: EndedCall) {
        let made = UnclaimedCall::new(claim.token.key.clone(), claim.call, claim.trigger, ended.sent_at);
        self.kept.keep(Kept::Unclaimed(made, ended));
    }

    async fn store_unclaimed(&self, made: &UnclaimedCall, ended: &EndedCall) -> Result<Stored, StoreError> {
        Ok(match self.store.settle_unclaimed(made, ended, self.terms(), self.clock.now()).await? {
            Late::Stored(token) => Stored::There(Some(token)),
            Late::Busy => Stored::NotNow,
            // A copy of the database may be on its way in.
            Late::Absent if self.live.account(made.key.appid.as_str()).is_some() => Stored::NotNow,
            Late::Absent => Stored::There(None),
        })
    }

    pub(super) fn terms(&self) -> Terms {
        Terms { ahead: self.policy.ahead, lease: self.policy.lease(), roll: rand::random() }
    }
}
