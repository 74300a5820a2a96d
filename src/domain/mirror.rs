//! Mirrors: copies of an account's tokens where its SDKs look for them, in the formats that these read.
//!
//! | format | target | keys | value |
//! |---|---|---|---|
//! | `wxjava` | Redis | `{prefix}:access_token:{appid}`, `{prefix}:ticket:key:{appid}:jsapi` and `…:wx_card` | the plain text |
//! | `silenceper` | Redis, Memcached | `gowechat_{app}__access_token_{appid}`, `gowechat_{app}__stable_access_token_{appid}`, `gowechat_{app}__jsapi_ticket_{appid}` | the plain text; on Memcached a JSON string |
//! | `powerwechat` | Redis | `powerwechat.access_token.{md5 of appid and secret}`, `powerwechat.basic_service.jssdk.ticket.{type}.{appid}` | a JSON object |
//! | `wechatpy` | Redis, Memcached | `{prefix}:{appid}_access_token`, `…_jsapi_ticket`, `…_jsapi_card_ticket`, and each with `_expires_at` | a JSON string; Unix seconds |
//! | `easywechat` | Redis | `{prefix}{app}.access_token.{appid}.{secret}.0` and `.1`, `{prefix}{app}.jsapi_ticket.{appid}` | a string as PHP serialises it, or the plain text |
//! | `plain` | Redis, Memcached | a template | a template |
//! | `json` | a file | | an object with every token |
//!
//! Whether an app asks for plain or for stable tokens is its own affair and part of some keys; what it finds is our token under both.
//!
//! # How long a copy lives
//!
//! None of these SDKs asks whether a token that it finds is still good; most trust it until its key is gone. So a key ends with its value, and before that no
//! later than WeChat would let the value live if it were replaced at the next refresh: see [`usable_until`]. A copy with less than two seconds left
//! is not written at all: WxJava takes it for expired, and Memcached counts whole seconds.

mod entry;
mod layout;
mod render;
mod target;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

pub use entry::{Compared, Copied, Entry};
pub use layout::{App, Format, Layout, LayoutFields};
pub use target::{Address, Target};

use super::Invalid;
use super::account::AppId;
use super::sdk;
use super::timestamp::Timestamp;
use super::token::Token;

/// The most mirrors of one account.
pub const MOST_MIRRORS: u32 = 20;
/// With less than this left a value is not copied.
pub const LEAST_LIFE: Duration = Duration::from_secs(2);
const LONGEST_SECRET: usize = 256;

/// A place where the tokens of one account are copied to.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Its identifier.
    pub id: String,
    /// The account.
    pub appid: AppId,
    /// Where to.
    pub target: Target,
    /// Under which keys, and as what.
    pub layout: Layout,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What makes up a new mirror.
#[derive(Debug)]
pub struct NewMirror {
    /// The account.
    pub appid: AppId,
    /// Where to.
    pub target: Target,
    /// Under which keys, and as what.
    pub layout: Layout,
}

impl NewMirror {
    /// Puts a format and a target together.
    ///
    /// # Errors
    /// When the format's SDK reads no such target, or Memcached would refuse a key.
    pub fn new(appid: AppId, target: Target, layout: Layout) -> Result<Self, Invalid> {
        layout.check_target(target.address())?;
        let longest = layout.keys(target.address(), &appid).iter().map(String::len).max().unwrap_or_default();
        if longest > LONGEST_KEY {
            return Err(Invalid::new(
                "key",
                format!("the key has {longest} bytes, and at most {LONGEST_KEY} are written"),
            ));
        }
        Ok(Self { appid, target, layout })
    }

    /// Whether both would write the same key at the same place: the same thing twice, or different things in turns. Two apps of one account whose SDK
    /// keeps only a ticket under the same key write the same there, which is no collision.
    pub fn collides_with(&self, other: &Mirror) -> bool {
        let (mine, theirs) = (self.layout.keys(self.target.address(), &self.appid), other.keys());
        let shared = mine.iter().filter(|key| theirs.contains(key)).count();
        let is_alike = self.appid == other.appid && self.layout.writes_like(&other.layout);
        self.target.place() == other.target.place() && shared > if is_alike { mine.len() - 1 } else { 0 }
    }
}

impl Mirror {
    /// Every key that it may ever write.
    pub fn keys(&self) -> Vec<String> {
        self.layout.keys(self.target.address(), &self.appid)
    }
}

/// The longest key that is written anywhere, in bytes: what Memcached takes.
pub const LONGEST_KEY: usize = 250;

/// What an app is configured with in the place of the AppSecret: that, or a key of ours. Some SDKs make it a part of their keys.
#[derive(Clone)]
pub struct ConfiguredSecret(SecretString);

impl ConfiguredSecret {
    /// Takes what stands in the app's configuration.
    ///
    /// # Errors
    /// When it is empty, longer than 256 characters, or holds anything but visible ASCII.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if (1..=LONGEST_SECRET).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.into()));
        }
        Err(Invalid::new(
            "secret",
            "give the secret that the app is configured with: 1 to 256 visible ASCII characters",
        ))
    }

    /// The plain text, for the keys that contain it and for sealing.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for ConfiguredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConfiguredSecret(***)")
    }
}

/// Until when a copy of the token's value may be trusted by somebody who does not look again: to its end, but no longer than WeChat would honour it
/// if it were replaced at the next refresh, as an SDK that asks is told as well. One that is overdue may be replaced now. `None` when there is no value to copy at `now`, or it is about to be
/// ended.
pub fn usable_until(token: &Token, now: Timestamp) -> Option<Timestamp> {
    let value = token.valid(now).filter(|_| !token.is_ending(now))?;
    // Whole minutes: a copy whose refresh is overdue need not be written anew at each look.
    let this_minute = Timestamp::from_millis(now.as_millis() / 60_000 * 60_000);
    let until = sdk::usable_until(value.life, token.refresh_at.max(this_minute));
    (until.since(now) >= LEAST_LIFE).then_some(until)
}
