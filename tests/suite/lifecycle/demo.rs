//! The demonstration: what it prints can be pasted, and it leaves nothing behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::api::Api;
use crate::support::process::Server;
use crate::support::wait::eventually;

const BOUND: Duration = Duration::from_secs(5);

async fn started(temporary: &Path) -> Server {
    let place = temporary.to_str().expect("it is UTF-8");
    let server = Server::command(&["demo"]).env("WXTOKEN_LISTEN", "127.0.0.1:0").env("TMPDIR", place).start().await;
    eventually(BOUND, "all of the introduction", async || server.output().contains("What happens").then_some(())).await;
    server
}

/// The key, the path and the whole address of the printed `curl` line whose address ends like this.
fn pasted(output: &str, ending: &str) -> (String, String) {
    let line = output
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("curl") && line.trim_end_matches('\'').ends_with(ending))
        .unwrap_or_else(|| panic!("no line ends with {ending}: {output}"));
    let key = line.split_once("Bearer ").and_then(|(_, rest)| rest.split_once('\'')).expect("it shows a key").0;
    let url = &line[line.rfind("http://").expect("it has an address")..];
    (key.to_owned(), url.trim_end_matches('\'').to_owned())
}

/// Pastes a line.
async fn paste(output: &str, ending: &str) -> crate::support::api::Reply {
    let (key, url) = pasted(output, ending);
    Api::new(&url, &key).get("").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_prints_can_be_pasted() {
    let temporary = tempfile::tempdir().expect("a temporary directory can be made");
    let demo = started(temporary.path()).await;
    let output = demo.output();
    let token = eventually(BOUND, "a token", async || {
        let reply = paste(&output, "wxdemo00stable01/tokens/access_token").await;
        (reply.status == 200).then_some(reply.body)
    })
    .await;
    assert!(token["value"].is_string() && token["expires_in"].as_u64().is_some_and(|left| left <= 60), "{token}");
    let signed = paste(&output, "jsapi-signature?url=https%3A%2F%2Fexample.com%2F").await.expect_status(200).body;
    assert_eq!(signed["signature"].as_str().map(str::len), Some(40));
    let wrong = eventually(BOUND, "the failure of the wrong secret", async || {
        let account = paste(&output, "/v1/accounts/wxdemo00wrong003").await.expect_status(200).body;
        (account["health"] == "down").then_some(account)
    })
    .await;
    assert_eq!(wrong["tokens"][0]["last_errcode"], 40_125, "{wrong}");
    assert!(wrong["tokens"][0]["hint"].as_str().is_some_and(|hint| hint.contains("AppSecret")), "{wrong}");
    let history = paste(&output, "/v1/refreshes").await.expect_status(200).body;
    let rows = history["items"].as_array().expect("a list").len();
    assert!(rows >= 4, "{history}");
    eventually(BOUND, "a line for each call", async || {
        let lines = demo.output();
        let (_, told) = lines.split_once("What happens").expect("it is there");
        let told: Vec<_> = told.lines().filter(|line| line.contains("  wxdemo00")).collect();
        let failed = told.iter().any(|line| line.contains("wxdemo00wrong003") && line.contains("FAILED"));
        let fetched = told.iter().any(|line| line.contains("wxdemo00stable01") && line.contains("new value"));
        (told.len() >= rows && failed && fetched).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_it_and_removes_its_files() {
    let temporary = tempfile::tempdir().expect("a temporary directory can be made");
    for signal in [Server::interrupt, Server::terminate] {
        let demo = started(temporary.path()).await;
        let files = |directory: &Path| fs::read_dir(directory).expect("it can be read").count();
        assert_eq!(files(temporary.path()), 1, "it keeps its files in one directory");
        assert_eq!(files(demo.directory()), 0, "and makes none where it was started");
        signal(&demo);
        let status = demo.wait_exit(Duration::from_secs(15)).await;
        assert_eq!(status.code(), Some(0), "{}", demo.output());
        assert_eq!(files(temporary.path()), 0, "{}", demo.output());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_no_obstacle() {
    let temporary = tempfile::tempdir().expect("a temporary directory can be made");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port can be bound");
    let address = taken.local_addr().expect("it is bound").to_string();
    let place = temporary.path().to_str().expect("it is UTF-8");
    let demo = Server::command(&["demo", "--listen", &address]).env("TMPDIR", place).start().await;
    assert_ne!(demo.base_url(), format!("http://{address}"));
}
