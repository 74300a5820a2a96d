//! Bodies that pass through: of any length without being held, and what happens when somebody stops in the middle.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use reqwest::{Body, Method};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{APPID, BOUND, Shop, refused};
use crate::support::api::Reply;
use crate::support::raw;
use crate::support::wait::eventually;

const MIB: usize = 1024 * 1024;
const LARGE: usize = 100 * MIB;
const GIBIBYTE: usize = 1024 * MIB;
/// How much the server's memory may grow while a large body passes, in KiB.
const GROWTH: u64 = 32 * 1024;

fn pieces(length: usize) -> Body {
    let piece = Bytes::from(vec![b'x'; 64 * 1024]);
    let count = length / piece.len();
    let frames = (0..count).map(move |_| Ok::<_, std::io::Error>(Frame::data(piece.clone())));
    Body::wrap(StreamBody::new(stream::iter(frames)))
}

fn hash(length: usize) -> String {
    let mut hasher = Sha256::new();
    let piece = vec![b'x'; 64 * 1024];
    (0..length / piece.len()).for_each(|_| hasher.update(&piece));
    wxtoken::seal::hexadecimal(&hasher.finalize())
}

/// Forgets the most memory that the server has had, and gives what it has now, in KiB.
fn begin_measuring(shop: &Shop) -> u64 {
    std::fs::write(format!("/proc/{}/clear_refs", shop.server.pid()), "5").expect("Linux lets a parent do this");
    memory(shop, "VmRSS:")
}

fn memory(shop: &Shop, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", shop.server.pid())).expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with(name)).expect("Linux tells");
    line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).expect("a number of KiB")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_mebibytes_pass_both_ways_without_being_held() {
    large_bodies_pass(LARGE).await;
}

/// The same with bodies of the size that is promised; takes a while.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: --ignored gibibyte"]
async fn a_gibibyte_passes_both_ways_without_being_held() {
    large_bodies_pass(GIBIBYTE).await;
}

#[expect(clippy::print_stdout, reason = "the figure that is asked for")]
async fn large_bodies_pass(size: usize) {
    let shop = Shop::open().await;
    let token = shop.token().await;
    shop.echo(&format!("/cgi-bin/echo/warm?access_token={token}")).await;
    let before = begin_measuring(&shop);
    for announced in [true, false] {
        let path = format!("/cgi-bin/media/upload?access_token={token}&type=video");
        let request = shop.admin.keyless(Method::POST, &path).body(pieces(size));
        let request = if announced { request.header("content-length", size) } else { request };
        let reply = Reply::of(request).await.expect_status(200);
        assert_eq!((&reply.body["size"], &reply.body["sha256"]), (&json!(size), &json!(hash(size))), "{}", reply.text);
    }
    let path = format!("/cgi-bin/media/get?access_token={token}&media_id=bytes-{size}");
    let mut answer = shop.admin.keyless(Method::GET, &path).send().await.expect("it is answered");
    assert_eq!(answer.headers()["content-length"], size.to_string());
    assert_eq!(answer.headers()["content-type"], "image/jpeg");
    assert_eq!(answer.headers()["x-wxtoken-version"], "1");
    let mut length = 0;
    while let Some(piece) = answer.chunk().await.expect("it does not break off") {
        length += piece.len();
    }
    assert_eq!(length, size);
    let growth = memory(&shop, "VmHWM:") - before;
    println!("{size} bytes each way: {growth} KiB more memory");
    assert!(growth < GROWTH, "{growth} KiB more memory");
}

#[tokio::test]
async fn a_small_body_of_unknown_length_is_kept_too() {
    let shop = Shop::open().await;
    let token = shop.token().await;
    shop.kill();
    let path = format!("/cgi-bin/media/upload?access_token={token}&type=image");
    let reply = Reply::of(shop.admin.keyless(Method::POST, &path).body(pieces(MIB))).await;
    assert_eq!((&reply.body["size"], reply.header("x-wxtoken-retried")), (&json!(MIB), "true"), "{}", reply.text);
}

#[tokio::test]
async fn a_call_whose_body_was_not_kept_fails_and_the_next_one_has_the_new_token() {
    let shop = Shop::with(&json!({}), |server| server.env("WXTOKEN_FORWARD_KEPT", "1KiB")).await;
    let token = shop.token().await;
    shop.kill();
    let path = format!("/cgi-bin/media/upload?access_token={token}&type=image");
    let upload = async || Reply::of(shop.admin.keyless(Method::POST, &path).body(pieces(MIB))).await;
    let reply = upload().await;
    assert_eq!(
        (&reply.body["errcode"], reply.header("x-wxtoken-retried")),
        (&json!(40_001), "false"),
        "{}",
        reply.text
    );
    eventually(BOUND, "the repair", async || (shop.spent() == (1, 2)).then_some(())).await;
    eventually(BOUND, "an upload with the new token", async || {
        let reply = upload().await;
        (reply.body["size"] == MIB && reply.header("x-wxtoken-version") == "2").then_some(())
    })
    .await;
    assert_eq!(shop.spent(), (1, 2));
}

