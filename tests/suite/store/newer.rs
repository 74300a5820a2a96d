//! A schema with later steps than this program knows, as it is found while a fleet is upgraded.

use std::time::Duration;

use serde_json::json;
use wxtoken::store::StoreError;
use wxtoken::store::db::Db;
use wxtoken::store::migrate::{Schema, bring_up_to_date, inspect, latest};
use wxtoken::wechat::sandbox::Line;

use super::migrations::UNDO_LAST_STEP;
use super::raw::Raw;
use crate::support::api::Api;
use crate::support::database::{Kind, on_every_database};
use crate::support::process::Server;
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

const TABLES: [&str; 7] =
    ["wx_account", "wx_token", "wx_refresh_history", "wx_key", "wx_mirror", "wx_audit", "wx_master_key"];
const BOUND: Duration = Duration::from_secs(20);

async fn note(raw: &mut Raw, version: i64, description: &str) {
    raw.run(&format!(
        "INSERT INTO wx_migrations (version, description, success, checksum, execution_time)
         SELECT {version}, '{description}', success, checksum, 0 FROM wx_migrations WHERE version = 1"
    ))
    .await;
}

/// What a later program may have done to the schema: everything that the rules for steps allow.
async fn add_steps(raw: &mut Raw) {
    for table in TABLES {
        raw.run(&format!("ALTER TABLE {table} ADD COLUMN later_text TEXT")).await;
        raw.run(&format!("ALTER TABLE {table} ADD COLUMN later_count BIGINT NOT NULL DEFAULT 0")).await;
    }
    note(raw, latest() + 1, &format!("later_columns (works with {} and later)", latest())).await;
    raw.run("CREATE TABLE wx_later (id BIGINT NOT NULL PRIMARY KEY)").await;
    raw.run("CREATE INDEX wx_token_later ON wx_token (later_count)").await;
    note(raw, latest() + 2, &format!("later_table (works with {} and later)", latest() - 1)).await;
}

async fn register(admin: &Api, appid: &str) {
    let account = json!({ "appid": appid, "secret": SECRET, "token_types": ["access_token", "jsapi_ticket"] });
    admin.create_account(&account).await.expect_status(201);
}

async fn value(api: &Api, appid: &str, token_type: &str) -> String {
    eventually(BOUND, "a token", async || {
        let reply = api.token(appid, token_type).await;
        (reply.status == 200).then(|| reply.body["value"].as_str().expect("a string").to_owned())
    })
    .await
}

/// Everything that is done with an account, from its registration to its removal.
async fn work(admin: &Api, sandbox: &TestSandbox, appid: &str) {
    sandbox.account(appid, &json!({ "lifetime_seconds": 8, "overlap_seconds": 3 }));
    register(admin, appid).await;
    let first = value(admin, appid, "access_token").await;
    value(admin, appid, "jsapi_ticket").await;
    sandbox.kill(appid, Line::Stable);
    let report = admin.report(appid, "access_token", &first).await.expect_status(200);
    assert_eq!(report.body["verdict"], "replaced");
    admin.refresh(appid, "access_token", false).await.expect_status(200);
    eventually(BOUND, "a scheduled refresh", async || {
        let rows = admin.refreshes(&format!("appid={appid}&trigger=schedule&token_type=access_token")).await;
        let rows = rows.expect_status(200).body["items"].as_array().expect("a list").len();
        (rows > 0).then_some(())
    })
    .await;
    admin.patch(&format!("/v1/accounts/{appid}"), &json!({ "name": "Shop", "mode": "plain" })).await.expect_status(200);
    value(admin, appid, "access_token").await;
    let made = admin.post("/v1/keys", &json!({ "name": "shop", "role": "service", "accounts": [appid] })).await;
    let made = made.expect_status(201);
    let service = admin.with_key(made.body["key"].as_str().expect("shown once"));
    value(&service, appid, "access_token").await;
    let id = made.body["id"].as_str().expect("an id").to_owned();
    admin.delete(&format!("/v1/keys/{id}")).await.expect_status(204);
    admin.delete(&format!("/v1/accounts/{appid}")).await.expect_success();
    admin.token(appid, "access_token").await.expect_status(404);
}

