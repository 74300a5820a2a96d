//! WeChat applications and what we keep for them.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use super::Invalid;
use super::secret::AppSecret;
use super::timestamp::Timestamp;

/// The longest account name, in characters.
pub const LONGEST_NAME: usize = 100;
/// The longest note on an account, in characters.
pub const LONGEST_NOTE: usize = 1_000;

/// WeChat's identifier of an application, compared byte for byte (WeChat's are case-sensitive). Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(Arc<str>);

impl AppId {
    /// Takes an appid as somebody wrote it. Official ones are `wx` and 16 hexadecimal digits; no document promises that,
    /// so 1 to 64 letters, digits, `_` and `-` are accepted.
    ///
    /// # Errors
    /// When the text is empty, too long, or holds another character.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::new("appid", "an appid has 1 to 64 letters, digits, _ and -; copy it from the WeChat console"))
        }
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for AppId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Which endpoint mints an account's access tokens. WeChat keeps the two lines apart: neither kills the other's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// `POST /cgi-bin/stable_token`: asking again returns the same token, so a lost answer costs nothing.
    #[default]
    Stable,
    /// `GET /cgi-bin/token`: every call mints a new token and starts the end of the one before it.
    Plain,
}

impl Mode {
    /// `stable` or `plain`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Plain => "plain",
        }
    }

    /// Reads `stable` or `plain`.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "stable" => Ok(Self::Stable),
            "plain" => Ok(Self::Plain),
            _ => Err(Invalid::new("mode", "the mode is stable (the default) or plain")),
        }
    }
}

/// What kind of token a row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TokenType {
    /// The credential of every call to WeChat's API.
    AccessToken,
    /// Signs the configuration of the JS-SDK in web pages.
    JsapiTicket,
    /// Signs card and coupon calls in web pages.
    WxCardTicket,
    /// Signs the QR-code login of mobile apps; WeChat calls it type `2`.
    AppLoginTicket,
}

impl TokenType {
    /// Every token type, the access token first: tickets are fetched with it.
    pub const ALL: [Self; 4] = [Self::AccessToken, Self::JsapiTicket, Self::WxCardTicket, Self::AppLoginTicket];
    /// The names of all, for sentences.
    pub const NAMES: &'static str = "access_token, jsapi_ticket, wx_card_ticket and app_login_ticket";

    /// `access_token`, `jsapi_ticket`, `wx_card_ticket` or `app_login_ticket`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::JsapiTicket => "jsapi_ticket",
            Self::WxCardTicket => "wx_card_ticket",
            Self::AppLoginTicket => "app_login_ticket",
        }
    }

    /// Reads a token type's name; `None` when there is none of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|token_type| token_type.as_str() == text)
    }

    /// What WeChat calls a ticket in `getticket?type=`; `None` for the access token.
    pub const fn ticket_type(self) -> Option<&'static str> {
        match self {
            Self::AccessToken => None,
            Self::JsapiTicket => Some("jsapi"),
            Self::WxCardTicket => Some("wx_card"),
            Self::AppLoginTicket => Some("2"),
        }
    }

    /// Position in [`TokenType::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether this is fetched with an access token, not with the AppSecret.
    pub const fn is_ticket(self) -> bool {
        !matches!(self, Self::AccessToken)
    }
}

impl fmt::Display for TokenType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The token types kept for an account: always the access token, and the tickets chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenTypes([bool; TokenType::ALL.len()]);

impl Default for TokenTypes {
    fn default() -> Self {
        Self([true, false, false, false])
    }
}

impl TokenTypes {
    /// Reads a list of names. The access token is always included: tickets cannot be fetched without it.
    ///
    /// # Errors
    /// When a name is not a token type's.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, Invalid> {
        let mut kept = Self::default();
        for name in names {
            let token_type = TokenType::parse(name)
                .ok_or_else(|| Invalid::new("token_types", format!("token types are {}", TokenType::NAMES)))?;
            kept.0[token_type.index()] = true;
        }
        Ok(kept)
    }

    /// Whether `token_type` is kept.
    pub const fn contains(self, token_type: TokenType) -> bool {
        self.0[token_type.index()]
    }

    /// The kept types, the access token first.
    pub fn iter(self) -> impl Iterator<Item = TokenType> {
        TokenType::ALL.into_iter().filter(move |token_type| self.contains(*token_type))
    }

    /// The names joined with commas, as the database keeps them.
    pub fn to_list(self) -> String {
        self.iter().map(TokenType::as_str).collect::<Vec<_>>().join(",")
    }
}

