//! Registering an account with a token that lives already.

use std::sync::Arc;

use tokio::time::Instant;

use super::call::{Made, log_unsettled};
use super::kept::Kept;
use super::obtain::BUSY_PAUSE;
use super::{RefreshError, Refresher};
use crate::domain::account::{NewAccount, TokenType};
use crate::domain::adoption::Adoption;
use crate::domain::settlement::{CallResult, EndedCall};
use crate::domain::token::{Claim, TokenKey, Value};
use crate::fail_point;
use crate::store::account::AccountChange;
use crate::store::adoption::{Adopted, Opening};
use crate::store::audit::Actor;
use crate::store::settle::Ending;
use crate::wechat::CallError;

/// Why an account was not registered with its token. Nothing is registered then.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The appid is registered already.
    #[error("the appid is registered already")]
    Registered,
    /// WeChat does not accept the value.
    #[error("WeChat refuses the value that was to be adopted")]
    Refused(#[source] CallError),
    /// Whether WeChat accepts it could not be found out, or the registration not be stored.
    #[error(transparent)]
    Other(RefreshError),
}

impl<E: Into<RefreshError>> From<E> for AdoptError {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

impl Refresher {
    /// Registers an account with the access token that is in use now, if WeChat accepts it. One call is made, a probe, and it is recorded
    /// whatever it comes to. It goes on when the caller leaves.
    pub async fn adopt(
        self: &Arc<Self>,
        new: NewAccount,
        adoption: Adoption,
        actor: Actor,
    ) -> Result<AccountChange, AdoptError> {
        let refresher = Arc::clone(self);
        let task = self.tasks.spawn(async move { refresher.take_over(&new, &adoption, &actor).await });
        task.await.unwrap_or_else(|_| Err(RefreshError::Crashed.into()))
    }

    async fn take_over(
        self: &Arc<Self>,
        new: &NewAccount,
        adoption: &Adoption,
        actor: &Actor,
    ) -> Result<AccountChange, AdoptError> {
        let claim = self.claim_unregistered(new, adoption).await?;
        let (ended, error) = match self.make_call(&claim, None).await? {
            Made::Ended(ended, error) => (ended, error),
            Made::Released(reason) => return Err(reason.into()),
        };
        fail_point::pass("before_adoption").await;
        match (&ended.result, error) {
            (CallResult::Accepted, _) => self.register(new, claim, ended, actor).await,
            (_, Some(error)) => {
                self.record(claim, ended).await;
                Err(if error.token_refused() { AdoptError::Refused(error) } else { RefreshError::Call(error).into() })
            }
            (_, None) => Err(RefreshError::Crashed.into()),
        }
    }

    /// The right to probe the value, once nobody else registers the same appid.
    async fn claim_unregistered(&self, new: &NewAccount, adoption: &Adoption) -> Result<Claim, AdoptError> {
        let key = TokenKey::new(new.appid.clone(), TokenType::AccessToken);
        let (started, lease) = (Instant::now(), self.policy.lease());
        let fingerprint = self.store.sealer().fingerprint(&adoption.value);
        // What is left of the life was told at this moment.
        let value = Value { text: adoption.value.clone(), life: adoption.life(self.clock.now()), fingerprint };
        loop {
            self.check_running()?;
            match self.store.claim_unregistered(&key, new.mode, &value, lease, self.clock.now()).await? {
                Opening::Claimed(claim) => return Ok(*claim),
                Opening::Registered => return Err(AdoptError::Registered),
                Opening::Busy if started.elapsed() > self.policy.patience() => {
                    return Err(RefreshError::StillBusy.into());
                }
                Opening::Busy => tokio::time::sleep(BUSY_PAUSE).await,
            }
        }
    }

    async fn register(
        self: &Arc<Self>,
        new: &NewAccount,
        claim: Claim,
        ended: EndedCall,
        actor: &Actor,
    ) -> Result<AccountChange, AdoptError> {
        let (asked, now) = (Instant::now(), self.clock.now());
        let adopted = self.store.adopt_account(new, &claim, &ended, actor, self.terms(), now).await;
        let failure = match adopted {
            Ok(Some(Adopted { change, token })) => {
                let (appid, next) = (new.appid.as_str(), token.refresh_at.to_rfc3339());
                tracing::info!(appid, next, "the access_token of {appid} was taken over");
                self.live.publish_account(change.clone(), asked);
                self.live.publish_token(token, asked);
                return Ok(change);
            }
            Ok(None) => None,
            Err(error) => Some(error),
        };
        self.record(claim, ended).await;
        Err(match failure {
            Some(error) => error.into(),
            None if self.store.account(new.appid.as_str()).await?.is_some() => AdoptError::Registered,
            None => RefreshError::StillBusy.into(),
        })
    }

    /// Writes down the probe of a value that was not adopted, now or when the database can take it.
    async fn record(self: &Arc<Self>, claim: Claim, ended: EndedCall) {
        match self.store.settle(&claim, &ended, self.terms(), self.clock.now()).await {
            Ok(Ending::Forgotten) => self.keep_forgotten_call(&claim, ended),
            Ok(Ending::Settled(_) | Ending::Superseded(_)) => {}
            Err(error) if error.is_unavailable() => self.kept.keep(Kept::Claimed(Box::new(claim), ended)),
            Err(error) => log_unsettled(&claim, &error),
        }
    }
}
