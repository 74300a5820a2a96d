//! The command line itself: help, mistakes, and the simulator as a program.

use std::time::Duration;

use serde_json::json;

use crate::support::api::{Api, Reply};
use crate::support::process::Server;

async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let (status, output) = Server::command(arguments).start_expecting_exit().await;
    (status.code(), output)
}

#[tokio::test]
async fn every_command_has_help() {
    let (code, output) = run(&["--help"]).await;
    assert_eq!(code, Some(0), "{output}");
    for command in ["serve", "demo", "sandbox", "migrate", "backup", "ca", "master-key"] {
        assert!(output.contains(&format!("  {command} ")), "{output}");
        let (code, help) = run(&[command, "--help"]).await;
        assert_eq!(code, Some(0), "{help}");
        assert!(help.contains("Usage: wxtoken") && help.contains(command), "{help}");
    }
    let (code, output) = run(&["--version"]).await;
    assert_eq!((code, output.trim()), (Some(0), concat!("wxtoken ", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn wrong_words_are_a_mistake_of_usage() {
    for arguments in [
        &["sevre"][..],
        &["serve", "--port", "1"],
        &["serve", "extra"],
        &["sandbox", "--listen", "nowhere"],
        &["sandbox", "--listen"],
        &["backup"],
        &["backup", "one", "two"],
        &["ca"],
        &["ca", "make"],
        &["master-key"],
        &["master-key", "make"],
        &["--log"],
        &[""],
    ] {
        let (code, output) = run(arguments).await;
        assert_eq!(code, Some(2), "{arguments:?}: {output}");
        assert!(output.contains("Usage") || output.contains("--help"), "{arguments:?}: {output}");
    }
    let (code, output) = run(&["serve", "--listen", "nowhere"]).await;
    assert_eq!(code, Some(78), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulator_is_a_program_that_can_be_configured_and_asked() {
    let sandbox = Server::command(&["sandbox", "--listen", "127.0.0.1:0"]).start_listening().await;
    let api = Api::new(&sandbox.base_url(), "");
    let account = api.request(reqwest::Method::PUT, "/sandbox/accounts/wx1").body(json!({ "secret": "s" }).to_string());
    Reply::of(account).await.expect_status(200);
    let grant = json!({ "grant_type": "client_credential", "appid": "wx1", "secret": "s" });
    let token = api.post("/cgi-bin/stable_token", &grant).await.expect_status(200).body;
    assert!(token["access_token"].is_string() && token["expires_in"] == 7_200, "{token}");
    let wrong = json!({ "grant_type": "client_credential", "appid": "wx1", "secret": "t" });
    assert_eq!(api.post("/cgi-bin/stable_token", &wrong).await.expect_status(200).body["errcode"], 40_125);
    let log = api.get("/sandbox/log?appid=wx1").await.expect_status(200).body;
    assert_eq!(log["entries"].as_array().map(Vec::len), Some(2), "{log}");
    sandbox.interrupt();
    let status = sandbox.wait_exit(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0), "{}", sandbox.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_the_simulator_serves_its_tokens() {
    let sandbox = Server::command(&["sandbox", "--listen", "127.0.0.1:0"]).start_listening().await;
    let at_wechat = Api::new(&sandbox.base_url(), "");
    let secret = json!({ "secret": "0123456789abcdef0123456789abcdef" });
    let account = at_wechat.request(reqwest::Method::PUT, "/sandbox/accounts/wx1").body(secret.to_string());
    Reply::of(account).await.expect_status(200);
    let server = Server::builder().wechat(&sandbox.base_url()).start().await;
    let mut account = secret;
    account["appid"] = json!("wx1");
    server.admin().create_account(&account).await.expect_status(201);
    let token = server.admin().token("wx1", "access_token").await.expect_status(200).body;
    let judge = format!("/sandbox/judge?access_token={}", token["value"].as_str().expect("a string"));
    assert_eq!(at_wechat.get(&judge).await.expect_status(200).body["accepted"], true);
}
