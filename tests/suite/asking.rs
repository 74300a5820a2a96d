//! The commands that ask a running server, run as the real program.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use wxtoken::wechat::sandbox::{CallKind, Line};

use crate::support::database::{Kind, TestDatabase};
use crate::support::process::{ADMIN_KEY, Server};
use crate::support::sandbox::{SECRET, TestSandbox};

const DONE: Option<i32> = Some(0);
const REFUSED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);
const UNAVAILABLE: Option<i32> = Some(69);
const NOT_ALLOWED: Option<i32> = Some(77);
const CONFIGURATION: Option<i32> = Some(78);

/// A server with WeChat, and a directory to run commands in.
struct Desk {
    sandbox: TestSandbox,
    server: Server,
    directory: tempfile::TempDir,
    _database: TestDatabase,
}

impl Desk {
    async fn set() -> Self {
        let (sandbox, database) = (TestSandbox::start().await, TestDatabase::create(Kind::Sqlite).await);
        let server = Server::builder().database(&database).wechat(sandbox.url()).start().await;
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Self { sandbox, server, directory, _database: database }
    }

    /// Runs a command with `input` on its standard input.
    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let url = self.server.base_url();
        run(self.directory.path(), arguments, input, &[("WXTOKEN_URL", &url), ("WXTOKEN_KEY", ADMIN_KEY)])
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("a file can be written");
        path.display().to_string()
    }
}

fn run(directory: &Path, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wxtoken"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    // One that refuses its words does not read.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    for text in [data(&output), talk(&output)] {
        assert!(!text.contains(SECRET) && !text.contains(ADMIN_KEY), "{text}");
    }
    output
}

fn data(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn talk(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_added_with_a_secret_from_standard_input_or_a_file() {
    let desk = Desk::set().await;
    desk.sandbox.account("wx1", &json!({}));
    let added = desk.run(&["account", "add", "wx1", "--name", "店铺", "--mode", "plain"], &format!("{SECRET}\n"));
    assert_eq!(added.status.code(), DONE, "{}", talk(&added));
    assert!(data(&added).starts_with("appid        wx1\nname         店铺\nmode         plain\n"), "{}", data(&added));
    let admin = desk.server.admin();
    let value = admin.token("wx1", "access_token").await.expect_status(200).body["value"].clone();
    assert!(desk.sandbox.accepts(value.as_str().expect("a string")));

    let secret = desk.file("secret", SECRET);
    let mut words = vec!["account", "add", "wx2", "--secret-file", &secret, "--output", "json", "--disabled"];
    words.extend(["--token-types", "access_token,jsapi_ticket", "--note", "n"]);
    let added = desk.run(&words, "");
    assert_eq!(added.status.code(), DONE, "{}", talk(&added));
    let printed: Value = serde_json::from_str(&data(&added)).expect("one JSON object");
    let shown = admin.get("/v1/accounts/wx2").await.expect_status(200).body;
    for field in ["appid", "enabled", "note", "token_types", "mode"] {
        assert_eq!(printed[field], shown[field], "{field}");
    }
    assert_eq!((&shown["enabled"], &shown["token_types"]), (&json!(false), &json!(["access_token", "jsapi_ticket"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_taken_over_with_the_token_in_use() {
    let desk = Desk::set().await;
    let secret = desk.file("secret", SECRET);
    for (appid, name) in [("wx1", "value"), ("wx2", "access_token")] {
        desk.sandbox.account(appid, &json!({}));
        let minted = desk.sandbox.sandbox.mint_foreign(appid, Line::Plain).expect("the account is there");
        let token = json!({ name: minted.access_token, "expires_in": 3_600, "more": 1 }).to_string();
        let from = if appid == "wx1" { desk.file("token.json", &token) } else { "-".to_owned() };
        let mut words = vec!["account", "add", appid, "--mode", "plain", "--adopt", &from];
        let from_file = ["--secret-file", &secret];
        words.extend(if from == "-" { &from_file[..] } else { &[] });
        let added = desk.run(&words, if from == "-" { &token } else { SECRET });
        assert_eq!(added.status.code(), DONE, "{}", talk(&added));
        assert!(talk(&added).contains("was taken over") && !talk(&added).contains(&minted.access_token));
        let served = desk.server.admin().token(appid, "access_token").await.expect_status(200).body;
        assert_eq!((&served["value"], &served["version"]), (&json!(minted.access_token), &json!(1)));
        let calls: Vec<_> = desk.sandbox.calls(appid).iter().map(|call| call.call).collect();
        assert_eq!(calls, [CallKind::Probe]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_a_sentence_a_code_and_an_exit_code() {
    let desk = Desk::set().await;
    desk.sandbox.account("wx1", &json!({}));
    let dead = desk.file("dead.json", r#"{"value": "84_canary", "expires_in": 60}"#);
    let other = desk.file("other.json", r#"{"value": 84, "canary": 60}"#);
    for (words, code, sentence) in [
        (vec!["wx1", "--adopt", &dead], REFUSED, "WeChat says 40014: invalid access_token"),
        (vec!["wx1", "--adopt", &dead], REFUSED, "(token_refused)"),
        (vec!["w x"], REFUSED, "(invalid_field)"),
        (vec!["wx1", "--adopt", "-"], USAGE, "--secret-file"),
        (vec!["wx1", "--adopt", &other], USAGE, "\"expires_in\": 3600"),
        (vec!["wx1", "--adopt", "/no/such/file"], USAGE, "/no/such/file"),
        (vec!["wx1", "--secret", "x"], USAGE, "--secret"),
        (vec![], USAGE, "APPID"),
    ] {
        let words: Vec<_> = ["account", "add"].into_iter().chain(words).collect();
        let output = desk.run(&words, SECRET);
        assert_eq!(output.status.code(), code, "{words:?}: {}", talk(&output));
        assert!(talk(&output).contains(sentence) && !talk(&output).contains("canary"), "{words:?}: {}", talk(&output));
        assert_eq!(data(&output), "", "{words:?}");
    }
    let url = desk.server.base_url();
    let stranger = desk.sandbox.url();
    let key_file = desk.file("key", ADMIN_KEY);
    for (environment, code, sentence) in [
        (vec![("WXTOKEN_URL", url.as_str())], CONFIGURATION, "WXTOKEN_KEY is not set"),
        (vec![("WXTOKEN_URL", "ftp://x"), ("WXTOKEN_KEY", ADMIN_KEY)], CONFIGURATION, "WXTOKEN_URL is not"),
        (vec![("WXTOKEN_URL", &url), ("WXTOKEN_KEY", "wxt_s_another")], NOT_ALLOWED, "(invalid_key)"),
        (vec![("WXTOKEN_URL", "http://127.0.0.1:9"), ("WXTOKEN_KEY", ADMIN_KEY)], UNAVAILABLE, "http://127.0.0.1:9/"),
        (vec![("WXTOKEN_URL", stranger), ("WXTOKEN_KEY", ADMIN_KEY)], REFUSED, "is WXTOKEN_URL right?"),
        (vec![("WXTOKEN_URL", &url), ("WXTOKEN_KEY_FILE", &key_file)], DONE, "Registered"),
    ] {
        let output = run(desk.directory.path(), &["account", "add", "wx1"], SECRET, &environment);
        assert_eq!(output.status.code(), code, "{environment:?}: {}", talk(&output));
        assert!(talk(&output).contains(sentence), "{environment:?}: {}", talk(&output));
    }
}
