//! What a mirror is told: its format, and what an app has set in its SDK.

use super::{Address, ConfiguredSecret};
use crate::domain::Invalid;
use crate::domain::account::TokenType;
use crate::domain::refresh::spelled;

const LONGEST_PREFIX: usize = 100;
const LONGEST_KEY_TEMPLATE: usize = 250;
const LONGEST_VALUE_TEMPLATE: usize = 1_000;

spelled! {
    /// What a format is called.
    Format {
        /// WxJava, official accounts and mini programs.
        WxJava = "wxjava",
        /// `silenceper/wechat`.
        Silenceper = "silenceper",
        /// PowerWeChat.
        PowerWeChat = "powerwechat",
        /// wechatpy 1.8 and 2.
        Wechatpy = "wechatpy",
        /// EasyWeChat 6.
        EasyWeChat = "easywechat",
        /// A key and a value by templates.
        Plain = "plain",
        /// A JSON file.
        Json = "json",
    }
}

spelled! {
    /// What kind of WeChat application the SDK was told that the account is.
    App {
        /// An official account.
        OfficialAccount = "official_account",
        /// A mini program.
        MiniProgram = "mini_program",
    }
}

spelled! {
    /// How the cache below EasyWeChat writes a string.
    Serializer {
        /// As PHP's `serialize` does: the caches of Symfony and Laravel.
        Php = "php",
        /// As it is.
        Plain = "plain",
    }
}

/// Under which keys the tokens of an account stand, and as what.
#[derive(Debug, Clone)]
pub enum Layout {
    /// For WxJava.
    WxJava {
        /// What stands before the first colon.
        prefix: String,
    },
    /// For `silenceper/wechat`.
    Silenceper {
        /// The kind of application.
        app: App,
    },
    /// For PowerWeChat.
    PowerWeChat {
        /// What the app is configured with.
        secret: ConfiguredSecret,
    },
    /// For wechatpy.
    Wechatpy {
        /// What stands before the first colon.
        prefix: String,
    },
    /// For EasyWeChat 6.
    EasyWeChat {
        /// The kind of application.
        app: App,
        /// What the cache puts before every key, its colon included.
        prefix: String,
        /// What the app is configured with.
        secret: ConfiguredSecret,
        /// How the cache writes a string.
        serializer: Serializer,
    },
    /// For programs that read one key.
    Plain {
        /// Which token.
        token_type: TokenType,
        /// The key, a template.
        key: String,
        /// The value, a template.
        value: String,
    },
    /// Everything in one JSON object.
    Json,
}

/// A layout as it is entered, shown and stored. The secret travels apart from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayoutFields {
    /// The format.
    pub format: String,
    /// `prefix`.
    pub prefix: Option<String>,
    /// `app`.
    pub app: Option<String>,
    /// `serializer`.
    pub serializer: Option<String>,
    /// `token_type`.
    pub token_type: Option<String>,
    /// `key`.
    pub key: Option<String>,
    /// `value`.
    pub value: Option<String>,
}

impl Layout {
    /// Reads a layout; what is left out has the SDK's own default.
    ///
    /// # Errors
    /// When a field is not one of the format's, is missing, or holds something that it cannot hold.
    pub fn parse(fields: LayoutFields, secret: Option<ConfiguredSecret>) -> Result<Self, Invalid> {
        let LayoutFields { format, prefix, app, serializer, token_type, key, value } = fields;
        let format = Format::parse(&format).ok_or_else(|| {
            Invalid::new("format", "the format is wxjava, silenceper, powerwechat, wechatpy, easywechat, plain or json")
        })?;
        let given = [
            ("prefix", prefix.is_some()),
            ("app", app.is_some()),
            ("serializer", serializer.is_some()),
            ("secret", secret.is_some()),
            ("token_type", token_type.is_some()),
            ("key", key.is_some()),
            ("value", value.is_some()),
        ];
        if let Some((field, _)) = given.into_iter().find(|(field, is_given)| *is_given && !format.has(field)) {
            let reason = format!("the format {} has no such field; leave it out", format.as_str());
            return Err(Invalid::new(field, reason));
        }
        Ok(match format {
            Format::WxJava => Self::WxJava { prefix: checked_prefix(prefix, "wx", 1)? },
            Format::Silenceper => Self::Silenceper { app: checked_app(app.as_deref())? },
            Format::PowerWeChat => Self::PowerWeChat { secret: needed(secret)? },
            Format::Wechatpy => Self::Wechatpy { prefix: checked_prefix(prefix, "wechatpy", 1)? },
            Format::EasyWeChat => Self::EasyWeChat {
                app: checked_app(app.as_deref())?,
                prefix: checked_prefix(prefix, "", 0)?,
                secret: needed(secret)?,
                serializer: serializer
                    .as_deref()
                    .map_or(Some(Serializer::Php), Serializer::parse)
                    .ok_or_else(|| Invalid::new("serializer", "the serializer is php (the default) or plain"))?,
            },
            Format::Plain => plain(token_type.as_deref(), key, value)?,
            Format::Json => Self::Json,
        })
    }

