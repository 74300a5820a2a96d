//! Requests that nobody should send: each gets an error in WeChat's shape, none a 5xx, and none another account's token.

use reqwest::Method;
use serde_json::json;

use super::{APPID, Shop, refused, token_path};
use crate::support::api::Reply;
use crate::support::raw;
use crate::support::sandbox::SECRET;

const OTHER: &str = "wxb0000000000000000";

/// A shop beside an account that the shop's key does not reach.
async fn two_accounts() -> (Shop, String) {
    let shop = Shop::open().await;
    shop.register(OTHER, &json!({})).await;
    let value = shop.admin.token(OTHER, "access_token").await.expect_status(200).body["value"].clone();
    (shop, value.as_str().expect("text").to_owned())
}

#[track_caller]
fn harmless(reply: &Reply, what: &str, others: &str) {
    assert!(reply.status.as_u16() < 500, "{what}: {} {}", reply.status, reply.text);
    assert!(reply.body["errcode"].as_i64().is_some_and(|errcode| errcode != 0), "{what}: {}", reply.text);
    assert!(!reply.text.contains(others) && !reply.text.contains("access_token\":"), "{what}: {}", reply.text);
    assert!(!reply.text.contains(SECRET), "{what}: {}", reply.text);
}

#[tokio::test]
async fn queries_of_the_token_endpoint() {
    let (shop, others) = two_accounts().await;
    let key = shop.key.clone();
    let g = "grant_type=client_credential";
    for (query, errcode) in [
        (String::new(), 40_002),
        (format!("appid={APPID}&secret={key}"), 40_002),
        (format!("grant_type=CLIENT_CREDENTIAL&appid={APPID}&secret={key}"), 40_002),
        (format!("grant_type=&appid={APPID}&secret={key}"), 40_002),
        (format!("{g}&secret={key}"), 41_002),
        (format!("{g}&appid=&secret={key}"), 41_002),
        (format!("{g}&appid={APPID}"), 41_004),
        (format!("{g}&appid={APPID}&secret="), 41_004),
        (format!("{g}&appid={APPID}&secret"), 41_004),
        (format!("{g}&appid={APPID}&appid={OTHER}&secret={key}"), 40_035),
        (format!("{g}&appid={OTHER}&appid={APPID}&secret={key}"), 40_035),
        (format!("{g}&appid={APPID}&appid={APPID}&secret={key}"), 40_035),
        (format!("{g}&appid={APPID}&secret={key}&secret={key}"), 40_035),
        (format!("{g}&{g}&appid={APPID}&secret={key}"), 40_035),
        (format!("{g}&appid={APPID}&%61ppid={OTHER}&secret={key}"), 40_035),
        (format!("{g}&appid={APPID}&secret={key}&access_token={others}"), 40_035),
        (format!("{g}&appid={OTHER}&secret={key}"), 40_013),
        (format!("{g}&appid={}&secret={key}", APPID.to_uppercase()), 40_013),
        (format!("{g}&appid={APPID}%00&secret={key}"), 40_013),
        (format!("{g}&appid={APPID}%0A&secret={key}"), 40_013),
        (format!("{g}&appid=+{APPID}&secret={key}"), 40_013),
        (format!("{g}&appid=%ff%fe&secret={key}"), 40_013),
        (format!("{g}&appid=%EF%BD%97%EF%BD%98&secret={key}"), 40_013),
        (format!("{g}&appid={}&secret={key}", "w".repeat(5_000)), 40_013),
        (format!("{g}&appid={APPID}&secret={key}%20"), 40_125),
        (format!("{g}&appid={APPID}&secret=%zz%"), 40_125),
        (format!("{g}&appid={APPID}&secret={}", "s".repeat(5_000)), 40_125),
        (format!("{g}&APPID={APPID}&secret={key}"), 41_002),
        (format!("{g};appid={APPID};secret={key}"), 40_002),
        (format!("{g}&appid[]={APPID}&secret={key}"), 41_002),
    ] {
        let reply = shop.get(&format!("/cgi-bin/token?{query}")).await;
        refused(&reply, errcode, "");
        harmless(&reply, &query, &others);
    }
}

