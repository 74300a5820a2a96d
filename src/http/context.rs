//! What surrounds every answer but those of the fast path: the request's identifier, the deadline, the catching of panics, the rendering
//! of problems, and the headers that every answer has.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ACCEPT_LANGUAGE, CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::HANDLER_DEADLINE;
use super::problem::{Code, Problem};
use crate::clock::Clock;
use crate::seal::hexadecimal;
use crate::wechat::Language;

/// The header that carries a request's identifier in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What handlers may know of the request that they answer, besides what they extract.
#[derive(Debug, Clone)]
pub struct Context {
    /// The caller's own identifier of the request if it is sound, else one of ours.
    pub request_id: Arc<str>,
    /// The language of hints.
    pub language: Language,
}

impl Context {
    /// Of the request with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| is_sound(id));
        let request_id = given.map_or_else(|| hexadecimal(&rand::random::<[u8; 16]>()).into(), Into::into);
        let language = headers.get(ACCEPT_LANGUAGE).and_then(|list| list.to_str().ok());
        Self { request_id, language: language.map_or(Language::English, preferred_language) }
    }
}

/// An identifier that may go into headers, logs and the audit as it is.
fn is_sound(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Chinese if the first of the most wanted languages is, else English.
fn preferred_language(accept_language: &str) -> Language {
    let mut best = (0.0, "");
    for entry in accept_language.split(',').take(16) {
        let (tag, weight) = entry.split_once(";q=").unwrap_or((entry, "1"));
        let weight = weight.trim().parse().unwrap_or(0.0);
        if weight > best.0 {
            best = (weight, tag.trim());
        }
    }
    if best.1.get(..2).is_some_and(|tag| tag.eq_ignore_ascii_case("zh")) {
        Language::Chinese
    } else {
        Language::English
    }
}

/// The outermost layer of the router.
pub(super) async fn surround(State(clock): State<Clock>, mut request: Request, next: Next) -> Response {
    let context = Context::of(request.headers());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    request.extensions_mut().insert(context.clone());
    let answered = AssertUnwindSafe(tokio::time::timeout(HANDLER_DEADLINE, next.run(request))).catch_unwind().await;
    let mut response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Problem::new(Code::DeadlineExceeded, "the answer took too long; ask again in a moment")
            .retry_after(Duration::from_secs(1))
            .into_response(),
        Err(_) => Problem::internal(Panicked).into_response(),
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        problem.fill(&mut response, &context, clock.now());
    }
    finish(&mut response, &context);
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let (request_id, status) = (&*context.request_id, response.status().as_u16());
    tracing::debug!(request_id, %method, route, status, "answered {method} {route} with {status}");
    response
}

fn finish(response: &mut Response, context: &Context) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&context.request_id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// A handler panicked. Where and why was logged when it did.
#[derive(Debug, thiserror::Error)]
#[error("a handler panicked")]
struct Panicked;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_identifier_is_kept_and_another_replaced() {
        let of = |id: &str| {
            let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(id).unwrap())]);
            Context::of(&headers).request_id
        };
        assert_eq!(&*of("req-1.A_b"), "req-1.A_b");
        for bad in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert_eq!(of(bad).len(), 32, "{bad}");
        }
    }

    #[test]
    fn the_most_wanted_language_decides() {
        assert_eq!(preferred_language("zh-CN,zh;q=0.9,en;q=0.8"), Language::Chinese);
        assert_eq!(preferred_language("en-US,zh;q=0.9"), Language::English);
        assert_eq!(preferred_language("en;q=0.1, ZH"), Language::Chinese);
        assert_eq!(preferred_language("*"), Language::English);
        assert_eq!(preferred_language(""), Language::English);
    }
}
