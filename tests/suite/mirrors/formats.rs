//! Byte for byte what each SDK reads, and how long it stays.

use std::time::Duration;

use serde_json::{Value, json};
use wxtoken::domain::timestamp::Timestamp;

use super::{AT_ONCE, BOUND, Stage, TOKEN_TYPES, has, value};
use crate::support::cache_server::{CacheKind, CacheServer};
use crate::support::wait::eventually;

/// What the account has.
struct Tokens {
    access: String,
    jsapi: String,
    card: String,
}

async fn tokens(stage: &Stage) -> Tokens {
    let value = async |token_type| value(&stage.admin, "wx1", token_type).await;
    Tokens {
        access: value("access_token").await,
        jsapi: value("jsapi_ticket").await,
        card: value("wx_card_ticket").await,
    }
}

/// A ticket is asked for again after a quarter of its two hours, less a sixteenth at most, and may be replaced then; a copy is good for 240 s more.
const TICKET_SECONDS: std::ops::RangeInclusive<i64> = 1_570..=2_040;
/// An access token is refreshed in its last minutes, so it lives to its end.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 7_100..=7_200;

async fn expect(server: &CacheServer, key: &str, expected: &str, is_ticket: bool) {
    has(server, key, expected, BOUND).await;
    let left = server.seconds_left(key).await;
    let fits = if is_ticket { TICKET_SECONDS } else { TOKEN_SECONDS };
    assert!(fits.contains(&left), "{key} stays for {left} s");
}