#[tokio::test]
async fn a_body_past_the_limit_is_refused() {
    let fields = json!({});
    let limits = [("WXTOKEN_FORWARD_LARGEST", "128KiB"), ("WXTOKEN_FORWARD_KEPT", "1KiB")];
    let limited =
        Shop::with(&fields, |server| limits.iter().fold(server, |server, (name, value)| server.env(name, value)));
    let shop = limited.await;
    let token = shop.token().await;
    let path = format!("/cgi-bin/media/upload?access_token={token}&type=image");
    for announced in [true, false] {
        let request = shop.admin.keyless(Method::POST, &path).body(pieces(192 * 1024));
        let request = if announced { request.header("content-length", 192 * 1024) } else { request };
        refused(&Reply::of(request).await, 45_001, "media size out of limit, hint: [wxtoken: at most 131072 bytes");
    }
    let reply = Reply::of(shop.admin.keyless(Method::POST, &path).body(pieces(128 * 1024))).await;
    assert_eq!(reply.body["size"], 128 * 1024, "{}", reply.text);
}

#[tokio::test]
async fn a_caller_who_hangs_up_gives_its_place_back() {
    let shop = Shop::with(&json!({}), |server| server.env("WXTOKEN_FORWARD_CONCURRENCY", "1")).await;
    let path = format!("/cgi-bin/echo/x?access_token={}", shop.token().await);
    shop.sandbox.faults(APPID, &json!([{ "kind": "hang_before", "calls": ["business"], "times": 1 }]));
    let hanging = tokio::spawn(shop.admin.keyless(Method::GET, &path).send());
    eventually(BOUND, "the first call to reach WeChat", async || {
        shop.sandbox.calls(APPID).iter().any(|entry| entry.path == "/cgi-bin/echo/x").then_some(())
    })
    .await;
    refused(&shop.get(&path).await, -1, "system error, hint: [wxtoken: too many calls");
    hanging.abort();
    eventually(BOUND, "WeChat to see the connection closed", async || {
        shop.sandbox.calls(APPID).iter().all(|entry| entry.ended_ms.is_some()).then_some(())
    })
    .await;
    eventually(BOUND, "a place", async || (shop.get(&path).await.body["errcode"] == 0).then_some(())).await;
}

#[tokio::test]
async fn calls_one_after_the_other_share_a_connection_to_wechat() {
    let shop = Shop::open().await;
    let token = shop.token().await;
    for call in 0..30 {
        shop.echo(&format!("/cgi-bin/echo/{call}?access_token={token}")).await;
    }
    let calls = shop.sandbox.calls(APPID).into_iter().filter(|entry| entry.path.starts_with("/cgi-bin/echo/"));
    let ports: std::collections::BTreeSet<_> = calls.map(|entry| entry.remote).collect();
    assert_eq!(ports.len(), 1, "{ports:?}");
}

#[tokio::test]
async fn whoever_is_silent_for_too_long_is_not_waited_for() {
    let shop = Shop::with(&json!({}), |server| server.env("WXTOKEN_FORWARD_TIMEOUT", "1s")).await;
    let path = format!("/cgi-bin/echo/x?access_token={}", shop.token().await);
    shop.sandbox.faults(APPID, &json!([{ "kind": "hang_before", "calls": ["business"], "times": 1 }]));
    refused(&shop.get(&path).await, -1, "system error, hint: [wxtoken: the call to WeChat failed: no answer");
    let half = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nconnection: close\r\n\r\nhalf");
    let reply = raw::send(&shop.server.base_url(), half.as_bytes()).await;
    assert!(reply.status == 200 && reply.body.contains("no more of the body came for 1 s"), "{reply:?}");
    // Slow is not silent.
    shop.sandbox.faults(APPID, &json!([{ "kind": "slow_drip", "calls": ["business"], "times": 1, "ms": 15 }]));
    shop.echo(&path).await;
    let mut stream = raw::connect(&shop.server.base_url()).await;
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("it is sent");
    for byte in b"slowly" {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.write_all(&[*byte]).await.expect("it is sent");
    }
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("it is text");
    assert!(answer.contains("\"body\":\"slowly\""), "{answer}");
}

#[tokio::test]
async fn an_answer_that_wechat_breaks_off_breaks_off() {
    let shop = Shop::open().await;
    let path = format!("/cgi-bin/echo/x?access_token={}", shop.token().await);
    for kind in ["reset_before", "close_after"] {
        shop.sandbox.faults(APPID, &json!([{ "kind": kind, "calls": ["business"], "times": 1 }]));
        refused(&shop.get(&path).await, -1, "system error, hint: [wxtoken: the call to WeChat failed");
    }
    for (kind, status) in [("http_502", 502), ("html", 200), ("empty_body", 200), ("redirect", 302)] {
        shop.sandbox.faults(APPID, &json!([{ "kind": kind, "calls": ["business"], "times": 1 }]));
        let reply = shop.get(&path).await.expect_status(status);
        assert_eq!(reply.header("x-wxtoken-retried"), "false", "{kind}");
    }
    shop.sandbox.faults(APPID, &json!([{ "kind": "huge_body", "calls": ["business"], "times": 1 }]));
    assert!(shop.get(&path).await.expect_status(200).text.len() > 2 * MIB);
    shop.echo(&path).await;
}

#[tokio::test]
async fn who_shows_nothing_takes_no_place() {
    let shop = Shop::with(&json!({}), |server| server.env("WXTOKEN_FORWARD_CONCURRENCY", "1")).await;
    let path = format!("/cgi-bin/echo/x?access_token={}", shop.token().await);
    let mut idle = Vec::new();
    for credential in ["", "?access_token=nobodys", "?appid=wx1&secret=x"] {
        let mut stream = raw::connect(&shop.server.base_url()).await;
        let half =
            format!("POST /cgi-bin/echo/x{credential} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nhalf");
        stream.write_all(half.as_bytes()).await.expect("it is sent");
        idle.push(stream);
    }
    shop.echo(&path).await;
}
