//! What an SDK is told about a token's life, so that it neither holds a dead token nor chokes on the number.
//!
//! The margins are those that the SDKs subtract before they cache, as read in their sources.

use std::time::Duration;

use super::Invalid;
use super::schedule::Life;
use super::timestamp::Timestamp;

/// How long a value is good for after the refresh that replaces it was due. WeChat honours the one before for 300 s; a minute of that is for
/// the refresh itself.
const OVERLAP: Duration = Duration::from_secs(240);
/// The least life that is told of a value which had a longer one: some clients take 60 s or less for an error.
const LEAST_TOLD: u64 = 61;

/// An SDK that keeps a margin before the end that it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    /// `EasyWeChat` 6 for PHP and node-easywechat.
    EasyWechat,
    /// `PowerWeChat` for Go, and `EasyWeChat` 5 for PHP.
    PowerWechat,
    /// `WxJava` where it caches in memory or with Redisson. Its plain Redis store keeps no margin.
    Wxjava,
    /// silenceper/wechat for Go.
    Silenceper,
    /// wechatpy and `WeRoBot` for Python.
    Wechatpy,
    /// co-wechat-api and wechat-api for Node.
    CoWechatApi,
    /// The gem `wechat` for Ruby.
    WechatRuby,
    /// `Senparc.Weixin` for .NET.
    Senparc,
    /// chanxuehong/wechat for Go.
    Chanxuehong,
    /// wechaty's puppet for official accounts, for Node. Told its margin or less, it asks again at once, and again.
    Wechaty,
}

/// What an SDK asked for; some keep another margin for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// `GET /cgi-bin/token`.
    PlainToken,
    /// `POST /cgi-bin/stable_token`.
    StableToken,
    /// `GET /cgi-bin/ticket/getticket`.
    Ticket,
}

impl Sdk {
    /// Every SDK that has a profile.
    pub const ALL: [Self; 10] = [
        Self::EasyWechat,
        Self::PowerWechat,
        Self::Wxjava,
        Self::Silenceper,
        Self::Wechatpy,
        Self::CoWechatApi,
        Self::WechatRuby,
        Self::Senparc,
        Self::Chanxuehong,
        Self::Wechaty,
    ];

    /// The profile's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EasyWechat => "easywechat",
            Self::PowerWechat => "powerwechat",
            Self::Wxjava => "wxjava",
            Self::Silenceper => "silenceper",
            Self::Wechatpy => "wechatpy",
            Self::CoWechatApi => "co-wechat-api",
            Self::WechatRuby => "wechat-ruby",
            Self::Senparc => "senparc",
            Self::Chanxuehong => "chanxuehong",
            Self::Wechaty => "wechaty",
        }
    }

    /// Reads a profile's name.
    ///
    /// # Errors
    /// When there is no profile of that name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|sdk| sdk.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Invalid::new("sdk", format!("the profiles are {known}; leave sdk out for any other client"))
        })
    }

    /// The seconds that the SDK subtracts from a number above so much, the greatest first. A number above none of them it does not take.
    const fn margins(self, asked: Asked) -> &'static [(u64, u64)] {
        match (self, asked) {
            (Self::EasyWechat, _) | (Self::PowerWechat, Asked::PlainToken | Asked::StableToken) => &[(0, 0)],
            (Self::PowerWechat, Asked::Ticket) => &[(500, 500)],
            (Self::Wxjava, _) => &[(200, 200)],
            (Self::Silenceper, Asked::StableToken) | (Self::Wechaty, _) => &[(300, 300)],
            (Self::Silenceper, Asked::PlainToken | Asked::Ticket) => &[(1_500, 1_500)],
            (Self::Wechatpy, _) => &[(60, 60)],
            (Self::CoWechatApi, _) => &[(10, 10)],
            // A random part of 30 to 180 s: the least is what can be given back.
            (Self::WechatRuby, _) => &[(30, 30)],
            (Self::Senparc, _) => &[(3_600, 600), (1_800, 300), (300, 30), (0, 0)],
            (Self::Chanxuehong, _) => &[(3_600, 600), (1_800, 300), (300, 60), (60, 10)],
        }
    }

    /// For how many seconds the SDK keeps a value that is said to last for `told`; `None` where it does not take that number.
    fn kept(self, asked: Asked, told: u64) -> Option<u64> {
        self.margins(asked).iter().find(|(above, _)| told > *above).map(|(_, margin)| told - margin)
    }

    /// The number for which the SDK keeps a value as long as possible, and no longer than `left` seconds.
    fn told(self, asked: Asked, left: u64) -> u64 {
        let numbers = self.margins(asked).iter().map(|(_, margin)| left + margin);
        let fitting = numbers.filter_map(|told| Some((self.kept(asked, told)?, told)));
        fitting.filter(|(kept, _)| *kept <= left).max().map_or(left, |(_, told)| told)
    }
}

