//! Checks the addresses of WeChat's hosts before a secret is ever sent to one.

use std::fmt;

use reqwest::Url;

/// Which of the two configured addresses is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// The address every call tries first.
    First,
    /// The address used when no connection to the first can be made.
    Fallback,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "the WeChat URL",
            Self::Fallback => "the WeChat fallback URL",
        })
    }
}

/// What is wrong with an address. The sentence never repeats the address: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// It cannot be read as a URL with a host.
    #[error("is not a URL; write it like https://api.weixin.qq.com")]
    NotAUrl,
    /// Neither `https` nor `http`.
    #[error("must begin with https://")]
    Scheme,
    /// Plain `http` to another machine.
    #[error("must begin with https://, because the AppSecret travels there; http:// is for localhost only")]
    Unencrypted,
    /// It holds a user name or a password.
    #[error("must not hold a user name or a password")]
    Credentials,
    /// It goes on after the host.
    #[error("must end after the host and port, without path, query or fragment")]
    Rest,
}

/// Reads the address of a host: `https://`, or `http://` to this machine, and nothing after the host and port.
pub(super) fn parse(text: &str) -> Result<Url, UrlFault> {
    let url = Url::parse(text.trim()).map_err(|_| UrlFault::NotAUrl)?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(UrlFault::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlFault::Credentials);
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(UrlFault::Rest);
    }
    if url.scheme() == "http" && !is_this_machine(&url) {
        return Err(UrlFault::Unencrypted);
    }
    Ok(url)
}

/// Whether `text` is an address of this machine, where a simulator may stand in for WeChat.
///
/// # Errors
/// When no call to WeChat could be sent to it.
pub fn is_url_of_this_machine(text: &str) -> Result<bool, UrlFault> {
    parse(text).map(|url| is_this_machine(&url))
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_encrypted_hosts_and_this_machine_are_taken() {
        for good in [
            "https://api.weixin.qq.com",
            "https://api.weixin.qq.com/",
            " https://sh.api.weixin.qq.com:8443\n",
            "http://localhost:8080",
            "http://127.0.0.1:1",
            "http://127.9.9.9",
            "http://[::1]:8080",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for (bad, fault) in [
            ("", UrlFault::NotAUrl),
            ("api.weixin.qq.com", UrlFault::NotAUrl),
            ("https://", UrlFault::NotAUrl),
            ("api.weixin.qq.com:443", UrlFault::Scheme),
            ("file:///etc/passwd", UrlFault::Scheme),
            ("ftp://127.0.0.1", UrlFault::Scheme),
            ("http://api.weixin.qq.com", UrlFault::Unencrypted),
            ("http://0.0.0.0", UrlFault::Unencrypted),
            ("http://169.254.169.254", UrlFault::Unencrypted),
            ("http://[::ffff:169.254.169.254]", UrlFault::Unencrypted),
            ("http://localhost.evil.example", UrlFault::Unencrypted),
            ("http://127.0.0.1.evil.example", UrlFault::Unencrypted),
            ("http://127.0.0.1@evil.example", UrlFault::Credentials),
            ("https://user:canary@api.weixin.qq.com", UrlFault::Credentials),
            ("https://api.weixin.qq.com/cgi-bin", UrlFault::Rest),
            ("https://api.weixin.qq.com?secret=canary", UrlFault::Rest),
            ("https://api.weixin.qq.com#x", UrlFault::Rest),
        ] {
            assert_eq!(parse(bad), Err(fault), "{bad}");
            assert!(!fault.to_string().contains("canary"));
        }
    }
}
