//! WeChat's own shapes, as SDKs see them: the real program between a client and a simulated WeChat.

mod asked_again;
mod bad_input;
mod changes;
mod crowd;
mod lifetimes;
mod shapes;
mod streams;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use wxtoken::wechat::sandbox::{CallKind, Entry, Line};

use crate::support::api::{Api, Reply};
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::{Server, ServerBuilder};
use crate::support::sandbox::{SECRET, TestSandbox};

const APPID: &str = "wx448f04719cd48f69";
const BOUND: Duration = Duration::from_secs(10);

/// One server with WeChat, an account, and a key that an SDK shows in the place of the account's AppSecret.
struct Shop {
    sandbox: TestSandbox,
    server: Server,
    admin: Api,
    key: String,
    _database: TestDatabase,
}

impl Shop {
    async fn open() -> Self {
        Self::with(&json!({}), |server| server).await
    }

    async fn with(account: &Value, change: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let database = TestDatabase::create(Kind::Sqlite).await;
        let sandbox = TestSandbox::start().await;
        // WeChat's own gap would make a second killed token of a test wait for half a minute.
        let server = Server::builder().database(&database).wechat(sandbox.url()).env("WXTOKEN_FORCED_GAP", "1s");
        let server = change(server).start().await;
        let admin = server.admin();
        let mut shop = Self { sandbox, server, admin, key: String::new(), _database: database };
        shop.register(APPID, account).await;
        shop.key = shop.service_key(&json!({ "accounts": [APPID] })).await;
        shop
    }

    /// Makes an account at WeChat and registers it.
    async fn register(&self, appid: &str, fields: &Value) {
        self.sandbox.account(appid, &json!({ "force_gap_seconds": 1 }));
        let mut account = json!({ "appid": appid, "secret": SECRET });
        for (name, value) in fields.as_object().expect("fields are an object") {
            account[name] = value.clone();
        }
        self.admin.create_account(&account).await.expect_status(201);
    }

    async fn service_key(&self, fields: &Value) -> String {
        let mut order = json!({ "name": "sdk", "role": "service" });
        for (name, value) in fields.as_object().expect("fields are an object") {
            order[name] = value.clone();
        }
        self.admin.create_key(&order).await
    }

    /// `GET /cgi-bin/token` as every SDK sends it.
    async fn ask(&self, key: &str) -> Reply {
        self.get(&token_path(APPID, key)).await
    }

    /// The token that an SDK is given.
    async fn token(&self) -> String {
        access_token(&self.ask(&self.key).await)
    }

    async fn get(&self, path: &str) -> Reply {
        Reply::of(self.admin.keyless(Method::GET, path)).await
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Reply {
        Reply::of(self.admin.keyless(Method::POST, path).body(body)).await
    }

    /// What WeChat was sent by a call to one of the simulator's paths that tell.
    async fn echo(&self, path: &str) -> Value {
        let reply = self.get(path).await.expect_status(200);
        assert_eq!(reply.body["errcode"], 0, "{}", reply.text);
        reply.body
    }

    fn kill(&self) {
        self.sandbox.kill(APPID, Line::Stable);
    }

    fn calls_of(&self, kind: CallKind) -> Vec<Entry> {
        self.sandbox.calls(APPID).into_iter().filter(|entry| entry.call == kind).collect()
    }

    /// How often WeChat was asked whether a token is good, and how many it minted.
    fn spent(&self) -> (u64, u64) {
        let witness = self.sandbox.witness(APPID, "access_token");
        (witness.probes, witness.mints)
    }
}

fn token_path(appid: &str, key: &str) -> String {
    format!("/cgi-bin/token?grant_type=client_credential&appid={appid}&secret={key}")
}

#[track_caller]
fn access_token(reply: &Reply) -> String {
    reply.body["access_token"].as_str().unwrap_or_else(|| panic!("no token: {}", reply.text)).to_owned()
}

/// A refusal in WeChat's shape, with HTTP status 200.
#[track_caller]
fn refused(reply: &Reply, errcode: i64, errmsg: &str) {
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.body["errcode"], errcode, "{}", reply.text);
    let text = reply.body["errmsg"].as_str().expect("a text");
    assert!(text.starts_with(errmsg) && text.contains(" rid: "), "{text}");
    assert_eq!(reply.header("content-type"), "application/json; encoding=utf-8");
}
