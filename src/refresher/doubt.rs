//! What is done about a plain token's value that may not be WeChat's newest. The module's head tells of doubt.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::obtain::BUSY_PAUSE;
use super::{RefreshError, Refresher};
use crate::domain::account::Mode;
use crate::domain::refresh::CallKind;
use crate::domain::settlement::{CallResult, EndedCall};
use crate::domain::token::{Claim, TokenKey};
use crate::store::lease::Attempt;

/// How long readers wait for a mint that ends a value in doubt. WeChat answers in 50 to 700 ms.
const LONGEST_WITHHELD: Duration = Duration::from_secs(1);

impl Refresher {
    /// A mint ends a value in doubt at WeChat at once, without the overlap. Whoever reads while it is under way waits for it, but not for longer
    /// than WeChat usually takes: while it does not answer, the value is all there is.
    pub(super) fn withhold_doubtful(&self, claim: &Claim) {
        let now = self.clock.now();
        if claim.call == CallKind::Mint
            && claim.token.is_doubtful(now)
            && let Ok(held) = self.held(&claim.token.key)
        {
            held.withhold(now.plus(LONGEST_WITHHELD));
        }
    }

    /// Somebody newer owns the token. In plain mode a mint that came too late, its answer lost or not, may have brought the value that WeChat
    /// honours now, so one more is minted.
    pub(super) fn superseded(self: &Arc<Self>, claim: &Claim, call: &EndedCall) {
        let key = claim.token.key.clone();
        tracing::warn!("an answer for the {key} came after its lease and was not stored");
        let may_have_minted = match &call.result {
            CallResult::Value { .. } => true,
            CallResult::Failed(failure) => failure.maybe_done,
            CallResult::Accepted | CallResult::Refused(_) => false,
        };
        let is_mint = matches!(claim.call, CallKind::Mint | CallKind::Force);
        if may_have_minted && is_mint && claim.token.mode == Mode::Plain {
            let refresher = Arc::clone(self);
            self.tasks.spawn(async move {
                // An account that was removed meanwhile needs no token.
                if let Err(error) = refresher.cast_doubt(&key).await
                    && !matches!(error, RefreshError::NotKept)
                {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the {key} may not be WeChat's newest, and could not be marked for one more mint"
                    );
                }
            });
        }
    }

    /// The stored value is the one before WeChat's newest, if the late mint came after it. The scheduler replaces it.
    async fn cast_doubt(&self, key: &TokenKey) -> Result<(), RefreshError> {
        loop {
            let asked = Instant::now();
            match self.store.cast_doubt(key, self.clock.now()).await {
                Ok(Attempt::Moved(token)) => {
                    self.live.publish_token(*token, asked);
                    return Ok(());
                }
                Ok(Attempt::Absent) => return Err(RefreshError::NotKept),
                // Somebody's lease ends by itself, and so may an outage.
                Ok(_) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(error) if error.is_unavailable() => tokio::time::sleep(BUSY_PAUSE * 10).await,
                Err(error) => return Err(error.into()),
            }
            self.check_running()?;
        }
    }
}
