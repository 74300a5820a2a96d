//! Who may do what: every route of the table, with every kind of key that should not open it.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use wxtoken::domain::key::Action;
use wxtoken::http::{RouteInfo, routes};

use super::House;
use crate::support::api::{Api, Reply};
use crate::support::process::{ADMIN_KEY, Server};
use crate::support::raw;

const EVERY_ACTION: [&str; 8] = [
    "token:read",
    "token:report",
    "token:refresh",
    "account:read",
    "account:write",
    "history:read",
    "key:manage",
    "audit:read",
];

fn guarded() -> Vec<RouteInfo> {
    let guarded: Vec<_> = routes().into_iter().filter(|route| route.action.is_some()).collect();
    assert!(guarded.len() >= 14, "the table lost routes");
    guarded
}

/// The path of a route, for an account.
fn path(route: &RouteInfo, appid: &str) -> String {
    route.path.replace("{appid}", appid).replace("{token_type}", "access_token").replace("{id}", "0")
}

/// Calls a route with these `Authorization` headers.
async fn call(api: &Api, route: &RouteInfo, appid: &str, credentials: &[&str]) -> Reply {
    let request = api.keyless(route.method.clone(), &path(route, appid));
    let request = credentials.iter().fold(request, |request, value| request.header("authorization", *value));
    Reply::of(request).await
}

/// What is left of a refusal without the identifier of its request.
fn refusal(mut reply: Reply) -> (u16, Value, String) {
    reply.body["instance"].take();
    let challenge = reply.header("www-authenticate").to_owned();
    (reply.status.as_u16(), reply.body, challenge)
}

