//! Credentials that we issue, and what they may do.

use std::collections::BTreeSet;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use super::Invalid;
use super::account::AppId;
use super::path_rules::PathRules;
use super::sdk::Sdk;
use super::timestamp::Timestamp;

/// The prefix of every key that we issue, so that scanners find one that leaked.
pub const KEY_PREFIX: &str = "wxt_";
/// The shortest key accepted, in characters; only an admin key given by the operator can be this short.
pub const SHORTEST_KEY: usize = 32;
/// The longest key accepted, in characters.
pub const LONGEST_KEY: usize = 256;
const SECRET_CHARACTERS: usize = 40;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// May do everything.
    Admin,
    /// May do what its actions say, by default read and report tokens.
    Service,
}

impl Role {
    /// `admin` or `service`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Service => "service",
        }
    }

    /// Reads `admin` or `service`.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "admin" => Ok(Self::Admin),
            "service" => Ok(Self::Service),
            _ => Err(Invalid::new("role", "the role is admin or service")),
        }
    }
}

/// Something that a key may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read token values and sign pages.
    TokenRead,
    /// Report a refused token.
    TokenReport,
    /// Order a refresh.
    TokenRefresh,
    /// See accounts.
    AccountRead,
    /// Register, change, check and remove accounts.
    AccountWrite,
    /// See the refresh history.
    HistoryRead,
    /// See, create and revoke keys, within one's own rights.
    KeyManage,
    /// See who changed what.
    AuditRead,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 8] = [
        Self::TokenRead,
        Self::TokenReport,
        Self::TokenRefresh,
        Self::AccountRead,
        Self::AccountWrite,
        Self::HistoryRead,
        Self::KeyManage,
        Self::AuditRead,
    ];

    /// `token:read` and so on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TokenRead => "token:read",
            Self::TokenReport => "token:report",
            Self::TokenRefresh => "token:refresh",
            Self::AccountRead => "account:read",
            Self::AccountWrite => "account:write",
            Self::HistoryRead => "history:read",
            Self::KeyManage => "key:manage",
            Self::AuditRead => "audit:read",
        }
    }
}

/// A set of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actions(u8);

impl Actions {
    /// What a key of this role may do when nothing else is said.
    pub fn of_role(role: Role) -> Self {
        match role {
            Role::Admin => Action::ALL.into_iter().collect(),
            Role::Service => [Action::TokenRead, Action::TokenReport].into_iter().collect(),
        }
    }

    /// Reads a list of names.
    ///
    /// # Errors
    /// When a name is not an action's.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, Invalid> {
        names
            .into_iter()
            .map(|name| {
                Action::ALL.into_iter().find(|action| action.as_str() == name).ok_or_else(|| {
                    let known = Action::ALL.map(Action::as_str).join(", ");
                    Invalid::new("actions", format!("the actions are {known}"))
                })
            })
            .collect()
    }

    /// Whether `action` is in the set.
    pub const fn contains(self, action: Action) -> bool {
        self.0 & (1 << action as u8) != 0
    }

    /// Whether every action of `self` is in `other`.
    pub const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// The actions of the set.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.into_iter().filter(move |action| self.contains(*action))
    }

    /// The names joined with commas, as the database keeps them.
    pub fn to_list(self) -> String {
        self.iter().map(Action::as_str).collect::<Vec<_>>().join(",")
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        Self(actions.into_iter().fold(0, |bits, action| bits | 1 << action as u8))
    }
}

/// The accounts that a key reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountScope {
    /// All accounts, also those registered later; written `*`.
    All,
    /// These accounts only.
    Listed(BTreeSet<AppId>),
}

impl AccountScope {
    /// The most accounts that one key can list.
    pub const MOST_LISTED: usize = 200;

    /// Reads a list of appids, or of `*` alone.
    ///
    /// # Errors
    /// When the list is empty, too long, mixes `*` with appids, or holds something that is no appid.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, Invalid> {
        let names: Vec<_> = names.into_iter().collect();
        if names == ["*"] {
            return Ok(Self::All);
        }
        if names.is_empty() || names.len() > Self::MOST_LISTED {
            return Err(Invalid::new("accounts", "name between 1 and 200 appids, or [\"*\"] for all accounts"));
        }
        names
            .into_iter()
            .map(AppId::parse)
            .collect::<Result<_, _>>()
            .map(Self::Listed)
            .map_err(|_| Invalid::new("accounts", "each entry is an appid; [\"*\"] alone stands for all accounts"))
    }

    /// Whether the account is reached.
    pub fn contains(&self, appid: &str) -> bool {
        match self {
            Self::All => true,
            Self::Listed(appids) => appids.contains(appid),
        }
    }

    /// Whether every account of `self` is reached by `other`.
    pub fn within(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::All) => true,
            (Self::All, Self::Listed(_)) => false,
            (Self::Listed(mine), Self::Listed(theirs)) => mine.is_subset(theirs),
        }
    }

    /// The names, `*` for all.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::All => vec!["*"],
            Self::Listed(appids) => appids.iter().map(AppId::as_str).collect(),
        }
    }
}

