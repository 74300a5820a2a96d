//! No connection, the wrong connection, and the host to fall back on.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use super::*;

/// A certificate for localhost that nobody trusts, made for this test, in DER. Valid until 2126.
const UNTRUSTED_CERTIFICATE: &str = "MIIBmjCCAUGgAwIBAgIUO7BsJT4xZ3n3+K578gEFBGJ3zxAwCgYIKoZIzj0EAwIwFDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMDIzND\
    EwMVoYDzIxMjYxMDI3MjM0MTAxWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATrOKQ/r5rVp6OH/vjg\
    dwgImoH4+agHDRL6vNq8/ljr/1JVeKYDFlol9IY90ZIPQ6CzSCFWpaNFxQx3e6exoCUKo28wbTAdBgNVHQ4EFgQU5ymoTPrC58viafgBY2hTY2\
    U2SFEwHwYDVR0jBBgwFoAU5ymoTPrC58viafgBY2hTY2U2SFEwDwYDVR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEw\
    CgYIKoZIzj0EAwIDRwAwRAIgPnCPEI2iNnfVUtffvLH4HaB9rgRZFKIlqml/rDwB39gCIG5Y/RHDh+Kpfuzevpq66C3KKUutVpzxr/ZH7XiNpK\
    RQ";
/// Its key, in PKCS #8.
const UNTRUSTED_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgN42rU0mUrLxqzg55iHOd4H36XZF10sy/HhAhFP2q3+mhRANCAATrOKQ/r5rVp6\
    OH/vjgdwgImoH4+agHDRL6vNq8/ljr/1JVeKYDFlol9IY90ZIPQ6CzSCFWpaNFxQx3e6exoCUK";

/// The `https` address of a host that answers a TLS greeting in plain HTTP.
fn without_tls(listener: TcpListener) -> String {
    let url = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            wait_for_end(&mut stream);
        }
    });
    url
}

/// The `https` address of a host with an untrusted certificate, and what it heard after the greetings.
fn with_untrusted_certificate() -> (String, Receiver<String>) {
    let certificate = CertificateDer::from(BASE64_STANDARD.decode(UNTRUSTED_CERTIFICATE).unwrap());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(BASE64_STANDARD.decode(UNTRUSTED_KEY).unwrap()));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let (sender, heard) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut text = Vec::new();
            let _ = Stream::new(&mut tls, &mut stream).read_to_end(&mut text);
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
        }
    });
    (url, heard)
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_is_replaced_by_the_fallback() {
    let (_port, url) = refusing();
    let peer = Peer::answering(MINTED);
    client(url, Some(peer.url())).plain_token(&appid(), &secret()).await.unwrap();
    assert!(peer.request().starts_with("GET /cgi-bin/token?"));
}

#[tokio::test]
async fn the_fallback_is_not_asked_what_the_first_host_may_have_heard() {
    let fallback = Peer::answering(MINTED);
    let too_large = " ".repeat(LARGEST_ANSWER + 1);
    for first in [
        Peer::saying(""),
        Peer::saying(response("502 Bad Gateway", "", "")),
        Peer::answering("<html>"),
        Peer::answering(&too_large),
        Peer::answering(r#"{"errcode":-1,"errmsg":"system error"}"#),
    ] {
        plain_error(&client(first.url(), Some(fallback.url()))).await;
    }
    let silent = Peer::silent();
    let limit = Duration::from_millis(200);
    let hurried =
        ClientSettings { deadline: limit, connect_timeout: limit, ..settings(silent.url(), Some(fallback.url())) };
    plain_error(&Client::new(&hurried).unwrap()).await;
    assert!(fallback.requests.try_recv().is_err());
}

#[tokio::test]
async fn with_both_hosts_out_of_reach_the_first_is_told_of() {
    let (_port, url) = refusing();
    let not_tls = without_tls(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let error = plain_error(&client(url, Some(not_tls))).await;
    assert_eq!(error, CallError::Connect(ConnectFault::Refused));
    assert!(error.is_unsent());
    assert_eq!(error.to_string(), "connecting to WeChat failed: connection refused");
}

#[tokio::test]
async fn faults_of_connecting_are_told_apart() {
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("https://{}", plain.local_addr().unwrap());
    // Nobody takes the connection from the queue, so the TLS greeting is never answered.
    let limit = Duration::from_millis(100);
    let unanswered = ClientSettings { connect_timeout: limit, ..settings(url, None) };
    assert_eq!(plain_error(&Client::new(&unanswered).unwrap()).await, CallError::Connect(ConnectFault::TimedOut));

    assert_eq!(plain_error(&client(without_tls(plain), None)).await, CallError::Connect(ConnectFault::Tls));

    let nowhere = "https://wxtoken.invalid".to_owned();
    assert_eq!(plain_error(&client(nowhere, None)).await, CallError::Connect(ConnectFault::Name));
}

#[tokio::test]
async fn an_untrusted_host_hears_nothing() {
    let (url, heard) = with_untrusted_certificate();
    let error = plain_error(&client(url, None)).await;
    assert_eq!(error, CallError::Connect(ConnectFault::Certificate));
    assert_eq!(heard.recv_timeout(Duration::from_secs(5)).unwrap(), "");
}
