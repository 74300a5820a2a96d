//! The first start, the second, and those that must not be.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::support::api::Api;
use crate::support::process::{Server, ServerBuilder};

const BOUND: Duration = Duration::from_secs(20);
const CHOSEN_KEY: &str = "an-admin-key-that-I-chose-myself-2026";

/// No setting but a free port.
fn bare(directory: &Path) -> ServerBuilder {
    Server::command(&["serve"]).env("WXTOKEN_LISTEN", "127.0.0.1:0").directory(directory)
}

fn empty_directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

/// The key that a first start shows.
fn shown_key(output: &str) -> Option<String> {
    let lines: Vec<_> = output.lines().filter_map(|line| line.trim().strip_prefix("admin key ")).collect();
    assert!(lines.len() <= 1, "it is shown once: {output}");
    lines.first().map(|key| key.trim().to_owned())
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it can be read");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

async fn end(server: &Server) {
    server.terminate();
    let status = server.wait_exit(BOUND).await;
    assert_eq!(status.code(), Some(0), "{}", server.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_setting_it_makes_what_it_needs_and_shows_its_key_once() {
    let directory = empty_directory();
    let server = bare(directory.path()).start().await;
    let key = shown_key(&server.output()).expect("a first start shows its key");
    assert!(key.starts_with("wxt_a_") && key.len() > 32, "{key}");
    for name in ["wxtoken.db", "wxtoken.master-key"] {
        let path = directory.path().join(name);
        let mode = fs::metadata(&path).unwrap_or_else(|_| panic!("{name} was not made")).permissions().mode();
        if name.ends_with("key") {
            assert_eq!(mode & 0o777, 0o600);
            assert!(server.output().contains(name), "it says where its master key is");
        }
    }
    let api = Api::new(&server.base_url(), &key);
    let account = json!({ "appid": "wx1", "secret": "x", "enabled": false });
    api.create_account(&account).await.expect_status(201);
    end(&server).await;
    let database = fs::read(directory.path().join("wxtoken.db")).expect("it is there");
    assert!(!database.windows(key.len()).any(|bytes| bytes == key.as_bytes()), "the key is not in the database");
    assert_eq!(files(directory.path()), ["wxtoken.db", "wxtoken.db.lock", "wxtoken.master-key"]);

    let server = bare(directory.path()).start().await;
    assert_eq!(shown_key(&server.output()), None);
    assert!(!server.output().contains("wxt_a_"), "{}", server.output());
    let api = Api::new(&server.base_url(), &key);
    api.get("/v1/accounts/wx1").await.expect_status(200);
    end(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_file_is_refused_and_the_first_serves_on() {
    let directory = empty_directory();
    let first = bare(directory.path()).start().await;
    let api = Api::new(&first.base_url(), &shown_key(&first.output()).expect("a key"));
    for _ in 0..2 {
        let (status, output) = bare(directory.path()).start_expecting_exit().await;
        assert_eq!(status.code(), Some(69), "{output}");
        assert!(output.contains("wxtoken.db") && output.contains("another"), "{output}");
        assert!(!output.contains("listening") && shown_key(&output).is_none(), "{output}");
        api.get("/v1/accounts").await.expect_status(200);
        api.post("/v1/keys", &json!({ "name": "x", "role": "service", "accounts": ["*"] })).await.expect_status(201);
    }
    first.kill_9();
    bare(directory.path()).start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_admin_key_is_adopted_and_never_shown() {
    let directory = empty_directory();
    for _ in 0..2 {
        let server = bare(directory.path()).env("WXTOKEN_ADMIN_KEY", CHOSEN_KEY).start().await;
        assert!(!server.output().contains(CHOSEN_KEY) && shown_key(&server.output()).is_none(), "{}", server.output());
        let keys = Api::new(&server.base_url(), CHOSEN_KEY).get("/v1/keys").await.expect_status(200);
        assert_eq!(keys.body["items"].as_array().map(Vec::len), Some(1), "{}", keys.text);
        end(&server).await;
    }
    let server = bare(directory.path()).start().await;
    assert!(shown_key(&server.output()).is_none(), "there is an admin key already");
    Api::new(&server.base_url(), CHOSEN_KEY).get("/v1/keys").await.expect_status(200);
    end(&server).await;
    let from_a_file = directory.path().join("key.txt");
    fs::write(&from_a_file, "another-admin-key-that-I-chose-myself\n").expect("a file can be written");
    let path = from_a_file.to_str().expect("it is UTF-8");
    let server = bare(directory.path()).env("WXTOKEN_ADMIN_KEY_FILE", path).start().await;
    let added = Api::new(&server.base_url(), "another-admin-key-that-I-chose-myself");
    let keys = added.get("/v1/keys").await.expect_status(200);
    assert_eq!(keys.body["items"].as_array().map(Vec::len), Some(2), "the first one stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_one_sentence_and_leaves_nothing_behind() {
    let directory = empty_directory();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port can be bound");
    let address = taken.local_addr().expect("it is bound").to_string();
    let server = Server::command(&["serve"]).env("WXTOKEN_LISTEN", &address).directory(directory.path());
    let (status, output) = server.start_expecting_exit().await;
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains(&address) && output.contains("WXTOKEN_LISTEN"), "{output}");
    assert!(output.lines().count() <= 2 && !output.contains("panicked"), "{output}");
    assert_eq!(files(directory.path()), Vec::<String>::new());
}
