//! The HTTP contract, held by the real program: what each call takes, answers and refuses.

mod accounts;
mod adoption;
mod authorisation;
mod bodies;
mod changes;
mod checks;
mod events;
mod health;
mod history;
mod keys;
mod protocol;
mod signatures;
mod tokens;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::{Server, ServerBuilder};
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

const BOUND: Duration = Duration::from_secs(10);

/// One server with WeChat.
struct House {
    sandbox: TestSandbox,
    server: Server,
    admin: Api,
    database: TestDatabase,
}

impl House {
    async fn open() -> Self {
        Self::on(TestDatabase::create(Kind::Sqlite).await).await
    }

    async fn on(database: TestDatabase) -> Self {
        Self::with(database, |server| server).await
    }

    async fn with(database: TestDatabase, change: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let sandbox = TestSandbox::start().await;
        let server = change(Server::builder().database(&database).wechat(sandbox.url())).start().await;
        let admin = server.admin();
        Self { sandbox, server, admin, database }
    }

    /// Makes an account at WeChat and registers it with `fields` beside its appid and secret.
    async fn register(&self, appid: &str, fields: Value) -> Value {
        self.sandbox.account(appid, &json!({}));
        let mut account = json!({ "appid": appid, "secret": SECRET });
        for (name, value) in fields.as_object().expect("fields are an object") {
            account[name] = value.clone();
        }
        self.admin.create_account(&account).await.expect_status(201).body
    }

    /// The access token of an account that has one or can get one.
    async fn value(&self, appid: &str) -> String {
        text(&self.admin.token(appid, "access_token").await.expect_status(200).body["value"])
    }

    /// Waits until the account, as admins see it, has this health, and gives the account.
    async fn has_health(&self, appid: &str, health: &str) -> Value {
        let path = format!("/v1/accounts/{appid}");
        eventually(BOUND, health, async || {
            let account = self.admin.get(&path).await.expect_status(200).body;
            (account["health"] == health).then_some(account)
        })
        .await
    }

    /// A key of these accounts and actions; `null` for the usual actions.
    async fn key(&self, accounts: &Value, actions: &Value) -> Api {
        let order = json!({ "name": "test", "role": "service", "accounts": accounts, "actions": actions });
        self.admin.with_key(&self.admin.create_key(&order).await)
    }
}

/// The names of an object's members, in alphabetical order.
#[track_caller]
fn members(object: &Value) -> Vec<&str> {
    object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().map(String::as_str).collect()
}

#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no string: {value}")).to_owned()
}

#[track_caller]
fn items(page: &Value) -> &Vec<Value> {
    assert_eq!(members(page), ["items", "next"]);
    page["items"].as_array().expect("a list")
}

/// RFC 3339 in UTC with milliseconds.
fn is_time(value: &Value) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd.dddZ";
    value.as_str().is_some_and(|text| {
        text.len() == pattern.len()
            && text.chars().zip(pattern.chars()).all(|(letter, wanted)| match wanted {
                'd' => letter.is_ascii_digit(),
                other => letter == other,
            })
    })
}

/// `Retry-After` names a wait of sound length.
#[track_caller]
fn assert_wait(header: &str, longest: u32) {
    let seconds: u32 = header.parse().unwrap_or_else(|_| panic!("no seconds: {header:?}"));
    assert!((1..=longest).contains(&seconds), "{seconds} s");
}
