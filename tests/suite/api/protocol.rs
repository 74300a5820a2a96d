//! HTTP itself: methods, paths, headers and targets that no ordinary client sends.

use reqwest::Method;
use serde_json::{Value, json};

use super::House;
use crate::support::api::Reply;
use crate::support::process::ADMIN_KEY;
use crate::support::raw::{self, RawReply};

const TOKEN: &str = "/v1/accounts/wx1/tokens/access_token";

impl House {
    /// Sends a request line with the admin's key and these further headers, each ended by its line end.
    async fn raw(&self, request_line: &str, headers: &str) -> RawReply {
        let request =
            format!("{request_line}\r\nconnection: close\r\nauthorization: Bearer {ADMIN_KEY}\r\n{headers}\r\n");
        raw::send(&self.server.base_url(), request.as_bytes()).await
    }

    async fn with_a_token() -> Self {
        let house = Self::open().await;
        house.register("wx1", json!({})).await;
        house.value("wx1").await;
        house
    }
}

/// A refusal of ours: a problem of this status, which holds no token.
#[track_caller]
fn assert_refused(what: &str, reply: &RawReply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.code().as_str()), (status, code), "{what}: {reply:?}");
    assert!(reply.head.contains("content-type: application/problem+json"), "{what}: {reply:?}");
    assert!(!reply.body.contains("\"value\""), "{what}: {reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_method_is_told_which_ones_there_are() {
    let house = House::with_a_token().await;
    let methods = ["PUT", "OPTIONS", "TRACE", "PROPFIND", "get", "DELETE"];
    for method in methods {
        let reply = house.raw(&format!("{method} {TOKEN} HTTP/1.1"), "host: x\r\n").await;
        assert_refused(method, &reply, 405, "method_not_allowed");
        assert!(reply.head.contains("\r\nallow: get,head"), "{method}: {reply:?}");
        assert!(!reply.head.contains("access-control-allow"), "{method}: {reply:?}");
    }
    for (path, allowed) in [
        ("/v1/accounts", vec!["GET", "HEAD", "POST"]),
        ("/v1/accounts/wx1", vec!["DELETE", "GET", "HEAD", "PATCH"]),
        ("/v1/accounts/wx1/check", vec!["POST"]),
        ("/v1/keys", vec!["GET", "HEAD", "POST"]),
        ("/v1/refreshes", vec!["GET", "HEAD"]),
    ] {
        let reply = Reply::of(house.admin.keyless(Method::PUT, path)).await.expect_problem(405, "method_not_allowed");
        let mut found: Vec<_> = reply.header("allow").split(',').map(str::trim).collect();
        found.sort_unstable();
        assert_eq!(found, allowed, "{path}");
    }
    let preflight = "host: x\r\norigin: https://evil.example\r\naccess-control-request-method: GET\r\n";
    let reply = house.raw(&format!("OPTIONS {TOKEN} HTTP/1.1"), preflight).await;
    assert!(reply.status == 405 && !reply.head.contains("access-control"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_have_one_spelling() {
    let house = House::with_a_token().await;
    for path in [
        "//v1/accounts/wx1/tokens/access_token",
        "/v1//accounts/wx1/tokens/access_token",
        "/v1/accounts//tokens/access_token",
        "/v1/accounts/wx1/tokens//access_token",
        "/v1/accounts/wx1/tokens/access_token/",
        "/v1/accounts/wx1/tokens/",
        "/V1/accounts/wx1/tokens/access_token",
        "/v1/Accounts/wx1/tokens/access_token",
        "/v1/accounts/wx2/../wx1/tokens/access_token",
        "/v1/accounts/./wx1/tokens/access_token",
        "/v1/accounts/wx1%2Ftokens%2Faccess_token",
        "/v1/accounts/%2e%2e/wx1/tokens/access_token",
        "/v1/accounts/wx1/tokens/access_token;x",
        "/v1/accounts/wx1;x/tokens/access_token",
        "/v1/accounts/wx1/tokens/access_token%00",
        "/v1/accounts/wx1%00/tokens/access_token",
        "/v1/accounts/wx1%0A/tokens/access_token",
        "/v1/accounts/%FF/tokens/access_token",
        "/v1/accounts/%ZZ/tokens/access_token",
        "/v1/accounts/wx1/tokens/ACCESS_TOKEN",
        "/v1/accounts/*/tokens/access_token",
        "/v1/accounts/{appid}/tokens/access_token",
        "/v1/accounts/WX1/tokens/access_token",
        "/v1/accounts/'%20OR%201=1--/tokens/access_token",
        "/v1/accounts/%EF%BD%97x1/tokens/access_token",
        "/",
        "/v1",
        "/v2/accounts",
        "/V1",
    ] {
        let reply = house.raw(&format!("GET {path} HTTP/1.1"), "host: x\r\n").await;
        assert_eq!(reply.status, 404, "{path}: {reply:?}");
        assert_refused(path, &reply, 404, &reply.code());
    }
    for path in [TOKEN, "/v1/accounts/wx%31/tokens/access_token", "/v1/accounts/wx1/tokens/access%5Ftoken"] {
        let reply = house.raw(&format!("GET {path} HTTP/1.1"), "host: x\r\n").await;
        assert_eq!(reply.status, 200, "{path} means the same: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overlong_identifiers_are_unknown() {
    let house = House::with_a_token().await;
    let long = "w".repeat(10_000);
    house.admin.token(&long, "access_token").await.expect_problem(404, "unknown_account");
    house.admin.token("wx1", &long).await.expect_problem(404, "unknown_token_type");
    house.admin.get(&format!("/v1/accounts/{long}")).await.expect_problem(404, "unknown_account");
    house.admin.delete(&format!("/v1/keys/{long}")).await.expect_problem(404, "unknown_key");
    house.admin.delete("/v1/keys/%00").await.expect_problem(404, "unknown_key");
    house.admin.delete("/v1/keys/%F0%9F%94%91").await.expect_problem(404, "unknown_key");
    house.admin.refreshes(&format!("appid={long}")).await.expect_problem(422, "invalid_field");
    for list in ["/v1/accounts", "/v1/keys", "/v1/refreshes"] {
        house.admin.get(&format!("{list}?cursor={long}")).await.expect_problem(400, "invalid_request");
        for limit in ["0", "501", "4294967295"] {
            house.admin.get(&format!("{list}?limit={limit}")).await.expect_problem(422, "invalid_field");
        }
        for limit in ["-1", "1.5", "1e2", "", "x", "4294967296", "9007199254740993"] {
            house.admin.get(&format!("{list}?limit={limit}")).await.expect_problem(400, "invalid_request");
        }
        house.admin.get(&format!("{list}?offset=1")).await.expect_problem(400, "invalid_request");
        house.admin.get(&format!("{list}?limit=1&limit=2")).await.expect_problem(400, "invalid_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_odd_request_lines_are_answered() {
    let house = House::with_a_token().await;
    for (line, headers, status) in [
        (format!("GET {TOKEN} HTTP/1.0"), "", 200),
        (format!("GET {TOKEN} HTTP/1.1"), "host: x\r\n", 200),
        (format!("GET http://elsewhere.example{TOKEN} HTTP/1.1"), "host: elsewhere.example\r\n", 200),
        (format!("HEAD {TOKEN} HTTP/1.1"), "host: x\r\n", 200),
        (format!("GET {TOKEN} HTTP/1.1"), "host: x\r\naccept: image/png\r\n", 200),
    ] {
        let reply = house.raw(&line, headers).await;
        assert_eq!(reply.status, status, "{line}: {reply:?}");
        assert_eq!(reply.body.is_empty(), line.starts_with("HEAD"), "{line}: {reply:?}");
    }
    for line in [
        "OPTIONS * HTTP/1.1".to_owned(),
        "CONNECT elsewhere.example:443 HTTP/1.1".to_owned(),
        "GET http://elsewhere.example HTTP/1.1".to_owned(),
        "GET elsewhere HTTP/1.1".to_owned(),
        format!("GET {TOKEN}"),
        format!("GET {TOKEN} HTTP/3.0"),
        format!("GET {TOKEN} x HTTP/1.1"),
        "GET".to_owned(),
        "\x16\x03\x01".to_owned(),
    ] {
        let reply = house.raw(&line, "host: x\r\n").await;
        assert!((400..500).contains(&reply.status), "{line:?}: {reply:?}");
        assert!(!reply.body.contains("\"value\""), "{line:?}: {reply:?}");
    }
    house.admin.get("/readyz").await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_headers_are_refused_or_of_no_effect() {
    let house = House::with_a_token().await;
    let crowd = "x-a: 1\r\n".repeat(70);
    let wide = format!("x-a: {}\r\n", "a".repeat(20_000));
    for (headers, status) in [(crowd.as_str(), 431), (&wide, 431), ("bad header\r\n", 400), ("x\u{0}: 1\r\n", 400)] {
        let reply = house.raw(&format!("GET {TOKEN} HTTP/1.1"), headers).await;
        assert_eq!(reply.status, status, "{headers:.40}: {reply:?}");
    }
    let smuggled = "host: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n";
    let reply = house.raw("POST /v1/keys HTTP/1.1", smuggled).await;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    let overridden =
        "host: x\r\nx-http-method-override: DELETE\r\nx-original-url: /v1/keys\r\nx-forwarded-for: 1.1.1.1\r\n";
    let reply = house.raw(&format!("GET {TOKEN}?min_ttl=1 HTTP/1.1"), overridden).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let mut request = format!("GET {TOKEN}s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n").into_bytes();
    for name in ["accept-language", "accept", "if-none-match", "x-request-id", "content-type"] {
        request.extend(name.bytes().chain(*b": \xff\xe4\xb8\r\n"));
    }
    request.extend(format!("authorization: Bearer {ADMIN_KEY}\r\n\r\n").bytes());
    let reply = raw::send(&house.server.base_url(), &request).await;
    assert_refused("non-ASCII headers", &reply, 404, "unknown_token_type");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_harms_nobody() {
    let house = House::with_a_token().await;
    let json = "host: x\r\ncontent-type: application/json\r\n";
    let chunked = format!("{json}transfer-encoding: chunked\r\n\r\nzz\r\n");
    let reply = house.raw("PATCH /v1/accounts/wx1 HTTP/1.1", &chunked).await;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    let huge = format!("{json}content-length: 18446744073709551615\r\n");
    let reply = house.raw("PATCH /v1/accounts/wx1 HTTP/1.1", &huge).await;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    let two = format!("{json}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n");
    let reply = house.raw("PATCH /v1/accounts/wx1 HTTP/1.1", &two).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    house.admin.get("/readyz").await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_of_the_router_has_its_identifier() {
    let house = House::with_a_token().await;
    for (given, kept) in [("req-1.A_b", true), ("a b", false), ("\"x\"", false), ("", false)] {
        let request = house.admin.request(Method::GET, "/v1/accounts/wx9").header("x-request-id", given);
        let reply = Reply::of(request).await.expect_problem(404, "unknown_account");
        assert_eq!(reply.header("x-request-id") == given, kept, "{given}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
    }
    let page = house.admin.get("/v1/accounts").await.expect_status(200);
    assert!(!page.header("x-request-id").is_empty() && page.header("cache-control") == "no-store");
    assert_ne!(page.body, Value::Null);
}