/// Until when a value of this life can be used by somebody who does not look again: to its end, but not past what the refresh at `refresh_at` leaves
/// of it.
pub fn usable_until(life: Life, refresh_at: Timestamp) -> Timestamp {
    life.until.min(refresh_at.plus(OVERLAP))
}

/// For how long a value of this life can be used from `now` on. One that is overdue may be replaced now. Zero when it has ended.
pub fn usable_for(life: Life, refresh_at: Timestamp, now: Timestamp) -> Duration {
    usable_until(life, refresh_at.max(now)).since(now)
}

/// The `expires_in` that a client is told: for how long the value can be used, and the margin of its SDK on top.
///
/// A value in its last minute is said to last 61 s, since some clients break on less, unless it never had so long a life.
pub fn told_to(sdk: Option<Sdk>, asked: Asked, life: Life, refresh_at: Timestamp, now: Timestamp) -> u64 {
    let left = usable_for(life, refresh_at, now).as_secs();
    let told = sdk.map_or(left, |sdk| sdk.told(asked, left));
    if life.length().as_secs() < 2 * LEAST_TOLD { told } else { told.max(LEAST_TOLD) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_ASKED: [Asked; 3] = [Asked::PlainToken, Asked::StableToken, Asked::Ticket];

    fn told_of(sdk: Option<Sdk>, asked: Asked, left: u64, refresh_in: u64, length: u64) -> u64 {
        let now = Timestamp::from_millis(100_000_000);
        let until = now.plus(Duration::from_secs(left));
        let life = Life { since: until.minus(Duration::from_secs(length)), until };
        told_to(sdk, asked, life, now.plus(Duration::from_secs(refresh_in)), now)
    }

    fn told(sdk: Option<Sdk>, asked: Asked, left: u64) -> u64 {
        told_of(sdk, asked, left, left.saturating_sub(200), 7_200)
    }

    #[test]
    fn no_sdk_keeps_a_value_past_its_end_and_each_gets_all_that_it_can_keep() {
        for sdk in Sdk::ALL {
            for asked in ALL_ASKED {
                for left in 1..=7_200 {
                    let told = sdk.told(asked, left);
                    let kept = sdk.kept(asked, told);
                    assert!(kept.is_none_or(|kept| kept <= left), "{sdk:?} keeps {kept:?} of {left}");
                    // Only at a step of its margins can an SDK not be made to keep the whole.
                    let lost = left - kept.unwrap_or_default();
                    assert!(lost <= 300, "{sdk:?} {asked:?} loses {lost} of {left}");
                }
            }
        }
        let kept = |left| Sdk::Silenceper.kept(Asked::PlainToken, Sdk::Silenceper.told(Asked::PlainToken, left));
        assert!((1..=7_200).all(|left| kept(left) == Some(left)), "a key in Redis never gets a life of nothing");
    }

    #[test]
    fn the_margin_of_the_profile_comes_on_top() {
        assert_eq!(told(None, Asked::PlainToken, 7_000), 7_000);
        assert_eq!(told(Some(Sdk::Silenceper), Asked::PlainToken, 100), 1_600);
        assert_eq!(told(Some(Sdk::Silenceper), Asked::StableToken, 100), 400);
        assert_eq!(told(Some(Sdk::Silenceper), Asked::Ticket, 100), 1_600);
        assert_eq!(told(Some(Sdk::Wxjava), Asked::PlainToken, 100), 300);
        assert_eq!(told(Some(Sdk::Senparc), Asked::PlainToken, 7_000), 7_600);
        assert_eq!(told(Some(Sdk::Chanxuehong), Asked::PlainToken, 240), 250, "the step that leaves the whole");
        assert_eq!(told(Some(Sdk::Wechaty), Asked::PlainToken, 240), 540);
    }

    #[test]
    fn nobody_is_told_a_minute_or_less_of_a_value_that_had_more() {
        for sdk in Sdk::ALL.map(Some).into_iter().chain([None]) {
            for left in 0..200 {
                assert!(ALL_ASKED.iter().all(|asked| told(sdk, *asked, left) > 60), "{sdk:?} {left}");
            }
        }
        assert_eq!(told_of(None, Asked::PlainToken, 8, 6, 20), 8, "a simulator's short life");
    }

    #[test]
    fn a_value_that_is_replaced_early_is_not_kept_past_what_that_leaves_of_it() {
        let at = |refresh_in| told_of(None, Asked::Ticket, 7_000, refresh_in, 7_200);
        assert_eq!(at(1_500), 1_740);
        assert_eq!(at(0), 240);
        assert_eq!(at(6_900), 7_000);
    }

    #[test]
    fn profiles_are_read_by_their_names() {
        for sdk in Sdk::ALL {
            assert_eq!(Sdk::parse(sdk.as_str()), Ok(sdk));
        }
        assert!(Sdk::parse("EasyWechat").is_err());
    }
}