/// One WeChat application as admins see it. The AppSecret is not here: it is opened where a call to WeChat
/// is made, of ours or of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// WeChat's identifier.
    pub appid: AppId,
    /// What admins call it; may be empty.
    pub name: String,
    /// Which endpoint mints its access tokens.
    pub mode: Mode,
    /// The token types kept for it.
    pub token_types: TokenTypes,
    /// A disabled account is neither refreshed nor served.
    pub enabled: bool,
    /// Free text for admins.
    pub note: String,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When an admin last changed it.
    pub updated_at: Timestamp,
}

/// What an admin gives to register an account.
#[derive(Debug)]
pub struct NewAccount {
    /// WeChat's identifier.
    pub appid: AppId,
    /// The AppSecret from the WeChat console.
    pub secret: AppSecret,
    /// What admins call it; may be empty.
    pub name: String,
    /// Which endpoint mints its access tokens.
    pub mode: Mode,
    /// The token types to keep.
    pub token_types: TokenTypes,
    /// Whether to fetch and serve tokens at once.
    pub enabled: bool,
    /// Free text for admins.
    pub note: String,
}

/// What an admin changes on an account; `None` leaves a field as it is.
#[derive(Debug, Default)]
pub struct AccountPatch {
    /// A new AppSecret.
    pub secret: Option<AppSecret>,
    /// A new name.
    pub name: Option<String>,
    /// The other mode.
    pub mode: Option<Mode>,
    /// Another set of token types.
    pub token_types: Option<TokenTypes>,
    /// On or off.
    pub enabled: Option<bool>,
    /// A new note.
    pub note: Option<String>,
}

/// Checks a name for an account or a key: at most [`LONGEST_NAME`] characters, none of them a control character.
///
/// # Errors
/// When the name is too long or holds a control character.
pub fn check_name(name: &str) -> Result<(), Invalid> {
    check_text("name", name, LONGEST_NAME)
}

/// Checks a note: at most [`LONGEST_NOTE`] characters; line ends and tabs are welcome.
///
/// # Errors
/// When the note is too long or holds another control character.
pub fn check_note(note: &str) -> Result<(), Invalid> {
    check_text("note", &note.replace(['\n', '\r', '\t'], " "), LONGEST_NOTE)
}

fn check_text(field: &'static str, text: &str, longest: usize) -> Result<(), Invalid> {
    if text.chars().count() > longest {
        return Err(Invalid::new(field, format!("this text has more than {longest} characters; shorten it")));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(field, "this text holds a control character; remove it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appids_are_checked_loosely_but_never_ambiguous() {
        assert!(AppId::parse("wx448f04719cd48f69").is_ok());
        for bad in ["", " ", "wx 1", "wx1\n", "ｗｘ１", "wx\u{202e}1", "a/b", &"w".repeat(65)] {
            assert!(AppId::parse(bad).is_err(), "{bad:?}");
        }
        assert_ne!(AppId::parse("wxA").unwrap(), AppId::parse("wxa").unwrap());
    }

    #[test]
    fn the_access_token_is_always_kept() {
        let kept = TokenTypes::parse(["wx_card_ticket"]).unwrap();
        assert_eq!(kept.to_list(), "access_token,wx_card_ticket");
        assert!(TokenTypes::parse(["refresh_token"]).is_err());
    }

    #[test]
    fn names_are_counted_in_characters() {
        assert!(check_name(&"店".repeat(100)).is_ok());
        assert!(check_name(&"店".repeat(101)).is_err());
        assert!(check_name("a\u{7}").is_err());
        assert!(check_note("line one\nline two").is_ok());
    }
}
