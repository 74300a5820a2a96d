//! The whole room over an SQLite database and a simulated WeChat.

mod feed;
mod house;

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::header::{ALLOW, CACHE_CONTROL, ETAG, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Method, Request};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use self::house::{APPID, House, Reply, token_path};
use super::*;
use crate::domain::key::{AccountScope, Action, Actions, Role};
use crate::wechat::sandbox::DEFAULT_SECRET;

#[tokio::test]
async fn every_guarded_route_asks_who_calls() {
    let house = House::open().await;
    house.register().await.expect(201);
    let other = AccountScope::parse(["wxother"]).unwrap();
    let elsewhere = house.key(Role::Service, other, Action::ALL.into_iter().collect()).await;
    let powerless = house.key(Role::Service, AccountScope::All, [Action::AuditRead].into_iter().collect()).await;
    let revoked = house.key(Role::Service, AccountScope::All, Action::ALL.into_iter().collect()).await;
    house.revoke(&revoked).await;
    let guarded: Vec<_> = routes().into_iter().filter(|route| route.action.is_some()).collect();
    assert_eq!(guarded.len(), routes().iter().filter(|route| route.path.starts_with("/v1/")).count());
    for route in guarded {
        let path = route.path.replace("{appid}", APPID).replace("{token_type}", "access_token").replace("{id}", "1");
        let method = route.method.as_str();
        let keyless = Request::builder().method(method).uri(&path).body(Body::empty()).unwrap();
        let reply = house.send(keyless).await.expect_problem(401, "invalid_key");
        assert_eq!(reply.headers[WWW_AUTHENTICATE], "Bearer realm=\"wxtoken\"");
        for useless in ["wxt_s_wrong", &revoked] {
            let reply = house.call(useless, method, &path, None).await.expect_problem(401, "invalid_key");
            assert!(reply.headers[WWW_AUTHENTICATE].to_str().unwrap().contains("invalid_token"));
        }
        let reply = house.call(&powerless, method, &path, None).await.expect_problem(403, "insufficient_scope");
        assert!(reply.text.contains(route.action.unwrap().as_str()), "{}", reply.text);
        if route.path.contains("{appid}") {
            house.call(&elsewhere, method, &path, None).await.expect_problem(403, "account_out_of_scope");
        }
    }
}

#[tokio::test]
async fn a_token_is_fetched_once_and_read_alike_on_both_paths() {
    let house = House::open().await;
    let created = house.register().await.expect(201);
    assert_eq!(created.headers[LOCATION], format!("/v1/accounts/{APPID}"));
    assert_eq!(created.json()["health"], "pending");
    house.register().await.expect_problem(409, "account_exists");
    let first = house.get(&token_path("")).await.expect(200);
    assert!(first.headers.contains_key("x-request-id"), "the first read goes through the router");
    let hot = house.get(&token_path("")).await.expect(200);
    assert!(!hot.headers.contains_key("x-request-id"), "the second read takes the fast path");
    let full = house.get(&token_path("?min_ttl=1")).await.expect(200);
    let without_seconds = |reply: &Reply| {
        let mut body = reply.json();
        body["expires_in"].take();
        body
    };
    assert_eq!(without_seconds(&hot), without_seconds(&full));
    assert_eq!(hot.headers[CACHE_CONTROL], "no-store");
    let tag = hot.headers[ETAG].to_str().unwrap().to_owned();
    assert_eq!(tag, full.headers[ETAG]);
    let conditional = Request::builder().uri(token_path("")).header("if-none-match", tag);
    let conditional = conditional.header("authorization", format!("bearer {}", house.admin)).body(Body::empty());
    let known = house.send(conditional.unwrap()).await.expect(304);
    assert_eq!(known.text, "");
    let head = house.call(&house.admin, "HEAD", &token_path(""), None).await.expect(200);
    assert_eq!(head.text, "");
    for (query, status) in [("?min_ttl=0", 422), ("?min_ttl=x", 400), ("?max_ttl=1", 400)] {
        house.get(&token_path(query)).await.expect(status);
    }
    house.get(&token_path("s")).await.expect_problem(404, "unknown_token_type");
    house.get("/v1/accounts/wx2/tokens/access_token").await.expect_problem(404, "unknown_account");
    let unkept = house.get(&format!("/v1/accounts/{APPID}/tokens/wx_card_ticket")).await;
    unkept.expect_problem(404, "token_type_not_kept");
}

