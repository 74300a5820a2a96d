//! What is not moved, and what is not overwritten.

use super::{ACCESS, Deployment, TABLES, dump, end, ended, mover, server_on};
use crate::store::raw::Raw;
use crate::support::database::{Kind, TestDatabase, on_both_servers};
use crate::support::process::{MASTER_KEY, Server};

const OTHER_MASTER_KEY: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";
const IN_USE: Option<i32> = Some(69);
const WRONG: Option<i32> = Some(78);
const USAGE: Option<i32> = Some(2);

on_both_servers! {
    async fn a_target_that_has_been_served_is_not_overwritten(target: TestDatabase) {
        let deployment = Deployment::new().await;
        deployment.moved_to(&target).await;
        let server = server_on(&target, &deployment.sandbox).start().await;
        server.admin().refresh("wx_plain", ACCESS, false).await.expect_status(200);
        end(&server).await;
        // Even when the old one was served, too, and its token went further on.
        let server = server_on(&deployment.database, &deployment.sandbox).start().await;
        for _ in 0..2 {
            server.admin().refresh("wx_plain", ACCESS, false).await.expect_status(200);
        }
        end(&server).await;
        let before = dump(&target).await;
        let (code, output) = deployment.move_to(&target).await;
        assert_eq!(code, WRONG, "{output}");
        assert!(output.contains("has been served since it was copied"), "{output}");
        assert!(dump(&target).await == before, "the target was changed");
    }

    async fn a_single_claim_an_edit_or_a_key_is_enough_to_be_refused(target: TestDatabase) {
        let deployment = Deployment::new().await;
        deployment.moved_to(&target).await;
        let mut raw = Raw::connect(target.kind(), target.url()).await;
        for (change, undo, row) in [
            (
                "UPDATE wx_token SET generation = generation + 1 WHERE appid = 'wx_plain'",
                "UPDATE wx_token SET generation = generation - 1 WHERE appid = 'wx_plain'",
                "table wx_token, row wx_plain, access_token",
            ),
            (
                "UPDATE wx_token SET revision = revision + 1 WHERE appid = 'wx_stable' AND token_type = 'jsapi_ticket'",
                "UPDATE wx_token SET revision = revision - 1 WHERE appid = 'wx_stable' AND token_type = 'jsapi_ticket'",
                "table wx_token, row wx_stable, jsapi_ticket",
            ),
            (
                "INSERT INTO wx_audit VALUES ('ffff', 1, 'a', 'key.revoke', 's', '', NULL)",
                "DELETE FROM wx_audit WHERE id = 'ffff'",
                "table wx_audit, row ffff",
            ),
            (
                "INSERT INTO wx_account SELECT 'a_stranger', name, mode, token_types, enabled, note, NULL, 1, 1, 1, 1, NULL \
                 FROM wx_account WHERE appid = 'wx_plain'",
                "DELETE FROM wx_account WHERE appid = 'a_stranger'",
                "table wx_account, row a_stranger",
            ),
            (
                "INSERT INTO wx_master_key VALUES ('00000000', 'x', 9, 1)",
                "DELETE FROM wx_master_key WHERE position = 9",
                "table wx_master_key, row 00000000",
            ),
        ] {
            assert_eq!(raw.run(change).await, 1, "{change}");
            let (code, output) = deployment.move_to(&target).await;
            assert_eq!(code, WRONG, "{change}: {output}");
            assert!(output.contains(row) && !output.contains("copied wx_"), "{change}: {output}");
            raw.run(undo).await;
        }
        deployment.moved_to(&target).await;
    }

    async fn another_deployments_database_is_left_as_it_is(target: TestDatabase) {
        let (deployment, other) = (Deployment::new().await, Deployment::new().await);
        other.moved_to(&target).await;
        let before = dump(&target).await;
        // Under the same master key, as one operator's deployments may be.
        let (code, output) = deployment.move_to(&target).await;
        assert_eq!(code, WRONG, "{output}");
        assert!(output.contains("belongs to another deployment"), "{output}");
        assert!(dump(&target).await == before, "the target was changed");

        let server = Server::builder().env("WXTOKEN_MASTER_KEY", OTHER_MASTER_KEY);
        let source = TestDatabase::create(Kind::Sqlite).await;
        end(&server.database(&source).start().await).await;
        let (code, output) = ended(mover(&source, &target).env("WXTOKEN_MASTER_KEY", OTHER_MASTER_KEY)).await;
        assert_eq!(code, WRONG, "{output}");
        assert!(output.contains("is sealed under"), "{output}");
        assert!(dump(&target).await == before, "the target was changed");
    }

    async fn a_source_that_is_served_or_not_ours_is_not_moved(target: TestDatabase) {
        let deployment = Deployment::new().await;
        let server = server_on(&deployment.database, &deployment.sandbox).start().await;
        let (code, output) = deployment.move_to(&target).await;
        assert_eq!(code, IN_USE, "{output}");
        assert!(output.contains("another wxtoken process is using"), "{output}");
        end(&server).await;

        let (code, output) = ended(mover(&deployment.database, &target).env("WXTOKEN_MASTER_KEY", OTHER_MASTER_KEY)).await;
        assert_eq!(code, WRONG, "{output}");
        let (code, output) = ended(mover(&deployment.database, &target).without_env("WXTOKEN_MASTER_KEY")).await;
        assert_eq!(code, WRONG, "{output}");
        assert!(output.contains("there is no key"), "{output}");

        let mut raw = deployment.raw().await;
        raw.run("UPDATE wx_token SET value_sealed = previous_sealed WHERE appid = 'wx_plain'").await;
        let (code, output) = deployment.move_to(&target).await;
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains("wx_plain access_token") && output.contains("value_sealed"), "{output}");
        let mut raw = Raw::connect(target.kind(), target.url()).await;
        for (table, _) in TABLES {
            assert!(raw.try_run(&format!("SELECT * FROM {table}")).await.is_err(), "the target was written to");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_name_no_way_up_are_answered_with_the_right_ones() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let nothing_there = format!("sqlite://{}", directory.path().join("wx.db").display());
    let server_url = "postgres://u:canary@127.0.0.1:9/db";
    let deployment = Deployment::new().await;
    let file = deployment.database.url();
    for (from, to, code, words) in [
        (server_url, server_url, USAGE, "is on a server already"),
        (file, "sqlite://other.db", USAGE, "must be a postgres: or mysql: one"),
        (file, "canary", USAGE, "must be a postgres: or mysql: one"),
        (file, "", USAGE, "WXTOKEN_MIGRATE_TO"),
        (file, server_url, IN_USE, "postgres://u@127.0.0.1:9/db"),
        (file, "mysql://u:canary@127.0.0.1:port/db", WRONG, "its URL is malformed"),
        (&nothing_there, server_url, Some(1), "there is no database of a token server in"),
    ] {
        let command = Server::command(&["migrate", "--to", to]).env("DATABASE_URL", from);
        let (found, output) = ended(command.env("WXTOKEN_MASTER_KEY", MASTER_KEY)).await;
        assert_eq!(found, code, "{to}: {output}");
        assert!(output.contains(words) && !output.contains("canary"), "{to}: {output}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).expect("it reads").count(), 0, "nothing was made");
}
