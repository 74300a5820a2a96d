//! Passes other people's calls on to WeChat, streaming both ways.
//!
//! This is hyper's client and not the one of our own calls, which is built on it: a forwarded call needs nothing of what that one adds, and that is
//! half of what forwarding costs (`cargo bench --bench forwarding`). It also sends a path and a query as they came, byte for byte.
//!
//! Connections are pooled apart from those of our own calls, so that a flood of forwarded calls cannot keep a token from being refreshed: at most
//! [`IDLE_CONNECTIONS`] idle ones a host, closed after 20 s without a call. Nothing is sent a second time here but what a kept connection was closed
//! under before a byte of it was sent.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::uri::{Authority, PathAndQuery, Scheme};
use axum::http::{HeaderMap, Method, Request, Response, Uri};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use reqwest::Url;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Sleep, timeout};
use tower::Service;

use super::client::{ClientError, ClientSettings, IDLE_CONNECTION};
use super::error::CallError;

/// The most connections that wait for a call, for each host.
pub const IDLE_CONNECTIONS: usize = 256;

type Fault = Box<dyn std::error::Error + Send + Sync>;
type Outgoing = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Fault>>;

/// Sends calls to WeChat's hosts. Clones share one pool of connections.
#[derive(Debug, Clone)]
pub struct Forwarder {
    http: Client<Hurried, Outgoing>,
    first: Host,
    fallback: Option<Host>,
    patience: Duration,
}

#[derive(Debug, Clone)]
struct Host {
    scheme: Scheme,
    authority: Authority,
}

/// A call but for its body.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path and the query.
    pub target: PathAndQuery,
    /// The headers that WeChat is to see. The host and the length are set here.
    pub headers: HeaderMap,
}

/// The body of a call.
pub enum Payload<B> {
    /// All of it.
    Whole(Bytes),
    /// What comes while the call is sent.
    Streamed(B),
}

impl Forwarder {
    /// A forwarder to the hosts of `settings`. Their deadline is for calls of our own; a forwarded call may take as long as it likes while
    /// no more than `patience` passes without a byte in either direction.
    pub fn new(settings: &ClientSettings, patience: Duration) -> Result<Self, ClientError> {
        let (first, fallback) = settings.hosts()?;
        let connector = Hurried { connector: connector()?, limit: settings.connect_timeout };
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Ok(Self { http, first: Host::of(&first)?, fallback: fallback.as_ref().map(Host::of).transpose()?, patience })
    }

    /// How long nothing may move.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Sends a call and returns the head of the answer as soon as it is there. A whole body goes to the fallback host when no connection to
    /// the first one comes about.
    pub async fn send<B>(&self, call: &Call, payload: Payload<B>) -> Result<Response<Answer>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Fault>,
    {
        match payload {
            Payload::Whole(bytes) => {
                let whole = || Either::Left(Full::new(bytes.clone()));
                let first = self.send_to(&self.first, call, whole(), None).await;
                match (first, &self.fallback) {
                    (Err(fault), Some(fallback)) if fault.is_unsent() => {
                        let second = self.send_to(fallback, call, whole(), None).await;
                        second.map_err(|second| if second.is_unsent() { fault } else { second })
                    }
                    (first, _) => first,
                }
            }
            Payload::Streamed(body) => {
                let moved = Arc::new(AtomicU64::new(0));
                let body = Watched { body: Box::pin(body), moved: Arc::clone(&moved) };
                let body = Either::Right(body.map_err(Into::into).boxed_unsync());
                self.send_to(&self.first, call, body, Some(&moved)).await
            }
        }
    }

    async fn send_to(
        &self,
        host: &Host,
        call: &Call,
        body: Outgoing,
        moved: Option<&AtomicU64>,
    ) -> Result<Response<Answer>, CallError> {
        let mut sending = pin!(self.http.request(host.request(call, body)?));
        loop {
            let before = moved.map(|moved| moved.load(Ordering::Relaxed));
            match timeout(self.patience, &mut sending).await {
                Ok(answer) => {
                    let answer = answer.map_err(|error| CallError::from(&error))?;
                    return Ok(answer.map(|body| Answer { body, patience: self.patience, silence: None }));
                }
                Err(_) if before != moved.map(|moved| moved.load(Ordering::Relaxed)) => {}
                Err(_) => return Err(CallError::TimedOut { within: self.patience }),
            }
        }
    }
}

impl Host {
    fn of(url: &Url) -> Result<Self, ClientError> {
        let scheme = if url.scheme() == "https" { Scheme::HTTPS } else { Scheme::HTTP };
        let authority = url.authority().parse().map_err(|_| ClientError::Setup)?;
        Ok(Self { scheme, authority })
    }

    fn request(&self, call: &Call, body: Outgoing) -> Result<Request<Outgoing>, CallError> {
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        let uri = uri.path_and_query(call.target.clone()).build();
        let mut request = Request::new(body);
        *request.method_mut() = call.method.clone();
        // All its parts are there.
        *request.uri_mut() = uri.map_err(|_| CallError::Broken)?;
        *request.headers_mut() = call.headers.clone();
        Ok(request)
    }
}

/// Connects to WeChat, encrypted and trusting public issuers only, or plainly to this machine.
fn connector() -> Result<HttpsConnector<HttpConnector>, ClientError> {
    let mut roots = RootCertStore::empty();
    let (_, refused) = roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12]);
    let config = versions.map_err(|_| ClientError::Setup)?.with_root_certificates(roots).with_no_client_auth();
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
    if refused == 0 { Ok(connector.wrap_connector(http)) } else { Err(ClientError::Setup) }
}

/// A connector with a limit for the whole of connecting, encryption included.
#[derive(Debug, Clone)]
struct Hurried {
    connector: HttpsConnector<HttpConnector>,
    limit: Duration,
}

impl Service<Uri> for Hurried {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Fault>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, host: Uri) -> Self::Future {
        let connecting = timeout(self.limit, self.connector.call(host));
        Box::pin(async { connecting.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) })
    }
}

/// The body of a call on its way; counts what moves.
struct Watched<B> {
    body: Pin<Box<B>>,
    moved: Arc<AtomicU64>,
}

impl<B: Body<Data = Bytes>> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = self.body.as_mut().poll_frame(cx);
        if polled.is_ready() {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, as it comes.
pub struct Answer {
    body: Incoming,
    patience: Duration,
    /// Runs while more is waited for.
    silence: Option<Pin<Box<Sleep>>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.silence = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| CallError::from(&error))));
        }
        let patience = self.patience;
        let silence = self.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        silence.as_mut().poll(cx).map(|()| Some(Err(CallError::TimedOut { within: patience })))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