#[tokio::test]
async fn reports_refreshes_checks_and_signatures() {
    let house = House::open().await;
    house.register().await.expect(201);
    let token = house.get(&token_path("")).await.expect(200).json();
    let reported = house.post(&token_path("/report"), json!({"value": token["value"]})).await.expect(200).json();
    assert_eq!((&reported["verdict"], &reported["token"]["value"]), (&json!("still_valid"), &token["value"]));
    let reported = house.post(&token_path("/report"), json!({"value": "stale"})).await.expect(200).json();
    assert_eq!(reported["verdict"], "already_replaced");
    let refreshed = house.call(&house.admin, "POST", &token_path("/refresh"), None).await.expect(200).json();
    assert_eq!(refreshed["outcome"], "unchanged");
    let forced = house.post(&token_path("/refresh"), json!({"force": true})).await.expect(200).json();
    assert_eq!((&forced["outcome"], &forced["token"]["version"]), (&json!("success"), &json!(2)));
    let spent = house.post(&token_path("/refresh"), json!({"force": true})).await;
    let spent = spent.expect_problem(429, "budget_exhausted");
    let wait: u64 = spent.headers[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait) && spent.json()["retry_at"].is_string(), "{}", spent.text);
    let checked = house.call(&house.admin, "POST", &format!("/v1/accounts/{APPID}/check"), None).await.expect(200);
    assert_eq!(checked.json()["ok"], true);
    let page = "https%3A%2F%2Fexample.com%2F%3Fa%3D1%23part";
    let signed = house.get(&format!("/v1/accounts/{APPID}/jsapi-signature?url={page}")).await.expect(200).json();
    assert_eq!(signed["url"], "https://example.com/?a=1");
    assert_eq!(signed["signature"].as_str().unwrap().len(), 40);
    let members: Vec<_> = signed.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["appId", "nonceStr", "signature", "timestamp", "url"]);
}

#[tokio::test]
async fn a_broken_account_says_what_is_wrong_and_a_patch_mends_it() {
    let house = House::open().await;
    let wrong = json!({"appid": APPID, "secret": "wrong-secret-canary", "name": "Shop"});
    assert!(!house.post("/v1/accounts", wrong).await.expect(201).text.contains("canary"));
    let refused = house.get(&token_path("")).await.expect_problem(503, "no_valid_token");
    assert!(refused.json()["upstream"]["hint"].is_string() && refused.headers.contains_key(RETRY_AFTER));
    let again = house.get(&token_path("")).await.expect_problem(503, "no_valid_token").json();
    assert!(again["retry_at"].is_string() && again["upstream"]["errcode"].is_i64(), "{again}");
    house.post(&token_path("/refresh"), json!({})).await.expect_problem(502, "refresh_failed");
    let account = format!("/v1/accounts/{APPID}");
    let checked = house.call(&house.admin, "POST", &format!("{account}/check"), None).await.expect(200).json();
    assert_eq!((&checked["ok"], checked["errcode"].is_i64()), (&json!(false), true), "{checked}");
    let shown = house.get(&account).await.expect(200).json();
    assert_eq!((&shown["health"], &shown["tokens"][0]["health"]), (&json!("down"), &json!("down")), "{shown}");
    assert!(shown["tokens"][0]["hint"].is_string());
    let patch = async |patch: Value| house.call(&house.admin, "PATCH", &account, Some(patch)).await;
    patch(json!({"secret": null})).await.expect_problem(400, "invalid_request");
    patch(json!({"appid": "wx2"})).await.expect_problem(400, "invalid_request");
    patch(json!({"mode": "fast"})).await.expect_problem(422, "invalid_field");
    patch(json!({"secret": DEFAULT_SECRET})).await.expect(200);
    house.get(&token_path("")).await.expect(200);
    assert_eq!(patch(json!({"enabled": false})).await.expect(200).json()["health"], "disabled");
    house.get(&token_path("")).await.expect_problem(409, "account_disabled");
    house.call(&house.admin, "DELETE", &account, None).await.expect(204);
    house.call(&house.admin, "DELETE", &account, None).await.expect_problem(404, "unknown_account");
    house.get(&token_path("")).await.expect_problem(404, "unknown_account");
}

