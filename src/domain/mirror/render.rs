//! The formats: which keys an SDK reads, and what it expects there.
//!
//! Facts are from the SDKs' sources: WxJava 4.7, silenceper/wechat 2.1, PowerWeChat 3.2, wechatpy 1.8.18 and 2.0.0a26, EasyWeChat 6.19.

use md5::{Digest, Md5};
use serde_json::json;
use zeroize::Zeroizing;

use super::Address;
use super::entry::{Copied, Entry, Reading};
use super::layout::{App, Layout, Serializer};
use crate::domain::account::{AppId, TokenType};
use crate::domain::hexadecimal;
use crate::domain::timestamp::Timestamp;

impl Layout {
    /// Every key that may ever be written for the account; of a file, its name.
    pub(super) fn keys(&self, target: &Address, appid: &AppId) -> Vec<String> {
        if let Address::File { name } = target {
            return vec![name.clone()];
        }
        TokenType::ALL.into_iter().flat_map(|token_type| self.keys_of(appid, token_type)).collect()
    }

    /// The keys of one token. With wechatpy the second one is that of the time.
    fn keys_of(&self, appid: &AppId, token_type: TokenType) -> Vec<String> {
        match (self, token_type) {
            (Self::WxJava { prefix }, token_type) => vec![match token_type.ticket_type() {
                None => format!("{prefix}:access_token:{appid}"),
                Some(kind) => format!("{prefix}:ticket:key:{appid}:{kind}"),
            }],
            (Self::Silenceper { app }, token_type) => silencepers(*app, appid, token_type),
            (Self::PowerWeChat { secret }, token_type) => vec![match token_type.ticket_type() {
                None => {
                    let digest = Md5::digest(format!("{appid}{}", secret.expose()));
                    format!("powerwechat.access_token.{}", hexadecimal(&digest))
                }
                Some(kind) => format!("powerwechat.basic_service.jssdk.ticket.{kind}.{appid}"),
            }],
            (Self::Wechatpy { prefix }, token_type) => {
                let name = match token_type {
                    TokenType::AccessToken => "access_token",
                    TokenType::JsapiTicket => "jsapi_ticket",
                    TokenType::WxCardTicket => "jsapi_card_ticket",
                    TokenType::AppLoginTicket => return Vec::new(),
                };
                ["", "_expires_at"].map(|end| format!("{prefix}:{appid}_{name}{end}")).into()
            }
            (Self::EasyWeChat { app, prefix, secret, .. }, token_type) => {
                let app = if *app == App::MiniProgram { "mini_app" } else { "official_account" };
                match token_type {
                    TokenType::AccessToken => [0, 1]
                        .map(|stable| format!("{prefix}{app}.access_token.{appid}.{}.{stable}", secret.expose()))
                        .into(),
                    TokenType::JsapiTicket => vec![format!("{prefix}{app}.jsapi_ticket.{appid}")],
                    TokenType::WxCardTicket | TokenType::AppLoginTicket => Vec::new(),
                }
            }
            (Self::Plain { token_type: wanted, key, .. }, token_type) if *wanted == token_type => {
                vec![filled(key, &[("{appid}", appid.as_str()), ("{token_type}", token_type.as_str())])]
            }
            (Self::Plain { .. } | Self::Json, _) => Vec::new(),
        }
    }

    /// What is to stand at the target at `now`.
    pub fn entries(&self, target: &Address, appid: &AppId, copied: &[Copied<'_>], now: Timestamp) -> Vec<Entry> {
        if let Address::File { name } = target {
            let until = copied.iter().map(|token| token.until).max();
            let document = until.map(|until| (until, document(appid, copied)));
            let entry = |(until, text)| Entry::new(name.clone(), text, until, Reading::Text { previous: None });
            return document.map(entry).into_iter().collect();
        }
        let mut entries = Vec::new();
        for token in copied {
            for (position, key) in self.keys_of(appid, token.token_type).into_iter().enumerate() {
                if matches!(self, Self::Wechatpy { .. }) && position == 1 {
                    let seconds = token.until.as_millis() / 1_000;
                    entries.push(Entry::new(key, seconds.to_string(), token.until, Reading::Number(seconds)));
                    continue;
                }
                let body = self.body(target, appid, token, token.value, now);
                let reading = match self {
                    Self::PowerWeChat { .. } => Reading::Object {
                        name: powers(token.token_type),
                        value: token.value.to_owned().into(),
                        previous: token.previous.map(|text| text.to_owned().into()),
                    },
                    _ => Reading::Text {
                        previous: token
                            .previous
                            .map(|previous| Zeroizing::new(self.body(target, appid, token, previous, now))),
                    },
                };
                entries.push(Entry::new(key, body, token.until, reading));
            }
        }
        entries
    }

    fn body(&self, target: &Address, appid: &AppId, token: &Copied<'_>, value: &str, now: Timestamp) -> String {
        match self {
            Self::Wechatpy { .. } => json!(value).to_string(),
            Self::Silenceper { .. } if matches!(target, Address::Memcached { .. }) => json!(value).to_string(),
            Self::PowerWeChat { .. } => {
                let (name, seconds) = (powers(token.token_type), token.until.since(now).as_secs());
                json!({ name: value, "expires_in": seconds }).to_string()
            }
            Self::EasyWeChat { serializer: Serializer::Php, .. } => format!("s:{}:\"{value}\";", value.len()),
            Self::Plain { value: template, .. } => filled(
                template,
                &[
                    ("{value}", value),
                    ("{length}", &value.len().to_string()),
                    ("{appid}", appid.as_str()),
                    ("{token_type}", token.token_type.as_str()),
                    ("{expires_at}", &(token.until.as_millis() / 1_000).to_string()),
                    ("{version}", &token.version.to_string()),
                ],
            ),
            _ => value.to_owned(),
        }
    }
}

/// The text of a JSON file with these tokens.
fn document(appid: &AppId, copied: &[Copied<'_>]) -> String {
    let mut object = json!({ "appid": appid.as_str() });
    for token in copied {
        object[token.token_type.as_str()] =
            json!({ "value": token.value, "expires_at": token.until.to_rfc3339(), "version": token.version });
    }
    object.to_string() + "\n"
}

/// The name under which PowerWeChat keeps a value.
const fn powers(token_type: TokenType) -> &'static str {
    if token_type.is_ticket() { "ticket" } else { "access_token" }
}

fn silencepers(app: App, appid: &AppId, token_type: TokenType) -> Vec<String> {
    let app = if app == App::MiniProgram { "miniprogram" } else { "officialaccount" };
    let names: &[&str] = match token_type {
        TokenType::AccessToken => &["access_token", "stable_access_token"],
        TokenType::JsapiTicket => &["jsapi_ticket"],
        TokenType::WxCardTicket | TokenType::AppLoginTicket => &[],
    };
    names.iter().map(|name| format!("gowechat_{app}__{name}_{appid}")).collect()
}

/// Puts texts in the places of names, in one pass: what was put in is not looked at again.
fn filled(template: &str, texts: &[(&str, &str)]) -> String {
    let mut result = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(next) = rest.chars().next() {
        if let Some((name, text)) = texts.iter().find(|(name, _)| rest.starts_with(name)) {
            result.push_str(text);
            rest = &rest[name.len()..];
        } else {
            result.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    result
}
