//! WeChat's refusals: codes, texts as seen in the wild, and the tails that its texts have had over the years.

use std::borrow::Cow;
use std::net::IpAddr;

use rand::RngExt;

use super::settings::ErrmsgTail;
use super::spelling;

/// The pointer to the stable endpoint that some texts have carried since 2023-04.
const STABLE_HINT: &str =
    ", could get access_token by getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r";

/// An errcode and its text without the tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errcode: i64,
    pub(super) text: Cow<'static, str>,
}

/// The refusals that always read the same.
macro_rules! refusals {
    ($($name:ident = $errcode:literal $text:literal,)+) => {
        $(pub(super) const $name: Refusal = Refusal { errcode: $errcode, text: Cow::Borrowed($text) };)+
    };
}

impl Refusal {
    refusals! {
        BUSY = -1 "system error",
        SYSTEM_ERROR = -1000 "system error",
        WRONG_GRANT_TYPE = 40002 "invalid grant_type",
        OPENID_UNKNOWN = 40003 "invalid openid",
        MEDIA_TYPE_UNKNOWN = 40004 "invalid media type",
        MEDIA_ID_UNKNOWN = 40007 "invalid media_id",
        UNKNOWN_APPID = 40013 "invalid appid",
        UNKNOWN_TOKEN = 40014 "invalid access_token",
        CODE_INVALID = 40029 "invalid code",
        REFRESH_TOKEN_UNKNOWN = 40030 "invalid refresh_token",
        // No source names the code for a wrong ticket type; this is WeChat's general one for bad arguments.
        WRONG_ARGUMENTS = 40097 "invalid args",
        WRONG_SECRET = 40125 "invalid appsecret",
        SECRET_FROZEN = 40243 "AppSecret is frozen",
        TOKEN_MISSING = 41001 "access_token missing",
        APPID_MISSING = 41002 "appid missing",
        SECRET_MISSING = 41004 "appsecret missing",
        CODE_MISSING = 41008 "missing code",
        TOKEN_EXPIRED = 42001 "access_token expired",
        POST_REQUIRED = 43002 "require POST method",
        EMPTY_BODY = 44002 "empty post data",
        DAILY_QUOTA = 45009 "reach max api daily quota limit",
        MINUTE_QUOTA = 45011 "api minute-quota reach limit, must slower, retry next minute",
        WRONG_FORMAT = 47001 "data format error",
        CLEARED_TOO_OFTEN = 48006 "forbid to clear quota because of reaching the limit",
        ACCOUNT_LIMITED = 50002 "user limited",
        TOKEN_FORBIDDEN = 50004 "user not allow to use accesstoken, maybe for punishment",
        ACCOUNT_FROZEN = 50007 "account frozen",
        RID_NOT_FOUND = 76001 "rid not found",
        RID_MALFORMED = 76002 "rid is error",
        RID_OF_ANOTHER = 76003 "could not query this rid,no permission",
        RID_TOO_OLD = 76004 "rid is expired",
        PATH_NOT_FOUND = 76021 "cgi_path not found, please check",
        PATH_FORBIDDEN = 76022 "could not use this cgi_path,no permission",
        IP_PENDING = 89501 "ip confirmation is pending",
        IP_UNCONFIRMED = 89503 "ip needs confirmation by the administrator",
        IP_REFUSED_FOR_A_DAY = 89506 "ip refused by the administrator, retry after 24 hours",
        IP_REFUSED_FOR_AN_HOUR = 89507 "ip refused by the administrator, retry after 1 hour",
    }

    /// A wrong secret in the words of `errcode`: 40001, or 40125 for anything else.
    pub(super) const fn wrong_secret(errcode: i64) -> Self {
        if errcode == 40001 { Self::credential(false) } else { Self::WRONG_SECRET }
    }

    /// 40001 for a token that is not honoured, in either wording.
    pub(super) const fn credential(with_hint: bool) -> Self {
        let text = if with_hint {
            "invalid credential, access_token is invalid or not latest, could get access_token by \
             getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r"
        } else {
            "invalid credential, access_token is invalid or not latest"
        };
        Self { errcode: 40001, text: Cow::Borrowed(text) }
    }

    /// The plain line's spent daily quota, in either wording.
    pub(super) fn plain_quota(with_hint: bool) -> Self {
        let hint = if with_hint { STABLE_HINT } else { "" };
        Self { text: format!("{}{hint}", Self::DAILY_QUOTA.text).into(), ..Self::DAILY_QUOTA }
    }

    /// 40164, which names the caller's address as WeChat saw it.
    pub(super) fn ip_not_in_whitelist(ip: IpAddr) -> Self {
        let v6 = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { errcode: 40164, text: format!("invalid ip {ip} ipv6 {v6}, not in whitelist").into() }
    }

    /// The errmsg in full.
    pub(super) fn errmsg(&self, tail: ErrmsgTail, rid: &str) -> String {
        let text = &self.text;
        match tail {
            ErrmsgTail::Rid => format!("{text} rid: {rid}"),
            ErrmsgTail::CommaRid => format!("{text}, rid: {rid}"),
            ErrmsgTail::Hint => {
                let number: u64 = rand::rng().random_range(10_000_000..100_000_000);
                format!("{text} hint: [{}{number}]", spelling::letters(6))
            }
            ErrmsgTail::None => text.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whitelist_text_names_both_forms_of_the_address() {
        let refusal = Refusal::ip_not_in_whitelist("39.156.73.10".parse().unwrap());
        assert_eq!(refusal.text, "invalid ip 39.156.73.10 ipv6 ::ffff:39.156.73.10, not in whitelist");
    }

    #[test]
    fn tails_are_those_of_the_eras() {
        let errmsg = |tail| Refusal::UNKNOWN_APPID.errmsg(tail, "655d878c-2e41a3f4-65f9b9ba");
        assert_eq!(errmsg(ErrmsgTail::Rid), "invalid appid rid: 655d878c-2e41a3f4-65f9b9ba");
        assert_eq!(errmsg(ErrmsgTail::CommaRid), "invalid appid, rid: 655d878c-2e41a3f4-65f9b9ba");
        assert!(errmsg(ErrmsgTail::Hint).starts_with("invalid appid hint: ["));
        assert_eq!(errmsg(ErrmsgTail::None), "invalid appid");
    }
}
