//! Which account an access token belongs to, for requests that carry nothing else.

use std::hash::{BuildHasher, RandomState};

use super::LiveAccount;
use crate::domain::account::{AppId, TokenType};
use crate::domain::token::Token;

/// Below this many entries those of values long gone do not matter.
const NEVER_SWEPT: usize = 4_096;

/// The owners of values by the values' hashes, which are keyed anew in each process. An entry may outlive its value: it says where to look,
/// not that the value is there.
#[derive(Default)]
pub(super) struct Values {
    owners: papaya::HashMap<u64, AppId>,
    hashing: RandomState,
}

impl Values {
    /// The account that had this value as its access token.
    pub(super) fn owner(&self, text: &str) -> Option<AppId> {
        self.owners.pin().get(&self.hashing.hash_one(text)).cloned()
    }

    /// Notes the values of an access token, and now and then lets go of those that `accounts` do not have any more.
    pub(super) fn note<G: papaya::Guard, S: BuildHasher>(
        &self,
        token: &Token,
        accounts: &papaya::HashMapRef<'_, AppId, std::sync::Arc<LiveAccount>, S, G>,
    ) {
        if token.key.token_type != TokenType::AccessToken {
            return;
        }
        let owners = self.owners.pin();
        let values = token.value.as_ref().map(|value| &value.text).into_iter().chain(&token.previous);
        for value in values {
            owners.insert(self.hashing.hash_one(value.expose()), token.key.appid.clone());
        }
        if owners.len() > NEVER_SWEPT.max(4 * accounts.len()) {
            owners.retain(|hash, appid| accounts.get(appid).is_some_and(|account| self.has(account, *hash)));
        }
    }

    fn has(&self, account: &LiveAccount, hash: u64) -> bool {
        account.token(TokenType::AccessToken).is_some_and(|live| {
            let present = live.token.value.as_ref().map(|value| &value.text);
            present.into_iter().chain(&live.token.previous).any(|value| self.hashing.hash_one(value.expose()) == hash)
        })
    }
}
