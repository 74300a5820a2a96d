//! A migrated database with a store on it, and short words for what the tests give to it.

use std::sync::Arc;
use std::time::Duration;

use wxtoken::domain::account::{AppId, Mode, NewAccount, TokenType, TokenTypes};
use wxtoken::domain::budget::Limits;
use wxtoken::domain::refresh::{CallKind, Failure, FailureClass, Trigger};
use wxtoken::domain::secret::{AppSecret, TokenValue};
use wxtoken::domain::settlement::{CallResult, EndedCall};
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::domain::token::{Claim, Standing, Token, TokenKey};
use wxtoken::seal::{MasterKey, Sealer};
use wxtoken::store::Store;
use wxtoken::store::audit::Actor;
use wxtoken::store::db::Db;
use wxtoken::store::lease::{Attempt, Seen, Wish};
use wxtoken::store::migrate::bring_up_to_date;
use wxtoken::store::settle::{Ending, Settled, Terms};

use super::raw::Raw;
use crate::support::database::{Kind, TestDatabase};

pub(super) const LIMITS: Limits = Limits { forced_per_day: 2, forced_gap: Duration::from_secs(30), plain_per_day: 2 };
pub(super) const TERMS: Terms = Terms { ahead: AHEAD, lease: LEASE, roll: 0.0 };
pub(super) const LEASE: Duration = Duration::from_secs(20);
pub(super) const AHEAD: Duration = Duration::from_secs(240);
pub(super) const TWO_HOURS: u64 = 7_200;
/// How long the calls of the tests take.
pub(super) const CALL: Duration = Duration::from_millis(120);

pub(super) const ACCESS: TokenType = TokenType::AccessToken;
pub(super) const JSAPI: TokenType = TokenType::JsapiTicket;
pub(super) const CARD: TokenType = TokenType::WxCardTicket;

/// A database that is up to date, with the store of the instance `one`.
pub(super) struct Home {
    pub(super) store: Arc<Store>,
    pub(super) sealer: Sealer,
    pub(super) database: TestDatabase,
}

impl Home {
    pub(super) async fn new(database: TestDatabase) -> Self {
        let sealer = Sealer::new(&MasterKey::generate().expect("there is randomness"));
        let store = open(&database, &sealer, LIMITS, "one").await;
        Self { store, sealer, database }
    }

    /// The store of another instance. An SQLite file has one process only, so there it is the same store again.
    pub(super) async fn rival(&self, instance: &str) -> Arc<Store> {
        match self.database.kind() {
            Kind::Sqlite => Arc::clone(&self.store),
            Kind::Postgres | Kind::Mysql => open(&self.database, &self.sealer, LIMITS, instance).await,
        }
    }

    /// The same database after the program was started again, as the instance `two`.
    pub(super) async fn restarted(self, limits: Limits) -> Self {
        let Self { store, sealer, database } = self;
        store.close().await;
        drop(store);
        let store = open(&database, &sealer, limits, "two").await;
        Self { store, sealer, database }
    }

    /// A connection beside the store.
    pub(super) async fn raw(&self) -> Raw {
        Raw::connect(self.database.kind(), self.database.url()).await
    }

    /// Registers an account in stable mode with these token types.
    pub(super) async fn register(&self, appid: &str, token_types: &[TokenType], now: Timestamp) {
        self.register_as(NewAccount { token_types: types(token_types), ..account(appid) }, now).await;
    }

    pub(super) async fn register_as(&self, new: NewAccount, now: Timestamp) {
        let created = self.store.create_account(&new, &actor(), now).await.expect("the account is written");
        created.expect("there is no such account yet");
    }

    pub(super) async fn token(&self, key: &TokenKey) -> Token {
        self.store.token(key).await.expect("the token reads").expect("there is a row")
    }

    pub(super) async fn due(&self, standing: Standing, limit: u32, now: Timestamp) -> Vec<Claim> {
        self.store.claim_due(standing, limit, now, LEASE, now, &|_| false).await.expect("the scan runs")
    }

    /// The same, whatever their standing.
    pub(super) async fn any_due(&self, limit: u32, now: Timestamp) -> Vec<Claim> {
        let mut claims = Vec::new();
        for standing in [Standing::Proven, Standing::New, Standing::Failing] {
            claims.extend(self.due(standing, limit, now).await);
        }
        claims
    }