/// An integer of Unix seconds that fits the time for which its key stays.
async fn expect_time(server: &CacheServer, key: &str) {
    let text = eventually(BOUND, key, async || server.get(key).await).await;
    let now = wxtoken::clock::Clock::new().now();
    let until = Timestamp::from_millis(text.parse::<i64>().expect("a number") * 1_000);
    let left = i64::try_from(until.since(now).as_secs()).expect("seconds");
    assert!((left - server.seconds_left(key).await).abs() <= 3, "{key}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_holds_what_each_sdk_reads() {
    let (stage, redis) = (Stage::set().await, CacheServer::start_with_password().await);
    stage.register("wx1", &TOKEN_TYPES).await;
    let target = redis.target();
    for order in [
        json!({ "format": "wxjava", "target": target }),
        json!({ "format": "wxjava", "target": target, "prefix": "wx:mp:multi" }),
        json!({ "format": "silenceper", "target": target }),
        json!({ "format": "silenceper", "target": target, "app": "mini_program" }),
        json!({ "format": "powerwechat", "target": target, "secret": "configured" }),
        json!({ "format": "wechatpy", "target": target }),
        json!({ "format": "easywechat", "target": target, "secret": "configured", "prefix": "easywechat:" }),
        json!({ "format": "easywechat", "target": target, "secret": "c2", "app": "mini_program", "serializer": "plain" }),
        json!({ "format": "plain", "target": target, "key": "php:{appid}", "value": "s:{length}:\"{value}\";" }),
    ] {
        let made = stage.mirror("wx1", &order).await;
        assert_eq!(made["target"], redis.shown(), "without the password");
    }
    let Tokens { access, jsapi, card } = tokens(&stage).await;
    let php = |text: &str| format!("s:{}:\"{text}\";", text.len());
    for prefix in ["wx", "wx:mp:multi"] {
        expect(&redis, &format!("{prefix}:access_token:wx1"), &access, false).await;
        expect(&redis, &format!("{prefix}:ticket:key:wx1:jsapi"), &jsapi, true).await;
        expect(&redis, &format!("{prefix}:ticket:key:wx1:wx_card"), &card, true).await;
    }
    for app in ["officialaccount", "miniprogram"] {
        expect(&redis, &format!("gowechat_{app}__access_token_wx1"), &access, false).await;
        expect(&redis, &format!("gowechat_{app}__stable_access_token_wx1"), &access, false).await;
        expect(&redis, &format!("gowechat_{app}__jsapi_ticket_wx1"), &jsapi, true).await;
    }
    for stable in [0, 1] {
        let key = format!("easywechat:official_account.access_token.wx1.configured.{stable}");
        expect(&redis, &key, &php(&access), false).await;
        expect(&redis, &format!("mini_app.access_token.wx1.c2.{stable}"), &access, false).await;
    }
    expect(&redis, "easywechat:official_account.jsapi_ticket.wx1", &php(&jsapi), true).await;
    expect(&redis, "mini_app.jsapi_ticket.wx1", &jsapi, true).await;
    expect(&redis, "php:wx1", &php(&access), false).await;
    expect_wechatpy(&redis, &Tokens { access, jsapi, card }).await;
    expect_powerwechat(&stage, &redis).await;
}

async fn expect_wechatpy(server: &CacheServer, tokens: &Tokens) {
    for (name, text, is_ticket) in [
        ("access_token", &tokens.access, false),
        ("jsapi_ticket", &tokens.jsapi, true),
        ("jsapi_card_ticket", &tokens.card, true),
    ] {
        let key = format!("wechatpy:wx1_{name}");
        expect(server, &key, &format!("\"{text}\""), is_ticket).await;
        expect_time(server, &format!("{key}_expires_at")).await;
    }
}

/// PowerWeChat takes the number for a float without looking, and ends the program when it is none.
async fn expect_powerwechat(stage: &Stage, redis: &CacheServer) {
    // md5 of `wx1configured`.
    let token = "powerwechat.access_token.7c877e7de39c34d8a604f8c18ab44037";
    let ticket = "powerwechat.basic_service.jssdk.ticket";
    let (jsapi, card) = (format!("{ticket}.jsapi.wx1"), format!("{ticket}.wx_card.wx1"));
    for (key, name, token_type) in [
        (token, "access_token", "access_token"),
        (&jsapi, "ticket", "jsapi_ticket"),
        (&card, "ticket", "wx_card_ticket"),
    ] {
        let text = eventually(BOUND, key, async || redis.get(key).await).await;
        let object: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(object[name], value(&stage.admin, "wx1", token_type).await);
        let seconds = object["expires_in"].as_i64().expect("a whole number");
        assert!((seconds - redis.seconds_left(key).await).abs() <= 3, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memcached_holds_what_each_sdk_reads() {
    let (stage, memcached) = (Stage::set().await, CacheServer::start(CacheKind::Memcached).await);
    stage.register("wx1", &TOKEN_TYPES).await;
    let target = memcached.target();
    let ticket = r#"{"t":"{value}","e":{expires_at}}"#;
    for order in [
        json!({ "format": "silenceper", "target": target }),
        json!({ "format": "wechatpy", "target": target }),
        json!({ "format": "plain", "target": target, "key": "access_token" }),
        json!({ "format": "plain", "target": target, "key": "ticket", "token_type": "jsapi_ticket", "value": ticket }),
    ] {
        stage.mirror("wx1", &order).await;
    }
    let tokens = tokens(&stage).await;
    let json = |text: &str| format!("\"{text}\"");
    expect(&memcached, "gowechat_officialaccount__access_token_wx1", &json(&tokens.access), false).await;
    expect(&memcached, "gowechat_officialaccount__stable_access_token_wx1", &json(&tokens.access), false).await;
    expect(&memcached, "gowechat_officialaccount__jsapi_ticket_wx1", &json(&tokens.jsapi), true).await;
    expect(&memcached, "access_token", &tokens.access, false).await;
    expect_wechatpy(&memcached, &tokens).await;
    let text = eventually(BOUND, "the ticket", async || memcached.get("ticket").await).await;
    let object: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(object["t"], tokens.jsapi);
    assert!(object["e"].is_i64(), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_is_written_at_once_wherever_it_is_mirrored() {
    let stage = Stage::set().await;
    let redis = CacheServer::start(CacheKind::Redis).await;
    let memcached = CacheServer::start(CacheKind::Memcached).await;
    let first = stage.register("wx1", &["access_token"]).await;
    stage.mirror("wx1", &json!({ "format": "wxjava", "target": redis.target() })).await;
    stage.mirror("wx1", &json!({ "format": "wechatpy", "target": redis.target() })).await;
    stage.mirror("wx1", &json!({ "format": "plain", "target": memcached.target(), "key": "access_token" })).await;
    has(&redis, "wx:access_token:wx1", &first, BOUND).await;
    has(&memcached, "access_token", &first, BOUND).await;
    for _ in 0..5 {
        let next = stage.rotate("wx1").await;
        let quoted = format!("\"{next}\"");
        tokio::join!(
            has(&redis, "wx:access_token:wx1", &next, AT_ONCE),
            has(&redis, "wechatpy:wx1_access_token", &quoted, AT_ONCE),
            has(&memcached, "access_token", &next, AT_ONCE),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_never_outlives_its_token() {
    let (stage, redis) = (Stage::set().await, CacheServer::start(CacheKind::Redis).await);
    let memcached = CacheServer::start(CacheKind::Memcached).await;
    stage.register("wx1", &["access_token"]).await;
    let keys = [(&redis, "wx:access_token:wx1"), (&memcached, "access_token")];
    stage.mirror("wx1", &json!({ "format": "wxjava", "target": redis.target() })).await;
    stage.mirror("wx1", &json!({ "format": "plain", "target": memcached.target(), "key": "access_token" })).await;
    stage.sandbox.account("wx1", &json!({ "lifetime_seconds": 12, "overlap_seconds": 3 }));
    let last = stage.rotate("wx1").await;
    for (server, key) in keys {
        has(server, key, &last, AT_ONCE).await;
        assert!((0..=12).contains(&server.seconds_left(key).await));
    }
    // No other comes: WeChat refuses the secret from now on.
    stage.sandbox.account("wx1", &json!({ "secret": "another" }));
    for (server, key) in keys {
        let gone = async || server.get(key).await.is_none().then_some(());
        eventually(Duration::from_secs(14), "the copy to end", gone).await;
    }
    stage.admin.token("wx1", "access_token").await.expect_problem(503, "no_valid_token");
}
