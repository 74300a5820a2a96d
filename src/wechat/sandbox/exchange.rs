//! One exchange on WeChat's paths: a request read, delayed, processed, answered and, if a fault says so, spoilt.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::Sandbox;
use super::answer::Answer;
use super::fault::{Fault, FaultKind};
use super::payload::Payload;
use super::platform::Arrival;
use super::received::Received;
use super::record::WitnessKey;
use super::refusal::Refusal;
use super::request::{Endpoint, Request};
use super::serve::{Connection, Severed};
use super::settings::{ContentType, Settings};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const SLOW_MILLIS: u64 = 10_000;
const DRIP_MILLIS: u64 = 1_000;

/// Answers any path that is not the control API's.
pub(super) async fn answer(
    State(sandbox): State<Sandbox>,
    Extension(connection): Extension<Connection>,
    request: axum::extract::Request,
) -> Response {
    let Some(request) = read(request, &connection).await else { return severed(Severed::Close) };
    let (arrival, settings) = {
        let (mut platform, now) = sandbox.enter();
        let arrival = platform.arrive(&request, now);
        let entry = platform.log.entry(arrival.seq).and_then(|entry| entry.appid.clone());
        let settings = entry.and_then(|appid| platform.accounts.get(&appid)).map(|account| account.settings.clone());
        (arrival, settings.unwrap_or_default())
    };
    let in_flight = InFlight { sandbox: sandbox.clone(), seq: arrival.seq, witness: arrival.witness.clone() };
    let response = exchange(&sandbox, &request, &arrival, &settings, &connection).await;
    witnessed(response, in_flight)
}

async fn exchange(
    sandbox: &Sandbox,
    request: &Request,
    arrival: &Arrival,
    settings: &Settings,
    connection: &Connection,
) -> Response {
    // Half of the latency lies before the call is processed and half behind it, as on a real network: a client that gives
    // up may or may not have been served.
    let half = Duration::from_millis(arrival.latency_ms / 2);
    pause(half).await;
    let fault = arrival.fault.as_ref();
    let answer = {
        let (mut platform, now) = sandbox.enter();
        let processed = fault.is_none_or(Fault::is_processed).then(|| platform.process(request, arrival.seq, now));
        match fault.and_then(Fault::refusal) {
            Some(refusal) => platform.refuse(&refusal, request, arrival.seq, now),
            None => processed.unwrap_or(Answer::Other(serde_json::Value::Null)),
        }
    };
    pause(half).await;
    match fault.map(|fault| fault.kind) {
        Some(FaultKind::ResetBefore | FaultKind::ResetAfter) => severed(Severed::Reset),
        Some(FaultKind::CloseBefore | FaultKind::CloseAfter) => severed(Severed::Close),
        Some(FaultKind::HangBefore | FaultKind::HangAfter) => {
            // hyper drops this future when the client hangs up.
            connection.shutdown.cancelled().await;
            severed(Severed::Close)
        }
        Some(FaultKind::Slow) => {
            let millis = fault.and_then(|fault| fault.ms).unwrap_or(SLOW_MILLIS);
            connection.shutdown.run_until_cancelled(pause(Duration::from_millis(millis))).await;
            respond(&answer, fault, settings)
        }
        _ => respond(&answer, fault, settings),
    }
}

impl Fault {
    /// The refusal that stands in place of the answer, for faults of that kind.
    fn refusal(&self) -> Option<Refusal> {
        match self.kind {
            FaultKind::Busy => Some(Refusal::BUSY),
            FaultKind::SystemError => Some(Refusal::SYSTEM_ERROR),
            FaultKind::Errcode => {
                let text = self.errmsg.clone().unwrap_or_else(|| "error".to_owned());
                Some(Refusal { errcode: self.errcode.unwrap_or(-1), text: text.into() })
            }
            _ => None,
        }
    }
}

async fn pause(span: Duration) {
    if !span.is_zero() {
        tokio::time::sleep(span).await;
    }
}

async fn read(request: axum::extract::Request, connection: &Connection) -> Option<Request> {
    let (head, body) = request.into_parts();
    let endpoint = Endpoint::at(head.uri.path());
    let body = Received::read(body, endpoint).await?;
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let query = Query::<Vec<(String, String)>>::try_from_uri(&head.uri).map(|Query(pairs)| pairs).unwrap_or_default();
    Some(Request {
        endpoint,
        path: head.uri.path().to_owned(),
        method: head.method.as_str().to_owned(),
        raw_query: head.uri.query().unwrap_or_default().to_owned(),
        query: query.into_iter().collect(),
        headers: headers.collect(),
        json: serde_json::from_slice(&body.kept).ok(),
        body,
        remote: connection.remote,
    })
}