on_every_database! {
    async fn this_program_works_on_with_the_steps_of_later_ones(database: TestDatabase) {
        let sandbox = TestSandbox::start().await;
        let start = || Server::builder().database(&database).wechat(sandbox.url()).start();
        let server = start().await;
        sandbox.account("wxold", &json!({}));
        register(&server.admin(), "wxold").await;
        let kept = value(&server.admin(), "wxold", "access_token").await;
        let mut raw = Raw::connect(database.kind(), database.url()).await;
        add_steps(&mut raw).await;
        work(&server.admin(), &sandbox, "wx1").await;
        if database.kind() != Kind::Sqlite {
            let second = start().await;
            work(&second.admin(), &sandbox, "wx2").await;
            work(&server.admin(), &sandbox, "wx3").await;
        }
        server.terminate();
        assert!(server.wait_exit(BOUND).await.success());
        let server = start().await;
        assert_eq!(value(&server.admin(), "wxold", "access_token").await, kept);
        work(&server.admin(), &sandbox, "wx4").await;
        for view in ["wx_report_refreshes", "wx_report_accounts"] {
            assert!(!raw.rows(&format!("SELECT appid FROM {view}")).await.is_empty(), "{view}");
        }
        assert_eq!(raw.one("SELECT COUNT(*) FROM wx_migrations").await, (latest() + 2).to_string());
    }

    async fn a_newer_schema_is_served_by_the_programs_that_its_steps_name(database: TestDatabase) {
        let db = Db::open(database.url()).await.expect("it opens");
        bring_up_to_date(&db).await.expect("it works");
        let mut raw = Raw::connect(database.kind(), database.url()).await;
        let (next, after_next) = (latest() + 1, latest() + 2);
        note(&mut raw, next, &format!("later (works with {} and later)", latest())).await;
        assert_eq!(bring_up_to_date(&db).await.expect("it is served"), Schema::Newer { found: next });
        note(&mut raw, after_next, "much_later (works with 3 and later)").await;
        assert_eq!(bring_up_to_date(&db).await.expect("it is served"), Schema::Newer { found: after_next });
        // Begun and not done, as MySQL shows it to others while it goes on.
        raw.run(&format!("UPDATE wx_migrations SET success = FALSE WHERE version = {after_next}")).await;
        let before = raw.rows("SELECT version, description, success FROM wx_migrations ORDER BY version").await;
        assert_eq!(bring_up_to_date(&db).await.expect("it is served"), Schema::Newer { found: after_next });
        assert_eq!(raw.rows("SELECT version, description, success FROM wx_migrations ORDER BY version").await, before);
        // Two levels apart: the step after the next one asks for the next one's program.
        raw.run(&format!("UPDATE wx_migrations SET description = 'x (works with {next} and later)' WHERE version = {after_next}")).await;
        let error = inspect(&db).await.expect_err("it is refused");
        assert!(matches!(error, StoreError::NewerSchema { found, known } if found == after_next && known == latest()));
    }

    async fn a_step_of_ours_is_made_up_for_beside_a_later_one(database: TestDatabase) {
        let db = Db::open(database.url()).await.expect("it opens");
        bring_up_to_date(&db).await.expect("it works");
        let mut raw = Raw::connect(database.kind(), database.url()).await;
        note(&mut raw, latest() + 1, &format!("later (works with {} and later)", latest())).await;
        raw.run(UNDO_LAST_STEP).await;
        raw.run(&format!("DELETE FROM wx_migrations WHERE version = {}", latest())).await;
        assert_eq!(bring_up_to_date(&db).await.expect("it works"), Schema::Older { found: latest() - 1 });
        assert_eq!(inspect(&db).await.expect("it reads"), Schema::Newer { found: latest() + 1 });
        raw.rows("SELECT appid FROM wx_mirror").await;
    }
}
