//! What the product promises, shown from outside: the real program, real databases, a simulated WeChat.

mod clocks;
mod crashes;
mod crowd;
mod fairness;
mod faults;
mod instances;
mod leaks;
mod pauses;
mod sharing;
mod steadiness;
mod uncommitted;
mod watch;
mod wechat_away;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::database::TestDatabase;
use crate::support::process::{Server, ServerBuilder};
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

const ACCESS_TOKEN: &str = "access_token";

/// One server on a database, with WeChat.
struct Stage {
    sandbox: TestSandbox,
    server: Server,
    admin: Api,
}

impl Stage {
    async fn set(database: &TestDatabase) -> Self {
        Self::set_with(database, |server| server).await
    }

    async fn set_with(database: &TestDatabase, change: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let sandbox = TestSandbox::start().await;
        let server = change(Server::builder().database(database).wechat(sandbox.url())).start().await;
        let admin = server.admin();
        Self { sandbox, server, admin }
    }

    /// Makes an account at WeChat and registers it.
    async fn register(&self, appid: &str, mode: &str, at_wechat: &Value) {
        self.sandbox.account(appid, at_wechat);
        register(&self.admin, appid, mode, json!(["access_token"])).await;
    }

    /// The token's value, once there is one.
    async fn value(&self, appid: &str) -> String {
        value(&self.admin, appid, ACCESS_TOKEN).await
    }
}

pub(crate) async fn register(admin: &Api, appid: &str, mode: &str, token_types: Value) {
    let account = json!({ "appid": appid, "secret": SECRET, "mode": mode, "token_types": token_types });
    admin.create_account(&account).await.expect_status(201);
}

/// The token's value, once there is one; the bound covers a lease that must run out first.
pub(crate) async fn value(api: &Api, appid: &str, token_type: &str) -> String {
    eventually(Duration::from_secs(40), "a token", async || {
        let reply = api.token(appid, token_type).await;
        (reply.status == 200).then(|| reply.body["value"].as_str().expect("a string").to_owned())
    })
    .await
}

/// Every history row of an account, oldest first.
pub(crate) async fn history(admin: &Api, appid: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut cursor = String::new();
    loop {
        let reply = admin.refreshes(&format!("appid={appid}&limit=500{cursor}")).await.expect_status(200);
        rows.extend(reply.body["items"].as_array().expect("a list").iter().cloned());
        match reply.body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    rows.reverse();
    rows
}

/// What a test measured, for whoever runs it with `--nocapture`.
#[expect(clippy::print_stderr, reason = "figures are what these tests are run for, too")]
fn measured(figure: &str) {
    eprintln!("measured: {figure}");
}
