//! The room with everything behind it.

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::domain::budget::Limits;
use crate::domain::key::{AccountScope, Actions, KeyText, Role};
use crate::domain::path_rules::PathRules;
use crate::domain::timestamp::Timestamp;
use crate::http::*;
use crate::refresher::Policy;
use crate::seal::{MasterKey, Sealer, random_bytes};
use crate::store::audit::Actor;
use crate::store::db::Db;
use crate::store::key::NewKey;
use crate::store::migrate::bring_up_to_date;
use crate::wechat::forward::Forwarder;
use crate::wechat::sandbox::{DEFAULT_SECRET, Sandbox};
use crate::wechat::{Client, ClientSettings};

pub(super) const APPID: &str = "wx0000000000000001";

pub(super) struct House {
    pub(super) rooms: Arc<Rooms>,
    pub(super) admin: String,
    pub(super) stop: CancellationToken,
    _directory: tempfile::TempDir,
}

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Reply {
    pub(super) async fn of<B: axum::body::HttpBody<Error = axum::Error>>(response: axum::http::Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        if let Some(length) = parts.headers.get("content-length").filter(|_| !text.is_empty()) {
            assert_eq!(length.to_str().unwrap(), text.len().to_string(), "{text}");
        }
        Self { status: parts.status, headers: parts.headers, text }
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    #[track_caller]
    pub(super) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    #[track_caller]
    pub(super) fn expect_problem(self, status: u16, code: &str) -> Self {
        assert_eq!(self.json()["code"], code, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.json()["instance"], self.headers["x-request-id"].to_str().unwrap());
        self.expect(status)
    }
}

impl House {
    pub(super) async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite://{}", directory.path().join("t.db").display())).await.unwrap();
        bring_up_to_date(&db).await.unwrap();
        let sandbox = Sandbox::new();
        sandbox.configure(APPID, &json!({})).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let until = stop.clone();
        tokio::spawn(async move { sandbox.serve(listener, until).await });
        let limits = Limits { forced_per_day: 2, forced_gap: Duration::from_secs(30), plain_per_day: 10 };
        let sealer = Sealer::new(&MasterKey::generate().unwrap());
        let store = Arc::new(Store::new(db, sealer, limits, "test".to_owned()));
        let settings = ClientSettings {
            base_url,
            fallback_url: None,
            connect_timeout: Duration::from_secs(1),
            deadline: Duration::from_secs(2),
        };
        let policy = Policy {
            ahead: Duration::from_mins(4),
            scan_interval: Duration::from_secs(1),
            concurrency: 4,
            call_timeout: Duration::from_secs(2),
            alone: true,
        };
        let live = Arc::new(LiveView::new());
        let forwarder = Forwarder::new(&settings, Duration::from_secs(2)).unwrap();
        let client = Client::new(&settings).unwrap();
        let refresher =
            Refresher::new(Arc::clone(&store), client, Arc::clone(&live), Clock::new(), policy, stop.clone());
        let limits = ForwardLimits { concurrency: 4, largest: 1 << 20, kept: 1 << 16 };
        let rooms = Rooms::new(store, live, refresher, Clock::new(), (forwarder, limits), stop.clone());
        let mut house = Self { rooms, admin: String::new(), stop, _directory: directory };
        house.admin = house.key(Role::Admin, AccountScope::All, Actions::of_role(Role::Admin)).await;
        house
    }

    pub(super) async fn key(&self, role: Role, accounts: AccountScope, actions: Actions) -> String {
        let mut bytes = [0; 128];
        random_bytes(&mut bytes).unwrap();
        let text = KeyText::generate(role, bytes).unwrap();
        let new = NewKey {
            name: "test".to_owned(),
            role,
            accounts,
            actions,
            expires_at: Timestamp::NEVER,
            sdk: None,
            paths: PathRules::default(),
        };
        let actor = Actor { name: "test".to_owned(), request_id: None };
        self.rooms.store.create_key(&text, &new, &actor, self.rooms.clock.now()).await.unwrap();
        self.rooms.live.catch_up(&self.rooms.store, self.rooms.clock.now()).await.unwrap();
        text.expose().to_owned()
    }

    pub(super) async fn revoke(&self, text: &str) {
        let id = self.rooms.live.key(&self.rooms.store.sealer().hash_key(text)).unwrap().id.clone();
        self.call(&self.admin, "DELETE", &format!("/v1/keys/{id}"), None).await.expect(204);
    }

    /// A door that leads here.
    pub(super) fn door(&self) -> Door {
        let door = Door::new(self.rooms.clock.clone());
        door.open(Arc::clone(&self.rooms));
        door
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Reply {
        Reply::of(self.door().answer(request).await.unwrap()).await
    }

    pub(super) async fn call(&self, key: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {key}"));
        let body = body.map(|body| body.to_string());
        let request = if body.is_some() { request.header("content-type", "application/json") } else { request };
        self.send(request.body(body.map_or_else(Body::empty, Body::from)).unwrap()).await
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.call(&self.admin, "GET", path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Reply {
        self.call(&self.admin, "POST", path, Some(body)).await
    }

    pub(super) async fn register(&self) -> Reply {
        let types = ["access_token", "jsapi_ticket"];
        self.post("/v1/accounts", json!({"appid": APPID, "secret": DEFAULT_SECRET, "token_types": types})).await
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) fn token_path(rest: &str) -> String {
    format!("/v1/accounts/{APPID}/tokens/access_token{rest}")
}
