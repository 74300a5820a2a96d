//! The rooms of a server that has accounts, tokens and a key in memory, and nothing to do but answer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wxtoken::clock::Clock;
use wxtoken::domain::account::{Account, AppId, Mode, TokenType, TokenTypes};
use wxtoken::domain::budget::{Limits, Spent};
use wxtoken::domain::key::{AccountScope, Actions, Key, Role};
use wxtoken::domain::path_rules::PathRules;
use wxtoken::domain::schedule::Life;
use wxtoken::domain::secret::TokenValue;
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::domain::token::{Record, Token, TokenKey, Value};
use wxtoken::http::{ForwardLimits, Rooms};
use wxtoken::live::LiveView;
use wxtoken::refresher::{Policy, Refresher};
use wxtoken::seal::{MasterKey, Sealer};
use wxtoken::store::Store;
use wxtoken::store::account::AccountChange;
use wxtoken::store::db::Db;
use wxtoken::store::key::HashedKey;
use wxtoken::store::migrate::bring_up_to_date;
use wxtoken::wechat::forward::Forwarder;
use wxtoken::wechat::{Client, ClientSettings};

/// How many accounts there are.
pub(super) const ACCOUNTS: usize = 1_000;
/// The text of the key that reads them.
pub(super) const KEY: &str = "wxt_s_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcd";

/// The name of one of the accounts, by its number.
pub(super) fn appid(account: usize) -> AppId {
    AppId::parse(&format!("wx{account:016x}")).expect("this is an appid")
}

/// The rooms, over a database in `file` that is never asked, with WeChat at `wechat`.
pub(super) async fn rooms(file: &Path, wechat: &str) -> Arc<Rooms> {
    let seconds = Duration::from_secs;
    let db = Db::open(&format!("sqlite://{}", file.display())).await.expect("the database opens");
    bring_up_to_date(&db).await.expect("the schema is made");
    let sealer = Sealer::new(&MasterKey::generate().expect("there is randomness"));
    let limits = Limits { forced_per_day: 1, forced_gap: seconds(30), plain_per_day: 1 };
    let live = Arc::new(LiveView::new());
    let now = Clock::new().now();
    live.publish_keys(&[HashedKey { hash: sealer.hash_key(KEY), key: key(now) }]);
    for account in (0..ACCOUNTS).map(appid) {
        live.publish_account(
            AccountChange { account: self::account(&account, now), removed: false, revision: 1, secret: None },
            Instant::now(),
        );
        let text = value(&account);
        live.publish_token(token(account, &text, 1, now), Instant::now());
    }
    let store = Arc::new(Store::new(db, sealer, limits, "bench".to_owned()));
    let settings = ClientSettings {
        base_url: wechat.to_owned(),
        fallback_url: None,
        connect_timeout: seconds(1),
        deadline: seconds(2),
    };
    let forwarder = Forwarder::new(&settings, seconds(2)).expect("the forwarder is set up");
    let client = Client::new(&settings).expect("the client is set up");
    let policy = Policy {
        ahead: seconds(240),
        scan_interval: seconds(1),
        concurrency: 1,
        call_timeout: seconds(2),
        alone: true,
    };
    let stop = CancellationToken::new();
    let refresher = Refresher::new(Arc::clone(&store), client, Arc::clone(&live), Clock::new(), policy, stop.clone());
    let limits = ForwardLimits { concurrency: 1_024, largest: 2 << 30, kept: 2 << 20 };
    Rooms::new(store, live, refresher, Clock::new(), (forwarder, limits), stop)
}

fn key(now: Timestamp) -> Key {
    Key {
        id: "bench".to_owned(),
        name: "bench".to_owned(),
        role: Role::Service,
        accounts: AccountScope::All,
        actions: Actions::of_role(Role::Service),
        hint: KEY[..10].to_owned(),
        created_at: now,
        expires_at: Timestamp::NEVER,
        revoked_at: None,
        sdk: None,
        paths: PathRules::default(),
    }
}

fn account(appid: &AppId, now: Timestamp) -> Account {
    Account {
        appid: appid.clone(),
        name: String::new(),
        mode: Mode::Stable,
        token_types: TokenTypes::default(),
        enabled: true,
        note: String::new(),
        created_at: now,
        updated_at: now,
    }
}

/// The value of an account's access token, as long as WeChat's are.
pub(super) fn value(appid: &AppId) -> String {
    format!("{}_{appid}", "84_".repeat(38))
}

/// A token with two hours to live: the seconds left have four digits for as long as this runs.
pub(super) fn token(appid: AppId, text: &str, revision: i64, now: Timestamp) -> Token {
    let until = now.plus(Duration::from_hours(2));
    Token {
        key: TokenKey::new(appid, TokenType::AccessToken),
        mode: Mode::Stable,
        kept: true,
        value: Some(Value {
            text: TokenValue::parse(text).expect("this is a token"),
            life: Life { since: now, until },
            fingerprint: "0123456789abcdef".to_owned(),
        }),
        previous: None,
        in_doubt: false,
        version: 1,
        generation: 1,
        refresh_at: until,
        leased_until: Timestamp::ZERO,
        leased_by: None,
        record: Record::default(),
        spent: Spent::default(),
        revision,
    }
}
