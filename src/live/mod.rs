//! The in-memory view that readers use. A read touches neither the database nor WeChat.
//!
//! The database is the truth. This view learns of changes in two ways: this instance publishes what it has just committed, and `poll`
//! asks twice a second what others have changed. Both go through the same doors below, which let a state in only if it is newer than the one
//! held, so that the order of arrival does not matter. The module `order` has the rule.
//!
//! What WeChat answered and the database could not take is in the view, too, marked as not stored: it is served, and gives way to what the
//! database says once that has caught up.

pub mod mirrors;
mod order;
mod poll;
mod values;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::domain::account::{Account, AppId, TokenType};
use crate::domain::key::Key;
use crate::domain::mirror::Mirror;
use crate::domain::timestamp::Timestamp;
use crate::domain::token::{Token, TokenKey, Value};
use crate::store::account::{AccountChange, SealedSecret};
use crate::store::key::HashedKey;
use crate::store::mirror::MirrorChange;
use mirrors::MirrorBoard;
use order::{Order, Standing};
use values::Values;

type Slots = [ArcSwapOption<LiveToken>; TokenType::ALL.len()];

/// How many changes a follower may fall behind before it is told that it missed some.
const CHANGES_HELD: usize = 4_096;

/// Every account, token and key, as this instance knows them.
pub struct LiveView {
    accounts: papaya::HashMap<AppId, Arc<LiveAccount>>,
    keys: ArcSwap<HashMap<[u8; 32], Arc<Key>>>,
    synced_at: AtomicI64,
    /// When the last look that agreed with the database began, by a clock that nobody sets.
    asked_at: Mutex<Option<Instant>>,
    /// The database was found to have an older state than it once had: a copy was restored. Everything must be read again.
    went_back: AtomicBool,
    /// Tokens that the database had and has lost by going back; they are to be stored again.
    forgotten: Mutex<Vec<Token>>,
    changes: broadcast::Sender<TokenKey>,
    values: Values,
    /// Whether any key may call some of WeChat's paths only.
    limits_paths: AtomicBool,
    mirrors: MirrorBoard,
}

impl Default for LiveView {
    fn default() -> Self {
        Self {
            accounts: papaya::HashMap::default(),
            keys: ArcSwap::default(),
            synced_at: AtomicI64::default(),
            asked_at: Mutex::default(),
            went_back: AtomicBool::default(),
            forgotten: Mutex::default(),
            changes: broadcast::Sender::new(CHANGES_HELD),
            values: Values::default(),
            limits_paths: AtomicBool::default(),
            mirrors: MirrorBoard::default(),
        }
    }
}

/// An account and its tokens.
pub struct LiveAccount {
    /// The account as admins see it.
    pub account: Account,
    /// Its AppSecret, sealed, for calls while the database is away.
    pub secret: Option<SealedSecret>,
    removed: bool,
    revision: i64,
    known_at: Instant,
    /// Shared with the entry that replaces this one when the account is edited, so that no token published meanwhile is lost.
    tokens: Arc<Slots>,
}

/// A token in memory.
pub struct LiveToken {
    /// Its state.
    pub token: Token,
    standing: Standing,
    answer: OnceLock<Box<[u8]>>,
    withheld_until: AtomicI64,
}

impl LiveToken {
    fn new(token: Token, standing: Standing) -> Self {
        Self { token, standing, answer: OnceLock::new(), withheld_until: AtomicI64::new(0) }
    }