#[tokio::test]
async fn five_thousand_parameters_are_read_and_do_not_matter() {
    let (shop, others) = two_accounts().await;
    let noise = "&a".repeat(5_000);
    let reply = shop.get(&format!("{}{noise}", token_path(APPID, &shop.key))).await;
    assert!(reply.body["access_token"].is_string(), "{}", reply.text);
    harmless(&shop.get(&format!("{}{noise}", token_path(OTHER, &shop.key))).await, "many", &others);
    let token = shop.token().await;
    shop.echo(&format!("/cgi-bin/echo/x?access_token={token}{noise}")).await;
    harmless(&shop.get(&format!("/cgi-bin/echo/x?{}", "access_token=x&".repeat(500))).await, "many tokens", &others);
}

#[tokio::test]
async fn wrong_methods_and_paths() {
    let (shop, others) = two_accounts().await;
    let query = format!("grant_type=client_credential&appid={APPID}&secret={}", shop.key);
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        let reply = Reply::of(shop.admin.keyless(method.clone(), &format!("/cgi-bin/token?{query}"))).await;
        refused(&reply, 43_001, "require GET method");
    }
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let reply = Reply::of(shop.admin.keyless(method, &format!("/cgi-bin/stable_token?{query}"))).await;
        refused(&reply, 43_002, "require POST method");
    }
    for path in [
        "/cgi-bin/%74oken",
        "/cgi-bin/token%00",
        "/cgi-bin/token;jsessionid=1",
        "/cgi-bin/stable%5Ftoken",
        "/wx/wxother/cgi-bin/%74oken",
        "/cgi-bin/x%2f..%2ftoken",
        "/cgi-bin/%2e%2e/token",
    ] {
        let before = shop.sandbox.sandbox.log(0, None).len();
        let request = format!("GET {path}?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let reply = raw::send(&shop.server.base_url(), request.as_bytes()).await;
        assert!(reply.status == 200 && reply.body.contains("\"errcode\":40066"), "{path}: {reply:?}");
        assert_eq!(shop.sandbox.sandbox.log(0, None).len(), before, "{path} reached WeChat");
    }
    // However the minting paths are spelt, they are never passed on.
    let minted = shop.spent().1;
    let bearer = shop.admin.with_key(&shop.key);
    for path in ["/CGI-BIN/TOKEN", "/cgi-bin/token/", "/Cgi-Bin/Stable_Token/"] {
        let reply = Reply::of(bearer.request(Method::GET, &format!("/wx/{APPID}{path}?{query}"))).await;
        assert!(reply.status == 200, "{path}: {}", reply.text);
        harmless(&shop.get(&format!("{path}?{}", query.replace(APPID, OTHER))).await, path, &others);
    }
    assert_eq!(shop.spent().1, minted);
}

#[tokio::test]
async fn bodies_of_the_stable_endpoint() {
    let (shop, others) = two_accounts().await;
    let key = &shop.key;
    let good = json!({ "grant_type": "client_credential", "appid": APPID, "secret": key }).to_string();
    for (body, errcode) in [
        (String::new(), 44_002),
        ("null".to_owned(), 47_001),
        ("[]".to_owned(), 47_001),
        ("\"text\"".to_owned(), 47_001),
        ("{".to_owned(), 47_001),
        ("[".repeat(60_000), 47_001),
        ("{\"a\":".repeat(10_000), 47_001),
        (format!("{good}{good}"), 47_001),
        (format!("{{\"appid\":\"{APPID}\",{}", &good[1..]), 47_001),
        (json!({ "grant_type": "client_credential", "appid": [APPID], "secret": key }).to_string(), 47_001),
        (json!({ "grant_type": "client_credential", "appid": APPID, "secret": 1 }).to_string(), 47_001),
        (json!({ "appid": APPID, "secret": key }).to_string(), 40_002),
        (json!({ "grant_type": "client_credential", "secret": key }).to_string(), 41_002),
        (json!({ "grant_type": "client_credential", "appid": APPID }).to_string(), 41_004),
        (json!({ "grant_type": "client_credential", "appid": APPID, "secret": null }).to_string(), 41_004),
        (json!({ "grant_type": "client_credential", "appid": OTHER, "secret": key }).to_string(), 40_013),
        (format!("grant_type=client_credential&appid={APPID}&secret={key}"), 41_002),
        (format!("{{\"pad\":\"{}\",{}", "x".repeat(70_000), &good[1..]), 47_001),
    ] {
        let what = body.chars().take(80).collect::<String>();
        let reply = shop.post("/cgi-bin/stable_token", body).await;
        assert_eq!(reply.body["errcode"], errcode, "{what}: {}", reply.text);
        harmless(&reply, &what, &others);
    }
    for query in [format!("appid={OTHER}&secret={key}"), format!("access_token={others}")] {
        let reply = shop.post(&format!("/cgi-bin/stable_token?{query}"), good.clone()).await;
        refused(&reply, 40_035, "invalid parameter");
    }
    for body in [
        format!("\u{feff}{good}"),
        good.replace(APPID, "\\u0077x448f04719cd48f69"),
        good.replace('}', ",\"force_refresh\":\"true\"}"),
    ] {
        let reply = shop.post("/cgi-bin/stable_token", body.clone()).await;
        assert!(reply.body["access_token"].is_string(), "{body}: {}", reply.text);
    }
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    harmless(&shop.post("/cgi-bin/stable_token", utf16).await, "UTF-16", &others);
}