    /// The fields that [`Layout::parse`] reads, with the defaults filled in.
    pub fn fields(&self) -> LayoutFields {
        let text = |text: &str| Some(text.to_owned());
        let fields = LayoutFields { format: self.format().as_str().to_owned(), ..LayoutFields::default() };
        match self {
            Self::WxJava { prefix } | Self::Wechatpy { prefix } => LayoutFields { prefix: text(prefix), ..fields },
            Self::Silenceper { app } => LayoutFields { app: text(app.as_str()), ..fields },
            Self::PowerWeChat { .. } | Self::Json => fields,
            Self::EasyWeChat { app, prefix, serializer, .. } => LayoutFields {
                app: text(app.as_str()),
                prefix: text(prefix),
                serializer: text(serializer.as_str()),
                ..fields
            },
            Self::Plain { token_type, key, value } => {
                LayoutFields { token_type: text(token_type.as_str()), key: text(key), value: text(value), ..fields }
            }
        }
    }

    /// What the app is configured with, where the keys contain it.
    pub fn secret(&self) -> Option<&ConfiguredSecret> {
        match self {
            Self::PowerWeChat { secret } | Self::EasyWeChat { secret, .. } => Some(secret),
            _ => None,
        }
    }

    /// Its format.
    pub const fn format(&self) -> Format {
        match self {
            Self::WxJava { .. } => Format::WxJava,
            Self::Silenceper { .. } => Format::Silenceper,
            Self::PowerWeChat { .. } => Format::PowerWeChat,
            Self::Wechatpy { .. } => Format::Wechatpy,
            Self::EasyWeChat { .. } => Format::EasyWeChat,
            Self::Plain { .. } => Format::Plain,
            Self::Json => Format::Json,
        }
    }

    /// Whether both write the same under the same key.
    pub(super) fn writes_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::EasyWeChat { serializer: one, .. }, Self::EasyWeChat { serializer: two, .. }) => one == two,
            (Self::PowerWeChat { .. }, Self::PowerWeChat { .. }) => true,
            _ => false,
        }
    }

    pub(super) fn check_target(&self, target: &Address) -> Result<(), Invalid> {
        let (fits, kinds) = match self {
            Self::Silenceper { .. } | Self::Wechatpy { .. } | Self::Plain { .. } => {
                (!matches!(target, Address::File { .. }), "redis://, rediss:// and memcached://")
            }
            Self::Json => (matches!(target, Address::File { .. }), "file:"),
            _ => (matches!(target, Address::Redis { .. }), "redis:// and rediss://"),
        };
        let format = self.format().as_str();
        if fits {
            Ok(())
        } else {
            Err(Invalid::new("target", format!("the targets of the format {format} are {kinds}")))
        }
    }
}

impl Format {
    fn has(self, field: &str) -> bool {
        let fields: &[&str] = match self {
            Self::WxJava | Self::Wechatpy => &["prefix"],
            Self::Silenceper => &["app"],
            Self::PowerWeChat => &["secret"],
            Self::EasyWeChat => &["app", "prefix", "secret", "serializer"],
            Self::Plain => &["token_type", "key", "value"],
            Self::Json => &[],
        };
        fields.contains(&field)
    }
}

fn checked_app(app: Option<&str>) -> Result<App, Invalid> {
    app.map_or(Some(App::OfficialAccount), App::parse)
        .ok_or_else(|| Invalid::new("app", "the app is official_account (the default) or mini_program"))
}

fn checked_prefix(prefix: Option<String>, default: &str, shortest: usize) -> Result<String, Invalid> {
    let prefix = prefix.unwrap_or_else(|| default.to_owned());
    if (shortest..=LONGEST_PREFIX).contains(&prefix.len()) && prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(prefix);
    }
    Err(Invalid::new("prefix", format!("the prefix has {shortest} to {LONGEST_PREFIX} visible ASCII characters")))
}

fn needed(secret: Option<ConfiguredSecret>) -> Result<ConfiguredSecret, Invalid> {
    secret.ok_or_else(|| {
        Invalid::new("secret", "the keys of this SDK contain the secret that the app is configured with; give it here")
    })
}

fn plain(token_type: Option<&str>, key: Option<String>, value: Option<String>) -> Result<Layout, Invalid> {
    let token_type = token_type
        .map_or(Some(TokenType::AccessToken), TokenType::parse)
        .ok_or_else(|| Invalid::new("token_type", "token types are access_token, jsapi_ticket and wx_card_ticket"))?;
    let key =
        key.ok_or_else(|| Invalid::new("key", "the format plain needs the key, like access_token or token:{appid}"))?;
    if !(1..=LONGEST_KEY_TEMPLATE).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Invalid::new("key", "the key has 1 to 250 visible ASCII characters and no space"));
    }
    let value = value.unwrap_or_else(|| "{value}".to_owned());
    let is_text = value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let places = value.matches("{value}").count();
    if value.len() > LONGEST_VALUE_TEMPLATE || !is_text || !(1..=3).contains(&places) {
        let reason = "the value has at most 1000 printable ASCII characters, and {value} where the token belongs, at most 3 times";
        return Err(Invalid::new("value", reason));
    }
    Ok(Layout::Plain { token_type, key, value })
}
