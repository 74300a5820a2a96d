//! The fault proxy breaks what it says, counts it, and heals.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::proxy::{Fault, Proxy};
use crate::support::wait::eventually;

const BOUND: Duration = Duration::from_secs(10);
/// Long enough for an answer that comes at all.
const SILENCE: Duration = Duration::from_millis(300);

/// A proxy in front of a server that answers every piece with the same bytes.
async fn proxied_echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port can be bound");
    let target = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
    Proxy::start(target)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.expect("the proxy accepts")
}

async fn echoed(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    hears(stream).await
}

async fn hears(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut answer = [0; 4];
    let length = tokio::time::timeout(BOUND, stream.read_exact(&mut answer)).await??;
    assert_eq!((length, &answer), (4, b"ping"));
    Ok(())
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(SILENCE, stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn a_cut_closes_and_refuses_until_it_is_healed() {
    let proxy = proxied_echo().await;
    let mut old = connect(&proxy).await;
    echoed(&mut old).await.expect("no fault yet");
    proxy.set(Fault::Cut);
    assert_eq!(old.read(&mut [0]).await.expect("a plain end"), 0);
    assert_eq!(proxy.struck_by(Fault::Cut), 1);
    eventually(BOUND, "new connections to be refused", async || {
        let error = TcpStream::connect(proxy.address()).await.err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    })
    .await;
    proxy.heal();
    let new = eventually(BOUND, "the port to listen again", async || TcpStream::connect(proxy.address()).await.ok());
    echoed(&mut new.await).await.expect("healed");
}

#[tokio::test]
async fn a_reset_breaks_old_and_new_connections() {
    let proxy = proxied_echo().await;
    let mut old = connect(&proxy).await;
    echoed(&mut old).await.expect("no fault yet");
    proxy.set(Fault::Reset);
    let mut new = connect(&proxy).await;
    for stream in [&mut old, &mut new] {
        let error = stream.read(&mut [0]).await.expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(proxy.struck_by(Fault::Reset), 2);
}

#[tokio::test]
async fn what_a_black_hole_touched_never_works_again() {
    let proxy = proxied_echo().await;
    let (mut touched, mut idle) = (connect(&proxy).await, connect(&proxy).await);
    echoed(&mut touched).await.expect("no fault yet");
    echoed(&mut idle).await.expect("no fault yet");
    proxy.set(Fault::BlackHole);
    let mut new = connect(&proxy).await;
    for stream in [&mut touched, &mut new] {
        stream.write_all(b"ping").await.expect("it takes bytes");
        assert!(is_silent(stream).await);
    }
    assert_eq!(proxy.struck_by(Fault::BlackHole), 2);
    proxy.heal();
    assert!(is_silent(&mut touched).await && is_silent(&mut new).await);
    echoed(&mut idle).await.expect("it lost nothing");
    echoed(&mut connect(&proxy).await).await.expect("healed");
}

#[tokio::test]
async fn lost_answers_are_lost_and_requests_go_through() {
    let proxy = proxied_echo().await;
    let mut stream = connect(&proxy).await;
    echoed(&mut stream).await.expect("no fault yet");
    proxy.set(Fault::AnswersLost);
    stream.write_all(b"ping").await.expect("it takes bytes");
    // Only an answer that came back from the server can be counted.
    eventually(BOUND, "the answer to be lost", async || (proxy.struck_by(Fault::AnswersLost) == 1).then_some(())).await;
    proxy.heal();
    stream.write_all(b"ping").await.expect("it takes bytes");
    assert!(is_silent(&mut stream).await);
}

#[tokio::test]
async fn what_is_stalled_comes_later_and_in_order() {
    let proxy = proxied_echo().await;
    let mut stream = connect(&proxy).await;
    proxy.set(Fault::Stall);
    stream.write_all(b"ping").await.expect("it takes bytes");
    assert!(is_silent(&mut stream).await);
    assert_eq!(proxy.struck_by(Fault::Stall), 1);
    proxy.heal();
    hears(&mut stream).await.expect("what was held");
    echoed(&mut stream).await.expect("and all that follows");
}

#[tokio::test]
async fn a_delay_and_a_trickle_slow_what_passes() {
    let proxy = proxied_echo().await;
    let mut stream = connect(&proxy).await;
    for (fault, least) in [(Fault::Delay(Duration::from_millis(100)), 200), (Fault::Trickle(10), 300)] {
        proxy.set(fault);
        let began = Instant::now();
        echoed(&mut stream).await.expect("slow and whole");
        assert!(began.elapsed() >= Duration::from_millis(least), "{fault:?} took {:?}", began.elapsed());
        assert!(proxy.struck_by(fault) >= 2);
    }
}

#[tokio::test]
async fn a_url_leads_through_the_proxy() {
    let (proxy, url) = Proxy::in_front_of("postgres://user:word@127.0.0.1:1/name?mode=x");
    let port = proxy.address().port();
    assert_eq!(url, format!("postgres://user:word@127.0.0.1:{port}/name?mode=x"));
}
