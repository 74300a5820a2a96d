//! SDKs that find their tokens in a store, where a mirror writes them, and never ask for any.

use std::time::Duration;

use serde_json::json;
use wxtoken::wechat::sandbox::Line;

use super::script::{Runtime, Script};
use super::{APPID, CALL, Calls, Client, LINES, Shop, sent};
use crate::support::cache_server::{CacheKind, CacheServer};
use crate::support::wait::eventually;

const BOUND: Duration = Duration::from_secs(20);

/// A store with the tokens of the shop in it, as wechatpy keeps them there.
async fn filled(shop: &Shop, kind: CacheKind) -> CacheServer {
    let store = CacheServer::start(kind).await;
    let order = json!({ "format": "wechatpy", "target": store.target() });
    shop.server.admin().post(&format!("/v1/accounts/{APPID}/mirrors"), &order).await.expect_status(201);
    for name in ["access_token", "access_token_expires_at", "jsapi_ticket", "jsapi_ticket_expires_at"] {
        let key = format!("wechatpy:{APPID}_{name}");
        eventually(BOUND, &key, async || store.get(&key).await).await;
    }
    store
}

async fn works_on(kind: CacheKind, runtime: Runtime, line: Line) {
    let shop = Shop::open(line, None).await;
    let (old, ticket) = (shop.served("access_token").await, shop.served("jsapi_ticket").await);
    let store = filled(&shop, kind).await;
    let mut settings = shop.settings(Calls::Here);
    settings["store"] = if kind == CacheKind::Redis { "redis".into() } else { "memcached".into() };
    settings["port"] = store.port().into();
    let mut client = Client::new(Script::start(runtime, "wechatpy_store.py", settings, &[]), Calls::Here);

    for (command, expected) in [("token", &old), ("ticket", &ticket)] {
        let found = client.script.tell(command).await;
        assert_eq!((found.text(), sent(&found)), (expected.as_str(), vec![]), "{command}");
    }
    client.calls_with(&[CALL]).await;
    client.survives_a_foreign_mint(&shop, &old).await;
    let new = shop.served("access_token").await;
    eventually(BOUND, "the new token in the store", async || {
        let found = client.script.tell("token").await;
        assert!(found.requests.is_empty(), "{found:?}");
        (found.text() == new).then_some(())
    })
    .await;
    assert!(shop.sandbox.accepts(&new));
    client.calls_with(&[CALL]).await;
}

#[tokio::test]
async fn wechatpy_reads_from_redis() {
    for line in LINES {
        works_on(CacheKind::Redis, Runtime::Python, line).await;
    }
}

#[tokio::test]
async fn the_next_wechatpy_reads_from_redis() {
    for line in LINES {
        works_on(CacheKind::Redis, Runtime::PythonNext, line).await;
    }
}

#[tokio::test]
async fn wechatpy_reads_from_memcached() {
    for line in LINES {
        works_on(CacheKind::Memcached, Runtime::Python, line).await;
    }
}

#[tokio::test]
async fn the_next_wechatpy_reads_from_memcached() {
    for line in LINES {
        works_on(CacheKind::Memcached, Runtime::PythonNext, line).await;
    }
}
