//! Backups of a database in use, and what comes of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use super::{ACCESS, Deployment, end, ended, history, server_on, value};
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::{MASTER_KEY, Server, ServerBuilder};
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

const BACKUPS: usize = 5;

pub(super) fn backup(database: &TestDatabase, arguments: &[&str]) -> ServerBuilder {
    Server::command(&[&["backup"], arguments].concat())
        .env("DATABASE_URL", database.url())
        .env("WXTOKEN_MASTER_KEY", MASTER_KEY)
}

/// Backs the database up to `name` in a directory and gives its path.
pub(super) async fn backed_up(database: &TestDatabase, directory: &Path, name: &str) -> PathBuf {
    let file = directory.join(name);
    let (code, output) = ended(backup(database, &[file.to_str().expect("UTF-8")])).await;
    assert_eq!(code, Some(0), "{output}");
    file
}

pub(super) async fn checked(database: &TestDatabase, file: &Path) -> (Option<i32>, String) {
    ended(backup(database, &["--check", file.to_str().expect("UTF-8")])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_under_load_are_whole_and_can_be_served() {
    let (database, sandbox) = (TestDatabase::create(Kind::Sqlite).await, TestSandbox::start().await);
    let server = server_on(&database, &sandbox).start().await;
    let admin = server.admin();
    for number in 0..4 {
        let appid = format!("wx{number}");
        sandbox.account(&appid, &json!({}));
        let account = json!({ "appid": appid, "secret": SECRET, "mode": "plain" });
        admin.create_account(&account).await.expect_status(201);
    }
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = (0..4).map(|number| {
        let (admin, stop, written) = (admin.clone(), Arc::clone(&stop), Arc::clone(&written));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                admin.refresh(&format!("wx{number}"), ACCESS, false).await.expect_status(200);
                written.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let load: Vec<_> = load.collect();
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut files = Vec::new();
    for number in 0..BACKUPS {
        let before = written.load(Ordering::Relaxed);
        files.push(backed_up(&database, directory.path(), &format!("{number}.db")).await);
        eventually(super::BOUND, "a write after the backup", async || {
            (written.load(Ordering::Relaxed) > before).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.expect("no refresh failed");
    }
    end(&server).await;
    for file in &files {
        let (code, output) = checked(&database, file).await;
        assert_eq!(code, Some(0), "{output}");
        assert!(output.contains("wx_account: 4 rows") && output.contains("4 AppSecrets and"), "{output}");
        let mode = fs::metadata(file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert_eq!(fs::read_dir(directory.path()).expect("it reads").count(), BACKUPS, "no draft is left");
    let restored = files.last().expect("there are some");
    let url = format!("sqlite://{}", restored.display());
    let server = server_on(&database, &sandbox).env("DATABASE_URL", &url).start().await;
    let token = server.admin().token("wx0", ACCESS).await.expect_status(200).body;
    let rows = history(&server.admin()).await;
    let of_wx0: Vec<_> = rows.iter().filter(|row| row["appid"] == "wx0" && row["outcome"] == "success").collect();
    assert_eq!(json!(of_wx0.len()), token["version"], "the rows of one moment: {of_wx0:?}");
    // What was fetched after the backup is what WeChat honours; one refresh makes both agree.
    server.admin().refresh("wx0", ACCESS, false).await.expect_status(200);
    assert!(sandbox.accepts(&value(&server.admin(), "wx0", ACCESS).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_left_is_in_the_backup() {
    let deployment = Deployment::new().await;
    let server = server_on(&deployment.database, &deployment.sandbox).start().await;
    server.admin().patch("/v1/accounts/wx_plain", &json!({ "note": "just before" })).await.expect_status(200);
    server.kill_9();
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let file = backed_up(&deployment.database, directory.path(), "wx.db").await;
    let url = format!("sqlite://{}", file.display());
    let server = server_on(&deployment.database, &deployment.sandbox).env("DATABASE_URL", &url).start().await;
    let account = server.admin().get("/v1/accounts/wx_plain").await.expect_status(200);
    assert_eq!(account.body["note"], "just before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_says_where_the_master_key_is_and_replaces_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let server = Server::command(&["serve"]).env("WXTOKEN_LISTEN", "127.0.0.1:0").directory(directory.path());
    end(&server.start().await).await;
    let command = |arguments: &[&str]| Server::command(arguments).directory(directory.path());
    let (code, output) = ended(command(&["backup", "copy.db"])).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(
        output.contains("The master key is not in the backup") && output.contains("wxtoken.master-key"),
        "{output}"
    );
    let (code, output) = ended(command(&["backup", "--check", "copy.db"])).await;
    assert_eq!(code, Some(0), "{output}");

    let before = fs::read(directory.path().join("copy.db")).expect("it is there");
    for taken in ["copy.db", "wxtoken.db", "wxtoken.master-key"] {
        let (code, output) = ended(command(&["backup", taken])).await;
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains("never replaces a file"), "{output}");
    }
    assert!(fs::read(directory.path().join("copy.db")).expect("it is there") == before);
    let (code, output) = ended(command(&["backup", "no/such/folder/copy.db"])).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("cannot make the backup"), "{output}");
    let (code, output) = ended(command(&["backup", "x.db"]).env("DATABASE_URL", "sqlite://absent.db")).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("there is no database of a token server in absent.db"), "{output}");
    assert!(!directory.path().join("x.db").exists() && !directory.path().join("absent.db").exists());
}

#[tokio::test]
async fn databases_on_servers_have_their_own_programs_for_it() {
    for (url, program) in
        [("postgres://u:canary@127.0.0.1:9/db", "pg_dump"), ("mysql://u:canary@127.0.0.1:9/db", "mariadb-dump")]
    {
        let (code, output) = ended(Server::command(&["backup", "x.db"]).env("DATABASE_URL", url)).await;
        assert_eq!(code, Some(2), "{output}");
        assert!(output.contains(program) && !output.contains("canary"), "{output}");
    }
}
