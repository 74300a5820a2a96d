//! The commands' way to a running server: where it is, which key to show, and what its problems are to a person.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::{Context, Failure, exit, say};
use crate::config::{ServerSettings, Sources};
use crate::http::context::REQUEST_ID;
use crate::startup::StartError;

/// A little longer than the server takes at most, so that its own answer comes first.
const DEADLINE: Duration = Duration::from_secs(20);
/// The longest answer that is read, in bytes. A page of 500 accounts with three tokens each has about half of this.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

/// Why a server did not do what a command asked of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// It says why.
    #[error("{detail} ({code})")]
    Problem {
        /// The status, which decides the exit code.
        status: StatusCode,
        /// The stable name.
        code: String,
        /// The sentence, with WeChat's words where there are any.
        detail: String,
    },
    /// Something answers there that is not a wxtoken server of this version.
    #[error("{url} does not answer as a wxtoken server does (HTTP {status}); is WXTOKEN_URL right?")]
    Stranger {
        /// Where.
        url: Url,
        /// What it answered.
        status: StatusCode,
    },
    /// The answer is longer than any that is sound.
    #[error("the answer of {url} is longer than {LONGEST_ANSWER} bytes; is WXTOKEN_URL right?")]
    TooLong {
        /// Where.
        url: Url,
    },
    /// No connection, or no answer in time.
    #[error("no answer from {url}; is the server running, and is WXTOKEN_URL right?")]
    Unreachable {
        /// Where.
        url: Url,
        /// What happened.
        source: Box<dyn Error + Send + Sync>,
    },
    /// This machine's own fault.
    #[error("cannot talk to a server from here")]
    Setup(#[source] Box<dyn Error + Send + Sync>),
}

impl ApiError {
    /// What a script is told.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Problem { status, .. } => match *status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => exit::NOT_ALLOWED,
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => exit::UNAVAILABLE,
                _ => exit::FAILURE,
            },
            Self::Unreachable { .. } => exit::UNAVAILABLE,
            Self::Stranger { .. } | Self::TooLong { .. } | Self::Setup(_) => exit::FAILURE,
        }
    }

    /// reqwest's errors hold the whole address; ours name it already.
    fn unreachable(url: Url, error: reqwest::Error) -> Self {
        Self::Unreachable { url, source: error.without_url().into() }
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        Self::Setup(error.into())
    }
}

/// The fields of a problem that a person is told.
#[derive(Deserialize)]
struct Problem {
    code: String,
    detail: String,
    upstream: Option<Upstream>,
}

#[derive(Deserialize)]
struct Upstream {
    errcode: i64,
    errmsg: String,
    hint: String,
}

/// A server, and the key to show there.
pub(super) struct ApiClient {
    http: reqwest::Client,
    base: Url,
    key: SecretString,
}

impl Context {
    /// The server of `WXTOKEN_URL`, as the caller of `WXTOKEN_KEY`.
    pub(super) fn server(self) -> Result<ApiClient, Failure> {
        let sources = Sources::gather(self.env_file.as_deref(), self.environment, []);
        for warning in sources.warnings() {
            say::talk(&format!("wxtoken: {warning}"));
        }
        let settings = ServerSettings::parse(&sources).map_err(StartError::from)?;
        Ok(ApiClient::new(settings)?)
    }
}

impl ApiClient {
    fn new(ServerSettings { url, key }: ServerSettings) -> Result<Self, ApiError> {
        // One provider for the process; whoever installed it first installed the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("wxtoken/", env!("CARGO_PKG_VERSION")))
            .timeout(DEADLINE)
            .no_proxy()
            .referer(false)
            .redirect(Policy::none());
        // Without encryption the machine's certificates are of no use, and a small container has none.
        let builder = if url.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
        let http = builder.build().map_err(|error| ApiError::Setup(error.into()))?;
        Ok(Self { http, base: url, key })
    }

    /// Sends a JSON body; gives the JSON of the answer.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        let mut request = self.http.request(method, url.clone()).bearer_auth(self.key.expose_secret());
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let mut answer = request.send().await.map_err(|error| ApiError::unreachable(url.clone(), error))?;
        let (status, mut text) = (answer.status(), Vec::new());
        // Every answer of ours has one.
        if !answer.headers().contains_key(REQUEST_ID) {
            return Err(ApiError::Stranger { url, status });
        }
        while let Some(chunk) = answer.chunk().await.map_err(|error| ApiError::unreachable(url.clone(), error))? {
            if text.len() + chunk.len() > LONGEST_ANSWER {
                return Err(ApiError::TooLong { url });
            }
            text.extend_from_slice(&chunk);
        }
        read(status, &text).ok_or(ApiError::Stranger { url, status })?
    }
}

/// `None` when nobody of ours wrote the answer.
fn read(status: StatusCode, text: &[u8]) -> Option<Result<Value, ApiError>> {
    if status.is_success() {
        let text = if text.is_empty() { b"null" } else { text };
        return serde_json::from_slice(text).ok().map(Ok);
    }
    let Problem { code, detail, upstream } = serde_json::from_slice(text).ok()?;
    let detail = upstream.map_or_else(
        || detail.clone(),
        |Upstream { errcode, errmsg, hint }| format!("{detail}\n  WeChat says {errcode}: {errmsg}\n  {hint}"),
    );
    Some(Err(ApiError::Problem { status, code, detail: printable(&detail) }))
}

/// What came over the network, without anything that would move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() && letter != '\n' { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_its_code_and_what_wechat_said() {
        let text = br#"{"code":"token_refused","detail":"it is dead","upstream":{"errcode":40001,"errmsg":"in\u001b[2Jvalid","hint":"mint"}}"#;
        let error = read(StatusCode::UNPROCESSABLE_ENTITY, text).unwrap().unwrap_err();
        assert_eq!(error.to_string(), "it is dead\n  WeChat says 40001: in\u{fffd}[2Jvalid\n  mint (token_refused)");
        assert_eq!(error.exit_code(), exit::FAILURE);
        assert!(read(StatusCode::BAD_GATEWAY, b"<html>").is_none());
        assert!(read(StatusCode::OK, b"<html>").is_none());
        assert_eq!(read(StatusCode::NO_CONTENT, b"").unwrap().unwrap(), Value::Null);
    }
}