    pub(super) async fn attempt(&self, key: &TokenKey, call: CallKind, now: Timestamp) -> Attempt {
        let wish = Wish { call, trigger: Trigger::Manual, seen: Seen::Anything };
        self.store.claim(key, wish, LEASE, now).await.expect("the claim runs")
    }

    pub(super) async fn claim(&self, key: &TokenKey, call: CallKind, now: Timestamp) -> Claim {
        match self.attempt(key, call, now).await {
            Attempt::Claimed(claim) => *claim,
            other => panic!("the {key} should be free: {other:?}"),
        }
    }

    pub(super) async fn settle(&self, claim: &Claim, call: &EndedCall) -> Option<Settled> {
        match self.store.settle(claim, call, TERMS, call.ended_at).await.expect("the settle runs") {
            Ending::Settled(settled) => Some(*settled),
            Ending::Superseded(_) | Ending::Forgotten => None,
        }
    }

    /// Claims a token and gives it this value.
    pub(super) async fn give(&self, key: &TokenKey, text: &str, now: Timestamp) -> Settled {
        let call = if key.token_type.is_ticket() { CallKind::Ticket } else { CallKind::Mint };
        let claim = self.claim(key, call, now).await;
        self.settle(&claim, &self.brought(text, TWO_HOURS, now)).await.expect("the claim holds")
    }

    /// A call that brought a value.
    pub(super) fn brought(&self, text: &str, expires_in: u64, sent_at: Timestamp) -> EndedCall {
        let text = TokenValue::parse(text).expect("a token's text");
        let fingerprint = self.sealer.fingerprint(&text);
        ended(CallResult::Value { text, fingerprint, expires_in: Duration::from_secs(expires_in) }, sent_at)
    }
}

pub(super) async fn open(database: &TestDatabase, sealer: &Sealer, limits: Limits, instance: &str) -> Arc<Store> {
    let db = Db::open(database.url()).await.expect("the database opens");
    bring_up_to_date(&db).await.expect("the schema is brought up to date");
    Arc::new(Store::new(db, sealer.clone(), limits, instance.to_owned()))
}

/// Noon in Beijing.
pub(super) fn noon() -> Timestamp {
    Timestamp::parse_rfc3339("2026-11-20T04:00:00.123Z").expect("a time")
}

pub(super) fn after(seconds: u64) -> Timestamp {
    noon().plus(Duration::from_secs(seconds))
}

pub(super) fn actor() -> Actor {
    Actor { name: "管理员 admin".to_owned(), request_id: Some("req-1".to_owned()) }
}

pub(super) fn appid(text: &str) -> AppId {
    AppId::parse(text).expect("an appid")
}

pub(super) fn key(text: &str, token_type: TokenType) -> TokenKey {
    TokenKey::new(appid(text), token_type)
}

pub(super) fn types(token_types: &[TokenType]) -> TokenTypes {
    TokenTypes::parse(token_types.iter().map(|token_type| token_type.as_str())).expect("token types")
}

pub(super) fn secret(text: &str) -> AppSecret {
    AppSecret::parse(text).expect("a secret")
}

/// An account in stable mode that keeps an access token.
pub(super) fn account(text: &str) -> NewAccount {
    NewAccount {
        appid: appid(text),
        secret: secret(&format!("secret-of-{text}")),
        name: format!("Account {text}"),
        mode: Mode::Stable,
        token_types: TokenTypes::default(),
        enabled: true,
        note: String::new(),
    }
}

pub(super) fn ended(result: CallResult, sent_at: Timestamp) -> EndedCall {
    EndedCall { sent_at, ended_at: sent_at.plus(CALL), result }
}

pub(super) fn failure(errcode: i64, errmsg: &str) -> Failure {
    let class = FailureClass::NeedsHuman;
    Failure {
        class,
        errcode: Some(errcode),
        errmsg: errmsg.to_owned(),
        wait_at_least: Duration::ZERO,
        until_midnight: false,
        maybe_done: false,
    }
}

pub(super) fn failed(errcode: i64, errmsg: &str, sent_at: Timestamp) -> EndedCall {
    ended(CallResult::Failed(failure(errcode, errmsg)), sent_at)
}

pub(super) fn refused(sent_at: Timestamp) -> EndedCall {
    ended(CallResult::Refused(failure(40_001, "invalid credential")), sent_at)
}

pub(super) fn appids(claims: &[Claim]) -> Vec<&str> {
    claims.iter().map(|claim| claim.token.key.appid.as_str()).collect()
}
