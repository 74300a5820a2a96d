//! WeChat's own shapes, at the root of the host, so that an SDK needs only another base URL and a key of ours in the place of its AppSecret.
//!
//! Tokens and tickets are answered from the live view (`tokens`); every other path of WeChat's is passed on (`forward`). What counts as a path of
//! WeChat's is said in `place`, who may call in `permission`. Errors are WeChat's, with HTTP status 200 (`refusal`).
//!
//! # Limits
//!
//! | what | limit | answer beyond it |
//! |---|---|---|
//! | body of `stable_token` | 64 KiB, within 10 s | 47001, -1 |
//! | body that is passed on | 2 GiB (`WXTOKEN_FORWARD_LARGEST`) | 45001 |
//! | body that is kept, to make the call again | 2 MiB (`WXTOKEN_FORWARD_KEPT`) | the call is not made again |
//! | body that is to show a virtual secret | 64 KiB, within 10 s | 41001, -1 |
//! | calls that are passed on at once | 1,024 (`WXTOKEN_FORWARD_CONCURRENCY`), half of them of one account | -1 |
//! | silence of the caller, or of WeChat | 30 s (`WXTOKEN_FORWARD_TIMEOUT`), up to twice that during an upload | -1, or the answer ends |
//! | a whole call | none, while something moves | |
//! | waiting until a supposedly dead token was looked into | 2.5 s for an ask, 8 s for a call | the answer as it is |
//! | connecting to WeChat | 3 s | -1 |
//! | idle connections to WeChat | 256 a host, 20 s | closed |
//! | answer that is looked into for a refused token | 4 KiB, a JSON object | passed on |
//!
//! When the caller hangs up, its connection to WeChat is closed at once; what WeChat has begun to do by then is WeChat's. The repair of a token
//! that was found refused goes on.

mod bodies;
mod forward;
mod hints;
mod permission;
mod place;
mod query;
mod refusal;
mod seats;
mod tokens;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::BoxError;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Request, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::Body as HttpBody;

use self::bodies::{BodyLimits, read_small};
use self::hints::Hints;
use self::place::{Place, place_of};
use self::query::Query;
use self::refusal::Refusal;
use self::seats::Seats;
use self::tokens::Credentials;
use super::Rooms;
use super::hot::AnswerBody;
use crate::domain::sdk::Asked;
use crate::domain::timestamp::Timestamp;

/// What WeChat says of its JSON; clients that know it expect nothing else.
const CONTENT_TYPE_OF_WECHAT: HeaderValue = HeaderValue::from_static("application/json; encoding=utf-8");

/// How calls are passed on.
#[derive(Debug, Clone, Copy)]
pub struct ForwardLimits {
    /// The most calls at once.
    pub concurrency: usize,
    /// The largest body of a call, in bytes.
    pub largest: u64,
    /// The largest body that is kept so that the call can be made again, in bytes.
    pub kept: u64,
}

/// Serves WeChat's paths.
pub(super) struct Compat {
    rooms: Arc<Rooms>,
    hints: Arc<Hints>,
    seats: Arc<Seats>,
    limits: BodyLimits,
}

/// Whether a path is one of WeChat's.
pub(super) fn serves(path: &str) -> bool {
    place_of(path).is_some()
}

/// What is answered on WeChat's paths while there is nothing to serve from.
pub(super) fn not_yet(now: Timestamp) -> Response<AnswerBody> {
    Refusal::BUSY.hint("the database has not been reached since the start; ask again").into_response(now)
}

impl Compat {
    pub(super) fn new(rooms: Arc<Rooms>) -> Arc<Self> {
        let ForwardLimits { concurrency, largest, kept } = rooms.forward_limits;
        let limits = BodyLimits { kept, largest, patience: rooms.forwarder.patience() };
        Arc::new(Self { hints: Arc::default(), seats: Seats::new(concurrency), limits, rooms })
    }

    fn now(&self) -> Timestamp {
        self.rooms.clock.now()
    }