    /// The value, if it may be handed out at `now`: it is alive, not withheld, and not about to be ended.
    pub fn servable(&self, now: Timestamp) -> Option<&Value> {
        let withheld = now.as_millis() < self.withheld_until.load(Ordering::Relaxed) || self.token.is_ending(now);
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

    /// Whether `text` is the present access token or the one before it.
    fn has_access_token(&self, text: &str) -> bool {
        self.token(TokenType::AccessToken).is_some_and(|live| {
            let present = live.token.value.as_ref().map(|value| &value.text);
            present.into_iter().chain(&live.token.previous).any(|value| value.expose() == text)
        })
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

    /// Whose access token `text` is, if it is one that we hand out or handed out before the present one.
    pub fn owner(&self, text: &str) -> Option<Arc<LiveAccount>> {
        let appid = self.values.owner(text)?;
        self.account(appid.as_str()).filter(|account| account.has_access_token(text))
    }

    /// Whether any key may call some of WeChat's paths only.
    pub fn limits_paths(&self) -> bool {
        self.limits_paths.load(Ordering::Relaxed)
    }

    /// Whether any key, usable or not, passes `test`.
    pub fn any_key(&self, test: impl FnMut(&Key) -> bool) -> bool {
        let mut test = test;
        self.keys.load().values().any(|key| test(key))
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

    /// Whether everything that was stored before `since` is in the view: the database was asked after that, and answered.
    pub fn has_asked_since(&self, since: Instant) -> bool {
        self.asked_at.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|asked| asked > since)
    }

    /// Notes a look that began then, by either clock, and agreed with the database.
    fn note_agreement(&self, now: Timestamp, asked: Instant) {
        self.synced_at.store(now.as_millis(), Ordering::Relaxed);
        let mut latest = self.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = (*latest).max(Some(asked));
    }

    /// Hears of every token whose value changes from now on, whoever obtained it. It says which; what it is now stands here. Who falls
    /// behind is told so, and looks at everything.
    pub fn changes(&self) -> broadcast::Receiver<TokenKey> {
        self.changes.subscribe()
    }

    /// Every token whose present state was stored at `since` or later, as far as this instance knows, or is not stored yet; every token without a
    /// `since`. What is not kept any more is among them.
    pub fn tokens_stored_since(&self, since: Option<Instant>) -> Vec<TokenKey> {
        let is_news = |held: &LiveToken| since.is_none_or(|since| !held.standing.is_stored_before(since));
        let accounts = self.accounts.pin();
        let slots = accounts.values().flat_map(|live| live.tokens.iter());
        slots
            .filter_map(|slot| slot.load_full().filter(|held| is_news(held)).map(|held| held.token.key.clone()))
            .collect()
    }

    /// The mirrors, and how each is doing.
    pub fn mirrors(&self) -> &MirrorBoard {
        &self.mirrors
    }

    /// Every mirror of an account that is registered. One whose account is gone is gone as well, even if whoever removed the account did not know of
    /// mirrors.
    pub fn mirrors_in_use(&self) -> Vec<Arc<Mirror>> {
        let mut mirrors = self.mirrors.all();
        mirrors.retain(|mirror| self.account(mirror.appid.as_str()).is_some());
        mirrors
    }

    /// Takes in mirrors' states as the database had them when it was `asked`, or later.
    pub fn publish_mirrors(&self, changes: impl IntoIterator<Item = MirrorChange>, asked: Instant) {
        if self.mirrors.publish(changes, asked) {
            self.went_back.store(true, Ordering::Relaxed);
        }
    }

    /// Every token that is kept for an account in use and due for a refresh at `now`, for when the database cannot be asked.
    pub fn due_tokens(&self, now: Timestamp) -> Vec<(Arc<LiveAccount>, Arc<LiveToken>)> {
        let accounts = self.accounts.pin();
        let in_use = accounts.values().filter(|live| !live.removed && live.account.enabled);
        let tokens =
            in_use.flat_map(|live| TokenType::ALL.map(|token_type| Some((Arc::clone(live), live.token(token_type)?))));
        tokens.flatten().filter(|(_, held)| held.token.refresh_at <= now).collect()
    }

    /// Takes in an account's state as the database had it when it was `asked`, or later.
    pub fn publish_account(&self, change: AccountChange, asked: Instant) {
        let AccountChange { account, removed, revision, secret } = change;
        let fresh = |tokens| {
            let (account, secret) = (account.clone(), secret.clone());
            Arc::new(LiveAccount { account, secret, removed, revision, known_at: Instant::now(), tokens })
        };
        let comes_back = Cell::new(false);
        let supersedes =
            |held: &LiveAccount| held.revision < revision || (held.revision > revision && held.known_at < asked);
        let was_there = self.account(account.appid.as_str()).is_some();
        self.accounts.pin().update_or_insert_with(
            account.appid.clone(),
            |held| {
                if !supersedes(held) {
                    return Arc::clone(held);
                }
                comes_back.set((held.removed || !held.account.enabled) && !removed && account.enabled);
                if held.revision > revision {
                    self.went_back.store(true, Ordering::Relaxed);
                }
                fresh(Arc::clone(&held.tokens))
            },
            || fresh(Arc::default()),
        );
        if was_there == removed {
            // Its mirrors came or went with it.
            self.mirrors.tell();
        }
        if comes_back.get() {
            self.tell_of(&account.appid);
        }
    }

    /// Tells of all tokens of an account: who was told of a change while it was not in use had nothing to look at.
    fn tell_of(&self, appid: &AppId) {
        for token_type in TokenType::ALL {
            // Nobody may be listening.
            let _ = self.changes.send(TokenKey::new(appid.clone(), token_type));
        }
    }

    /// Takes in a token's state as the database had it when it was `asked`, or later. One of an account that is not known yet is passed over;
    /// the next poll brings it.
    ///
    /// When the database went back, what it has of the token counts, but not an older value: the younger one stays and is to be stored again.
    pub fn publish_token(&self, token: Token, asked: Instant) {
        let order = |held: &LiveToken, fresh: &Token| held.standing.order(&held.token, fresh, asked);
        if let Some((Order::WentBack, held)) = self.put(token, Standing::Stored(Instant::now()), order) {
            self.went_back.store(true, Ordering::Relaxed);
            if let Some(held) = held {
                self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).push(held);
            }
        }
    }

    /// The tokens that the database has lost by going back since the last time.
    pub fn take_forgotten(&self) -> Vec<Token> {
        std::mem::take(&mut self.forgotten.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in what a token is with an answer that is not in the database yet.
    pub fn publish_unstored(&self, token: Token) {
        self.put(token, Standing::Unstored, |held, fresh| {
            if held.token.revision < fresh.revision { Order::Newer } else { Order::NotNewer }
        });
    }

    /// Nothing that is not stored is left of this token: the next state that the database has counts, but for a value before this one.
    pub fn conclude(&self, key: &TokenKey) {
        if let Some(account) = self.accounts.pin().get(&key.appid) {
            account.tokens[key.token_type.index()].rcu(|held| match held {
                Some(held) if held.standing == Standing::Unstored => {
                    Some(Arc::new(LiveToken::new(held.token.clone(), Standing::Concluded)))
                }
                held => held.clone(),
            });
        }
    }

    /// Puts a state in its place if `order` says so. Returns what it said, and the state held if its value is younger and so stayed although the
    /// database went back.
    fn put(
        &self,
        token: Token,
        standing: Standing,
        order: impl Fn(&LiveToken, &Token) -> Order,
    ) -> Option<(Order, Option<Token>)> {
        let accounts = self.accounts.pin();
        let account = accounts.get(&token.key.appid)?;
        let slot = &account.tokens[token.key.token_type.index()];
        let fresh = Arc::new(LiveToken::new(token, standing));
        let (mut found, mut changes) = (None, fresh.token.value.is_some());
        slot.rcu(|held| {
            let Some(held) = held else {
                return Some(Arc::clone(&fresh));
            };
            let said = order(held, &fresh.token);
            let stays = said == Order::WentBack && order::since(&held.token) > order::since(&fresh.token);
            found = Some((said, stays.then(|| held.token.clone())));
            changes = said != Order::NotNewer && !stays && held.token.value != fresh.token.value;
            Some(match said {
                Order::NotNewer => Arc::clone(held),
                _ if stays => Arc::new(LiveToken::new(held.token.clone(), Standing::Unstored)),
                _ => Arc::clone(&fresh),
            })
        });
        if changes {
            self.values.note(&fresh.token, &accounts);
            // Nobody may be listening.
            let _ = self.changes.send(fresh.token.key.clone());
        }
        found
    }

    /// Lets go of what the database did not have when it was `asked` for everything it has.
    fn forget_others(&self, accounts: &HashSet<AppId>, tokens: &HashSet<TokenKey>, asked: Instant) {
        let held = self.accounts.pin();
        let before = held.len();
        held.retain(|appid, live| accounts.contains(appid) || live.known_at > asked);
        if held.len() < before {
            self.mirrors.tell();
        }
        for (appid, live) in &held {
            for token_type in TokenType::ALL {
                let key = TokenKey::new(appid.clone(), token_type);
                live.tokens[token_type.index()].rcu(|held| {
                    held.clone().filter(|held| tokens.contains(&key) || !held.standing.known_before(asked))
                });
            }
        }
    }

    /// Takes in keys' present states. A revocation is final.
    pub fn publish_keys(&self, changed: &[HashedKey]) {
        if changed.is_empty() {
            return;
        }
        if changed.iter().any(|hashed| !hashed.key.paths.are_empty()) {
            self.limits_paths.store(true, Ordering::Relaxed);
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
