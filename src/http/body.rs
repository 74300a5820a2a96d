//! Strict reading of bodies and queries: what is not understood is refused, with a pointer to it, and nothing that was submitted is
//! repeated in the refusal.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_path_to_error::Segment;

use super::problem::{Code, Problem};
use super::{BODY_DEADLINE, LARGEST_BODY, Rooms};

/// How much of a refused body is read and thrown away, in bytes, and for how long.
pub(super) const MOST_DISCARDED: usize = 1024 * 1024;
const DISCARD_DEADLINE: Duration = Duration::from_secs(1);

/// A JSON body.
pub(super) struct Submitted<T>(pub(super) T);

/// A JSON body that may be left out.
pub(super) struct SubmittedOrNot<T>(pub(super) T);

/// The query. Its struct refuses unknown parameters.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Rooms>> for Submitted<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _rooms: &Arc<Rooms>) -> Result<Self, Problem> {
        check_media_type(request.headers())?;
        parse(&read(request).await?).map(Self)
    }
}

impl<T: DeserializeOwned + Default> FromRequest<Arc<Rooms>> for SubmittedOrNot<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _rooms: &Arc<Rooms>) -> Result<Self, Problem> {
        let checked = check_media_type(request.headers());
        let bytes = read(request).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        checked?;
        parse(&bytes).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequestParts<Arc<Rooms>> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _rooms: &Arc<Rooms>) -> Result<Self, Problem> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => {
                let detail = explain(&rejection.body_text());
                Err(Problem::new(Code::InvalidRequest, format!("the query cannot be read: {detail}")))
            }
        }
    }
}

/// For fields that may be absent but not `null`.
pub(super) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if ["application/json", "application/merge-patch+json"].iter().any(|json| essence.eq_ignore_ascii_case(json)) {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedMediaType, "send a JSON body with `Content-Type: application/json`"))
}

async fn read(request: Request) -> Result<Bytes, Problem> {
    let named = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // Who asked before sending is told before sending.
    let is_sent = !request.headers().contains_key(EXPECT);
    let mut body = request.into_body();
    if named.is_some_and(|length| length > LARGEST_BODY) {
        if is_sent {
            discard(&mut body).await;
        }
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_DEADLINE, collect(&mut body)).await {
        Ok(Err(problem)) => {
            discard(&mut body).await;
            Err(problem)
        }
        Ok(collected) => collected,
        Err(_) => {
            Err(Problem::new(Code::BodyTimeout, "the body did not arrive within 10 seconds; send the request again"))
        }
    }
}

/// Reads on for a while after a refusal. A connection that is closed over unread bytes is reset, and then the client may lose the answer
/// that tells it why.
pub(super) async fn discard<B: HttpBody<Data = Bytes> + Unpin>(body: &mut B) {
    let reading = async {
        let mut left = MOST_DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(less) => left = less,
                None => break,
            }
        }
    };
    // What a slow client still has to send is not waited for.
    let _ = tokio::time::timeout(DISCARD_DEADLINE, reading).await;
}

async fn collect(body: &mut Body) -> Result<Bytes, Problem> {
    match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Problem::new(Code::InvalidRequest, "the body broke off before its end")),
    }
}

fn too_large() -> Problem {
    Problem::new(Code::BodyTooLarge, "the body is larger than 64 KiB; send less")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde would take the elements of an array for the fields of a struct, in the order in which they are declared.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::new(Code::InvalidRequest, "the body is an array; send an object with named fields"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let refused = |pointer: String, error: &serde_json::Error| {
        if error.is_data() {
            let detail = explain(&error.to_string());
            let problem = Problem::new(Code::InvalidRequest, format!("the body cannot be read: {detail}"));
            return problem.field(pointer, detail);
        }
        let (line, column) = (error.line(), error.column());
        Problem::new(Code::InvalidRequest, format!("the body is not valid JSON (line {line}, column {column})"))
    };
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| refused(pointer_to(error.path()), error.inner()))?;
    deserializer.end().map_err(|error| refused(String::new(), &error))?;
    Ok(value)
}

/// A JSON pointer. Names that are none of ours are left out, because anything may have been pasted there.
fn pointer_to(path: &serde_path_to_error::Path) -> String {
    path.iter().fold(String::new(), |mut pointer, segment| {
        pointer.push('/');
        match segment {
            Segment::Seq { index } => pointer.push_str(&index.to_string()),
            Segment::Map { key } if is_harmless(key) => pointer.push_str(key),
            Segment::Map { .. } | Segment::Enum { .. } | Segment::Unknown => pointer.push('?'),
        }
        pointer
    })
}

/// Looks like the name of a field and like nothing that could be a secret.
fn is_harmless(name: &str) -> bool {
    (1..=24).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// What serde's message says, without what it quotes from the request.
fn explain(message: &str) -> Cow<'static, str> {
    let quoted = |before: &str| {
        let name = message.split_once(before)?.1.split('`').next()?;
        is_harmless(name).then(|| name.to_owned())
    };
    if message.contains("unknown field `") {
        return match quoted("unknown field `") {
            Some(name) => format!("there is no field `{name}`; remove it or correct its name").into(),
            None => "there is a field that is not known; remove it or correct its name".into(),
        };
    }
    for (before, what) in [("missing field `", "is missing"), ("duplicate field `", "is there twice")] {
        if let Some(name) = quoted(before) {
            return format!("the field `{name}` {what}").into();
        }
    }
    // What serde expected is our own text; it stands behind the last such word, whatever was quoted before it.
    let expected =
        message.rsplit_once(", expected ").map(|(_, expected)| expected.split(" at line ").next().unwrap_or(expected));
    expected.map_or("a value is not of the right type".into(), |expected| format!("expected {expected}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the reading is tested")]
    struct Form {
        secret: String,
        #[serde(default, deserialize_with = "given")]
        name: Option<String>,
        #[serde(default)]
        list: Vec<u8>,
    }

    fn refusal(body: &str) -> String {
        format!("{:?}", parse::<Form>(body.as_bytes()).unwrap_err())
    }

    #[test]
    fn refusals_point_at_the_place_and_repeat_nothing() {
        for (body, expected) in [
            (r#"{"secret": "a", "secrte": "canary1"}"#, "there is no field `secrte`"),
            (r#"{"secret": "a", "canary1": 1}"#, "there is a field that is not known"),
            (r#"{"name": "canary1"}"#, "the field `secret` is missing"),
            (r#"{"secret": 1, "name": "canary1"}"#, "expected a string"),
            (r#"{"secret": "a", "secret": "canary1"}"#, "the field `secret` is there twice"),
            (r#"{"secret": "a", "name": null}"#, "/name"),
            (r#"{"secret": "a", "list": [1, "canary1, expected nothing"]}"#, "/list/1"),
            (r#"{"secret": "a"} canary1"#, "not valid JSON"),
            (r#"{"secret": "canary1"#, "not valid JSON"),
            (r#" ["canary1", "canary1", []]"#, "the body is an array"),
        ] {
            let shown = refusal(body);
            assert!(shown.contains(expected) && !shown.contains("canary1"), "{body}: {shown}");
        }
        assert!(parse::<Form>(br#"{"secret": "a"}"#).is_ok());
    }
}
