//! What reading a token costs: the whole service against servers that do nothing.
//!
//! Four servers run in one process, each in a thread of its own with a runtime of its own (one core each, and never two of them busy
//! at once). One driver asks them in turn, a slice of time each, over the same number of keep-alive connections of this machine, with one
//! request in flight on each. What they answer has the same status, headers and length, except that the full handler adds its own headers.
//!
//! With a thousand accounts in turn each answer comes out of memory that no answer has touched for a while; the row with one account shows
//! how much of the cost that is. It grows with whatever else the machine has in its caches.
//!
//! The figures to look at are the ratios to the bare server: they are taken slice by slice, so that a machine that grows slower meanwhile
//! makes both slower. CPU time is that of the server's thread, the kernel's part of it included; it is known on Linux only. Where the
//! driver and the server cannot have a core each, only the CPU time means anything.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]
#![expect(clippy::expect_used, reason = "a measurement that cannot be made ends here")]

mod furnished;
#[path = "../measure/mod.rs"]
mod measure;

use std::future::ready;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::Path as InPath;
use axum::http::Request;
use axum::routing::get;
use axum_server::Handle;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::service::TowerToHyperService;
use wxtoken::http::{Door, serve};

use furnished::{ACCOUNTS, KEY, appid, rooms};
use measure::{Answer, Row, SLICES, Server, print_table, serve_bare};

fn main() {
    // `cargo test --benches` starts this without the argument. There is nothing to test.
    if std::env::args().any(|argument| argument == "--bench") {
        let directory = tempfile::tempdir().expect("there is a place for temporary files");
        compare(directory.path().join("t.db")).expect("every request is answered");
    }
}

fn compare(file: PathBuf) -> io::Result<()> {
    let (plain, conditional) = (requests(""), requests("if-none-match: \"x\"\r\n"));
    let whole = Server::start(async move |listener| {
        let rooms = rooms(&file, "http://127.0.0.1:9").await;
        let door = Door::new(rooms.clock.clone());
        door.open(rooms);
        serve(listener, door, Handle::new()).await
    });
    let sample = Answer::of(&whole, &plain[0])?;
    assert!(!came_through_the_router(&sample), "a plain read takes the fast path");
    assert!(came_through_the_router(&Answer::of(&whole, &conditional[0])?), "a conditional read does not");
    let fixed = sample.fixed();
    let of_hyper = Arc::clone(&fixed);
    let hyper = Server::start(async move |listener| {
        let answer = move |_: Request<Incoming>| ready(Ok(of_hyper.response()));
        serve_bare(listener, || service_fn(answer.clone())).await
    });
    let axum = Server::start(async move |listener| {
        let handler = async move |_: InPath<(String, String)>| fixed.response();
        let router: Router = Router::new().route("/v1/accounts/{appid}/tokens/{token_type}", get(handler));
        serve_bare(listener, || TowerToHyperService::new(router.clone())).await
    });
    let mut rows = [
        Row::new("hyper, fixed answer", &hyper, &plain)?,
        Row::new("wxtoken", &whole, &plain)?,
        Row::new("wxtoken, always the same account", &whole, &plain[..1])?,
        Row::new("hyper and axum's router, fixed answer", &axum, &plain)?,
        Row::new("wxtoken, not by the fast path", &whole, &conditional)?,
    ];
    assert_eq!(rows[0].answer_length, rows[1].answer_length, "the answers are alike");
    for _ in 0..SLICES {
        rows.iter_mut().try_for_each(Row::run_slice)?;
    }
    print_table(&rows, &format!("{ACCOUNTS} accounts"));
    Ok(())
}

fn came_through_the_router(answer: &Answer) -> bool {
    answer.headers.iter().any(|(name, _)| name == "x-request-id")
}

/// One request for each account.
fn requests(header: &str) -> Vec<Vec<u8>> {
    let request = |account| {
        format!(
            "GET /v1/accounts/{}/tokens/access_token HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench\r\naccept: */*\r\n\
             authorization: Bearer {KEY}\r\n{header}\r\n",
            appid(account)
        )
        .into_bytes()
    };
    (0..ACCOUNTS).map(request).collect()
}
