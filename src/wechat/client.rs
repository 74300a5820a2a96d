//! The client that calls WeChat.
//!
//! Every call has one deadline from the first byte of connecting to the last of the body, a cap on what it reads, and at most
//! one request that reaches WeChat: nothing is sent a second time here, since a plain mint that was processed may be asked
//! for again only by somebody who knows that.

#[cfg(test)]
mod tests;

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{Method, Response, Url};
use serde_json::json;

use super::answer::{self, Answer, Asked, ValueField};
use super::base_url;
pub use super::base_url::{Host, UrlFault};
use super::error::CallError;
use crate::domain::account::{AppId, TokenType};
use crate::domain::refresh::CallKind;
use crate::domain::secret::{AppSecret, TokenValue};

/// The largest body read, in bytes. WeChat's answers have a few hundred; the list of its addresses a few thousand.
pub const LARGEST_ANSWER: usize = 64 * 1024;

/// Below the idle limits of common load balancers, so that a mint is seldom sent into a connection that is being closed.
pub(super) const IDLE_CONNECTION: Duration = Duration::from_secs(20);

/// Where WeChat is and how long to wait for it.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// `https://` host and port; `http://` for this machine only.
    pub base_url: String,
    /// The host used when no connection to the first one comes about; `None` for none.
    pub fallback_url: Option<String>,
    /// The limit for connecting to one host, encryption included.
    pub connect_timeout: Duration,
    /// The limit for a whole call: both hosts, headers and body.
    pub deadline: Duration,
}

impl ClientSettings {
    /// The two hosts, when they and the limits are acceptable.
    pub(super) fn hosts(&self) -> Result<(Url, Option<Url>), ClientError> {
        let address = |host, text: &str| base_url::parse(text).map_err(|fault| ClientError::Url { host, fault });
        let first = address(Host::First, &self.base_url)?;
        let fallback = self.fallback_url.as_deref().map(|text| address(Host::Fallback, text)).transpose()?;
        if self.connect_timeout.is_zero() || self.connect_timeout > self.deadline {
            return Err(ClientError::Deadlines);
        }
        Ok((first, fallback))
    }
}

/// Settings that no client can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// An address is not acceptable.
    #[error("{host} {fault}")]
    Url {
        /// Which address.
        host: Host,
        /// What is wrong with it.
        fault: UrlFault,
    },
    /// The limits contradict each other.
    #[error("the time to connect to WeChat must be above zero and no longer than the deadline of the whole call")]
    Deadlines,
    /// The HTTP library refused its settings, which are ours.
    #[error("the HTTP client could not be set up; this is a mistake in wxtoken")]
    Setup,
}

/// Calls WeChat. Clones share one pool of connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    first: Url,
    fallback: Option<Url>,
    deadline: Duration,
}

/// One call before it is sent.
struct Request<'a> {
    asked: Asked<'a>,
    method: Method,
    path: &'static str,
    query: Vec<(&'static str, &'a str)>,
    body: Option<String>,
}

impl Client {
    /// A client for the given hosts. Connects to nobody yet.
    pub fn new(settings: &ClientSettings) -> Result<Self, ClientError> {
        let (first, fallback) = settings.hosts()?;
        let ClientSettings { connect_timeout, deadline, .. } = *settings;
        Ok(Self { http: http_client(connect_timeout)?, first, fallback, deadline })
    }

    /// Asks for the access token of stable mode. Without `force` the current one may come back, and asking again is safe;
    /// with it WeChat ends the current one.
    pub async fn stable_token(&self, appid: &AppId, secret: &AppSecret, force: bool) -> Result<Answer, CallError> {
        let body = json!({
            "grant_type": "client_credential",
            "appid": appid.as_str(),
            "secret": secret.expose(),
            "force_refresh": force,
        });
        let call = if force { CallKind::Force } else { CallKind::Mint };
        let request = Request {
            asked: Asked { call, credential: secret.expose() },
            method: Method::POST,
            path: "/cgi-bin/stable_token",
            query: Vec::new(),
            body: Some(body.to_string()),
        };
        let answer = self.call(&request).await?;
        answer::read_value(request.asked, &answer, ValueField::AccessToken)
    }