#[tokio::test]
async fn keys_are_shown_once_kept_within_bounds_and_revoked_at_once() {
    let house = House::open().await;
    house.register().await.expect(201);
    let order = json!({"name": "shop", "role": "service", "accounts": [APPID], "expires_in_days": 30});
    let created = house.post("/v1/keys", order).await.expect(201).json();
    let (id, text) = (created["id"].as_str().unwrap(), created["key"].as_str().unwrap());
    assert_eq!(created["actions"], json!(["token:read", "token:report"]));
    house.call(text, "GET", &token_path(""), None).await.expect(200);
    assert!(!house.get("/v1/keys").await.expect(200).text.contains(text));
    let scope = AccountScope::parse([APPID]).unwrap();
    let manager = house.key(Role::Service, scope, Actions::parse(["token:read", "key:manage"]).unwrap()).await;
    for (role, accounts, actions) in [
        ("service", "*", json!(["token:read"])),
        ("service", APPID, json!(["token:report"])),
        ("admin", APPID, Value::Null),
    ] {
        let greedy = json!({"name": "x", "role": role, "accounts": [accounts], "actions": actions});
        let reply = house.call(&manager, "POST", "/v1/keys", Some(greedy)).await;
        reply.expect_problem(403, "insufficient_scope");
    }
    let seen = house.call(&manager, "GET", "/v1/keys?limit=1", None).await.expect(200).json();
    assert_eq!((seen["items"].as_array().unwrap().len(), &seen["next"]), (1, &Value::Null), "{seen}");
    house.call(&manager, "DELETE", &format!("/v1/keys/{id}"), None).await.expect_problem(404, "unknown_key");
    house.call(&house.admin, "DELETE", &format!("/v1/keys/{id}"), None).await.expect(204);
    house.call(text, "GET", &token_path(""), None).await.expect_problem(401, "invalid_key");
    let admins = house.get("/v1/keys").await.json();
    let admin = admins["items"].as_array().unwrap().iter().find(|key| key["role"] == "admin").unwrap();
    let path = format!("/v1/keys/{}", admin["id"].as_str().unwrap());
    house.call(&house.admin, "DELETE", &path, None).await.expect_problem(409, "last_admin_key");
}

#[tokio::test]
async fn history_comes_in_pages_and_as_csv() {
    let house = House::open().await;
    house.register().await.expect(201);
    house.get(&token_path("")).await.expect(200);
    for _ in 0..4 {
        house.post(&token_path("/refresh"), json!({})).await.expect(200);
    }
    let mut seen = Vec::new();
    let mut path = format!("/v1/refreshes?appid={APPID}&limit=2");
    loop {
        let page = house.get(&path).await.expect(200).json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/refreshes?appid={APPID}&limit=2&cursor={next}");
    }
    assert_eq!(seen.len(), 5);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 5);
    let csv = Request::builder().uri("/v1/refreshes?outcome=unchanged").header("accept", "text/csv");
    let csv = csv.header("authorization", format!("Bearer {}", house.admin)).body(Body::empty()).unwrap();
    let csv = house.send(csv).await.expect(200);
    assert_eq!(csv.headers["content-type"], "text/csv; charset=utf-8");
    assert_eq!(csv.text.lines().count(), 5, "{}", csv.text);
    house.get("/v1/refreshes?cursor=AAAA").await.expect_problem(400, "invalid_request");
    house.get("/v1/refreshes?from=yesterday").await.expect_problem(422, "invalid_field");
    house.get("/v1/refreshes?from=2026-01-01T00:00:00%2B08:00").await.expect(200);
    let scope = AccountScope::parse([APPID]).unwrap();
    let scoped = house.key(Role::Service, scope, Actions::parse(["history:read"]).unwrap()).await;
    house.call(&scoped, "GET", "/v1/refreshes", None).await.expect_problem(403, "account_out_of_scope");
    house.call(&scoped, "GET", &format!("/v1/refreshes?appid={APPID}"), None).await.expect(200);
}

