//! Signing pages for the JS-SDK.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::tokens::obtain;
use crate::domain::Invalid;
use crate::domain::account::TokenType;
use crate::domain::signature::{sign_jsapi, signed_part};
use crate::domain::token::TokenKey;
use crate::http::Rooms;
use crate::http::caller::{AccountInPath, Caller, ReadTokens};
use crate::http::problem::{Code, Problem};
use crate::http::routes::{Routes, Verb};

const LONGEST_URL: usize = 2_048;
const NONCE_CHARACTERS: usize = 16;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

pub(super) fn add_to(routes: Routes) -> Routes {
    routes.guarded(Verb::Get, "/v1/accounts/{appid}/jsapi-signature", sign)
}

/// The names are those of `wx.config`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SignedPage {
    app_id: String,
    timestamp: i64,
    nonce_str: String,
    signature: String,
    url: String,
}

async fn sign(
    _caller: Caller<ReadTokens>,
    AccountInPath(appid): AccountInPath,
    State(rooms): State<Arc<Rooms>>,
    RawQuery(query): RawQuery,
) -> Result<Json<SignedPage>, Problem> {
    let url = page_address(query.as_deref().unwrap_or_default())?;
    let live = obtain(&rooms, &TokenKey::new(appid.clone(), TokenType::JsapiTicket), Duration::ZERO).await?;
    let now = rooms.clock.now();
    let ticket = live.token.valid(now).ok_or_else(Problem::ended)?;
    let (timestamp, nonce_str) = (now.as_millis() / 1_000, nonce());
    let signature = sign_jsapi(&ticket.text, &nonce_str, timestamp, &url);
    Ok(Json(SignedPage { app_id: appid.to_string(), timestamp, nonce_str, signature, url }))
}

/// The page's address from the query: percent-decoded once and otherwise as it came. A `+` stays a `+`, because this is not a form: a page's
/// address may hold one, and whoever encodes correctly sends `%2B` or `+` for it and `%20` for a space.
fn page_address(query: &str) -> Result<String, Problem> {
    let unclear = || {
        let detail =
            "the query must be `url=` and the page's address, percent-encoded as a whole (`&` as %26, `#` as %23)";
        Problem::new(Code::InvalidRequest, detail)
    };
    let encoded = query.strip_prefix("url=").filter(|encoded| !encoded.contains('&')).ok_or_else(unclear)?;
    let decoded = percent_decode_str(encoded).decode_utf8().map_err(|_| unclear())?;
    let url = signed_part(&decoded);
    if !(url.starts_with("https://") || url.starts_with("http://")) {
        return Err(Invalid::new("url", "the page's address begins with https:// or http://").into());
    }
    if url.len() > LONGEST_URL || url.chars().any(char::is_control) {
        return Err(Invalid::new("url", "the page's address has at most 2048 bytes and no control characters").into());
    }
    Ok(url.to_owned())
}

fn nonce() -> String {
    (0..NONCE_CHARACTERS).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_decoded_once_and_cut_at_its_fragment() {
        for (query, url) in [
            ("url=https%3A%2F%2Fexample.com%2F%3Fa%3D1%26b%3D2%23part", "https://example.com/?a=1&b=2"),
            ("url=http://example.com", "http://example.com"),
            ("url=https://example.com/%25E4?q=a+b", "https://example.com/%E4?q=a+b"),
            ("url=https://example.com/%E4%B8%AD", "https://example.com/中"),
        ] {
            assert_eq!(page_address(query).unwrap(), url);
        }
    }

    #[test]
    fn what_is_no_single_address_is_refused() {
        let long = format!("url=https://example.com/{}", "x".repeat(2_048));
        for (query, code) in [
            ("", Code::InvalidRequest),
            ("url=https://example.com/?a=1&b=2", Code::InvalidRequest),
            ("page=https://example.com/", Code::InvalidRequest),
            ("url=https://example.com/%FF", Code::InvalidRequest),
            ("url=", Code::InvalidField),
            ("url=javascript:alert(1)", Code::InvalidField),
            ("url=https://example.com/%0A", Code::InvalidField),
            (&long, Code::InvalidField),
        ] {
            assert_eq!(page_address(query).unwrap_err().code(), code, "{query}");
        }
    }

    #[test]
    fn nonces_have_sixteen_letters_and_digits() {
        assert!(nonce().len() == 16 && nonce().bytes().all(|byte| byte.is_ascii_alphanumeric()) && nonce() != nonce());
    }
}
