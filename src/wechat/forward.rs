//! Passes other people's calls on to WeChat, streaming both ways.
//!
//! Connections are pooled apart from those of our own calls, so that a flood of forwarded calls cannot keep a token from being refreshed: at most
//! [`IDLE_CONNECTIONS`] idle ones a host, closed after 20 s without a call. Nothing is sent a second time here.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{HeaderMap, Method, Response};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::Url;
use tokio::time::{Sleep, timeout};

use super::client::{self, ClientError, ClientSettings};
use super::error::CallError;

/// The most connections that wait for a call, for each host.
pub const IDLE_CONNECTIONS: usize = 256;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Sends calls to WeChat's hosts. Clones share one pool of connections.
#[derive(Debug, Clone)]
pub struct Forwarder {
    http: reqwest::Client,
    first: Url,
    fallback: Option<Url>,
    patience: Duration,
}

/// A call but for its body.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path, beginning with a slash.
    pub path: String,
    /// The query without its question mark; empty for none.
    pub query: String,
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
        let http = client::builder(settings.connect_timeout)?.pool_max_idle_per_host(IDLE_CONNECTIONS).build();
        Ok(Self { http: http.map_err(|_| ClientError::Setup)?, first, fallback, patience })
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
                let first = self.send_to(&self.first, call, bytes.clone().into(), None).await;
                match (first, &self.fallback) {
                    (Err(fault), Some(fallback)) if fault.is_unsent() => {
                        let second = self.send_to(fallback, call, bytes.into(), None).await;
                        second.map_err(|second| if second.is_unsent() { fault } else { second })
                    }
                    (first, _) => first,
                }
            }
            Payload::Streamed(body) => {
                let moved = Arc::new(AtomicU64::new(0));
                let body = reqwest::Body::wrap(Watched { body: Mutex::new(Box::pin(body)), moved: Arc::clone(&moved) });
                self.send_to(&self.first, call, body, Some(&moved)).await
            }
        }
    }

    async fn send_to(
        &self,
        host: &Url,
        call: &Call,
        body: reqwest::Body,
        moved: Option<&AtomicU64>,
    ) -> Result<Response<Answer>, CallError> {
        let mut url = host.clone();
        url.set_path(&call.path);
        url.set_query((!call.query.is_empty()).then_some(&*call.query));
        let mut request = reqwest::Request::new(call.method.clone(), url);
        *request.headers_mut() = call.headers.clone();
        *request.body_mut() = Some(body);
        let mut sending = pin!(self.http.execute(request));
        loop {
            let before = moved.map(|moved| moved.load(Ordering::Relaxed));
            match timeout(self.patience, &mut sending).await {
                Ok(answer) => {
                    let answer: Response<reqwest::Body> = answer.map_err(|error| CallError::from(&error))?.into();
                    return Ok(answer.map(|body| Answer { body, patience: self.patience, silence: None }));
                }
                Err(_) if before != moved.map(|moved| moved.load(Ordering::Relaxed)) => {}
                Err(_) => return Err(CallError::TimedOut { within: self.patience }),
            }
        }
    }
}

/// The body of a call on its way; counts what moves.
struct Watched<B> {
    /// The lock is never contended; the client wants a body that could be shared.
    body: Mutex<Pin<Box<B>>>,
    moved: Arc<AtomicU64>,
}

impl<B: Body<Data = Bytes>> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = self.body.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll_frame(cx);
        if polled.is_ready() {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

/// The body of an answer, as it comes.
pub struct Answer {
    body: reqwest::Body,
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