/// The text of a key: what a caller sends. It exists here only while a key is made or adopted.
#[derive(Clone)]
pub struct KeyText(SecretString);

impl KeyText {
    /// A new key for `role` from `random` bytes. Bytes over 247 are passed over, so that each character is equally likely; give
    /// plenty (128 will do).
    ///
    /// `None` when there were too few usable bytes.
    pub fn generate(role: Role, random: impl IntoIterator<Item = u8>) -> Option<Self> {
        let kind = match role {
            Role::Admin => 'a',
            Role::Service => 's',
        };
        let secret: String = random
            .into_iter()
            .filter(|byte| *byte < 248)
            .take(SECRET_CHARACTERS)
            .map(|byte| char::from(ALPHABET[usize::from(byte % 62)]))
            .collect();
        (secret.len() == SECRET_CHARACTERS).then(|| Self(format!("{KEY_PREFIX}{kind}_{secret}").into()))
    }

    /// Takes a key that the operator chose.
    ///
    /// # Errors
    /// When it is shorter than [`SHORTEST_KEY`], longer than [`LONGEST_KEY`], not visible ASCII, or made of too few different characters.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let refuse = |reason: &str| Err(Invalid::new("WXTOKEN_ADMIN_KEY", reason));
        if text.len() < SHORTEST_KEY || text.len() > LONGEST_KEY {
            return refuse("an admin key has 32 to 256 characters");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refuse("an admin key has visible ASCII characters only, no spaces");
        }
        if text.bytes().collect::<BTreeSet<_>>().len() < 4 {
            return refuse("this admin key is a placeholder; leave the setting out to have one made");
        }
        Ok(Self(text.into()))
    }

    /// The text itself, to show once and to hash.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The first characters, by which people tell keys apart in a list.
    pub fn hint(&self) -> String {
        self.expose().chars().take(10).collect()
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(***)")
    }
}

/// A key as we keep it: everything but its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Our identifier, a UUID.
    pub id: String,
    /// What admins call it.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The accounts that it reaches.
    pub accounts: AccountScope,
    /// What it may do with them.
    pub actions: Actions,
    /// The first characters of its text.
    pub hint: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends; [`Timestamp::NEVER`] when it does not.
    pub expires_at: Timestamp,
    /// When it was revoked; `None` while it is not.
    pub revoked_at: Option<Timestamp>,
    /// The SDK that shows it, if that keeps a margin that we know.
    pub sdk: Option<Sdk>,
    /// Which of WeChat's paths it may call through us.
    pub paths: PathRules,
}

impl Key {
    /// Whether the key opens anything at `now`.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && now < self.expires_at
    }

    /// Whether the key may do `action` to `appid`.
    pub fn allows(&self, action: Action, appid: &str) -> bool {
        self.actions.contains(action) && self.accounts.contains(appid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_of_unbiased_characters() {
        let key = KeyText::generate(Role::Service, (0..=255).cycle().take(128)).unwrap();
        assert_eq!(key.expose().len(), "wxt_s_".len() + 40);
        assert!(KeyText::generate(Role::Admin, [255; 128]).is_none());
        assert!(!format!("{key:?}").contains(&key.expose()[6..]));
    }

    #[test]
    fn an_operators_key_must_not_be_a_placeholder() {
        assert!(KeyText::parse("correct-horse-battery-staple-0123456789").is_ok());
        for bad in ["short", &"x".repeat(40), &"a b".repeat(20)] {
            assert!(KeyText::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scopes_compare_by_what_they_reach() {
        let all = AccountScope::parse(["*"]).unwrap();
        let one = AccountScope::parse(["wx1"]).unwrap();
        let two = AccountScope::parse(["wx1", "wx2"]).unwrap();
        assert!(one.within(&two) && two.within(&all) && !all.within(&two) && !two.within(&one));
        assert!(one.contains("wx1") && !one.contains("WX1"));
        assert!(AccountScope::parse([]).is_err() && AccountScope::parse(["*", "wx1"]).is_err());
    }

    #[test]
    fn actions_round_trip() {
        let actions = Actions::parse(["token:read", "history:read"]).unwrap();
        assert_eq!(actions.to_list(), "token:read,history:read");
        assert!(actions.within(Actions::of_role(Role::Admin)) && !actions.within(Actions::of_role(Role::Service)));
        assert!(Actions::parse(["token:steal"]).is_err());
    }
}
