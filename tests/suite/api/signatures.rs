//! The JS-SDK's signature, computed again from the ticket that the API shows.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::{House, members, text};
use crate::support::process::ADMIN_KEY;
use crate::support::raw;

/// The addresses of WeChat's document and our own, and the part that is signed.
const PAGES: [(&str, &str); 7] = [
    ("http://mp.weixin.qq.com?params=value", "http://mp.weixin.qq.com?params=value"),
    ("http://mp.weixin.qq.com", "http://mp.weixin.qq.com"),
    ("http://mp.weixin.qq.com?params=value#abc", "http://mp.weixin.qq.com?params=value"),
    ("http://mp.weixin.qq.com/?params=value", "http://mp.weixin.qq.com/?params=value"),
    ("https://example.com/a?x=1&y=%E4%B8%AD%E6%96%87", "https://example.com/a?x=1&y=%E4%B8%AD%E6%96%87"),
    ("https://example.com/a?x=1&y=中文", "https://example.com/a?x=1&y=中文"),
    ("https://example.com/?q=a%20b+c&r=%2F", "https://example.com/?q=a%20b+c&r=%2F"),
];

fn expected_signature(ticket: &str, nonce: &str, timestamp: i64, url: &str) -> String {
    let signed = format!("jsapi_ticket={ticket}&noncestr={nonce}&timestamp={timestamp}&url={url}");
    wxtoken::seal::hexadecimal(&Sha1::digest(signed.as_bytes()))
}

#[test]
fn the_digest_here_is_the_one_of_the_document() {
    let ticket = "sM4AOVdWfPE4DxkXGEs8VMCPGGVi4C3VM0P37wVUCFvkVAy_90u5h9nbSlYy3-Sl-HhTdfl2fzFy1AOcHKP7qg";
    let signature = expected_signature(ticket, "Wm3WZYTPz0wzccnW", 1_414_587_457, PAGES[0].1);
    assert_eq!(signature, "0f9de62fce790f9a083d5c99e95740ceb90c27ed");
}

fn assert_signed(answer: &Value, ticket: &str, url: &str) {
    assert_eq!(members(answer), ["appId", "nonceStr", "signature", "timestamp", "url"]);
    assert_eq!((&answer["appId"], &answer["url"]), (&json!("wx1"), &json!(url)));
    let nonce = text(&answer["nonceStr"]);
    let timestamp = answer["timestamp"].as_i64().expect("seconds");
    assert!(timestamp > 1_600_000_000 && timestamp < 100_000_000_000, "{timestamp} is no time in seconds");
    assert!(nonce.len() >= 16, "{nonce}");
    assert_eq!(answer["signature"], expected_signature(ticket, &nonce, timestamp, url).as_str(), "{url}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_signed_as_the_raw_string_that_it_came_as() {
    let house = House::open().await;
    house.register("wx1", json!({ "token_types": ["jsapi_ticket"] })).await;
    let service = house.key(&json!(["wx1"]), &json!(["token:read"])).await;
    let mut nonces = Vec::new();
    for (page, signed) in PAGES {
        let encoded = utf8_percent_encode(page, NON_ALPHANUMERIC);
        let reply = service.get(&format!("/v1/accounts/wx1/jsapi-signature?url={encoded}")).await.expect_status(200);
        assert_eq!(reply.header("cache-control"), "no-store");
        let ticket = text(&service.token("wx1", "jsapi_ticket").await.expect_status(200).body["value"]);
        assert!(house.sandbox.accepts(&ticket));
        assert_signed(&reply.body, &ticket, signed);
        nonces.push(text(&reply.body["nonceStr"]));
    }
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), PAGES.len(), "a nonce is used once");
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_bytes_in_the_query_are_signed_too() {
    let house = House::open().await;
    house.register("wx1", json!({ "token_types": ["jsapi_ticket"] })).await;
    let ticket = text(&house.admin.token("wx1", "jsapi_ticket").await.expect_status(200).body["value"]);
    for page in ["https://example.com/a?y=中文", "http://mp.weixin.qq.com", "https://example.com/?a=1"] {
        let request = format!(
            "GET /v1/accounts/wx1/jsapi-signature?url={page} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             authorization: Bearer {ADMIN_KEY}\r\n\r\n"
        );
        let reply = raw::send(&house.server.base_url(), request.as_bytes()).await;
        assert_eq!(reply.status, 200, "{page}: {reply:?}");
        assert_signed(&serde_json::from_str(&reply.body).expect("JSON"), &ticket, page);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_page_is_refused() {
    let house = House::open().await;
    house.register("wx1", json!({ "token_types": ["jsapi_ticket"] })).await;
    let long = format!("?url=https://example.com/{}", "x".repeat(2_048));
    for (query, status, code) in [
        ("", 400, "invalid_request"),
        ("?", 400, "invalid_request"),
        ("?page=https%3A%2F%2Fexample.com", 400, "invalid_request"),
        ("?url=https://example.com/?a=1&b=2", 400, "invalid_request"),
        ("?url=https://example.com/%FF", 400, "invalid_request"),
        ("?url=", 422, "invalid_field"),
        ("?url=ftp://example.com/", 422, "invalid_field"),
        ("?url=javascript:alert(1)", 422, "invalid_field"),
        ("?url=https://example.com/%0D%0Ax", 422, "invalid_field"),
        ("?url=https://example.com/%00", 422, "invalid_field"),
        (&long, 422, "invalid_field"),
    ] {
        house.admin.get(&format!("/v1/accounts/wx1/jsapi-signature{query}")).await.expect_problem(status, code);
    }
    house.register("wx2", json!({})).await;
    let page = "url=https://example.com/";
    let reply = house.admin.get(&format!("/v1/accounts/wx2/jsapi-signature?{page}")).await;
    reply.expect_problem(404, "token_type_not_kept");
    let reply = house.admin.get(&format!("/v1/accounts/wx3/jsapi-signature?{page}")).await;
    reply.expect_problem(404, "unknown_account");
}
