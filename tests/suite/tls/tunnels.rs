//! The proxy that leads here and nowhere else.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{BOUND, CONNECT, ESTABLISHED, HOST, Scene, connect, connector, name};
use crate::support::raw;

const CREDENTIALS: &str = "Y2FuYXJ5LXVzZXI6Y2FuYXJ5LXBhc3N3b3Jk";

/// Asks for a tunnel and gets it.
pub(super) async fn ask(stream: &mut TcpStream) {
    stream.write_all(CONNECT.as_bytes()).await.expect("it is sent");
    expect_established(stream).await;
}

async fn expect_established(stream: &mut TcpStream) {
    let mut head = vec![0; ESTABLISHED.len()];
    timeout(BOUND, stream.read_exact(&mut head)).await.expect("soon enough").expect("an answer");
    assert_eq!(String::from_utf8_lossy(&head), ESTABLISHED);
}

/// Serves a request on a stream in which the tunnel has been asked for.
async fn is_served<S>(scene: &Scene, stream: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut stream = connector(scene.ca.trust()).connect(name(), stream).await.expect("they agree");
    let request = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer, and a clean end");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_asked_in_more_than_one_spelling() {
    let scene = Scene::start(|server| server.env("WXTOKEN_LOG", "trace")).await;
    for target in ["api.weixin.qq.com:443", "API.Weixin.QQ.com:443", "api.weixin.qq.com.:443"] {
        for version in ["1.1", "1.0"] {
            let mut stream = connect(scene.connect).await;
            let head =
                format!("CONNECT {target} HTTP/{version}\r\nProxy-Authorization: Basic {CREDENTIALS}\r\nA: b\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("it is sent");
            expect_established(&mut stream).await;
            is_served(&scene, stream).await;
        }
    }
    let head = format!("CONNECT example.com:443 HTTP/1.1\r\nProxy-Authorization: Basic {CREDENTIALS}\r\n\r\n");
    assert_eq!(raw::send(&format!("http://{}", scene.connect), head.as_bytes()).await.status, 403);
    let output = scene.server.output();
    assert!(!output.contains(CREDENTIALS) && !output.contains("canary"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_come_in_pieces_and_with_the_handshake_on_its_heels() {
    let scene = Scene::start(|server| server).await;
    let mut slow = connect(scene.connect).await;
    slow.set_nodelay(true).expect("a socket");
    for byte in CONNECT.bytes() {
        slow.write_all(&[byte]).await.expect("it is sent");
        slow.flush().await.expect("it is sent");
        tokio::task::yield_now().await;
    }
    expect_established(&mut slow).await;
    is_served(&scene, slow).await;

    let (near, mut far) = duplex(64 * 1024);
    let mut stream = connect(scene.connect).await;
    let pump = tokio::spawn(async move {
        let mut hello = vec![0; 16 * 1024];
        let length = far.read(&mut hello).await.expect("the client's first words");
        let eager = [CONNECT.as_bytes(), &hello[..length]].concat();
        stream.write_all(&eager).await.expect("it is sent");
        expect_established(&mut stream).await;
        tokio::io::copy_bidirectional(&mut far, &mut stream).await.ok();
    });
    is_served(&scene, near).await;
    pump.await.expect("it pumped");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_something_else_is_told_what_there_is() {
    let scene = Scene::start(|server| server).await;
    let base = format!("http://{}", scene.connect);
    for target in [
        "example.com:443",
        "api.weixin.qq.com:80",
        "api.weixin.qq.com",
        "api2.weixin.qq.com:443",
        "api.weixin.qq.com.example.com:443",
        "user@api.weixin.qq.com:443",
        "127.0.0.1:443",
        "[::1]:443",
        &scene.server.base_url()["http://".len()..],
    ] {
        let reply = raw::send(&base, format!("CONNECT {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
        assert!((reply.status, reply.code().as_str()) == (403, "host_not_served"), "{target}: {reply:?}");
        assert!(reply.body.contains("api.weixin.qq.com:443") && reply.head.contains("connection: close"), "{reply:?}");
    }
    for (line, word) in [
        ("GET http://api.weixin.qq.com/cgi-bin/token HTTP/1.1", "https://"),
        ("GET http://example.com/ HTTP/1.1", "https://"),
        ("GET https://api.weixin.qq.com/livez HTTP/1.1", "https://"),
        ("GET /livez HTTP/1.1", "HTTPS_PROXY"),
        ("GET /v1/accounts HTTP/1.0", "HTTPS_PROXY"),
        ("POST / HTTP/1.1", "HTTPS_PROXY"),
        ("OPTIONS * HTTP/1.1", "HTTPS_PROXY"),
        ("connect api.weixin.qq.com:443 HTTP/1.1", ""),
    ] {
        // A second request must not slip in behind a refused one.
        let head = format!("{line}\r\nHost: {HOST}\r\n\r\n{CONNECT}");
        let reply = raw::send(&base, head.as_bytes()).await;
        assert!((reply.status, reply.code().as_str()) == (405, "method_not_allowed"), "{line}: {reply:?}");
        assert!(reply.body.contains(word) && reply.head.contains("allow: connect"), "{line}: {reply:?}");
        assert!(!reply.body.contains("established"), "{line}: {reply:?}");
    }
    scene.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_is_refused_at_once() {
    let scene = Scene::start(|server| server).await;
    let base = format!("http://{}", scene.connect);
    let began = Instant::now();
    for (bytes, statuses) in [
        (b"garbage\r\n\r\n".to_vec(), &[400][..]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[0, 400]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[0, 400, 405, 505]),
        (b"CONNECT api.weixin.qq.com:443 HTTP/1.1\r\nno header\r\n\r\n".to_vec(), &[400]),
        (format!("{}{}\r\n", &CONNECT[..CONNECT.len() - 2], "A: b\r\n".repeat(70)).into_bytes(), &[431]),
        (format!("{}A: {}\r\n\r\n", &CONNECT[..CONNECT.len() - 2], "x".repeat(20_000)).into_bytes(), &[431]),
        (vec![b'x'; 40_000], &[400, 414, 431]),
        (vec![0; 100], &[0, 400]),
    ] {
        let reply = raw::send(&base, &bytes).await;
        assert!(
            statuses.contains(&reply.status),
            "{:?}: {reply:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
    }
    assert!(began.elapsed() < Duration::from_secs(8), "none waited for a deadline");
    scene.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_begun_and_not_finished_ends_at_its_deadline() {
    let scene = Scene::start(|server| server).await;
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    let half_head = CONNECT.as_bytes()[..30].to_vec();
    let begun = [
        (scene.tls, Vec::new()),
        (scene.tls, hello.clone()),
        (scene.connect, Vec::new()),
        (scene.connect, half_head),
        (scene.connect, CONNECT.as_bytes().to_vec()),
        (scene.connect, [CONNECT.as_bytes(), &hello].concat()),
    ];
    let ends = begun.into_iter().map(async |(address, bytes)| {
        let began = Instant::now();
        let mut stream = connect(address).await;
        stream.write_all(&bytes).await.expect("it is sent");
        let mut answer = Vec::new();
        // A connection that is reset has ended, too.
        timeout(BOUND, stream.read_to_end(&mut answer)).await.expect("it ends in time").ok();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer == ESTABLISHED, "{answer}");
        assert!(began.elapsed() > Duration::from_secs(8), "it had its time: {:?}", began.elapsed());
    });
    join_all(ends).await;
    scene.is_well().await;
}
