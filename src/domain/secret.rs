//! Values that must not be seen: they print as stars and are wiped from memory when dropped.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use super::Invalid;

/// The longest AppSecret accepted, in characters. WeChat's are 32 today; its documents promise no length.
pub const LONGEST_APP_SECRET: usize = 128;
/// The longest token or ticket accepted, in characters. WeChat asks for room for 512.
pub const LONGEST_TOKEN_VALUE: usize = 2_048;

/// The AppSecret of an account.
#[derive(Clone)]
pub struct AppSecret(SecretString);

impl AppSecret {
    /// Takes an AppSecret as an admin pasted it.
    ///
    /// # Errors
    /// When it is empty, too long, holds white space or anything but visible ASCII, or is one of our own keys.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: &str| Err(Invalid::new("secret", reason));
        if text.is_empty() {
            return refuse("the AppSecret is empty; copy it from the WeChat console");
        }
        if text.len() > LONGEST_APP_SECRET {
            return refuse("the AppSecret is longer than 128 characters; copy it again from the WeChat console");
        }
        if text.starts_with("wxt_") {
            return refuse("this is a wxtoken key, not an AppSecret; copy the AppSecret from the WeChat console");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refuse("the AppSecret holds a space or another character that no AppSecret has; copy it again");
        }
        Ok(Self(text.into()))
    }

    /// The plain text, for the request to WeChat and for sealing.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for AppSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppSecret(***)")
    }
}

/// The value of a token or ticket.
#[derive(Clone)]
pub struct TokenValue(SecretString);

impl TokenValue {
    /// Takes a value as WeChat sent it or a caller reported it.
    ///
    /// # Errors
    /// When it is empty, longer than [`LONGEST_TOKEN_VALUE`], or holds anything but visible ASCII.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text.len() > LONGEST_TOKEN_VALUE {
            return Err(Invalid::new("value", format!("a token has between 1 and {LONGEST_TOKEN_VALUE} characters")));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Invalid::new("value", "a token holds visible ASCII characters only"));
        }
        Ok(Self(text.into()))
    }

    /// The plain text, for the caller who may have it, for WeChat, and for sealing.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for TokenValue {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for TokenValue {}

impl fmt::Debug for TokenValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenValue(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_secrets_are_checked_without_being_repeated() {
        assert!(AppSecret::parse("0123456789abcdef0123456789abcdef").is_ok());
        for bad in ["", " 0123", "0123\n", "ab cd", "密钥", "wxt_s_abc", &"x".repeat(129)] {
            let refusal = AppSecret::parse(bad).unwrap_err().to_string();
            assert!(bad.is_empty() || bad == "wxt_s_abc" || !refusal.contains(bad), "{refusal}");
        }
    }

    #[test]
    fn nothing_shows_in_debug_output() {
        let shown = format!("{:?} {:?}", AppSecret::parse("canary").unwrap(), TokenValue::parse("canary").unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn token_values_are_opaque_but_bounded() {
        assert!(TokenValue::parse("84_abc-DEF_0").is_ok());
        for bad in ["", "a b", "a\0b", &"x".repeat(2_049)] {
            assert!(TokenValue::parse(bad).is_err());
        }
    }
}
