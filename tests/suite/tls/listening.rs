//! SDKs that believe that this is WeChat.

use std::net::TcpListener;

use rcgen::{CertificateParams, KeyPair};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{BOUND, Ca, Scene, announced, connect, connector, name};
use crate::support::process::{ADMIN_KEY, Server};
use crate::support::raw;
use crate::support::sandbox::{SECRET, TestSandbox};
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_lead_to_everything_that_is_served() {
    let sandbox = TestSandbox::start().await;
    sandbox.account("wx1", &json!({}));
    let scene = Scene::start(|server| server.wechat(sandbox.url())).await;
    scene.server.admin().create_account(&json!({ "appid": "wx1", "secret": SECRET })).await.expect_status(201);
    let plain = scene.server.admin().token("wx1", "access_token").await.expect_status(200).body;
    for (client, base) in scene.ways() {
        for _ in 0..3 {
            let url = format!("{base}/v1/accounts/wx1/tokens/access_token");
            let answer = client.get(url).bearer_auth(ADMIN_KEY).send().await.expect("an answer");
            assert_eq!(answer.status().as_u16(), 200);
            let text = answer.text().await.expect("all of it");
            let token: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(token["value"], plain["value"]);
        }
        // More than fits into one record, both ways.
        let key = json!({ "name": "k".repeat(60_000), "role": "service", "accounts": ["*"] }).to_string();
        let post = client.post(format!("{base}/v1/keys")).bearer_auth(ADMIN_KEY);
        let answer = post.header("content-type", "application/json").body(key).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 422, "a name is not as long as that");
        let long = client.get(format!("{base}/livez")).header("x-long", "x".repeat(17_000)).send().await;
        assert_eq!(long.expect("an answer").status().as_u16(), 431);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_trust_the_ca_is_seen_in_the_log_and_nobody_else_suffers() {
    let scene = Scene::start(|server| server).await;
    let key = KeyPair::generate().expect("a key");
    let unrelated = CertificateParams::default().self_signed(&key).expect("it is signed");
    for trusted in [unrelated.der().clone(), Ca::new().certificate("ca.pem")] {
        let mut roots = RootCertStore::empty();
        roots.add(trusted).expect("a certificate");
        let stranger = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        for address in [scene.tls, scene.connect] {
            let before = scene.server.output().matches("refuses the certificate").count();
            let mut stream = connect(address).await;
            if address == scene.connect {
                super::tunnels::ask(&mut stream).await;
            }
            assert!(connector(stranger.clone()).connect(name(), stream).await.is_err());
            eventually(BOUND, "a word in the log", async || {
                (scene.server.output().matches("refuses the certificate").count() > before).then_some(())
            })
            .await;
        }
    }
    scene.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_safe_and_spoken_here_is_negotiated() {
    let scene = Scene::start(|server| server).await;
    let mut roots = RootCertStore::empty();
    roots.add(scene.ca.certificate("ca.pem")).expect("a certificate");
    for version in [&TLS12, &TLS13] {
        for (offered, agreed) in [(&[][..], None), (&["h2", "http/1.1"], Some(&b"http/1.1"[..]))] {
            let builder = ClientConfig::builder_with_protocol_versions(&[version]);
            let mut client = builder.with_root_certificates(roots.clone()).with_no_client_auth();
            client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let stream = connector(client).connect(name(), connect(scene.tls).await).await.expect("they agree");
            let (_, session) = stream.get_ref();
            assert_eq!((session.alpn_protocol(), session.protocol_version()), (agreed, Some(version.version)));
        }
    }
    let mut client = scene.ca.trust();
    client.alpn_protocols = vec![b"h2".to_vec()];
    assert!(connector(client).connect(name(), connect(scene.tls).await).await.is_err(), "HTTP/2 is not spoken here");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handshake_is_closed_and_nobody_else_suffers() {
    let scene = Scene::start(|server| server).await;
    let base = format!("http://{}", scene.tls);
    for bytes in [&b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"\0\0\0\0\0\0\0\0", "x".repeat(40_000).as_bytes()] {
        let reply = raw::send(&base, bytes).await;
        assert_eq!(reply.status, 0, "{reply:?}");
    }
    scene.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_they_say_so() {
    let ca = Ca::new();
    // Announced only once there is a database, so they are chosen here.
    let [tls, proxy] = [(); 2].map(|()| {
        let free = TcpListener::bind("127.0.77.1:0").expect("a port can be bound");
        free.local_addr().expect("it is bound")
    });
    let server = ca.served_by(Server::builder()).env("DATABASE_URL", "postgres://u@127.0.0.1:9/db");
    let server = server.env("WXTOKEN_TLS_LISTEN", &tls.to_string()).env("WXTOKEN_CONNECT_LISTEN", &proxy.to_string());
    let server = server.start_listening().await;
    for (client, base) in ca.ways(tls, proxy) {
        let answer = client.get(format!("{base}/v1/accounts")).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("{error:?}: {}", server.output()));
        assert_eq!(answer.status().as_u16(), 503);
        assert!(answer.text().await.expect("all of it").contains("database_unavailable"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listeners_are_off_unless_they_are_wanted() {
    let server = Server::builder().start().await;
    assert!(!server.output().contains("api.weixin.qq.com on"), "{}", server.output());
    let ca = Ca::new();
    let directory = ca.path("");
    let builder = Server::builder().env("WXTOKEN_TLS_DIR", directory.to_str().expect("it is UTF-8"));
    let server = builder.env("WXTOKEN_CONNECT_LISTEN", "127.0.0.1:0").start().await;
    let address = announced(&server, " alone on http://").await;
    let mut stream = connect(address).await;
    super::tunnels::ask(&mut stream).await;
    let mut stream = connector(ca.trust()).connect(name(), stream).await.expect("the one is there");
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer, and a clean end");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!server.output().contains("api.weixin.qq.com on"), "the other is not: {}", server.output());
}
