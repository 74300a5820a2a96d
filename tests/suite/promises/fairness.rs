//! One broken account delays no other, and neither do five hundred.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use wxtoken::domain::account::{AppId, Mode, NewAccount, TokenTypes};
use wxtoken::domain::budget::Limits;
use wxtoken::domain::secret::AppSecret;
use wxtoken::domain::timestamp::Timestamp;
use wxtoken::seal::{MasterKey, Sealer};
use wxtoken::store::Store;
use wxtoken::store::audit::Actor;
use wxtoken::store::db::Db;
use wxtoken::store::migrate::bring_up_to_date;
use wxtoken::wechat::sandbox::{CallKind, Entry};

use super::ACCESS_TOKEN;
use crate::support::api::Api;
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::{MASTER_KEY, Server};
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

const HEALTHY: usize = 500;
const WRONG: usize = 200;
const HANGING: usize = 300;
const LIFETIME: Duration = Duration::from_secs(36);
/// The lead is a quarter of the life, less up to a quarter of that.
const EARLIEST: Duration = Duration::from_secs(27);
const BETWEEN_READS: Duration = Duration::from_millis(200);

/// When three hundred accounts begin to hang.
#[derive(Clone, Copy, PartialEq)]
enum Hanging {
    FromTheStart,
    /// When all of them have a token, and are due again together.
    Later,
}

/// Half of WeChat's usual deadline, in a ninth of the usual lead.
#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_hang_or_have_wrong_secrets_delay_none_of_the_others() {
    five_hundred_broken_accounts(Kind::Postgres, Hanging::FromTheStart, "4s").await;
}

/// A twelfth of the usual deadline, in a twenty-seventh of the usual lead.
#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_begin_to_hang_all_together_delay_none_of_the_others() {
    five_hundred_broken_accounts(Kind::Mysql, Hanging::Later, "700ms").await;
}

fn names(kind: &str, number: usize) -> Vec<String> {
    (0..number).map(|number| format!("wx{kind}{number:03}")).collect()
}

async fn five_hundred_broken_accounts(kind: Kind, begin: Hanging, call_timeout: &str) {
    let db = TestDatabase::create(kind).await;
    let sandbox = TestSandbox::start().await;
    let [healthy, wrong, hanging] = [names("healthy", HEALTHY), names("wrong", WRONG), names("hanging", HANGING)];
    let short = json!({ "lifetime_seconds": LIFETIME.as_secs(), "overlap_seconds": 9,
        "latency_ms": { "min": 20, "max": 60 } });
    for appid in [&healthy, &wrong, &hanging].into_iter().flatten() {
        sandbox.account(appid, &short);
    }
    for appid in &wrong {
        sandbox.account(appid, &json!({ "secret": "ffffffffffffffffffffffffffffffff" }));
    }
    let hang = || hanging.iter().for_each(|appid| sandbox.faults(appid, &json!([{ "kind": "hang_before" }])));
    if begin == Hanging::FromTheStart {
        hang();
    }
    store_accounts(&db, [&healthy, &hanging, &wrong].into_iter().flatten()).await;
    let server = Server::builder().database(&db).wechat(sandbox.url()).env("WXTOKEN_CALL_TIMEOUT", call_timeout);
    let server = server.start().await;
    all_minted(&sandbox, &healthy, 1).await;
    if begin == Hanging::Later {
        all_minted(&sandbox, &hanging, 1).await;
        hang();
    }
    let readers = tokio::spawn(read_all_the_time(server.admin(), hanging.clone()));
    all_minted(&sandbox, &healthy, 2).await;
    readers.abort();
    let mints = mints(&sandbox);
    for appid in &healthy {
        assert_refreshed_in_the_window(appid, &mints[appid]);
        server.admin().token(appid, ACCESS_TOKEN).await.expect_status(200);
    }
    let log = sandbox.sandbox.log(0, None);
    let struck = log.iter().filter(|call| call.fault.is_some()).count();
    assert!(struck > HANGING / 2, "{struck} calls hung");
}

/// Readers of accounts that hang, at any time one for each.
async fn read_all_the_time(admin: Api, appids: Vec<String>) {
    loop {
        join_all(appids.iter().map(|appid| admin.token(appid, ACCESS_TOKEN))).await;
        tokio::time::sleep(BETWEEN_READS).await;
    }
}

/// Registers accounts before the server starts, so that all are due at once.
async fn store_accounts(db: &TestDatabase, appids: impl Iterator<Item = &String>) {
    let opened = Db::open(db.url()).await.expect("it opens");
    bring_up_to_date(&opened).await.expect("it works");
    let sealer = Sealer::new(&MasterKey::parse(MASTER_KEY).expect("a key"));
    let limits = Limits { forced_per_day: 20, forced_gap: Duration::from_secs(30), plain_per_day: 2_000 };
    let store = Store::new(opened, sealer, limits, "test".to_owned());
    let actor = Actor { name: "test".to_owned(), request_id: None };
    for (number, appid) in (0..).zip(appids) {
        let new = NewAccount {
            appid: AppId::parse(appid).expect("an appid"),
            secret: AppSecret::parse(SECRET).expect("a secret"),
            name: String::new(),
            mode: Mode::Stable,
            token_types: TokenTypes::default(),
            enabled: true,
            note: String::new(),
        };
        let created = store.create_account(&new, &actor, Timestamp::from_millis(number)).await.expect("it is written");
        created.expect("there is no such account yet");
    }
    store.close().await;
}

async fn all_minted(sandbox: &TestSandbox, appids: &[String], times: usize) {
    eventually(LIFETIME * 2, "a token of every account", async || {
        let mints = mints(sandbox);
        appids.iter().all(|appid| mints.get(appid).is_some_and(|mints| mints.len() >= times)).then_some(())
    })
    .await;
}

/// When each account's tokens were minted, by the sandbox's log.
fn mints(sandbox: &TestSandbox) -> BTreeMap<String, Vec<i64>> {
    let mut mints = BTreeMap::<_, Vec<_>>::new();
    for Entry { appid, at_ms, minted, call, .. } in sandbox.sandbox.log(0, None) {
        if let (Some(appid), true, CallKind::StableToken) = (appid, minted, call) {
            mints.entry(appid).or_default().push(at_ms);
        }
    }
    mints
}

/// Each token was minted in the last quarter of its predecessor's life.
fn assert_refreshed_in_the_window(appid: &str, mints: &[i64]) {
    let apart = mints.windows(2).map(|pair| Duration::from_millis((pair[1] - pair[0]).unsigned_abs()));
    let apart: Vec<_> = apart.collect();
    assert!(apart.iter().all(|apart| (EARLIEST..LIFETIME).contains(apart)), "{appid} was refreshed after {apart:?}");
}
