//! What the calls for mirrors take, answer and refuse.

use serde_json::{Value, json};

use super::Stage;
use crate::support::cache_server::{CacheKind, CacheServer};
use crate::support::database::on_every_database;
use crate::support::process::Server;
use crate::support::sandbox::TestSandbox;

const PATH: &str = "/v1/accounts/wx1/mirrors";

#[tokio::test(flavor = "multi_thread")]
async fn bad_orders_are_refused_with_the_field_and_are_not_repeated() {
    let stage = Stage::set().await;
    stage.register("wx1", &["access_token"]).await;
    let redis = "redis://127.0.0.1:1";
    for (order, pointer) in [
        (json!({ "format": "canary", "target": redis }), "/format"),
        (json!({ "format": "wxjava", "target": "canary" }), "/target"),
        (json!({ "format": "wxjava", "target": "https://canary" }), "/target"),
        (json!({ "format": "wxjava", "target": "redis://canary@h" }), "/target"),
        (json!({ "format": "wxjava", "target": "memcached://h" }), "/target"),
        (json!({ "format": "json", "target": redis }), "/target"),
        (json!({ "format": "json", "target": "file:../canary" }), "/target"),
        (json!({ "format": "json", "target": "file:shop.json" }), "/target"),
        (json!({ "format": "wxjava", "target": redis, "secret": "canary" }), "/secret"),
        (json!({ "format": "easywechat", "target": redis }), "/secret"),
        (json!({ "format": "easywechat", "target": redis, "secret": "canary\n" }), "/secret"),
        (json!({ "format": "wechatpy", "target": redis, "prefix": "can ary" }), "/prefix"),
        (json!({ "format": "silenceper", "target": redis, "app": "canary" }), "/app"),
        (json!({ "format": "plain", "target": redis }), "/key"),
        (json!({ "format": "plain", "target": redis, "key": "k\r\nFLUSHALL" }), "/key"),
        (json!({ "format": "plain", "target": redis, "key": "k", "value": "canary" }), "/value"),
        (json!({ "format": "plain", "target": redis, "key": "k", "token_type": "canary" }), "/token_type"),
    ] {
        let reply = stage.admin.post(PATH, &order).await.expect_problem(422, "invalid_field");
        assert_eq!(reply.body["errors"][0]["pointer"], pointer, "{order}: {}", reply.text);
        assert!(!reply.text.contains("canary"), "{}", reply.text);
    }
    for order in [
        json!({ "format": "wxjava", "target": redis, "canary": 1 }),
        json!({ "format": "wxjava" }),
        json!({ "target": redis }),
        json!({ "format": 7, "target": redis }),
        json!([]),
    ] {
        stage.admin.post(PATH, &order).await.expect_problem(400, "invalid_request");
    }
    let order = json!({ "format": "wxjava", "target": redis });
    stage.admin.post("/v1/accounts/wx2/mirrors", &order).await.expect_problem(404, "unknown_account");
    stage.admin.get("/v1/accounts/wx2/mirrors").await.expect_problem(404, "unknown_account");
    stage.admin.get(&format!("{PATH}?limit=1")).await.expect_problem(400, "invalid_request");
    stage.admin.delete(&format!("{PATH}/0")).await.expect_problem(404, "unknown_mirror");
    let listed = stage.admin.get(PATH).await.expect_status(200).body;
    assert_eq!(listed, json!({ "items": [], "next": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_made_by_whoever_may_read_tokens_too() {
    let stage = Stage::set().await;
    stage.register("wx1", &["access_token"]).await;
    let key = async |actions: Value| {
        let order = json!({ "name": "test", "role": "service", "accounts": ["*"], "actions": actions });
        let made = stage.admin.post("/v1/keys", &order).await.expect_status(201).body;
        stage.admin.with_key(made["key"].as_str().expect("a key"))
    };
    let order = json!({ "format": "wxjava", "target": "redis://127.0.0.1:1" });
    let writer = key(json!(["account:read", "account:write"])).await;
    let refused = writer.post(PATH, &order).await.expect_problem(403, "insufficient_scope");
    assert!(refused.header("www-authenticate").contains("scope=\"token:read\""), "{}", refused.text);
    assert_eq!(writer.get(PATH).await.expect_status(200).body["items"], json!([]));
    let both = key(json!(["token:read", "account:write"])).await;
    let made = both.post(PATH, &order).await.expect_status(201).body;
    // What was made anybody who may change the account can end.
    let path = format!("{PATH}/{}", made["id"].as_str().expect("an id"));
    writer.delete(&path).await.expect_status(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_mirrors_never_fight_over_a_key() {
    let stage = Stage::set().await;
    stage.register("wx1", &["access_token"]).await;
    stage.register("wx2", &["access_token"]).await;
    let plain = |key: &str, target: &str| json!({ "format": "plain", "target": target, "key": key });
    stage.mirror("wx1", &plain("access_token", "redis://127.0.0.1:1")).await;
    let refused = [
        ("wx1", plain("access_token", "redis://127.0.0.1:1/0")),
        ("wx2", plain("access_token", "rediss://u:p@127.0.0.1:1/")),
    ];
    for (appid, order) in refused {
        stage.admin.post(&format!("/v1/accounts/{appid}/mirrors"), &order).await.expect_problem(409, "mirror_exists");
    }
    for order in [plain("access_token", "redis://127.0.0.1:1/1"), plain("access_token_{appid}", "redis://127.0.0.1:1")]
    {
        stage.mirror("wx2", &order).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_at_most_twenty_mirrors() {
    let stage = Stage::set().await;
    stage.register("wx1", &["access_token"]).await;
    let order = |number: u32| json!({ "format": "plain", "target": "redis://127.0.0.1:1", "key": number.to_string() });
    for number in 0..20 {
        stage.mirror("wx1", &order(number)).await;
    }
    stage.admin.post(PATH, &order(20)).await.expect_problem(409, "too_many_mirrors");
    let listed = stage.admin.get(PATH).await.expect_status(200).body;
    let items = listed["items"].as_array().expect("a list");
    assert_eq!(items.len(), 20);
    let path = format!("{PATH}/{}", items[7]["id"].as_str().expect("an id"));
    stage.admin.delete(&path).await.expect_status(204);
    stage.mirror("wx1", &order(20)).await;
}

on_every_database! {
    async fn a_mirror_outlives_a_restart_and_shows_what_it_is(database: TestDatabase) {
        let (sandbox, redis) = (TestSandbox::start().await, CacheServer::start(CacheKind::Redis).await);
        let start = || Server::builder().database(&database).wechat(sandbox.url()).start();
        let server = start().await;
        sandbox.account("wx1", &json!({}));
        super::super::promises::register(&server.admin(), "wx1", "stable", json!(["access_token"])).await;
        let order = json!({ "format": "easywechat", "target": redis.target(), "secret": "configured", "prefix": "p:" });
        let made = server.admin().post(PATH, &order).await.expect_status(201).body;
        let token = super::value(&server.admin(), "wx1", "access_token").await;
        let (key, expected) = ("p:official_account.access_token.wx1.configured.0", format!("s:{}:\"{token}\";", token.len()));
        super::has(&redis, key, &expected, super::BOUND).await;
        server.terminate();
        assert!(server.wait_exit(super::BOUND).await.success());
        redis.flush().await;
        let server = start().await;
        super::has(&redis, key, &expected, super::BOUND).await;
        let mut listed = server.admin().get(PATH).await.expect_status(200).body;
        let mut shown = listed["items"][0].take();
        assert!(shown["health"]["last_written_at"].is_string(), "{shown}");
        let mut made = made;
        for mirror in [&mut made, &mut shown] {
            mirror["health"] = Value::Null;
        }
        assert_eq!(shown, made);
        assert_eq!(shown["serializer"], "php");
        assert!(shown.get("secret").is_none() && shown.get("key").is_none(), "{shown}");
        server.admin().delete("/v1/accounts/wx1").await.expect_success();
        let gone = async || redis.get(key).await.is_none().then_some(());
        crate::support::wait::eventually(super::LOOK_BOUND, "the keys to go", gone).await;
    }
}
