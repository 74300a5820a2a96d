//! Bodies that nobody should send: each is refused with a clear problem, and repeats nothing secret.

use reqwest::Method;
use serde_json::json;

use super::House;
use crate::support::api::Reply;
use crate::support::sandbox::SECRET;

const JSON: &str = "application/json";

impl House {
    async fn submit(&self, method: Method, path: &str, media_type: Option<&str>, body: impl Into<Vec<u8>>) -> Reply {
        let request = self.admin.request(method, path).body(body.into());
        let request = media_type.into_iter().fold(request, |request, kind| request.header("content-type", kind));
        Reply::of(request).await
    }
}

/// Every call that takes a body.
const TAKERS: [(&str, &str); 5] = [
    ("POST", "/v1/accounts"),
    ("PATCH", "/v1/accounts/wx1"),
    ("POST", "/v1/accounts/wx1/tokens/access_token/report"),
    ("POST", "/v1/accounts/wx1/tokens/access_token/refresh"),
    ("POST", "/v1/keys"),
];

fn broken_bodies() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("cut off", b"{\"secret\": \"canary".to_vec()),
        ("text behind", b"{} canary".to_vec()),
        ("two values", b"{}{}".to_vec()),
        ("bad UTF-8", b"{\"secret\": \"canary\xff\xfe\"}".to_vec()),
        ("lone surrogate", br#"{"secret": "canary\ud800"}"#.to_vec()),
        ("byte order mark", b"\xef\xbb\xbf{\"secret\": \"canary\"}".to_vec()),
        ("UTF-16", b"\xff\xfe{\0}\0".to_vec()),
        ("NUL", b"\0".to_vec()),
        ("NUL inside", b"{\"secret\": \"canary\0\"}".to_vec()),
        ("NaN", b"{\"secret\": NaN}".to_vec()),
        ("a comment", b"{} // canary".to_vec()),
        ("an array", b"[]".to_vec()),
        ("fields in an array", br#"["wx2", "canary", null, null, null, null, null]"#.to_vec()),
        ("a string", b"\"canary\"".to_vec()),
        ("null", b"null".to_vec()),
        ("a huge number", b"{\"secret\": 1e999}".to_vec()),
        ("an unknown field", br#"{"canary1": 1}"#.to_vec()),
        ("a deep array", b"[".repeat(20_000)),
        ("a deep field", [b"{\"secret\": ".as_slice(), &b"[".repeat(20_000)].concat()),
        ("a deep object", b"{\"secret\":".repeat(5_000)),
        ("a form", b"secret=canary".to_vec()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_understood_is_a_400_everywhere() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    for (method, path) in TAKERS {
        let method: Method = method.parse().expect("a method");
        for (what, body) in broken_bodies() {
            let reply = house.submit(method.clone(), path, Some(JSON), body).await;
            assert_eq!(reply.status, 400, "{what}, {method} {path}: {}", reply.text);
            let reply = reply.expect_problem(400, "invalid_request");
            assert!(!reply.text.contains("canary"), "{what}, {method} {path}: {}", reply.text);
        }
    }
    house.value("wx1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_must_say_that_it_is_json() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    for (method, path) in TAKERS {
        let method: Method = method.parse().expect("a method");
        for kind in
            [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonx"), Some("")]
        {
            let reply = house.submit(method.clone(), path, kind, "{}").await;
            assert_eq!(reply.code(), "unsupported_media_type", "{kind:?} {method} {path}: {}", reply.text);
            reply.expect_problem(415, "unsupported_media_type");
        }
    }
    for kind in ["application/json; charset=utf-8", "Application/JSON", "application/merge-patch+json"] {
        house.submit(Method::PATCH, "/v1/accounts/wx1", Some(kind), "{}").await.expect_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_at_most_64_kib() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    let spaces = |length: usize| format!("{{}}{}", " ".repeat(length - 2));
    let path = "/v1/accounts/wx1";
    house.submit(Method::PATCH, path, Some(JSON), spaces(64 * 1024)).await.expect_status(200);
    // Over and over, because an answer that is sent over unread bytes arrives only now and then.
    for (method, path) in TAKERS.into_iter().cycle().take(50) {
        let method: Method = method.parse().expect("a method");
        let reply = house.submit(method, path, Some(JSON), spaces(64 * 1024 + 1)).await;
        reply.expect_problem(413, "body_too_large");
    }
    let large = json!({ "secret": "x".repeat(65 * 1024) }).to_string();
    house.submit(Method::PATCH, path, Some(JSON), large).await.expect_problem(413, "body_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_body_is_allowed_only_where_nothing_is_needed() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    for (method, path) in TAKERS {
        let is_optional = path.ends_with("/refresh");
        let reply = house.submit(method.parse().expect("a method"), path, Some(JSON), "").await;
        if is_optional {
            reply.expect_status(200);
        } else {
            reply.expect_problem(400, "invalid_request");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_of_their_type_there_once_and_known() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    let values = [json!(null), json!(1), json!(-0.0), json!({}), json!([1]), json!(true), json!("x"), json!(1e300)];
    for field in ["secret", "name", "note", "mode", "token_types", "enabled"] {
        for value in &values {
            let fits = match field {
                "token_types" => false,
                "enabled" => value.is_boolean(),
                _ => value.is_string(),
            };
            if fits {
                continue;
            }
            let reply = house.admin.patch("/v1/accounts/wx1", &json!({ field: value })).await;
            let reply = reply.expect_problem(400, "invalid_request");
            let pointer = reply.body["errors"][0]["pointer"].as_str().expect("a pointer");
            assert!(pointer.starts_with(&format!("/{field}")), "{field} = {value}: {}", reply.text);
        }
    }
    for (body, word) in [
        (format!(r#"{{"appid": "wx2", "secret": "{SECRET}", "secret": "{SECRET}"}}"#), "twice"),
        (format!(r#"{{"appid": "wx2", "secret": "{SECRET}", "Name": "x"}}"#), "not known"),
        (format!(r#"{{"appid": "wx2", "secret": "{SECRET}", "nmae": "x"}}"#), "`nmae`"),
        (r#"{"appid": "wx2"}"#.to_owned(), "`secret` is missing"),
        (format!(r#"{{"secret": "{SECRET}"}}"#), "`appid` is missing"),
        (format!(r#"{{"appid": "wx2", "secret": "{SECRET}", "health": "healthy"}}"#), "`health`"),
    ] {
        let reply = house.submit(Method::POST, "/v1/accounts", Some(JSON), body).await;
        let reply = reply.expect_problem(400, "invalid_request");
        assert!(reply.text.contains(word) && !reply.text.contains(SECRET), "{word}: {}", reply.text);
    }
    for fixed in ["appid", "created_at", "health", "tokens", "version"] {
        house.admin.patch("/v1/accounts/wx1", &json!({ fixed: "x" })).await.expect_problem(400, "invalid_request");
    }
    house.admin.get("/v1/accounts/wx2").await.expect_problem(404, "unknown_account");
}