fn severed(how: Severed) -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(how);
    response
}

fn respond(answer: &Answer, fault: Option<&Fault>, settings: &Settings) -> Response {
    let payload = payload(answer, fault, settings);
    let length = payload.length();
    let is_file = matches!(payload, Payload::Pattern { .. });
    let kind = fault.map(|fault| fault.kind);
    let body = match kind {
        Some(FaultKind::SlowDrip) => {
            payload.drip(Duration::from_millis(fault.and_then(|fault| fault.ms).unwrap_or(DRIP_MILLIS)))
        }
        Some(FaultKind::TruncatedBody) => payload.half(),
        _ => payload.whole(),
    };
    let mut response = Response::new(body);
    *response.status_mut() = match kind {
        Some(FaultKind::Http502) => StatusCode::BAD_GATEWAY,
        Some(FaultKind::Http504) => StatusCode::GATEWAY_TIMEOUT,
        Some(FaultKind::Redirect) => StatusCode::FOUND,
        _ => StatusCode::OK,
    };
    let headers = response.headers_mut();
    if is_file {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/jpeg"));
        let name = HeaderValue::from_static("attachment; filename=\"sandbox.jpg\"");
        headers.insert(header::CONTENT_DISPOSITION, name);
    } else if let Some(value) = content_type(kind, settings.content_type) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    match kind {
        Some(FaultKind::Redirect) => {
            let location = fault.and_then(|fault| fault.location.as_deref()).unwrap_or("https://mp.weixin.qq.com/");
            if let Ok(location) = HeaderValue::from_str(location) {
                headers.insert(header::LOCATION, location);
            }
        }
        Some(FaultKind::FalseGzip) => {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        _ => {}
    }
    response
}

/// The body's bytes. A fault that damages text strikes a file only if it puts something else in its place.
fn payload(answer: &Answer, fault: Option<&Fault>, settings: &Settings) -> Payload {
    match answer {
        Answer::File { length } if !fault.is_some_and(|fault| fault.kind.replaces_the_body()) => {
            Payload::Pattern { at: 0, end: *length }
        }
        _ => {
            let mut bytes = answer.to_bytes(fault);
            if settings.bom && !bytes.is_empty() {
                bytes.splice(0..0, BYTE_ORDER_MARK.iter().copied());
            }
            Payload::Text(bytes.into())
        }
    }
}

const fn content_type(fault: Option<FaultKind>, setting: ContentType) -> Option<&'static str> {
    match (fault, setting) {
        (Some(FaultKind::Http502 | FaultKind::Http504 | FaultKind::Html | FaultKind::Redirect), _) => Some("text/html"),
        (Some(FaultKind::EmptyBody), _) | (_, ContentType::HtmlGbk) => Some("text/html; charset=gbk"),
        (_, ContentType::JsonEncoding) => Some("application/json; encoding=utf-8"),
        (_, ContentType::TextPlain) => Some("text/plain"),
        (_, ContentType::None) => None,
    }
}

/// Counts a request as in flight until it is dropped.
struct InFlight {
    sandbox: Sandbox,
    seq: u64,
    witness: Option<WitnessKey>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let (mut platform, now) = self.sandbox.enter();
        platform.depart(self.seq, self.witness.as_ref(), now);
    }
}

/// A body whose request is in flight until its last byte is handed on: before that byte is sent, so that a client which has
/// the whole answer never sees its request still counted.
struct Witnessed {
    body: Body,
    /// Bytes that are still to come.
    left: u64,
    in_flight: Option<InFlight>,
}

fn witnessed(response: Response, in_flight: InFlight) -> Response {
    let left = response.body().size_hint().exact().or_else(|| promised_length(&response)).unwrap_or(0);
    let in_flight = (left > 0).then_some(in_flight);
    response.map(|body| Body::new(Witnessed { body, left, in_flight }))
}

fn promised_length(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl http_body::Body for Witnessed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, Bytes::len);
            self.left = self.left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
            if self.left == 0 {
                self.in_flight = None;
            }
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
