//! Secrets, tokens and keys are found nowhere but in the answers that are meant to carry them.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use reqwest::Method;
use serde_json::json;
use wxtoken::wechat::sandbox::Line;

use super::{ACCESS_TOKEN, Stage};
use crate::support::api::Reply;
use crate::support::database::{Kind, TestDatabase};
use crate::support::process::{ADMIN_KEY, MASTER_KEY};
use crate::support::sandbox::SECRET;
use crate::support::wait::eventually;

/// Everything that must not be seen, with the name to report it by.
type Canaries = Vec<(String, String)>;

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_files_logs_or_error_bodies() {
    let db = TestDatabase::create(Kind::Sqlite).await;
    let stage = Stage::set_with(&db, |server| server.env("WXTOKEN_LOG", "trace")).await;
    let mut canaries: Canaries =
        vec![("the AppSecret".into(), SECRET.into()), ("the admin key".into(), ADMIN_KEY.into())];
    canaries.push(("the master key".into(), MASTER_KEY.into()));
    let mut bodies = Vec::new();
    use_every_route(&stage, &mut canaries, &mut bodies).await;
    stage.server.terminate();
    stage.server.wait_exit(Duration::from_secs(20)).await;
    search("the log at trace level", stage.server.output().as_bytes(), &canaries);
    for body in bodies {
        search("an error body", body.as_bytes(), &canaries);
    }
    let directory = db.directory().expect("SQLite has one");
    let searched = search_files(directory, &canaries) + search_files(stage.server.directory(), &canaries);
    assert!(searched > 0, "there was a database file to search");
}

async fn use_every_route(stage: &Stage, canaries: &mut Canaries, bodies: &mut Vec<String>) {
    let admin = &stage.admin;
    for (appid, mode, line) in [("wx1", "stable", Line::Stable), ("wx2", "plain", Line::Plain)] {
        stage.sandbox.account(appid, &json!({}));
        super::register(admin, appid, mode, json!(["jsapi_ticket", "wx_card_ticket"])).await;
        for token_type in [ACCESS_TOKEN, "jsapi_ticket", "wx_card_ticket"] {
            canaries.push((format!("a {token_type}"), super::value(admin, appid, token_type).await));
        }
        let dead = stage.value(appid).await;
        stage.sandbox.kill(appid, line);
        admin.report(appid, ACCESS_TOKEN, &dead).await.expect_status(200);
        admin.refresh(appid, ACCESS_TOKEN, false).await.expect_status(200);
        canaries.push(("a new access_token".into(), stage.value(appid).await));
        admin.post(&format!("/v1/accounts/{appid}/check"), &json!({})).await.expect_status(200);
        admin
            .get(&format!("/v1/accounts/{appid}/jsapi-signature?url=https%3A%2F%2Fa.example%2F"))
            .await
            .expect_status(200);
        fail_in_many_ways(stage, appid, &dead, bodies).await;
    }
    let key = admin.create_key(&json!({ "name": "shop", "role": "service", "accounts": ["wx1"] })).await;
    bodies.push(admin.with_key(&key).get("/v1/accounts").await.expect_status(403).text);
    bodies.push(admin.with_key(&key).token("wx2", ACCESS_TOKEN).await.expect_status(403).text);
    canaries.push(("a service key".into(), key));
    for list in ["/v1/accounts", "/v1/accounts/wx1", "/v1/keys", "/v1/refreshes"] {
        bodies.push(admin.get(list).await.expect_status(200).text);
    }
    for path in ["/livez", "/readyz?verbose", "/nowhere"] {
        bodies.push(admin.get(path).await.text);
    }
}

/// Faults of WeChat, an echo of our own credentials in its text, and bad input that carries secrets.
async fn fail_in_many_ways(stage: &Stage, appid: &str, dead: &str, bodies: &mut Vec<String>) {
    let admin = &stage.admin;
    let token = &stage.value(appid).await;
    let minting = json!(["token", "stable_token"]);
    for fault in [
        json!({ "kind": "errcode", "errcode": 40_125, "errmsg": format!("you sent {SECRET}!"), "calls": minting }),
        json!({ "kind": "errcode", "errcode": 45_009, "errmsg": format!("you sent {token}!"), "calls": ["probe", "ticket"] }),
        json!({ "kind": "reset_before" }),
        json!({ "kind": "html" }),
        json!({ "kind": "redirect", "location": format!("http://127.0.0.1:9/?secret={SECRET}") }),
    ] {
        stage.sandbox.faults(appid, &json!([fault]));
        for token_type in ["jsapi_ticket", ACCESS_TOKEN] {
            bodies.push(admin.post(&format!("/v1/accounts/{appid}/check"), &json!({})).await.text);
            let reply = admin.refresh(appid, token_type, false).await;
            // A refresh that succeeds is meant to carry the token.
            bodies.extend((reply.status != 200).then_some(reply.text));
        }
        stage.sandbox.faults(appid, &json!([]));
    }
    eventually(Duration::from_secs(20), "a good refresh", async || {
        (admin.refresh(appid, ACCESS_TOKEN, false).await.status == 200).then_some(())
    })
    .await;
    let again = json!({ "appid": appid, "secret": SECRET });
    bodies.push(admin.create_account(&again).await.expect_status(409).text);
    let bad = json!({ "appid": "wx3", "secret": format!(" {SECRET}"), "name": SECRET, "mode": SECRET });
    bodies.push(admin.create_account(&bad).await.text);
    let unknown = json!({ "appid": "wx3", "secret": SECRET, SECRET: SECRET, "value": dead });
    bodies.push(admin.create_account(&unknown).await.text);
    let broken = format!("{{\"appid\": \"wx3\", \"secret\": \"{SECRET}\", ");
    let request = admin.request(Method::POST, "/v1/accounts").header("content-type", "application/json");
    bodies.push(Reply::of(request.body(broken)).await.expect_status(400).text);
    bodies.push(admin.get(&format!("/v1/refreshes?secret={SECRET}")).await.expect_status(400).text);
}

fn search_files(directory: &Path, canaries: &Canaries) -> usize {
    let mut searched = 0;
    for entry in std::fs::read_dir(directory).expect("it can be listed") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            search(&path.display().to_string(), &std::fs::read(&path).expect("it can be read"), canaries);
            searched += 1;
        }
    }
    searched
}

#[track_caller]
fn search(place: &str, bytes: &[u8], canaries: &Canaries) {
    for (name, canary) in canaries {
        for (form, needle) in forms(canary) {
            let found = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
            if let Some(at) = found {
                let around = &bytes[at.saturating_sub(200)..(at + needle.len() + 50).min(bytes.len())];
                panic!("{name}, {form}, is in {place}: …{}…", String::from_utf8_lossy(around));
            }
        }
    }
}

/// The spellings in which a secret could hide. In base64 it can begin at any of three bits; the middle of each is looked for.
fn forms(canary: &str) -> Vec<(&'static str, String)> {
    let hexadecimal = wxtoken::seal::hexadecimal(canary.as_bytes());
    let escaped = canary.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    let mut forms = vec![
        ("as it is", canary.to_owned()),
        ("reversed", canary.chars().rev().collect()),
        ("in hexadecimal", hexadecimal),
        ("percent-encoded", escaped),
        ("its first sixteen characters", canary.chars().take(16).collect()),
    ];
    for shift in 0..3 {
        let encoded = STANDARD_NO_PAD.encode(format!("{}{canary}", &"xxx"[..shift]));
        forms.push(("in base64", encoded[4..encoded.len() - 4].to_owned()));
    }
    forms
}
