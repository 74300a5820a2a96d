//! What stands at the address from the start on. Until there are rooms behind it, it says what is waited for; then it lets everybody in, also
//! those who came before on a connection that they kept.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::{Request, Response, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::hot::{AnswerBody, Answering, HotPath, through};
use super::problem::{Code, Problem};
use super::{Rooms, compat, context, router};
use crate::clock::Clock;

/// The way in. Clones share one door.
#[derive(Clone)]
pub struct Door(Arc<Entrance>);

struct Entrance {
    waiting: Router,
    opened: OnceLock<HotPath>,
    closed: CancellationToken,
}

impl Door {
    /// A door behind which there is nothing yet.
    pub fn new(clock: Clock) -> Self {
        Self::before(waiting(clock))
    }

    /// A door at which `waiting` answers until it is opened, if it ever is.
    pub(super) fn before(waiting: Router) -> Self {
        Self(Arc::new(Entrance { waiting, opened: OnceLock::new(), closed: CancellationToken::new() }))
    }

    /// Waits only for those from now on who have asked something.
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    pub(super) fn answer<B>(&self, request: Request<B>) -> Answering
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<axum::BoxError>,
    {
        match self.0.opened.get() {
            Some(rooms) => rooms.respond(request),
            None => through(&self.0.waiting, request),
        }
    }

    /// Lets everybody in from now on. A door is opened once.
    pub fn open(&self, rooms: Arc<Rooms>) {
        self.0.opened.get_or_init(|| HotPath::new(Arc::clone(&rooms), router(rooms)));
    }
}

/// Answers while the database is waited for: the process lives, is not ready, and can do nothing else.
fn waiting(clock: Clock) -> Router {
    let of_wechats_paths = clock.clone();
    let nothing = async move |path: Uri| {
        if compat::serves(path.path()) {
            return compat::not_yet(of_wechats_paths.now()).map(Body::new);
        }
        Problem::new(Code::DatabaseUnavailable, "the database has not been reached since the start; ask again soon")
            .retry_after(Duration::from_secs(1))
            .into_response()
    };
    let live = || get(async || "ok\n");
    Router::new()
        .route("/livez", live())
        .route("/healthz", live())
        .route("/readyz", get(async || (StatusCode::SERVICE_UNAVAILABLE, "waiting for the database\n")))
        .fallback(nothing.clone())
        .method_not_allowed_fallback(nothing)
        .layer(from_fn_with_state(clock, context::surround))
}

/// The service of one connection.
#[derive(Clone)]
pub(super) struct Visitor(Arc<Visit>);

struct Visit {
    door: Door,
    /// Whether a whole request came.
    asked: AtomicBool,
}

impl Visitor {
    /// One who comes to `door`.
    pub(super) fn new(door: Door) -> Self {
        Self(Arc::new(Visit { door, asked: AtomicBool::new(false) }))
    }

    /// Whether a shutdown lets this one say more.
    pub(super) fn is_waited_for(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) || !self.0.door.0.closed.is_cancelled()
    }

    /// Waits until the door is closed.
    pub(super) async fn closing(&self) {
        self.0.door.0.closed.cancelled().await;
    }
}

impl<B> Service<Request<B>> for Visitor
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        self.0.asked.store(true, Ordering::Relaxed);
        self.0.door.answer(request)
    }
}
