//! What passing a call on to WeChat costs: against a direct call to the simulator, and against a reverse proxy that does nothing else.
//!
//! All servers run in one process, each in a thread of its own with a runtime of its own. For the time of a call one caller asks the simulator
//! directly and through wxtoken in turn. For the throughput the upstream is a server with a fixed answer, so that the proxies are what is
//! measured: wxtoken, and hyper's server and client with nothing between them but the copying of the request.
//!
//! Where the machine has no core each for the driver, the proxy and the upstream, they take turns: the requests per second are those of all
//! three, and the CPU time is that of the proxy.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]
#![expect(clippy::expect_used, reason = "a measurement that cannot be made ends here")]

#[path = "../read_path/furnished.rs"]
mod furnished;
#[path = "../measure/mod.rs"]
mod measure;

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::http::uri::{Authority, Scheme};
use axum::http::{Request, Response, Uri};
use axum_server::Handle;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio_util::sync::CancellationToken;
use wxtoken::http::{Door, serve};
use wxtoken::wechat::sandbox::{Line, Sandbox};

use furnished::{KEY, appid, rooms};
use measure::{Answer, Fixed, Row, SLICES, Server, connect, median, print_table, serve_bare};

/// Calls of one caller to each, one after the other.
const CALLS: usize = 4_000;

fn main() {
    // `cargo test --benches` starts this without the argument. There is nothing to test.
    if std::env::args().any(|argument| argument == "--bench") {
        let directory = tempfile::tempdir().expect("there is a place for temporary files");
        let answer = compare_times(directory.path().join("times.db")).expect("every request is answered");
        compare_throughput(directory.path().join("throughput.db"), answer).expect("every request is answered");
    }
}

/// The request that an SDK would send, with one header more for wxtoken.
fn request(path: &str, authorization: &str) -> Vec<u8> {
    let body = r#"{"touser":"oAbc","msgtype":"text","text":{"content":"hello"}}"#;
    format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench\r\naccept: */*\r\n{authorization}content-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The whole service; `value` is the token that the first account has, if it is to be another than usual.
fn wxtoken(file: PathBuf, upstream: &Server, value: Option<String>) -> Server {
    let upstream = format!("http://{}", upstream.address);
    Server::start(async move |listener| {
        let rooms = rooms(&file, &upstream).await;
        if let Some(value) = value {
            let token = furnished::token(appid(0), &value, 2, rooms.clock.now());
            rooms.live.publish_token(token, tokio::time::Instant::now());
        }
        let door = Door::new(rooms.clock.clone());
        door.open(rooms);
        serve(listener, door, Handle::new()).await
    })
}

// --- the time of a call ---------------------------------------------------------------------------

/// Returns what the simulator answered, for an upstream that does nothing else.
fn compare_times(file: PathBuf) -> io::Result<Arc<Fixed>> {
    let sandbox = Sandbox::new();
    sandbox.configure(appid(0).as_str(), &serde_json::json!({})).expect("sound settings");
    let minted = sandbox.mint_foreign(appid(0).as_str(), Line::Plain).expect("the account is there").access_token;
    let simulator = Server::start(async move |listener| {
        listener.set_nonblocking(true)?;
        sandbox.serve(tokio::net::TcpListener::from_std(listener)?, CancellationToken::new()).await;
        Ok(())
    });
    let request = request(&format!("/cgi-bin/message/custom/send?access_token={minted}"), "");
    let between = wxtoken(file, &simulator, Some(minted));
    let mut times = [Vec::new(), Vec::new()];
    let mut streams = [connect(&simulator)?, connect(&between)?];
    let lengths = [length(&simulator, &request)?, length(&between, &request)?];
    for call in 0..CALLS {
        for (index, stream) in streams.iter_mut().enumerate() {
            let mut answer = vec![0; lengths[index]];
            let began = Instant::now();
            stream.write_all(&request)?;
            stream.read_exact(&mut answer)?;
            if call >= CALLS / 10 {
                times[index].push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let [direct, through] = times.map(|times| median(&times));
    println!(
        "one caller, {CALLS} calls to each in turn, median: {direct:.3} ms directly, {through:.3} ms through wxtoken"
    );
    println!("forwarding costs {:.3} ms\n", through - direct);
    Ok(Answer::of(&simulator, &request)?.fixed())
}

fn length(server: &Server, request: &[u8]) -> io::Result<usize> {
    Answer::of(server, request).map(|answer| answer.length)
}

// --- the throughput -------------------------------------------------------------------------------

fn compare_throughput(file: PathBuf, answer: Arc<Fixed>) -> io::Result<()> {
    let upstream = Server::start(async move |listener| {
        serve_bare(listener, || {
            let answer = Arc::clone(&answer);
            service_fn(move |request: Request<Incoming>| {
                let answer = Arc::clone(&answer);
                async move {
                    // The body must be read, or the connection could not be used again.
                    http_body_util::BodyExt::collect(request.into_body()).await.ok();
                    Ok(answer.response())
                }
            })
        })
        .await
    });
    let bare = reverse_proxy(&upstream);
    let between = wxtoken(file, &upstream, None);
    let with_token = [request("/cgi-bin/message/custom/send?access_token=84_0", "")];
    let key = format!("authorization: Bearer {KEY}\r\n");
    let with_key = [request(&format!("/wx/{}/cgi-bin/message/custom/send", appid(0)), &key)];
    let by_token = [request(&format!("/cgi-bin/message/custom/send?access_token={}", furnished::value(&appid(0))), "")];
    let mut rows = [
        Row::new("hyper, reverse proxy", &bare, &with_token)?,
        Row::new("wxtoken, by access token", &between, &by_token)?,
        Row::new("wxtoken, by account and key", &between, &with_key)?,
        Row::new("nobody between", &upstream, &with_token)?,
    ];
    for _ in 0..SLICES {
        rows.iter_mut().try_for_each(Row::run_slice)?;
    }
    print_table(&rows, "one upstream");
    Ok(())
}

/// Hyper's server and client, and between them what every reverse proxy does: another host in the request, and no header of the connection.
fn reverse_proxy(upstream: &Server) -> Server {
    let authority: Authority = upstream.address.to_string().parse().expect("an address is an authority");
    Server::start(async move |listener| {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(256).build::<_, Incoming>(connector);
        serve_bare(listener, || {
            let (client, authority) = (client.clone(), authority.clone());
            service_fn(move |mut request: Request<Incoming>| {
                let mut parts = request.uri().clone().into_parts();
                (parts.scheme, parts.authority) = (Some(Scheme::HTTP), Some(authority.clone()));
                *request.uri_mut() = Uri::from_parts(parts).expect("its parts are a URI's");
                request.headers_mut().remove("host");
                request.headers_mut().remove("connection");
                let client = client.clone();
                async move { Ok::<Response<Incoming>, _>(client.request(request).await.expect("it is answered")) }
            })
        })
        .await
    })
}
