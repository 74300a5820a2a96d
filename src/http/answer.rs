//! The answer that carries a token, in the one form that the fast path and the full handlers send.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use bytes::Bytes;

use crate::domain::timestamp::Timestamp;
use crate::domain::token::Token;
use crate::live::LiveToken;

/// A token as JSON, and its entity tag.
pub(super) struct TokenAnswer {
    pub(super) body: Bytes,
    tag: Bytes,
}

/// What does not change in a token's answer while the token does not: two lengths, the entity tag, the body up to the seconds left, the
/// rest of the body.
fn prepare(token: &Token) -> Box<[u8]> {
    let Some(value) = &token.value else {
        return Box::default();
    };
    let fingerprint = &value.fingerprint;
    let text = serde_json::Value::from(value.text.expose());
    let tag = format!("\"{}-{fingerprint}\"", token.version);
    let head = format!(
        r#"{{"appid":"{}","token_type":"{}","value":{text},"expires_in":"#,
        token.key.appid, token.key.token_type
    );
    let tail = format!(
        r#","expires_at":"{}","version":{},"fingerprint":"{fingerprint}"}}"#,
        value.life.until.to_rfc3339(),
        token.version
    );
    let lengths = [tag.len(), head.len()].map(|length| u16::try_from(length).unwrap_or(0).to_be_bytes());
    [&lengths.concat(), tag.as_bytes(), head.as_bytes(), tail.as_bytes()].concat().into()
}

/// The answer with the seconds left at `now` in it. `None` when the value has ended.
fn complete(prepared: &[u8], token: &Token, now: Timestamp) -> Option<TokenAnswer> {
    let seconds = token.valid(now)?.life.until.since(now).as_secs();
    let (lengths, rest) = prepared.split_first_chunk::<4>()?;
    let (tag, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([lengths[0], lengths[1]])))?;
    let (head, tail) = rest.split_at_checked(usize::from(u16::from_be_bytes([lengths[2], lengths[3]])))?;
    // The tag and the body share one allocation.
    let mut bytes = Vec::with_capacity(rest.len() + tag.len() + 20);
    bytes.extend_from_slice(tag);
    bytes.extend_from_slice(head);
    append_decimal(&mut bytes, seconds);
    bytes.extend_from_slice(tail);
    let mut body = Bytes::from(bytes);
    let tag = body.split_to(tag.len());
    Some(TokenAnswer { body, tag })
}

fn append_decimal(bytes: &mut Vec<u8>, mut number: u64) {
    let start = bytes.len();
    loop {
        bytes.push(b'0' + u8::try_from(number % 10).unwrap_or(0));
        number /= 10;
        if number == 0 {
            break;
        }
    }
    bytes[start..].reverse();
}

impl TokenAnswer {
    /// The answer for a token in memory, prepared at its first use. `None` when it has no valid value.
    pub(super) fn of_live(live: &LiveToken, now: Timestamp) -> Option<Self> {
        complete(live.answer(prepare), &live.token, now)
    }

    /// The answer for a token that is not in memory yet. `None` when it has no valid value.
    pub(super) fn of(token: &Token, now: Timestamp) -> Option<Self> {
        complete(&prepare(token), token, now)
    }

    /// The whole response.
    pub(super) fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let mut response = Response::new(B::from(self.body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        head(headers, self.tag);
        response
    }

    /// The response for a request with these headers: without the body when the caller has it already.
    pub(super) fn into_response_unless_known<B: From<Bytes> + Default>(self, request: &HeaderMap) -> Response<B> {
        if !names_tag(request, &self.tag) {
            return self.into_response();
        }
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        head(response.headers_mut(), self.tag);
        response
    }

    /// This token as the member `token` of an object whose other member is a word of ours.
    pub(super) fn within(&self, member: &'static str, word: &'static str) -> Response<axum::body::Body> {
        let start = format!(r#"{{"{member}":"{word}","token":"#);
        let body = [start.as_bytes(), &self.body, b"}"].concat();
        let mut response = Response::new(body.into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn head(headers: &mut HeaderMap, tag: Bytes) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(tag) = HeaderValue::from_maybe_shared(tag) {
        headers.insert(ETAG, tag);
    }
}

/// Whether `If-None-Match` names this tag. Weak tags compare like strong ones there (RFC 9110, 13.1.2).
fn names_tag(request: &HeaderMap, tag: &[u8]) -> bool {
    request.get_all(IF_NONE_MATCH).iter().any(|list| {
        list.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|entry| {
            let entry = entry.strip_prefix(b"W/").unwrap_or(entry);
            entry == b"*" || entry == tag
        })
    })
}

#[cfg(test)]
pub(super) mod tests {
    use axum::body::Body;

    use super::*;
    use crate::domain::account::{AppId, Mode, TokenType};
    use crate::domain::budget::Spent;
    use crate::domain::schedule::Life;
    use crate::domain::secret::TokenValue;
    use crate::domain::token::{Record, TokenKey, Value};

    pub(in crate::http) fn token(text: &str, until: i64) -> Token {
        let life = Life { since: Timestamp::ZERO, until: Timestamp::from_millis(until) };
        let text = TokenValue::parse(text).unwrap();
        Token {
            key: TokenKey::new(AppId::parse("wx1").unwrap(), TokenType::AccessToken),
            mode: Mode::Stable,
            kept: true,
            value: Some(Value { text, life, fingerprint: "0123456789abcdef".to_owned() }),
            previous: None,
            in_doubt: false,
            version: 7,
            generation: 9,
            refresh_at: Timestamp::NEVER,
            leased_until: Timestamp::ZERO,
            leased_by: None,
            record: Record::default(),
            spent: Spent::default(),
            revision: 1,
        }
    }

    fn body_at(token: &Token, now: i64) -> Option<String> {
        let answer = TokenAnswer::of(token, Timestamp::from_millis(now))?;
        Some(String::from_utf8(answer.body.to_vec()).unwrap())
    }

    #[test]
    fn the_body_counts_whole_seconds_down() {
        let token = token("84_a\"b\\c", 7_200_000);
        assert_eq!(
            body_at(&token, 1).unwrap(),
            r#"{"appid":"wx1","token_type":"access_token","value":"84_a\"b\\c","expires_in":7199,"expires_at":"1970-01-01T02:00:00.000Z","version":7,"fingerprint":"0123456789abcdef"}"#
        );
        assert!(body_at(&token, 0).unwrap().contains(r#""expires_in":7200,"#));
        assert!(body_at(&token, 7_199_999).unwrap().contains(r#""expires_in":0,"#));
        assert_eq!(body_at(&token, 7_200_000), None);
        assert!(body_at(&self::token(&"\"".repeat(2_048), 10), 0).unwrap().len() > 4_096);
    }

    #[test]
    fn a_known_tag_is_answered_without_a_body() {
        let status = |tag: &str| {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(tag).unwrap())]);
            let answer = TokenAnswer::of(&token("84_a", 1_000), Timestamp::ZERO).unwrap();
            let response: Response<Body> = answer.into_response_unless_known(&headers);
            assert_eq!(response.headers()[ETAG], "\"7-0123456789abcdef\"");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            response.status().as_u16()
        };
        for known in ["\"7-0123456789abcdef\"", "W/\"7-0123456789abcdef\"", "\"x\" , \"7-0123456789abcdef\"", "*"] {
            assert_eq!(status(known), 304, "{known}");
        }
        for other in ["\"6-0123456789abcdef\"", "7-0123456789abcdef", ""] {
            assert_eq!(status(other), 200, "{other}");
        }
    }
}
