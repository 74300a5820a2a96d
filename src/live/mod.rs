//! The in-memory view that readers use. A read touches neither the database nor WeChat.
//!
//! The database is the truth. This view learns of changes in two ways: this instance publishes what it has just committed, and `poll`
//! asks twice a second what others have changed. Both go through the same doors below, which let a state in only if it is newer than the one
//! held, so that the order of arrival does not matter.

mod poll;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::domain::account::{Account, AppId, TokenType};
use crate::domain::key::Key;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Token, Value};
use crate::store::account::AccountChange;
use crate::store::key::HashedKey;

type Slots = [ArcSwapOption<LiveToken>; 3];

/// Every account, token and key, as this instance knows them.
#[derive(Default)]
pub struct LiveView {
    accounts: papaya::HashMap<AppId, Arc<LiveAccount>>,
    keys: ArcSwap<HashMap<[u8; 32], Arc<Key>>>,
    synced_at: AtomicI64,
}

/// An account and its tokens.
pub struct LiveAccount {
    /// The account as admins see it.
    pub account: Account,
    removed: bool,
    revision: i64,
    /// Shared with the entry that replaces this one when the account is edited, so that no token published meanwhile is lost.
    tokens: Arc<Slots>,
}

/// A token in memory.
pub struct LiveToken {
    /// Its state.
    pub token: Token,
    answer: OnceLock<Box<[u8]>>,
    withheld_until: AtomicI64,
}

impl LiveToken {
    fn new(token: Token) -> Self {
        Self { token, answer: OnceLock::new(), withheld_until: AtomicI64::new(0) }
    }

    /// The value, if it may be handed out at `now`: it is alive, and not withheld.
    pub fn servable(&self, now: Timestamp) -> Option<&Value> {
        let withheld = now.as_millis() < self.withheld_until.load(Ordering::Relaxed);
        self.token.valid(now).filter(|_| !withheld)
    }

    /// Hands the value out to nobody until `until`, or until a newer state is published. For a call that ends it at WeChat at once.
    pub fn withhold(&self, until: Timestamp) {
        self.withheld_until.store(until.as_millis(), Ordering::Relaxed);
    }

    /// The prepared part of an answer, made by `prepare` at its first use. It is for whoever serves tokens; this view does not look inside.
    pub fn answer(&self, prepare: impl FnOnce(&Token) -> Box<[u8]>) -> &[u8] {
        self.answer.get_or_init(|| prepare(&self.token))
    }
}

impl LiveAccount {
    /// The token of this type, if the account keeps one.
    pub fn token(&self, token_type: TokenType) -> Option<Arc<LiveToken>> {
        self.tokens[token_type.index()].load_full().filter(|live| live.token.kept)
    }
}

impl LiveView {
    /// An empty view.
    pub fn new() -> Self {
        Self::default()
    }

    /// The account of this appid.
    pub fn account(&self, appid: &str) -> Option<Arc<LiveAccount>> {
        self.accounts.pin().get(appid).filter(|live| !live.removed).cloned()
    }

    /// How many accounts there are.
    pub fn count_accounts(&self) -> usize {
        self.accounts.pin().values().filter(|live| !live.removed).count()
    }

    /// The key with this hash, usable or not.
    pub fn key(&self, hash: &[u8; 32]) -> Option<Arc<Key>> {
        self.keys.load().get(hash).cloned()
    }

    /// When the view last agreed with the database; zero before the first time.
    pub fn synced_at(&self) -> Timestamp {
        Timestamp::from_millis(self.synced_at.load(Ordering::Relaxed))
    }

    /// Takes in an account's present state.
    pub fn publish_account(&self, change: AccountChange) {
        let AccountChange { account, removed, revision } = change;
        let fresh = |tokens| Arc::new(LiveAccount { account: account.clone(), removed, revision, tokens });
        self.accounts.pin().update_or_insert_with(
            account.appid.clone(),
            |held| if held.revision < revision { fresh(Arc::clone(&held.tokens)) } else { Arc::clone(held) },
            || fresh(Arc::default()),
        );
    }

    /// Takes in a token's present state. One of an account that is not known yet is passed over; the next poll brings it.
    pub fn publish_token(&self, token: Token) {
        let accounts = self.accounts.pin();
        let Some(account) = accounts.get(&token.key.appid) else {
            return;
        };
        let slot = &account.tokens[token.key.token_type.index()];
        let fresh = Arc::new(LiveToken::new(token));
        slot.rcu(|held| match held {
            Some(held) if held.token.revision >= fresh.token.revision => Some(Arc::clone(held)),
            _ => Some(Arc::clone(&fresh)),
        });
    }

    /// Takes in keys' present states. A revocation is final.
    pub fn publish_keys(&self, changed: &[HashedKey]) {
        if changed.is_empty() {
            return;
        }
        self.keys.rcu(|held| {
            let mut keys = HashMap::clone(held);
            for HashedKey { hash, key } in changed {
                if keys.get(hash).is_none_or(|held| held.revoked_at.is_none()) {
                    keys.insert(*hash, Arc::new(key.clone()));
                }
            }
            keys
        });
    }
}
