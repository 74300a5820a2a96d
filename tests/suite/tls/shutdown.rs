//! SIGTERM with SDKs at the line.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{BOUND, Scene, connect, connector, name};
use crate::support::process::ADMIN_KEY;
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

async fn ends_well(scene: &Scene, bound: Duration) {
    scene.server.terminate();
    let status = scene.server.wait_exit(bound).await;
    assert_eq!(status.code(), Some(0), "{}", scene.server.output());
    assert!(!scene.server.output().contains("cut off"), "{}", scene.server.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_do_not_hold_the_end_up() {
    let scene = Scene::start(|server| server).await;
    // Kept for the next request.
    let kept = scene.ways();
    for (client, base) in &kept {
        client.get(format!("{base}/livez")).send().await.expect("an answer").text().await.expect("all of it");
    }
    ends_well(&scene, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_have_not_asked_yet_are_waited_for_a_moment_only() {
    let scene = Scene::start(|server| server).await;
    let mut silent = Vec::new();
    for address in [scene.tls, scene.connect] {
        silent.push(connect(address).await);
    }
    let mut half = connect(scene.tls).await;
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.expect("it is sent");
    let mut asking = connect(scene.connect).await;
    asking.write_all(b"CONNECT api.weixin.qq.com:443 HTTP/1.1\r\n").await.expect("it is sent");
    let mut tunnel = connect(scene.connect).await;
    super::tunnels::ask(&mut tunnel).await;
    let mut shaken = connect(scene.connect).await;
    super::tunnels::ask(&mut shaken).await;
    let _shaken = connector(scene.ca.trust()).connect(name(), shaken).await.expect("they agree");
    scene.is_well().await;
    // Two seconds, and a machine with other things to do; the deadlines of ten seconds would be too late.
    ends_well(&scene, Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_answered() {
    let sandbox = TestSandbox::start().await;
    sandbox.account("wx1", &json!({ "latency_ms": { "min": 2_000, "max": 2_000 } }));
    let scene = Scene::start(|server| server.wechat(sandbox.url())).await;
    scene.server.admin().create_account(&json!({ "appid": "wx1", "secret": SECRET })).await.expect_status(201);
    let request = format!(
        "GET /v1/accounts/wx1/tokens/access_token HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_KEY}\r\n\r\n"
    );
    let mut readers = Vec::new();
    for address in [scene.tls, scene.connect] {
        let mut stream = connect(address).await;
        if address == scene.connect {
            super::tunnels::ask(&mut stream).await;
        }
        let mut stream = connector(scene.ca.trust()).connect(name(), stream).await.expect("they agree");
        stream.write_all(request.as_bytes()).await.expect("it is sent");
        readers.push(stream);
    }
    eventually(BOUND, "a call in flight", async || (!sandbox.calls("wx1").is_empty()).then_some(())).await;
    // Both are in: others who came later have been served.
    scene.is_well().await;
    scene.server.terminate();
    for mut reader in readers {
        let mut answer = String::new();
        reader.read_to_string(&mut answer).await.expect("an answer, and a clean end");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"value\":\""), "{answer}");
    }
    let status = scene.server.wait_exit(BOUND).await;
    assert_eq!(status.code(), Some(0), "{}", scene.server.output());
}
