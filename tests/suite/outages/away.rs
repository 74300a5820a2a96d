//! The database answers nobody for a while: frozen, refusing, or swallowing all that is sent to it.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ACCESS_TOKEN, RECOVERY, Scene, TOLD_WITHIN};
use crate::support::api::{Api, Reply};
use crate::support::database::Kind;
use crate::support::own_server::OwnServer;
use crate::support::proxy::{Fault, Proxy};
use crate::support::sandbox::SECRET;
use crate::support::wait::eventually;

const OUTAGE: Duration = Duration::from_secs(10);
/// The pools of one instance: eight for changes, eight for reads.
const POOLS: i64 = 16;

#[derive(Debug, Clone, Copy)]
enum Way {
    Frozen,
    Refusing,
    Swallowing,
}

/// Stamps out a test for each way and each server.
macro_rules! gone {
    ($($name:ident: $kind:ident, $way:ident;)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            gone(Kind::$kind, Way::$way).await;
        }
    )+};
}

gone! {
    a_frozen_database_stops_no_read_and_no_recovery_on_postgres: Postgres, Frozen;
    a_frozen_database_stops_no_read_and_no_recovery_on_mysql: Mysql, Frozen;
    a_refusing_database_stops_no_read_and_no_recovery_on_postgres: Postgres, Refusing;
    a_refusing_database_stops_no_read_and_no_recovery_on_mysql: Mysql, Refusing;
    a_swallowing_network_stops_no_read_and_no_recovery_on_postgres: Postgres, Swallowing;
    a_swallowing_network_stops_no_read_and_no_recovery_on_mysql: Mysql, Swallowing;
}

async fn gone(kind: Kind, way: Way) {
    let database = OwnServer::start(kind).await;
    let (proxy, url) = Proxy::in_front_of(&database.url());
    let scene = Scene::set(&url, 1).await;
    scene.register("wxstable", "stable", &json!({})).await;
    scene.register("wxplain", "plain", &json!({})).await;
    let admin = scene.admin();
    let key = admin.post("/v1/keys", &json!({ "name": "old", "role": "service", "accounts": ["wxstable"] })).await;
    let key_path = format!("/v1/keys/{}", key.expect_status(201).body["id"].as_str().expect("an id"));
    let readers = scene.read(&["wxstable", "wxplain"]);
    let began = Instant::now();
    match way {
        Way::Frozen => database.freeze(),
        Way::Refusing => proxy.set(Fault::Cut),
        Way::Swallowing => proxy.set(Fault::BlackHole),
    }
    // Twice: the first meets connections that were good before, the second what is left of them.
    for _ in 0..2 {
        admins_are_told(&admin, &key_path).await;
    }
    health_tells(&admin).await;
    tokio::time::sleep_until(began + OUTAGE).await;
    admin.get("/livez").await.expect_status(200);
    match way {
        Way::Frozen => database.thaw(),
        Way::Refusing | Way::Swallowing => proxy.heal(),
    }
    everything_works(&admin, &key_path).await;
    readers.finish().await.assert_all_served();
    eventually(RECOVERY, "the connections of the outage to be gone", async || {
        (database.connections().await <= POOLS).then_some(())
    })
    .await;
}