#[test]
fn every_route_of_the_api_asks_for_a_key_and_only_health_does_not() {
    for route in routes() {
        assert_eq!(route.action.is_some(), route.path.starts_with("/v1/"), "{} {}", route.method, route.path);
    }
    let open: Vec<_> = routes().into_iter().filter(|route| route.action.is_none()).map(|route| route.path).collect();
    assert_eq!(open.iter().collect::<BTreeSet<_>>(), ["/healthz", "/livez", "/readyz"].iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_and_no_usable_key_open_nothing() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    house.value("wx1").await;
    let calls = house.sandbox.calls("wx1").len();
    let admin = format!("Bearer {ADMIN_KEY}");
    let wrong = format!("Bearer {}x", &ADMIN_KEY[1..]);
    let nearly = format!("Bearer {}", &ADMIN_KEY[..ADMIN_KEY.len() - 1]);
    let long = format!("Bearer {}", "x".repeat(10_000));
    let useless =
        ["", "Bearer", "Bearer ", "Basic d3h0Og==", ADMIN_KEY, "Bearer\t1", "Token x", &wrong, &nearly, &long];
    for route in guarded() {
        let reply = call(&house.admin, &route, "wx1", &[]).await.expect_problem(401, "invalid_key");
        assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"wxtoken\"");
        for header in useless {
            let reply = call(&house.admin, &route, "wx1", &[header]).await.expect_problem(401, "invalid_key");
            assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"wxtoken\", error=\"invalid_token\"");
            assert!(!reply.text.contains(&ADMIN_KEY[4..20]), "{}", reply.text);
        }
        call(&house.admin, &route, "wx1", &[&admin, &admin]).await.expect_problem(400, "invalid_request");
        call(&house.admin, &route, "wx1", &[&admin, &wrong]).await.expect_problem(400, "invalid_request");
    }
    house.admin.get("/v1/accounts/wx1").await.expect_status(200);
    assert_eq!(house.sandbox.calls("wx1").len(), calls, "nobody made us call WeChat");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_and_an_expired_key_open_nothing() {
    let House { sandbox, server, admin, database } = House::open().await;
    let order = json!({ "name": "test", "role": "admin", "accounts": ["*"], "expires_in_days": 1 });
    let expired = admin.post("/v1/keys", &order).await.expect_status(201).body;
    let revoked = admin.post("/v1/keys", &order).await.expect_status(201).body;
    let [expired_key, revoked_key] = [&expired, &revoked].map(|key| super::text(&key["key"]));
    for key in [&expired_key, &revoked_key] {
        admin.with_key(key).get("/v1/accounts").await.expect_status(200);
    }
    admin.delete(&format!("/v1/keys/{}", super::text(&revoked["id"]))).await.expect_status(204);
    let revoked_now = admin.with_key(&revoked_key).get("/v1/accounts").await.expect_problem(401, "invalid_key");
    assert!(revoked_now.body["detail"].as_str().is_some_and(|detail| detail.contains("revoked")));

    server.terminate();
    assert!(server.wait_exit(Duration::from_secs(10)).await.success());
    let mut connection = SqliteConnection::connect(database.url()).await.expect("nobody else has the file");
    let sql = "UPDATE wx_key SET expires_at = created_at + 1 WHERE id = ?";
    let done = sqlx::query(sql).bind(super::text(&expired["id"])).execute(&mut connection).await.expect("it runs");
    assert_eq!(done.rows_affected(), 1);
    connection.close().await.expect("it closes");

    let server = Server::builder().database(&database).wechat(sandbox.url()).start().await;
    let admin = server.admin();
    for route in guarded() {
        for (key, word) in [(&expired_key, "expired"), (&revoked_key, "revoked")] {
            let reply = call(&admin, &route, "wx1", &[&format!("Bearer {key}")]).await;
            let reply = reply.expect_problem(401, "invalid_key");
            assert!(reply.body["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{}", reply.text);
            assert!(reply.header("www-authenticate").contains("invalid_token"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_the_action_is_told_which_one_it_needs() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    for route in guarded() {
        let needed = route.action.expect("it is guarded").as_str();
        let others: Vec<_> = EVERY_ACTION.into_iter().filter(|action| *action != needed).collect();
        let caller = house.key(&json!(["*"]), &json!(others)).await;
        let request = caller.request(route.method.clone(), &path(&route, "wx1"));
        let reply = Reply::of(request).await.expect_problem(403, "insufficient_scope");
        let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{needed}\"");
        assert_eq!(reply.header("www-authenticate"), challenge);
    }
    let service = house.key(&json!(["wx1"]), &Value::Null).await;
    for route in guarded() {
        let is_theirs = matches!(route.action.map(Action::as_str), Some("token:read" | "token:report"));
        // With this identifier the change feed, whose answer would not end, finds fault with the request.
        let request = service.request(route.method.clone(), &path(&route, "wx1")).header("last-event-id", "x");
        let reply = Reply::of(request).await;
        assert_eq!(reply.code() != "insufficient_scope", is_theirs, "{} {}: {}", route.method, route.path, reply.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_account_learns_nothing_of_this_one() {
    let house = House::open().await;
    house.register("wxmine", json!({})).await;
    house.register("wxtheirs", json!({ "name": "canary" })).await;
    house.value("wxtheirs").await;
    let mine = house.key(&json!(["wxmine"]), &json!(EVERY_ACTION)).await;
    for route in guarded().into_iter().filter(|route| route.path.contains("{appid}")) {
        let answers = ["wxtheirs", "wxnobody", "WXMINE", "wxmine%20", "wxmin%65x", "%00", "wxmine%2Fx"];
        let mut told = Vec::new();
        for appid in answers {
            let reply = Reply::of(mine.request(route.method.clone(), &path(&route, appid))).await;
            assert!(!reply.text.contains("canary"));
            told.push(refusal(reply.expect_problem(403, "account_out_of_scope")));
        }
        told.dedup();
        assert_eq!(told.len(), 1, "{} {}: the answers differ: {told:?}", route.method, route.path);
    }
    let mut told = Vec::new();
    for appid in ["wxtheirs", "wxnobody"] {
        let registration = json!({ "appid": appid, "secret": "x" });
        told.push(refusal(mine.create_account(&registration).await.expect_problem(403, "account_out_of_scope")));
        told.push(refusal(mine.refreshes(&format!("appid={appid}")).await.expect_problem(403, "account_out_of_scope")));
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    mine.get("/v1/refreshes").await.expect_problem(403, "account_out_of_scope");
    let listed = mine.get("/v1/accounts").await.expect_status(200);
    let appids: Vec<_> = super::items(&listed.body).iter().map(|account| super::text(&account["appid"])).collect();
    assert_eq!(appids, ["wxmine"]);
    mine.get("/v1/accounts/wxmine").await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheme_is_read_in_any_case_and_other_carriers_are_not() {
    let house = House::open().await;
    house.register("wx1", json!({})).await;
    let token = "/v1/accounts/wx1/tokens/access_token";
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = house.admin.keyless(Method::GET, token).header("authorization", format!("{scheme} {ADMIN_KEY}"));
        Reply::of(request).await.expect_status(200);
    }
    for query in ["access_token", "key", "authorization"] {
        let request = house.admin.keyless(Method::GET, &format!("{token}?{query}={ADMIN_KEY}"));
        Reply::of(request).await.expect_problem(401, "invalid_key");
    }
    let mut request =
        format!("GET {token} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer ").into_bytes();
    request.extend([0xff, 0xfe, 0xe4, b'\r', b'\n', b'\r', b'\n']);
    let reply = raw::send(&house.server.base_url(), &request).await;
    assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_key"), "{reply:?}");
}