#[tokio::test]
async fn odd_requests_get_clear_answers() {
    let house = House::open().await;
    house.get("/v1/nothing").await.expect_problem(404, "not_found");
    let reply = house.call(&house.admin, "PUT", "/v1/accounts", None).await;
    let reply = reply.expect_problem(405, "method_not_allowed");
    let allowed = reply.headers[ALLOW].to_str().unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
    house.call(&house.admin, "POST", "/v1/accounts", None).await.expect_problem(415, "unsupported_media_type");
    let large = json!({"appid": "wx1", "secret": "x".repeat(LARGEST_BODY)});
    house.post("/v1/accounts", large).await.expect_problem(413, "body_too_large");
    let twice = Request::builder().uri("/v1/keys").header("authorization", "Bearer a");
    let twice = twice.header("authorization", "Bearer b").header("x-request-id", "mine-1").body(Body::empty());
    let twice = house.send(twice.unwrap()).await.expect_problem(400, "invalid_request");
    assert_eq!(twice.headers["x-request-id"], "mine-1");
    house.get("/v1/accounts/%FF").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_closed_door_says_what_is_waited_for_and_an_open_one_lets_in() {
    let house = House::open().await;
    let door = Door::new(house.rooms.clock.clone());
    let ask = async |path: &str| {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        Reply::of(door.answer(request).await.unwrap()).await
    };
    assert_eq!(ask("/livez").await.expect(200).text, "ok\n");
    assert_eq!(ask("/readyz?verbose").await.expect(503).text, "waiting for the database\n");
    for path in ["/v1/accounts/wx1/tokens/access_token", "/v1/accounts", "/nowhere"] {
        let reply = ask(path).await.expect_problem(503, "database_unavailable");
        assert_eq!(reply.headers["retry-after"], "1", "{path}");
    }
    door.open(Arc::clone(&house.rooms));
    ask("/readyz").await.expect(200);
    ask("/v1/accounts").await.expect_problem(401, "invalid_key");
}

#[tokio::test]
async fn a_panic_is_a_problem_that_shows_nothing() {
    let house = House::open().await;
    let broken = async || "x".parse::<u8>().map(drop).expect("canary");
    let surround = from_fn_with_state(house.rooms.clock.clone(), context::surround);
    let router = Router::new().route("/broken", axum::routing::get(broken)).layer(surround);
    let request = Request::builder().uri("/broken").body(Body::empty()).unwrap();
    let reply = Reply::of(router.oneshot(request).await.unwrap()).await.expect_problem(500, "internal");
    assert!(!reply.text.contains("canary"), "{}", reply.text);
}

#[tokio::test]
async fn health_follows_the_scheduler_and_the_shutdown() {
    let house = House::open().await;
    house.send(Request::new(Body::empty())).await.expect(404);
    let ask = async |path: &str| house.send(Request::builder().uri(path).body(Body::empty()).unwrap()).await;
    ask("/livez").await.expect(200);
    ask("/healthz").await.expect(200);
    let verbose = ask("/readyz?verbose").await.expect(200).text;
    for line in ["view: ", "database: reachable", "accounts: 0", "scheduler: ", "version: "] {
        assert!(verbose.contains(line), "{verbose}");
    }
    house.stop.cancel();
    ask("/readyz").await.expect(503);
    ask("/livez").await.expect(200);
}

#[tokio::test]
async fn reads_go_on_without_the_database() {
    let house = House::open().await;
    house.register().await.expect(201);
    house.get(&token_path("")).await.expect(200);
    house.rooms.store.close().await;
    house.get(&token_path("")).await.expect(200);
    house.get(&format!("/v1/accounts/{APPID}")).await.expect(200);
    let reply = house.get("/v1/accounts").await.expect_problem(503, "database_unavailable");
    assert!(reply.headers.contains_key(RETRY_AFTER));
}

#[tokio::test]
async fn it_serves_on_a_socket_and_stops_when_told() {
    let house = House::open().await;
    house.register().await.expect(201);
    house.get(&token_path("")).await.expect(200);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Handle::new();
    let served = tokio::spawn(serve(listener, house.door(), handle.clone()));
    let talk = async |request: String| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer).unwrap_or_default()
    };
    let head = format!("GET {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n", token_path(""));
    let answer = talk(format!("{head}authorization: Bearer {}\r\n\r\n", house.admin)).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("expires_in"), "{answer}");
    let crowded = "x-a: 1\r\n".repeat(65);
    let refused = talk(format!("{head}\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 401") && refused.ends_with('}'), "{refused}");
    assert!(talk(format!("{head}{crowded}\r\n")).await.starts_with("HTTP/1.1 431"));
    handle.graceful_shutdown(Some(Duration::from_secs(5)));
    served.await.unwrap().unwrap();
}

#[test]
fn every_code_has_a_status_of_failure_and_a_name_of_its_own() {
    let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(names.len(), Code::ALL.len());
    for code in Code::ALL {
        assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
        assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code:?}");
    }
}

#[test]
fn a_route_is_listed_once() {
    let mut listed = routes();
    let count = listed.len();
    listed.sort_by_key(|route| (route.path, route.method.to_string()));
    listed.dedup();
    assert_eq!(listed.len(), count);
    assert!(listed.iter().any(|route| route.method == Method::GET && route.path == "/livez"));
}
