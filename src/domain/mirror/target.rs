//! Where a mirror is.

use std::fmt;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::domain::Invalid;

const LONGEST_TARGET: usize = 500;
const LONGEST_FILE_NAME: usize = 100;
const REDIS_PORT: u16 = 6379;
const MEMCACHED_PORT: u16 = 11_211;
const MALFORMED: &str = "the target cannot be read; write it like redis://user:password@host:6379/0, rediss://host:6379/0, \
                         memcached://host:11211 or file:NAME, special characters of a password percent-encoded";

/// A target as it was entered, and what it says. It may hold a password, which is shown nowhere.
#[derive(Clone)]
pub struct Target {
    text: SecretString,
    address: Address,
}

/// A target's parts.
#[derive(Clone)]
pub enum Address {
    /// A Redis server, or one that speaks its protocol.
    Redis {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
        /// Whether by TLS.
        tls: bool,
        /// The user, where it is not the default one.
        user: Option<String>,
        /// The password.
        password: Option<SecretString>,
        /// The number of the database.
        database: u32,
    },
    /// A Memcached server.
    Memcached {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A file in the directory for mirrors.
    File {
        /// Its name there.
        name: String,
    },
}

impl Target {
    /// Reads a target.
    ///
    /// # Errors
    /// When it is none of the four kinds. The sentence repeats nothing of it.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: &str| Invalid::new("target", reason);
        if text.len() > LONGEST_TARGET {
            return Err(refuse("the target is longer than 500 characters"));
        }
        let address = match text.strip_prefix("file:") {
            Some(name) => file(name),
            None => server(text),
        };
        Ok(Self { text: text.into(), address: address.map_err(refuse)? })
    }

    /// Its parts.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The text as it was entered, for sealing.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }

    /// What is the same for two targets at one place, whoever connects there.
    pub fn place(&self) -> String {
        match &self.address {
            Address::Redis { host, port, database, .. } => format!("redis://{}:{port}/{database}", in_url(host)),
            _ => self.to_string(),
        }
    }
}

/// Without the password.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Redis { host, port, tls, user, database, .. } => {
                let scheme = if *tls { "rediss" } else { "redis" };
                let user = user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
                write!(f, "{scheme}://{user}{}:{port}/{database}", in_url(host))
            }
            Address::Memcached { host, port } => write!(f, "memcached://{}:{port}", in_url(host)),
            Address::File { name } => write!(f, "file:{name}"),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// One plain name: no way out of the directory, and none that begins like the temporary files there.
fn file(name: &str) -> Result<Address, &'static str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=LONGEST_FILE_NAME).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(is_plain) {
        return Ok(Address::File { name: name.to_owned() });
    }
    Err(
        "the name of a file has 1 to 100 letters, digits, dots, _ and -, and does not begin with a dot; the directory is WXTOKEN_MIRROR_DIR",
    )
}

fn server(text: &str) -> Result<Address, &'static str> {
    let url = Url::parse(text).map_err(|_| MALFORMED)?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(MALFORMED)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    if url.query().is_some() || url.fragment().is_some() || url.port() == Some(0) {
        return Err(MALFORMED);
    }
    let user = (!url.username().is_empty()).then(|| decoded(url.username())).transpose()?;
    let password = url.password().map(decoded).transpose()?;
    match url.scheme() {
        "redis" | "rediss" => {
            if user.is_some() && password.is_none() {
                return Err("the target names a user without a password; write redis://user:password@host:6379/0");
            }
            Ok(Address::Redis {
                host,
                port: url.port().unwrap_or(REDIS_PORT),
                tls: url.scheme() == "rediss",
                user,
                password: password.map(Into::into),
                database: database(url.path())?,
            })
        }
        "memcached" if user.is_some() || password.is_some() => {
            Err("Memcached is spoken to without a user and a password; leave them out")
        }
        "memcached" if ["", "/"].contains(&url.path()) => {
            Ok(Address::Memcached { host, port: url.port().unwrap_or(MEMCACHED_PORT) })
        }
        _ => Err(MALFORMED),
    }
}

fn decoded(part: &str) -> Result<String, &'static str> {
    let text = percent_decode_str(part).decode_utf8().map_err(|_| MALFORMED)?;
    if text.chars().any(char::is_control) { Err(MALFORMED) } else { Ok(text.into_owned()) }
}

fn database(path: &str) -> Result<u32, &'static str> {
    match path.trim_start_matches('/') {
        "" => Ok(0),
        number => number
            .parse()
            .ok()
            .filter(|number| *number <= 65_535)
            .ok_or("behind the port of a Redis target stands the number of a database, 0 to 65535"),
    }
}
