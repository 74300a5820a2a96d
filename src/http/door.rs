//! What stands at the address from the start on. Until there are rooms behind it, it says what is waited for; then it lets everybody in, also
//! those who came before on a connection that they kept.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody;
use axum::http::{Request, Response, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use bytes::Bytes;
use tower::Service;

use super::hot::{AnswerBody, Answering, HotPath, through};
use super::problem::{Code, Problem};
use super::{Rooms, context, router};
use crate::clock::Clock;

/// The service of every connection. Clones share one door.
#[derive(Clone)]
pub struct Door(Arc<Entrance>);

struct Entrance {
    waiting: Router,
    opened: OnceLock<HotPath>,
}

impl Door {
    /// A door behind which there is nothing yet.
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Entrance { waiting: waiting(clock), opened: OnceLock::new() }))
    }

    /// Lets everybody in from now on. A door is opened once.
    pub fn open(&self, rooms: Arc<Rooms>) {
        self.0.opened.get_or_init(|| HotPath::new(Arc::clone(&rooms), router(rooms)));
    }
}

/// Answers while the database is waited for: the process lives, is not ready, and can do nothing else.
fn waiting(clock: Clock) -> Router {
    let nothing = async || {
        Problem::new(Code::DatabaseUnavailable, "the database has not been reached since the start; ask again soon")
            .retry_after(Duration::from_secs(1))
    };
    let live = || get(async || "ok\n");
    Router::new()
        .route("/livez", live())
        .route("/healthz", live())
        .route("/readyz", get(async || (StatusCode::SERVICE_UNAVAILABLE, "waiting for the database\n")))
        .fallback(nothing)
        .method_not_allowed_fallback(nothing)
        .layer(from_fn_with_state(clock, context::surround))
}

impl<B> Service<Request<B>> for Door
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        match self.0.opened.get() {
            Some(rooms) => rooms.respond(request),
            None => through(&self.0.waiting, request),
        }
    }
}