#[tokio::test]
async fn credentials_in_two_places() {
    let (shop, others) = two_accounts().await;
    let token = shop.token().await;
    let key = &shop.key;
    let bearer = shop.admin.with_key(key);
    let before = shop.sandbox.sandbox.log(0, None).len();
    for path in [
        format!("/cgi-bin/echo/x?access_token={token}"),
        format!("/cgi-bin/echo/x?access_token={others}"),
        token_path(APPID, key),
        format!("/sns/jscode2session?appid={APPID}&secret={key}&js_code=x"),
        format!("/wx/{APPID}/cgi-bin/echo/x?appid={APPID}&secret={key}"),
        "/cgi-bin/echo/x".to_owned(),
    ] {
        refused(&bearer.get(&path).await, 40_035, "invalid parameter");
    }
    for (path, body) in [
        (format!("/cgi-bin/echo/x?access_token={token}&access_token={others}"), String::new()),
        (format!("/cgi-bin/echo/x?access_token={token}&secret={key}"), String::new()),
        (format!("/cgi-bin/echo/x?access_token={token}"), json!({ "appid": OTHER, "secret": key }).to_string()),
        (format!("/sns/x?appid={APPID}&secret={key}&appsecret={key}"), String::new()),
        (format!("/sns/x?appid={APPID}&secret={key}"), json!({ "appid": OTHER, "appsecret": key }).to_string()),
        ("/cgi-bin/clear_quota/v2".to_owned(), json!({ "appid": APPID, "secret": key, "appsecret": key }).to_string()),
    ] {
        refused(&shop.post(&path, body).await, 40_035, "invalid parameter");
    }
    let twice = format!(
        "GET /wx/{APPID}/cgi-bin/echo/x HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
    );
    let reply = raw::send(&shop.server.base_url(), twice.as_bytes()).await;
    assert!(reply.status == 200 && reply.body.contains("exactly one Authorization"), "{reply:?}");
    assert_eq!(shop.sandbox.sandbox.log(0, None).len(), before, "WeChat heard of none of them");
}

#[tokio::test]
async fn odd_requests_on_the_wire() {
    let (shop, others) = two_accounts().await;
    let ask = token_path(APPID, &shop.key);
    let base = shop.server.base_url();
    for request in [
        format!("GET http://api.weixin.qq.com{ask} HTTP/1.1\r\nhost: api.weixin.qq.com\r\nconnection: close\r\n\r\n"),
        format!("GET {ask} HTTP/1.0\r\n\r\n"),
        format!("GET {ask} HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"),
    ] {
        let reply = raw::send(&base, request.as_bytes()).await;
        assert!(reply.status == 200 && reply.body.contains("\"access_token\""), "{request}: {reply:?}");
    }
    for request in [
        format!("TRACE {ask} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        format!("OPTIONS {ask} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        "POST /cgi-bin/stable_token HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\nzz\r\n".to_owned(),
        "GET /cgi-bin/menu/get?access_token=\u{4e2d} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
    ] {
        let reply = raw::send(&base, request.as_bytes()).await;
        assert!(reply.status < 500 && !reply.body.contains(&others), "{request}: {reply:?}");
    }
    let head = format!("GET {ask}&pad={} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "x".repeat(20_000));
    let reply = raw::send(&base, head.as_bytes()).await;
    assert_eq!(reply.status, 431, "{reply:?}");
}
