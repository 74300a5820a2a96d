//! From SQLite to a server: everything is there, broken off or repeated, and is served there.

use std::time::Duration;

use serde_json::json;

use super::{ACCESS, Deployment, dump, end, ended, history, mover, server_on, value};
use crate::store::raw::Raw;
use crate::support::api::Api;
use crate::support::database::{Kind, TestDatabase, on_both_servers};
use crate::support::process::{ADMIN_KEY, MASTER_KEY, Server};
use crate::support::sandbox::SECRET;
use crate::support::wait::eventually;

const LONG_HISTORY: u32 = 15_000;

async fn rows(target: &TestDatabase, table: &str) -> u32 {
    let mut raw = Raw::connect(target.kind(), target.url()).await;
    let count = raw.one(&format!("SELECT COUNT(*) FROM {table}")).await;
    count.parse().expect("a number")
}

on_both_servers! {
    async fn the_same_tokens_keys_and_history_are_served_after_the_move(target: TestDatabase) {
        let deployment = Deployment::new().await;
        let server = server_on(&deployment.database, &deployment.sandbox).start().await;
        let before = [
            value(&server.admin(), "wx_stable", ACCESS).await,
            value(&server.admin(), "wx_plain", ACCESS).await,
            value(&server.admin(), "wx_stable", "jsapi_ticket").await,
        ];
        let rows_before = history(&server.admin()).await;
        end(&server).await;
        let output = deployment.moved_to(&target).await;
        for words in [
            "copied wx_token: 5 rows", "wx_account: 4 rows", "wx_key: 3 rows", "3 AppSecrets, 4 token values and 2 mirror texts opened",
            "DATABASE_URL", "WXTOKEN_MASTER_KEY", "Never start it on",
        ] {
            assert!(output.contains(words), "{words} is missing in:\n{output}");
        }
        assert!(!output.contains(MASTER_KEY) && !output.contains(target.url()), "{output}");

        let calls = deployment.calls();
        let server = server_on(&target, &deployment.sandbox).start().await;
        let service = server.admin().with_key(&deployment.service_key);
        let after = [
            value(&service, "wx_stable", ACCESS).await,
            value(&service, "wx_plain", ACCESS).await,
            value(&service, "wx_stable", "jsapi_ticket").await,
        ];
        assert_eq!(before, after);
        assert_eq!(history(&server.admin()).await, rows_before);
        assert_eq!(deployment.calls(), calls, "a valid token was fetched again");
        let refused = Api::new(&server.base_url(), &deployment.revoked_key);
        refused.token("wx_stable", ACCESS).await.expect_status(401);
        server.admin().get("/v1/accounts/wx_removed").await.expect_status(404);
        // The sealed secret is of use, too.
        server.admin().refresh("wx_plain", ACCESS, false).await.expect_status(200);
        assert!(deployment.sandbox.accepts(&value(&service, "wx_plain", ACCESS).await));
    }

    async fn the_views_work_on_the_target(target: TestDatabase) {
        let deployment = Deployment::new().await;
        deployment.moved_to(&target).await;
        let mut source = deployment.raw().await;
        let mut moved = Raw::connect(target.kind(), target.url()).await;
        for sql in [
            "SELECT appid, token_type, health, consecutive_failures, budget_left, mode, account_name \
             FROM wx_report_accounts ORDER BY appid, token_type",
            "SELECT appid, account_name, token_type, trigger_name, outcome, errcode, instance, version \
             FROM wx_report_refreshes ORDER BY appid, token_type, version, outcome, call_kind",
        ] {
            let rows = moved.rows(sql).await;
            assert!(rows.len() >= 4, "{rows:?}");
            assert_eq!(source.rows(sql).await, rows);
        }
    }

    async fn a_move_that_was_killed_is_completed_by_the_next(target: TestDatabase) {
        let deployment = Deployment::new().await;
        deployment.add_history(LONG_HISTORY).await;
        let total = rows(&deployment.database, "wx_refresh_history").await;
        // The tables are there to be counted.
        let (code, output) = ended(Server::command(&["migrate"]).env("DATABASE_URL", target.url())).await;
        assert_eq!(code, Some(0), "{output}");
        for part in [1, LONG_HISTORY / 2] {
            let moving = mover(&deployment.database, &target).spawn();
            eventually(Duration::from_secs(60), "a part of the history in the target", async || {
                (rows(&target, "wx_refresh_history").await >= part).then_some(())
            })
            .await;
            moving.kill_9();
            assert!(rows(&target, "wx_refresh_history").await < total, "it was killed too late: {}", moving.output());
            assert_eq!(rows(&target, "wx_account").await, 0, "nothing can be served from a part");
        }
        deployment.moved_to(&target).await;
        deployment.moved_to(&target).await;
    }

    async fn a_second_move_brings_what_has_changed(target: TestDatabase) {
        let deployment = Deployment::new().await;
        deployment.add_history(1_200).await;
        deployment.moved_to(&target).await;
        let server = server_on(&deployment.database, &deployment.sandbox).start().await;
        let admin = server.admin();
        deployment.sandbox.account("wx_new", &json!({}));
        admin.create_account(&json!({ "appid": "wx_new", "secret": SECRET })).await.expect_status(201);
        value(&admin, "wx_new", ACCESS).await;
        admin.refresh("wx_plain", ACCESS, false).await.expect_status(200);
        admin.patch("/v1/accounts/wx_stable", &json!({ "note": "moved soon", "enabled": false })).await.expect_status(200);
        admin.delete("/v1/accounts/wx_broken").await.expect_success();
        end(&server).await;
        let pruned = deployment.raw().await.run("DELETE FROM wx_refresh_history WHERE appid = 'wx_gone' AND generation <= 1000").await;
        assert_eq!(pruned, 1_000);
        let late = "UPDATE wx_refresh_history SET outcome = 'superseded' WHERE appid = 'wx_gone' AND generation = 1100";
        assert_eq!(deployment.raw().await.run(late).await, 1);
        let before = dump(&deployment.database).await;
        deployment.moved_to(&target).await;
        assert!(dump(&deployment.database).await == before, "the source is as it was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_may_be_given_where_no_other_user_sees_it() {
    let deployment = Deployment::new().await;
    let target = TestDatabase::create(Kind::Postgres).await;
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(file.path(), target.url()).expect("it can be written");
    let command = || {
        Server::command(&["migrate", "--to"])
            .env("DATABASE_URL", deployment.database.url())
            .env("WXTOKEN_MASTER_KEY", MASTER_KEY)
    };
    for (name, value) in
        [("WXTOKEN_MIGRATE_TO", target.url()), ("WXTOKEN_MIGRATE_TO_FILE", file.path().to_str().expect("UTF-8"))]
    {
        let (code, output) = ended(command().env(name, value)).await;
        assert_eq!(code, Some(0), "{output}");
        let password = target.url().split([':', '@']).nth(2).expect("a password");
        assert!(!output.contains(password), "{output}");
    }
    // Without the flag it is the schema that is meant.
    let schema = Server::command(&["migrate"])
        .env("DATABASE_URL", deployment.database.url())
        .env("WXTOKEN_MIGRATE_TO", target.url());
    let (code, output) = ended(schema).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("the schema is up to date") && !output.contains("copied"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_file_beside_the_database_opens_the_target() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let server = Server::command(&["serve"]).env("WXTOKEN_LISTEN", "127.0.0.1:0").directory(directory.path());
    let server = server.env("WXTOKEN_ADMIN_KEY", ADMIN_KEY).start().await;
    server.admin().create_account(&json!({ "appid": "wx1", "secret": "x", "enabled": false })).await.expect_status(201);
    end(&server).await;
    let target = TestDatabase::create(Kind::Postgres).await;
    let (code, output) = ended(Server::command(&["migrate", "--to", target.url()]).directory(directory.path())).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("what the file wxtoken.master-key holds"), "{output}");
    let key = std::fs::read_to_string(directory.path().join("wxtoken.master-key")).expect("it is there");
    let server = Server::builder().database(&target).env("WXTOKEN_MASTER_KEY", &key).start().await;
    server.admin().get("/v1/accounts/wx1").await.expect_status(200);
}
