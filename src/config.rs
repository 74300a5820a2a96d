//! Settings: `.env`, then the environment, then flags. Read once, checked as a whole, every problem reported together.

mod parse;
mod server;
mod sources;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::domain::budget::Limits;

pub use parse::listen_address;
pub use server::ServerSettings;
pub use sources::{Origin, Sources};
pub use table::{SETTINGS, Setting, example};

/// The longest time to wait for a connection to WeChat, whatever the deadline of the whole call.
const LONGEST_CONNECT: Duration = Duration::from_secs(3);

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Every setting, parsed and checked.
#[derive(Clone)]
pub struct Settings {
    /// `DATABASE_URL`; show it only through [`redacted`].
    pub database_url: SecretString,
    /// `WXTOKEN_LISTEN`.
    pub listen: SocketAddr,
    /// `WXTOKEN_TLS_LISTEN`.
    pub tls_listen: Option<SocketAddr>,
    /// `WXTOKEN_CONNECT_LISTEN`.
    pub connect_listen: Option<SocketAddr>,
    /// `WXTOKEN_TLS_DIR`.
    pub tls_dir: PathBuf,
    /// `WXTOKEN_MASTER_KEY` as it was given.
    pub master_key: Option<SecretString>,
    /// `WXTOKEN_MIGRATE_TO`; show it only through [`redacted`].
    pub migrate_to: Option<SecretString>,
    /// `WXTOKEN_ADMIN_KEY`.
    pub admin_key: Option<SecretString>,
    /// `WXTOKEN_WECHAT_URL`.
    pub wechat_url: String,
    /// `WXTOKEN_WECHAT_FALLBACK_URL`. Without one in the settings there is none for a simulator on this machine: what is meant
    /// for it must not reach the real WeChat when it is away.
    pub wechat_fallback_url: Option<String>,
    /// `WXTOKEN_CALL_TIMEOUT`.
    pub call_timeout: Duration,
    /// `WXTOKEN_REFRESH_AHEAD`.
    pub refresh_ahead: Duration,
    /// `WXTOKEN_SCAN_INTERVAL`.
    pub scan_interval: Duration,
    /// `WXTOKEN_REFRESH_CONCURRENCY`.
    pub refresh_concurrency: u32,
    /// `WXTOKEN_FORCED_PER_DAY`.
    pub forced_per_day: u32,
    /// `WXTOKEN_FORCED_GAP`.
    pub forced_gap: Duration,
    /// `WXTOKEN_PLAIN_PER_DAY`.
    pub plain_per_day: u32,
    /// `WXTOKEN_FORWARD_CONCURRENCY`.
    pub forward_concurrency: u32,
    /// `WXTOKEN_FORWARD_TIMEOUT`.
    pub forward_timeout: Duration,
    /// `WXTOKEN_FORWARD_LARGEST`, in bytes.
    pub forward_largest: u64,
    /// `WXTOKEN_FORWARD_KEPT`, in bytes.
    pub forward_kept: u64,
    /// `WXTOKEN_HISTORY_DAYS`.
    pub history_days: u32,
    /// `WXTOKEN_MIRROR_DIR`.
    pub mirror_dir: Option<PathBuf>,
    /// `WXTOKEN_LOG`: a level, or directives in the words of `tracing`.
    pub log: String,
    /// `WXTOKEN_LOG_FORMAT`.
    pub log_format: LogFormat,
}

impl Settings {
    /// Parses what the sources hold.
    ///
    /// # Errors
    /// Every problem of the sources and of their values, together.
    pub fn parse(sources: &Sources) -> Result<Self, ConfigError> {
        parse::settings(sources)
    }

    /// The limit for connecting to one host of WeChat: at most half of a call's time, so that the other half is left for the fallback.
    pub fn connect_timeout(&self) -> Duration {
        (self.call_timeout / 2).min(LONGEST_CONNECT)
    }

    /// The daily limits of an account.
    pub fn limits(&self) -> Limits {
        Limits { forced_per_day: self.forced_per_day, forced_gap: self.forced_gap, plain_per_day: self.plain_per_day }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stars = |secret: &Option<SecretString>| secret.as_ref().map(|_| "***");
        f.debug_struct("Settings")
            .field("database_url", &redacted(self.database_url.expose_secret()))
            .field("listen", &self.listen)
            .field("tls_listen", &self.tls_listen)
            .field("connect_listen", &self.connect_listen)
            .field("tls_dir", &self.tls_dir)
            .field("master_key", &stars(&self.master_key))
            .field("migrate_to", &stars(&self.migrate_to))
            .field("admin_key", &stars(&self.admin_key))
            .field("wechat_url", &self.wechat_url)
            .field("wechat_fallback_url", &self.wechat_fallback_url)
            .field("call_timeout", &self.call_timeout)
            .field("refresh_ahead", &self.refresh_ahead)
            .field("scan_interval", &self.scan_interval)
            .field("refresh_concurrency", &self.refresh_concurrency)
            .field("forced_per_day", &self.forced_per_day)
            .field("forced_gap", &self.forced_gap)
            .field("plain_per_day", &self.plain_per_day)
            .field("forward_concurrency", &self.forward_concurrency)
            .field("forward_timeout", &self.forward_timeout)
            .field("forward_largest", &self.forward_largest)
            .field("forward_kept", &self.forward_kept)
            .field("history_days", &self.history_days)
            .field("mirror_dir", &self.mirror_dir)
            .field("log", &self.log)
            .field("log_format", &self.log_format)
            .finish()
    }
}

/// Everything that is wrong with the settings, a sentence each. No sentence repeats a value: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("\n"))]
pub struct ConfigError {
    /// The sentences.
    pub problems: Vec<String>,
}

/// A database URL for people to read: without password and query. Where it cannot be told what is password, only the scheme is left.
pub fn redacted(url: &str) -> String {
    const HIDDEN: &str = "***";
    let Some((scheme, rest)) = url.split_once(':') else {
        return HIDDEN.to_owned();
    };
    let (rest, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    if scheme == "sqlite" {
        return format!("sqlite:{rest}");
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => return format!("{scheme}:{HIDDEN}"),
    };
    let (user, host) = match authority.rsplit_once('@') {
        Some((credentials, host)) => (credentials.split(':').next(), host),
        None => (None, authority),
    };
    let port = host.rsplit_once(']').map_or(host, |(_, after)| after).split_once(':').map_or("", |(_, port)| port);
    // A password with an unescaped `?`, `#`, `/` or `:` reaches beyond its place.
    if query.contains('@') || path.contains('@') || !port.chars().all(|letter| letter.is_ascii_digit()) {
        return format!("{scheme}://{HIDDEN}");
    }
    user.map_or_else(|| format!("{scheme}://{host}{path}"), |user| format!("{scheme}://{user}@{host}{path}"))
}
