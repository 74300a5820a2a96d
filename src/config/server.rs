//! Where a running server is and which key to show there, for the commands that ask one.

use std::fmt;

use reqwest::Url;
use secrecy::SecretString;

use super::{ConfigError, SETTINGS, Sources};

/// A running server.
pub struct ServerSettings {
    /// `WXTOKEN_URL`: `http://` or `https://`, perhaps with a path before the server's own.
    pub url: Url,
    /// `WXTOKEN_KEY`.
    pub key: SecretString,
}

impl fmt::Debug for ServerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSettings").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl ServerSettings {
    /// Parses what the sources hold.
    ///
    /// # Errors
    /// Every problem of the sources and of the two values, together.
    pub fn parse(sources: &Sources) -> Result<Self, ConfigError> {
        let mut problems = sources.problems().to_vec();
        let default =
            SETTINGS.iter().find(|setting| setting.name == "WXTOKEN_URL").map_or("", |setting| setting.default);
        let url = sources.get("WXTOKEN_URL").map_or(default, |(text, _)| text);
        let url = Url::parse(url.trim()).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        if url.is_none() {
            problems
                .push("WXTOKEN_URL is not the address of a server; write it like http://127.0.0.1:8080.".to_owned());
        }
        let key = sources.get("WXTOKEN_KEY").map(|(text, _)| text.trim());
        match key {
            None => problems.push("WXTOKEN_KEY is not set; it is the key to show to the server, wxt_….".to_owned()),
            Some(key) if !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                problems.push("WXTOKEN_KEY holds a character that no key has; copy it again.".to_owned());
            }
            Some(_) => {}
        }
        match (url, key) {
            (Some(url), Some(key)) if problems.is_empty() => Ok(Self { url, key: key.into() }),
            _ => Err(ConfigError { problems }),
        }
    }
}
