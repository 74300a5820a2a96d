//! What services and admins talk to.
//!
//! A request comes through the [`Door`] and then `hot`, which answers plain reads of valid tokens and passes everything else to the router; there
//! [`context`] surrounds it with what every answer has, an extractor of [`caller`] settles who asks and whether they may, and a
//! handler of `api` extracts, calls one verb, and answers. Errors are [`problem::Problem`]s.
//!
//! # Limits
//!
//! | what | limit | answer beyond it |
//! |---|---|---|
//! | TLS handshake; asking for a tunnel | 10 s each | closed |
//! | request head | 16 KiB, 64 headers | 431 |
//! | time to send a request head; idle connection | 75 s | closed |
//! | request body | 64 KiB | 413 |
//! | time to send a request body | 10 s | 408 |
//! | time until an answer begins | 15 s | 503 |
//! | time in which nothing of an answer is taken | 75 s | closed |
//! | items of a page | 500 | 422 |
//! | rows of a CSV | 1,000,000 | the file ends there |
//! | event streams | 64 of a key, 1,024 in all | 429 |
//!
//! A shutdown waits two seconds for the first request of a connection, and 15 s for answers.
//!
//! # SDKs with WeChat's host compiled in
//!
//! They come through the same door: `tls` takes those in whose hosts file says that [`HOST`] is here, `tunnel` those who have a proxy here.
//!
//! The connection timer serves two purposes: it closes half-sent heads, and connections on which nothing is asked. It is longer than the 60 s
//! after which common proxies and clients give up an idle connection of theirs, so that it is they who do.

mod answer;
mod api;
mod body;
pub mod caller;
mod compat;
mod connection;
pub mod context;
mod cursor;
mod door;
mod health;
mod hot;
pub mod problem;
mod routes;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum_server::Handle;
use axum_server::accept::Accept;
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::live::LiveView;
use crate::refresher::Refresher;
use crate::store::Store;
use crate::wechat::forward::Forwarder;
pub use api::Streams;
pub use compat::ForwardLimits;
use connection::Reception;
pub use door::Door;
use door::Visitor;
pub use health::Restarts;
use problem::{Code, Problem};
pub use routes::RouteInfo;
pub use tls::HOST;
use tls::TlsReception;
use tunnel::TunnelReception;

/// The largest request body, in bytes.
pub const LARGEST_BODY: usize = 64 * 1024;
/// How long a request body may take to arrive.
pub const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// How long an answer may take to begin; longer than the refresher's patience, so that its own answer comes first.
pub const HANDLER_DEADLINE: Duration = Duration::from_secs(15);
/// How long a connection may be silent, or take to send a request's head.
pub const IDLE_DEADLINE: Duration = Duration::from_secs(75);
const LARGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;

/// What handlers work with.
pub struct Rooms {
    /// The database.
    pub store: Arc<Store>,
    /// The view that reads are answered from.
    pub live: Arc<LiveView>,
    /// Tokens on demand.
    pub refresher: Arc<Refresher>,
    /// The time.
    pub clock: Clock,
    /// Passes calls on to WeChat.
    pub forwarder: Forwarder,
    /// How it is done.
    pub forward_limits: ForwardLimits,
    /// Cancelled when the shutdown begins; from then on this instance is not ready.
    pub draining: CancellationToken,
    /// The rounds that had to begin again.
    pub restarts: Restarts,
    /// The event streams that are open.
    pub streams: Streams,
}

impl Rooms {
    /// The rooms of an instance that starts now.
    pub fn new(
        store: Arc<Store>,
        live: Arc<LiveView>,
        refresher: Arc<Refresher>,
        clock: Clock,
        (forwarder, forward_limits): (Forwarder, ForwardLimits),
        draining: CancellationToken,
    ) -> Arc<Self> {
        let (restarts, streams) = (Restarts::default(), Streams::default());
        Arc::new(Self { store, live, refresher, clock, forwarder, forward_limits, draining, restarts, streams })
    }
}

/// Every route, with the action that it asks for.
pub fn routes() -> Vec<RouteInfo> {
    all_routes().finish().1
}

/// The router, without the fast path.
pub fn router(rooms: Arc<Rooms>) -> Router {
    let (router, _) = all_routes().finish();
    router
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || {
            Problem::new(Code::MethodNotAllowed, "the header Allow lists the methods that this path has")
        })
        .layer(from_fn_with_state(rooms.clock.clone(), context::surround))
        .with_state(rooms)
}

fn all_routes() -> routes::Routes {
    api::add_to(health::add_to(routes::Routes::default()))
}

/// Serves what is behind `door` on `listener` until `handle` says to stop.
pub async fn serve(listener: TcpListener, door: Door, handle: Handle<SocketAddr>) -> io::Result<()> {
    receive(listener, Reception, door, handle).await
}

/// The same to those who speak TLS.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    door: Door,
    handle: Handle<SocketAddr>,
) -> io::Result<()> {
    receive(listener, TlsReception::new(tls), door, handle).await
}

/// The same to those who take this for a proxy on their way to [`HOST`]. It connects to nobody.
pub async fn serve_tunnels(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    clock: Clock,
    door: Door,
    handle: Handle<SocketAddr>,
) -> io::Result<()> {
    receive(listener, TunnelReception::new(tls, clock), door, handle).await
}

async fn receive<R>(listener: TcpListener, reception: R, door: Door, handle: Handle<SocketAddr>) -> io::Result<()>
where
    R: Accept<TcpStream, Visitor, Service = Visitor> + Clone + Send + Sync + 'static,
    R::Stream: AsyncRead + AsyncWrite + Unpin + Send,
    R::Future: Send,
{
    listener.set_nonblocking(true)?;
    let mut server = axum_server::from_tcp(listener)?.acceptor(reception).handle(handle).http1_only();
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_DEADLINE)
        .max_headers(MOST_HEADERS)
        .max_buf_size(LARGEST_HEAD);
    let visitors = tower::service_fn(move |_: SocketAddr| ready(Ok::<_, Infallible>(Visitor::new(door.clone()))));
    server.serve(visitors).await
}
