//! The fast path in front of the router: a plain read of a valid token by a key that may. Paths in WeChat's shape go to `compat`, because their
//! bodies have other limits and their errors another form; whatever else is out of the ordinary goes to the router, whose handler decides; this path never refuses. Its answers
//! carry no request identifier: there is nothing to look up in a log.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::header::IF_NONE_MATCH;
use axum::http::{Method, Request, Response};
use axum::routing::future::RouteFuture;
use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, MapOk};
use futures_util::{FutureExt, TryFutureExt};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use tower::Service;

use super::Rooms;
use super::answer::TokenAnswer;
use super::caller::authenticate;
use super::compat::{self, Compat};
use crate::domain::account::TokenType;
use crate::domain::key::Action;

/// The way of every request into the rooms.
pub(super) struct HotPath {
    rooms: Arc<Rooms>,
    compat: Arc<Compat>,
    router: Router,
}

impl HotPath {
    /// Puts the fast path in front of `router`.
    pub(super) fn new(rooms: Arc<Rooms>, router: Router) -> Self {
        Self { compat: Compat::new(Arc::clone(&rooms)), rooms, router }
    }

    /// The answer to a request.
    pub(super) fn respond<B>(&self, request: Request<B>) -> Answering
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<axum::BoxError>,
    {
        match self.answer(&request) {
            Some(response) => Either::Left(ready(Ok(response))),
            None if compat::serves(request.uri().path()) => {
                let answering = Arc::clone(&self.compat).answer(request);
                Either::Right(Either::Left(answering.map(Ok).boxed()))
            }
            None => through(&self.router, request),
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Option<Response<AnswerBody>> {
        let (appid, token_type) = plain_read(request)?;
        let now = self.rooms.clock.now();
        let key = authenticate(&self.rooms, request.headers(), now).ok()?;
        if !key.allows(Action::TokenRead, appid) {
            return None;
        }
        let account = self.rooms.live.account(appid).filter(|live| live.account.enabled)?;
        let token = account.token(token_type).filter(|token| token.servable(now).is_some())?;
        TokenAnswer::of_live(&token, now).map(TokenAnswer::into_response)
    }
}

/// The appid and the token type of a request that is nothing but a read of a token.
fn plain_read<B>(request: &Request<B>) -> Option<(&str, TokenType)> {
    let uri = request.uri();
    if *request.method() != Method::GET || uri.query().is_some() || request.headers().contains_key(IF_NONE_MATCH) {
        return None;
    }
    // Looking for one character is several times as fast as looking for `/tokens/`.
    let (appid, rest) = uri.path().strip_prefix("/v1/accounts/")?.split_once('/')?;
    let token_type = rest.strip_prefix("tokens/")?;
    // An escape or a further segment in either makes it no key of the view and no token type.
    Some((appid, TokenType::parse(token_type)?))
}

fn routed(response: Response<Body>) -> Response<AnswerBody> {
    response.map(AnswerBody::Routed)
}

type Routed = MapOk<RouteFuture<Infallible>, fn(Response<Body>) -> Response<AnswerBody>>;

/// An answer of the fast path, or one to wait for.
pub(super) type Answering =
    Either<Ready<Result<Response<AnswerBody>, Infallible>>, Either<BoxFuture<'static, Answered>, Routed>>;

type Answered = Result<Response<AnswerBody>, Infallible>;

/// The answer of `router`.
pub(super) fn through<B>(router: &Router, request: Request<B>) -> Answering
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<axum::BoxError>,
{
    // A router is always ready.
    let answering = router.clone().call(request).map_ok(routed as fn(Response<Body>) -> Response<AnswerBody>);
    Either::Right(Either::Right(answering))
}

/// The body of an answer: of the fast path without a box, or of the router.
#[derive(Debug)]
pub(super) enum AnswerBody {
    /// All of it.
    Prepared(Full<Bytes>),
    /// Whatever a handler made.
    Routed(Body),
}

impl From<Bytes> for AnswerBody {
    fn from(bytes: Bytes) -> Self {
        Self::Prepared(Full::new(bytes))
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Self::Prepared(body) => Pin::new(body).poll_frame(cx).map_err(axum::Error::new),
            Self::Routed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Prepared(body) => body.is_end_stream(),
            Self::Routed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Prepared(body) => body.size_hint(),
            Self::Routed(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: &Request<()>) -> Option<(&str, TokenType)> {
        plain_read(request)
    }

    #[test]
    fn only_the_plainest_read_is_taken() {
        let of = |method: &str, path: &str| Request::builder().method(method).uri(path).body(()).unwrap();
        let plain = of("GET", "/v1/accounts/wx1/tokens/access_token");
        assert_eq!(read(&plain), Some(("wx1", TokenType::AccessToken)));
        for (method, path) in [
            ("HEAD", "/v1/accounts/wx1/tokens/access_token"),
            ("GET", "/v1/accounts/wx1/tokens/access_token?min_ttl=5"),
            ("GET", "/v1/accounts/wx1/tokens/access_token?"),
            ("GET", "/v1/accounts/wx1/tokens/access_token/"),
            ("GET", "/v1/accounts/wx1/tokens/access%5Ftoken"),
            ("GET", "/v1/accounts/wx1/tokens/x/tokens/access_token"),
            ("GET", "/v1/accounts"),
        ] {
            assert_eq!(read(&of(method, path)), None, "{method} {path}");
        }
    }
}