    /// Mints an access token in plain mode. Every call that WeChat processes replaces the token before it, also when the
    /// answer is lost: see [`CallError::is_unsent`].
    pub async fn plain_token(&self, appid: &AppId, secret: &AppSecret) -> Result<Answer, CallError> {
        let request = Request {
            asked: Asked { call: CallKind::Mint, credential: secret.expose() },
            method: Method::GET,
            path: "/cgi-bin/token",
            query: vec![("grant_type", "client_credential"), ("appid", appid.as_str()), ("secret", secret.expose())],
            body: None,
        };
        let answer = self.call(&request).await?;
        answer::read_value(request.asked, &answer, ValueField::AccessToken)
    }

    /// Asks for a ticket. Asking again within its life brings the same one.
    pub async fn ticket(&self, access_token: &TokenValue, token_type: TokenType) -> Result<Answer, CallError> {
        let ticket_type = token_type.ticket_type().ok_or(CallError::NotATicket)?;
        let request = Request {
            asked: Asked { call: CallKind::Ticket, credential: access_token.expose() },
            method: Method::GET,
            path: "/cgi-bin/ticket/getticket",
            query: vec![("access_token", access_token.expose()), ("type", ticket_type)],
            body: None,
        };
        let answer = self.call(&request).await?;
        answer::read_value(request.asked, &answer, ValueField::Ticket)
    }

    /// Asks whether WeChat accepts an access token, by the cheapest call there is. [`CallError::token_refused`] is its "no";
    /// any other error leaves the question open.
    pub async fn probe(&self, access_token: &TokenValue) -> Result<(), CallError> {
        let request = Request {
            asked: Asked { call: CallKind::Probe, credential: access_token.expose() },
            method: Method::GET,
            path: "/cgi-bin/get_api_domain_ip",
            query: vec![("access_token", access_token.expose())],
            body: None,
        };
        let answer = self.call(&request).await?;
        answer::read_probe(request.asked, &answer)
    }

    async fn call(&self, request: &Request<'_>) -> Result<Vec<u8>, CallError> {
        let within = self.deadline;
        tokio::time::timeout(within, self.try_hosts(request)).await.unwrap_or(Err(CallError::TimedOut { within }))
    }

    /// The fallback is for a host that cannot be reached. What was sent may have been processed, and stays with its host.
    async fn try_hosts(&self, request: &Request<'_>) -> Result<Vec<u8>, CallError> {
        let first = self.send(&self.first, request).await;
        match (first, &self.fallback) {
            (Err(fault), Some(fallback)) if fault.is_unsent() => match self.send(fallback, request).await {
                // Both out of reach: the first is the one that the operator knows.
                Err(second) if second.is_unsent() => Err(fault),
                second => second,
            },
            (first, _) => first,
        }
    }

    async fn send(&self, host: &Url, request: &Request<'_>) -> Result<Vec<u8>, CallError> {
        let mut url = host.clone();
        url.set_path(request.path);
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        let mut builder = self.http.request(request.method.clone(), url).header(ACCEPT_ENCODING, "identity");
        if let Some(body) = &request.body {
            builder = builder.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let response = builder.send().await.map_err(|error| CallError::from(&error))?;
        read_response(request.asked, response).await
    }
}

fn http_client(connect_timeout: Duration) -> Result<reqwest::Client, ClientError> {
    // One provider for the process; whoever installed it first installed the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Roots of our own, so that an image without CA certificates works.
    let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|root| reqwest::Certificate::from_der(root));
    let roots = roots.collect::<Result<Vec<_>, _>>().map_err(|_| ClientError::Setup)?;
    reqwest::Client::builder()
        .user_agent(concat!("wxtoken/", env!("CARGO_PKG_VERSION")))
        .tls_certs_only(roots)
        .tls_version_min(reqwest::tls::Version::TLS_1_2)
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(IDLE_CONNECTION)
        .tcp_nodelay(true)
        .no_proxy()
        .referer(false)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .build()
        .map_err(|_| ClientError::Setup)
}

async fn read_response(asked: Asked<'_>, mut response: Response) -> Result<Vec<u8>, CallError> {
    let status = response.status();
    if status.is_redirection() {
        return Err(CallError::Redirected(status.as_u16()));
    }
    let body = read_body(&mut response).await;
    if status.is_success() {
        return body;
    }
    let refusal = body.ok().and_then(|body| answer::read_refusal(asked, &body));
    Err(refusal.unwrap_or(CallError::Status(status.as_u16())))
}

async fn read_body(response: &mut Response) -> Result<Vec<u8>, CallError> {
    let encodings = response.headers().get_all(CONTENT_ENCODING);
    if encodings.iter().any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(CallError::Unreadable { what: "it is compressed, although that was not asked for" });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| CallError::from(&error))? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(CallError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
