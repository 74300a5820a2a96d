//! A client of the HTTP contract, for admins and services.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;

const REQUEST_BOUND: Duration = Duration::from_secs(30);

/// One caller: a server and the key that it shows there.
#[derive(Clone)]
pub(crate) struct Api {
    base: String,
    key: String,
    client: Client,
}

impl Api {
    pub(crate) fn new(base: &str, key: &str) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), key: key.to_owned(), client: http_client() }
    }

    /// A request without a key.
    pub(crate) fn keyless(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// The same server as another caller sees it.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// For requests that need more than the shortcuts say; `Reply::of` sends them.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).bearer_auth(&self.key)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        Reply::of(with_json(self.request(Method::POST, path), body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Reply {
        Reply::of(with_json(self.request(Method::PATCH, path), body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn create_account(&self, account: &Value) -> Reply {
        self.post("/v1/accounts", account).await
    }

    pub(crate) async fn token(&self, appid: &str, token_type: &str) -> Reply {
        self.get(&token_path(appid, token_type)).await
    }

    pub(crate) async fn report(&self, appid: &str, token_type: &str, value: &str) -> Reply {
        let path = format!("{}/report", token_path(appid, token_type));
        self.post(&path, &serde_json::json!({ "value": value })).await
    }

    pub(crate) async fn refresh(&self, appid: &str, token_type: &str, force: bool) -> Reply {
        let path = format!("{}/refresh", token_path(appid, token_type));
        self.post(&path, &serde_json::json!({ "force": force })).await
    }

    /// The history; `query` as it stands after the question mark.
    pub(crate) async fn refreshes(&self, query: &str) -> Reply {
        self.get(&format!("/v1/refreshes?{query}")).await
    }

    /// Creates a key and gives its text, which the server shows this once.
    pub(crate) async fn create_key(&self, key: &Value) -> String {
        let reply = self.post("/v1/keys", key).await.expect_success();
        match reply.body["key"].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("the answer holds no key: {}", reply.text),
        }
    }
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Null where the answer is not JSON.
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Reply {
    /// Sends a request. A test whose server may be gone sends with reqwest itself.
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let answer = request.send().await.unwrap_or_else(|error| panic!("the request failed: {error:?}"));
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap_or_else(|error| panic!("the answer broke off: {error:?}"));
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status, headers, body, text }
    }

    #[track_caller]
    pub(crate) fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    #[track_caller]
    pub(crate) fn expect_success(self) -> Self {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text);
        self
    }

    /// A problem with everything that the contract gives it.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> Self {
        assert_eq!(self.code(), code, "{}: {}", self.status, self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("cache-control"), "no-store");
        assert_eq!(self.body["type"], format!("/problems/{code}"));
        assert_eq!(self.body["status"], status, "{}", self.text);
        assert_eq!(self.body["instance"], self.header("x-request-id"));
        for member in ["title", "detail", "instance"] {
            assert!(self.body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {}", self.text);
        }
        self.expect_status(status)
    }

    /// The stable code of a problem; empty where the answer is none.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// A header as text; empty where it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Talks to loopback in plain HTTP: no proxy of the environment, no certificates of the machine, no redirects.
pub(crate) fn http_client() -> Client {
    // Fails when another test was first, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(Policy::none())
        .timeout(REQUEST_BOUND)
        .build()
        .expect("the client's settings are sound")
}

fn token_path(appid: &str, token_type: &str) -> String {
    format!("/v1/accounts/{appid}/tokens/{token_type}")
}

fn with_json(request: RequestBuilder, body: &Value) -> RequestBuilder {
    request.header("content-type", "application/json").body(body.to_string())
}
