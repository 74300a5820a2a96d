//! Copies of tokens in real Redis and Memcached servers and in files, as SDKs find them.

mod faults;
mod files;
mod formats;
mod instances;
mod requests;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::cache_server::CacheServer;
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::{Server, ServerBuilder};
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

const BOUND: Duration = Duration::from_secs(20);
/// By when what was fetched must be written.
const AT_ONCE: Duration = Duration::from_secs(1);
/// By when what is missing must have been found and written: a look every 5 s, a fifth more or less.
const LOOK_BOUND: Duration = Duration::from_secs(8);
const TOKEN_TYPES: [&str; 3] = ["access_token", "jsapi_ticket", "wx_card_ticket"];

/// One server on SQLite, with WeChat.
struct Stage {
    sandbox: TestSandbox,
    server: Server,
    admin: Api,
    _database: TestDatabase,
}

impl Stage {
    async fn set() -> Self {
        Self::set_with(|server| server).await
    }

    async fn set_with(change: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let (database, sandbox) = (TestDatabase::create(Kind::Sqlite).await, TestSandbox::start().await);
        let server = change(Server::builder().database(&database).wechat(sandbox.url())).start().await;
        let admin = server.admin();
        Self { sandbox, server, admin, _database: database }
    }

    /// Registers an account in plain mode, where each order of a refresh mints, and gives its access token.
    async fn register(&self, appid: &str, token_types: &[&str]) -> String {
        self.sandbox.account(appid, &json!({}));
        let account = json!({ "appid": appid, "secret": SECRET, "mode": "plain", "token_types": token_types });
        self.admin.create_account(&account).await.expect_status(201);
        for token_type in token_types {
            value(&self.admin, appid, token_type).await;
        }
        value(&self.admin, appid, "access_token").await
    }

    /// Has the access token replaced, and gives the new one.
    async fn rotate(&self, appid: &str) -> String {
        rotate(&self.admin, appid).await
    }

    /// Makes a mirror and gives it as it was answered.
    async fn mirror(&self, appid: &str, order: &Value) -> Value {
        self.admin.post(&format!("/v1/accounts/{appid}/mirrors"), order).await.expect_status(201).body
    }

    /// The health of a mirror.
    async fn health(&self, mirror: &Value) -> Value {
        let path = format!("/v1/accounts/{}/mirrors", mirror["appid"].as_str().expect("an appid"));
        let listed = self.admin.get(&path).await.expect_status(200).body;
        let mut items = listed["items"].as_array().expect("a list").iter();
        items.find(|item| item["id"] == mirror["id"]).expect("it is listed")["health"].clone()
    }

    /// Waits until a mirror is in this state, and gives its health.
    async fn has_state(&self, mirror: &Value, state: &str, bound: Duration) -> Value {
        eventually(bound, state, async || {
            let health = self.health(mirror).await;
            (health["state"] == state).then_some(health)
        })
        .await
    }

    async fn verbose(&self) -> String {
        self.admin.get("/readyz?verbose").await.expect_status(200).text
    }
}

async fn rotate(admin: &Api, appid: &str) -> String {
    let before = value(admin, appid, "access_token").await;
    let reply = admin.refresh(appid, "access_token", false).await.expect_status(200);
    let after = reply.body["token"]["value"].as_str().expect("a string").to_owned();
    assert_ne!(before, after, "{}", reply.text);
    after
}

async fn value(admin: &Api, appid: &str, token_type: &str) -> String {
    eventually(BOUND, "a token", async || {
        let reply = admin.token(appid, token_type).await;
        (reply.status == 200).then(|| reply.body["value"].as_str().expect("a string").to_owned())
    })
    .await
}

/// Waits until this stands under a key.
async fn has(server: &CacheServer, key: &str, expected: &str, bound: Duration) {
    eventually(bound, &format!("{expected:?} under {key}"), async || {
        (server.get(key).await.as_deref() == Some(expected)).then_some(())
    })
    .await;
}