/// Every call that needs the database says so in time.
async fn admins_are_told(admin: &Api, key_path: &str) {
    let account = json!({ "appid": "wxnew", "secret": SECRET });
    let key = json!({ "name": "new", "role": "service", "accounts": ["wxstable"] });
    let served = admin.token("wxstable", ACCESS_TOKEN).await.expect_status(200).body["value"].clone();
    let (report, force) = (json!({ "value": served }), json!({ "force": true }));
    let calls: [(Method, &str, Option<&Value>); 10] = [
        (Method::POST, "/v1/accounts", Some(&account)),
        (Method::PATCH, "/v1/accounts/wxstable", Some(&json!({ "name": "another" }))),
        (Method::DELETE, "/v1/accounts/wxstable", None),
        (Method::GET, "/v1/accounts", None),
        (Method::GET, "/v1/refreshes", None),
        (Method::POST, "/v1/keys", Some(&key)),
        (Method::DELETE, key_path, None),
        (Method::POST, "/v1/accounts/wxstable/tokens/access_token/refresh", Some(&force)),
        (Method::POST, "/v1/accounts/wxstable/tokens/access_token/report", Some(&report)),
        (Method::POST, "/v1/accounts/wxstable/check", Some(&json!({}))),
    ];
    let told = calls.map(|(method, path, body)| async move {
        let began = Instant::now();
        let reply = ask(admin, method.clone(), path, body).await;
        let took = began.elapsed();
        assert!(took <= TOLD_WITHIN, "{method} {path} took {took:?}: {}", reply.text);
        let reply = reply.expect_problem(503, "database_unavailable");
        let wait: u64 = reply.header("retry-after").parse().expect("seconds");
        assert!((1..=60).contains(&wait), "{wait}");
    });
    futures_util::future::join_all(told).await;
}

async fn ask(admin: &Api, method: Method, path: &str, body: Option<&Value>) -> Reply {
    match body {
        Some(body) if method == Method::POST => admin.post(path, body).await,
        Some(body) => admin.patch(path, body).await,
        None => Reply::of(admin.request(method, path)).await,
    }
}

/// Alive, ready, and open about it.
async fn health_tells(admin: &Api) {
    admin.get("/livez").await.expect_status(200);
    admin.get("/readyz").await.expect_status(200);
    eventually(RECOVERY, "the health to name the database", async || {
        let verbose = admin.get("/readyz?verbose").await.expect_status(200).text;
        verbose.contains("database: not reached since").then_some(())
    })
    .await;
}

/// What was refused while the database was away was not done, and can be done now.
async fn everything_works(admin: &Api, key_path: &str) {
    let account = json!({ "appid": "wxnew", "secret": SECRET, "enabled": false });
    eventually(RECOVERY, "an account to be registered", async || {
        let reply = admin.create_account(&account).await;
        assert!(
            reply.status == StatusCode::CREATED || reply.status == StatusCode::SERVICE_UNAVAILABLE,
            "{}",
            reply.text
        );
        (reply.status == StatusCode::CREATED).then_some(())
    })
    .await;
    admin.patch("/v1/accounts/wxnew", &json!({ "name": "another" })).await.expect_status(200);
    admin.delete("/v1/accounts/wxnew").await.expect_status(204);
    admin.delete(key_path).await.expect_status(204);
    let kept = admin.get("/v1/accounts/wxstable").await.expect_status(200);
    assert_ne!(kept.body["name"], "another", "a change that was refused must not come later");
    eventually(RECOVERY, "the health to name the database again", async || {
        let verbose = admin.get("/readyz?verbose").await.expect_status(200).text;
        verbose.contains("database: reachable").then_some(())
    })
    .await;
}

/// Every change is refused in time by a database that answers.
pub(super) async fn takes_no_changes(admin: &Api, appid: &str) {
    let account = json!({ "appid": "wxnever", "secret": SECRET });
    let path = format!("/v1/accounts/{appid}");
    let key = json!({ "name": "never", "role": "service", "accounts": [appid] });
    let changes: [(Method, &str, Option<&Value>); 4] = [
        (Method::POST, "/v1/accounts", Some(&account)),
        (Method::PATCH, &path, Some(&json!({ "name": "never" }))),
        (Method::DELETE, &path, None),
        (Method::POST, "/v1/keys", Some(&key)),
    ];
    for (method, path, body) in changes {
        let began = Instant::now();
        let reply = ask(admin, method.clone(), path, body).await.expect_problem(503, "database_unavailable");
        let took = began.elapsed();
        assert!(took <= TOLD_WITHIN, "{method} {path} took {took:?}: {}", reply.text);
        assert!(reply.text.contains("takes no changes"), "{}", reply.text);
    }
}