    /// The answer to a request on one of WeChat's paths.
    pub(super) async fn answer<B>(self: Arc<Self>, request: Request<B>) -> Response<AnswerBody>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let answered = AssertUnwindSafe(self.dispatch(request)).catch_unwind().await;
        let refused = Refusal::BUSY.hint("this is a fault of wxtoken; its log names the cause");
        answered.unwrap_or(Err(refused)).unwrap_or_else(|refusal| refusal.into_response(self.now()))
    }

    async fn dispatch<B>(self: &Arc<Self>, request: Request<B>) -> Result<Response<AnswerBody>, Refusal>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let ambiguous = Refusal::WRONG_URL.hint("write the path as WeChat's documents do, without escapes");
        let uri = head.uri.clone();
        let query = Query(uri.query().unwrap_or_default());
        match place_of(uri.path()).unwrap_or(Place::Ambiguous) {
            Place::Ambiguous => Err(ambiguous),
            Place::Token => Box::pin(self.plain_token(&head, query)).await,
            Place::TokenAlias(path) => {
                if head.method == Method::GET && query.one("grant_type")?.is_some() {
                    Box::pin(self.plain_token(&head, query)).await
                } else {
                    self.forward(head, body, &path, query, None).await
                }
            }
            Place::StableToken => {
                let body = Box::pin(self.read_object(&head, body)).await?;
                Box::pin(self.token(Asked::StableToken, &Credentials::in_body(&body, query)?)).await
            }
            Place::Ticket => Box::pin(self.ticket(head, query, body)).await,
            Place::Api(path) => self.forward(head, body, &path, query, None).await,
            Place::OfAccount(appid, inner) => match *inner {
                Place::Token => Box::pin(self.token_of_account(Asked::PlainToken, &head, &appid)).await,
                Place::StableToken => Box::pin(self.token_of_account(Asked::StableToken, &head, &appid)).await,
                Place::Ticket => Box::pin(self.ticket_of_account(head, query, &appid, body)).await,
                Place::Api(path) | Place::TokenAlias(path) => {
                    self.forward(head, body, &path, query, Some(&appid)).await
                }
                Place::OfAccount(..) | Place::Ambiguous => Err(ambiguous),
            },
        }
    }

    async fn plain_token(&self, head: &Parts, query: Query<'_>) -> Result<Response<AnswerBody>, Refusal> {
        if head.method != Method::GET {
            return Err(Refusal::GET_REQUIRED);
        }
        if query.one("access_token")?.is_some() || self.has_key_in_header(&head.headers) {
            return Err(Refusal::WRONG_PARAMETER.hint("there are credentials in two places; send appid and secret"));
        }
        self.token(Asked::PlainToken, &Credentials::in_query(query)?).await
    }

    async fn read_object<B>(&self, head: &Parts, body: B) -> Result<Bytes, Refusal>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        if head.method != Method::POST {
            return Err(Refusal::POST_REQUIRED);
        }
        if self.has_key_in_header(&head.headers) {
            return Err(Refusal::WRONG_PARAMETER.hint("there are credentials in two places; send appid and secret"));
        }
        read_small(body, Refusal::WRONG_FORMAT.hint("the body is larger than 64 KiB")).await
    }

    async fn token_of_account(&self, asked: Asked, head: &Parts, appid: &str) -> Result<Response<AnswerBody>, Refusal> {
        let key = self.bearer(&head.headers)?;
        let appid = self.reached(&key, appid)?;
        self.token_for(asked, &key, appid, false).await
    }

    /// A ticket for the holder of an access token. One that the account does not keep is WeChat's to give.
    async fn ticket<B>(
        self: &Arc<Self>,
        head: Parts,
        query: Query<'_>,
        body: B,
    ) -> Result<Response<AnswerBody>, Refusal>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let token = query.one("access_token")?.ok_or(Refusal::TOKEN_MISSING)?;
        let owner = self.owner(&token).await.ok_or(Refusal::UNKNOWN_TOKEN)?;
        let appid = owner.account.appid.clone();
        if !self.someone_may_call(&appid, TICKET_PATH) {
            return Err(permission::path_denied());
        }
        let sdk = self.common_sdk(&appid);
        match self.ticket_for(appid, &ticket_type(&head, query)?, sdk).await? {
            Some(answer) => Ok(answer),
            None => self.forward(head, body, TICKET_PATH, query, None).await,
        }
    }

    async fn ticket_of_account<B>(
        self: &Arc<Self>,
        head: Parts,
        query: Query<'_>,
        appid: &str,
        body: B,
    ) -> Result<Response<AnswerBody>, Refusal>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let key = self.bearer(&head.headers)?;
        let reached = self.reached(&key, appid)?;
        if !key.paths.allow(TICKET_PATH) {
            return Err(permission::path_denied());
        }
        match self.ticket_for(reached, &ticket_type(&head, query)?, key.sdk).await? {
            Some(answer) => Ok(answer),
            None => self.forward(head, body, TICKET_PATH, query, Some(appid)).await,
        }
    }
}

const TICKET_PATH: &str = "/cgi-bin/ticket/getticket";

/// The kind of ticket that is asked for; without a word it is that for web pages.
fn ticket_type(head: &Parts, query: Query<'_>) -> Result<String, Refusal> {
    if head.method != Method::GET {
        return Err(Refusal::GET_REQUIRED);
    }
    Ok(query.one("type")?.map_or_else(|| "jsapi".to_owned(), std::borrow::Cow::into_owned))
}
