//! The accept loop, and the ends that a connection can come to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::{Sandbox, control, exchange};

/// How long open connections may go on after the shutdown.
const DRAIN: Duration = Duration::from_secs(1);
/// How long to wait when no connection can be accepted, for lack of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a connection ends without an answer. A handler puts it among the extensions of an otherwise meaningless response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severed {
    /// By TCP RST.
    Reset,
    /// By TCP FIN.
    Close,
}

/// Tells the connection to end without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection was severed on purpose")]
struct OnPurpose;

/// What a handler may know of its connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) remote: SocketAddr,
    pub(super) shutdown: CancellationToken,
}

impl Sandbox {
    /// Serves WeChat's paths and the control API on `listener` until `shutdown` is cancelled; then open connections have a
    /// second to finish, and those that hang on purpose are closed.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        let router = self.router();
        let tracker = TaskTracker::new();
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, remote)) => {
                    let connection = Connection { remote, shutdown: shutdown.clone() };
                    tracker.spawn(converse(stream, connection, router.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the sandbox could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tracker.close();
        tracker.wait().await;
    }

    fn router(&self) -> Router {
        Router::new().nest("/sandbox", control::router()).fallback(exchange::answer).with_state(self.clone())
    }
}

/// Serves one connection to its end.
async fn converse(stream: TcpStream, connection: Connection, router: Router) {
    // Without this a body that drips would be held back and come in lumps.
    drop(stream.set_nodelay(true));
    let Ok(stream) = stream.into_std() else { return };
    // hyper owns the socket until it drops it; the linger option is set through this second handle.
    let Ok(second) = stream.try_clone() else { return };
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let shutdown = connection.shutdown.clone();
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        let answered = router.clone().oneshot(request.map(Body::new));
        let second = &second;
        async move { sever(answered.await, second) }
    });
    let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN, served.as_mut()).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection to the sandbox ended early");
    }
}

fn sever(answered: Result<Response, Infallible>, socket: &std::net::TcpStream) -> Result<Response, OnPurpose> {
    let response = answered.unwrap_or_else(|never| match never {});
    match response.extensions().get::<Severed>() {
        None => Ok(response),
        Some(Severed::Close) => Err(OnPurpose),
        Some(Severed::Reset) => {
            if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
                tracing::warn!(%error, "a connection will be closed instead of reset");
            }
            Err(OnPurpose)
        }
    }
}
