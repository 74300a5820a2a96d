//! A deployment on the move: from SQLite to a server, and into a backup and back.

mod backups;
mod bad_backups;
mod columns;
mod meanwhile;
mod moves;
mod refusals;

use std::time::Duration;

use serde_json::{Value, json};

use crate::store::raw::{Raw, TextRow};
use crate::support::api::Api;
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::{MASTER_KEY, Server, ServerBuilder};
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

const BOUND: Duration = Duration::from_secs(20);
const ACCESS: &str = "access_token";

/// Each table of a deployment, with the columns that make up its key.
const TABLES: [(&str, &str); 7] = [
    ("wx_account", "appid"),
    ("wx_token", "appid, token_type"),
    ("wx_refresh_history", "id"),
    ("wx_key", "id"),
    ("wx_mirror", "id"),
    ("wx_audit", "id"),
    ("wx_master_key", "key_id"),
];

/// An SQLite deployment that has seen some life, with its WeChat. No server runs on it.
struct Deployment {
    database: TestDatabase,
    sandbox: TestSandbox,
    /// A key that reads tokens.
    service_key: String,
    /// One that was revoked.
    revoked_key: String,
}

impl Deployment {
    async fn new() -> Self {
        let database = TestDatabase::create(Kind::Sqlite).await;
        let sandbox = TestSandbox::start().await;
        let server = server_on(&database, &sandbox).start().await;
        let admin = server.admin();
        for (appid, mode, types) in [
            ("wx_stable", "stable", json!([ACCESS, "jsapi_ticket"])),
            ("wx_plain", "plain", json!([ACCESS])),
            ("wx_removed", "plain", json!([ACCESS])),
        ] {
            sandbox.account(appid, &json!({}));
            let account =
                json!({ "appid": appid, "secret": SECRET, "mode": mode, "token_types": types, "name": "商店 😀" });
            admin.create_account(&account).await.expect_status(201);
            value(&admin, appid, ACCESS).await;
        }
        value(&admin, "wx_stable", "jsapi_ticket").await;
        admin.refresh("wx_plain", ACCESS, false).await.expect_status(200);
        sandbox.account("wx_broken", &json!({ "secret": "another" }));
        let broken = json!({ "appid": "wx_broken", "secret": SECRET, "enabled": true });
        admin.create_account(&broken).await.expect_status(201);
        eventually(BOUND, "a call that fails", async || (!sandbox.calls("wx_broken").is_empty()).then_some(())).await;
        let mirror = json!({ "format": "easywechat", "target": "redis://:pass@127.0.0.1:9/3", "secret": "configured", "prefix": "p:" });
        admin.post("/v1/accounts/wx_stable/mirrors", &mirror).await.expect_status(201);
        let mirror = json!({ "format": "wxjava", "target": "redis://127.0.0.1:9" });
        admin.post("/v1/accounts/wx_removed/mirrors", &mirror).await.expect_status(201);
        admin.delete("/v1/accounts/wx_removed").await.expect_success();
        let key = |name: &str| json!({ "name": name, "role": "service", "accounts": ["*"] });
        let service_key = admin.create_key(&key("a service")).await;
        let revoked_key = admin.create_key(&key("gone")).await;
        let keys = admin.get("/v1/keys").await.expect_status(200).body;
        let mut keys = keys["items"].as_array().expect("a list").iter();
        let gone = keys.find(|key| key["name"] == "gone").expect("it was made");
        admin.delete(&format!("/v1/keys/{}", gone["id"].as_str().expect("a string"))).await.expect_success();
        end(&server).await;
        Self { database, sandbox, service_key, revoked_key }
    }

    fn calls(&self) -> usize {
        ["wx_stable", "wx_plain", "wx_removed", "wx_broken"].iter().map(|appid| self.sandbox.calls(appid).len()).sum()
    }

    async fn raw(&self) -> Raw {
        Raw::connect(Kind::Sqlite, self.database.url()).await
    }

    /// Adds so many rows to the history, of calls of the day before: a millisecond and a generation apart.
    async fn add_history(&self, rows: u32) {
        let sql = format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             INSERT INTO wx_refresh_history (id, appid, token_type, generation, call_kind, trigger_name, outcome, \
             errcode, errmsg, started_at, duration_ms, expires_in, fingerprint, version, instance) \
             SELECT printf('0190%08d-old', i), 'wx_gone', 'access_token', i, 'mint', 'schedule', 'failure', 40001, \
             '不合法', (CAST(strftime('%s', 'now') AS INTEGER) - 86400) * 1000 + i, i % 900, NULL, NULL, 0, 'one' FROM n"
        );
        assert_eq!(self.raw().await.run(&sql).await, u64::from(rows));
    }

    /// `migrate --to` with this target, to its end.
    async fn move_to(&self, target: &TestDatabase) -> (Option<i32>, String) {
        ended(mover(&self.database, target)).await
    }

    /// The same, and it must succeed; both hold the same rows then.
    async fn moved_to(&self, target: &TestDatabase) -> String {
        let (code, output) = self.move_to(target).await;
        assert_eq!(code, Some(0), "{output}");
        assert!(dump(&self.database).await == dump(target).await, "not every row is the same");
        output
    }
}

fn server_on(database: &TestDatabase, sandbox: &TestSandbox) -> ServerBuilder {
    Server::builder().database(database).wechat(sandbox.url())
}

fn mover(source: &TestDatabase, target: &TestDatabase) -> ServerBuilder {
    mover_to(source, target.url())
}

fn mover_to(source: &TestDatabase, url: &str) -> ServerBuilder {
    Server::command(&["migrate", "--to", url]).env("DATABASE_URL", source.url()).env("WXTOKEN_MASTER_KEY", MASTER_KEY)
}

/// Runs a command to its end. Copying thousands of rows in a debug build takes its time on a loaded machine.
async fn ended(command: ServerBuilder) -> (Option<i32>, String) {
    let command = command.spawn();
    let status = command.wait_exit(Duration::from_secs(120)).await;
    (status.code(), command.output())
}

async fn end(server: &Server) {
    server.terminate();
    let status = server.wait_exit(BOUND).await;
    assert_eq!(status.code(), Some(0), "{}", server.output());
}

/// The token's value, once there is one.
async fn value(api: &Api, appid: &str, token_type: &str) -> String {
    eventually(BOUND, "a token", async || {
        let reply = api.token(appid, token_type).await;
        (reply.status == 200).then(|| reply.body["value"].as_str().expect("a string").to_owned())
    })
    .await
}

/// The rows of every table, each column by its name, booleans spelt alike.
async fn dump(database: &TestDatabase) -> Vec<Vec<TextRow>> {
    let mut raw = Raw::connect(database.kind(), database.url()).await;
    let mut tables = Vec::new();
    for (table, key) in TABLES {
        let columns = columns::of(database.kind(), &mut raw, table).await.join(", ");
        let mut rows = raw.rows(&format!("SELECT {columns} FROM {table} ORDER BY {key}")).await;
        for cell in rows.iter_mut().flatten().flatten() {
            match cell.as_str() {
                "t" => "1".clone_into(cell),
                "f" => "0".clone_into(cell),
                _ => {}
            }
        }
        tables.push(rows);
    }
    tables
}

async fn history(admin: &Api) -> Vec<Value> {
    let page = admin.refreshes("limit=500").await.expect_status(200);
    page.body["items"].as_array().cloned().expect("a list")
}
