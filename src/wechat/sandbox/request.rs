//! A request to one of WeChat's endpoints, read but not judged.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use super::chain::Line;
use super::fault::CallKind;
use super::received::Received;
use super::refusal::Refusal;

/// The endpoints that the sandbox knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Token,
    StableToken,
    Ticket,
    Probe,
    ClearQuota,
    ClearQuotaBySecret,
    QuotaGet,
    RidGet,
    /// `/sns/jscode2session`.
    SessionOfCode,
    /// `/sns/oauth2/access_token`.
    UserToken,
    /// `/sns/oauth2/refresh_token`.
    UserTokenRefresh,
    /// `/sns/userinfo`.
    UserInfo,
    /// `/cgi-bin/media/upload`.
    MediaUpload,
    /// `/cgi-bin/media/get`.
    MediaGet,
    /// `/cgi-bin/echo/` and anything below it; the simulator's own.
    Echo,
    /// Any other path.
    Business,
}

impl Endpoint {
    /// The endpoint at `path`, in which slashes may be doubled as some SDKs do.
    pub(super) fn at(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            ["cgi-bin", "token"] => Self::Token,
            ["cgi-bin", "stable_token"] => Self::StableToken,
            ["cgi-bin", "ticket", "getticket"] => Self::Ticket,
            ["cgi-bin", "get_api_domain_ip" | "getcallbackip"] => Self::Probe,
            ["cgi-bin", "clear_quota"] => Self::ClearQuota,
            ["cgi-bin", "clear_quota", "v2"] => Self::ClearQuotaBySecret,
            ["cgi-bin", "openapi", "quota", "get"] => Self::QuotaGet,
            ["cgi-bin", "openapi", "rid", "get"] => Self::RidGet,
            ["sns", "jscode2session"] => Self::SessionOfCode,
            ["sns", "oauth2", "access_token"] => Self::UserToken,
            ["sns", "oauth2", "refresh_token"] => Self::UserTokenRefresh,
            ["sns", "userinfo"] => Self::UserInfo,
            ["cgi-bin", "media", "upload"] => Self::MediaUpload,
            ["cgi-bin", "media", "get"] => Self::MediaGet,
            ["cgi-bin", "echo", ..] => Self::Echo,
            _ => Self::Business,
        }
    }

    /// How faults and the log name it.
    pub(super) const fn kind(self) -> CallKind {
        match self {
            Self::Token => CallKind::Token,
            Self::StableToken => CallKind::StableToken,
            Self::Ticket => CallKind::Ticket,
            Self::Probe => CallKind::Probe,
            Self::ClearQuota | Self::ClearQuotaBySecret | Self::QuotaGet | Self::RidGet => CallKind::Quota,
            Self::SessionOfCode
            | Self::UserToken
            | Self::UserTokenRefresh
            | Self::UserInfo
            | Self::MediaUpload
            | Self::MediaGet
            | Self::Echo
            | Self::Business => CallKind::Business,
        }
    }

    /// Whether its body only passes through, however long it is.
    pub(super) const fn takes_any_length(self) -> bool {
        matches!(self, Self::MediaUpload | Self::Echo | Self::Business)
    }
}

/// A request with its body read.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) endpoint: Endpoint,
    pub(super) path: String,
    pub(super) method: String,
    /// The query as it came.
    pub(super) raw_query: String,
    pub(super) query: BTreeMap<String, String>,
    /// Names and values in the order in which they came; what is not UTF-8 is replaced.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Received,
    /// The body, if it is JSON and was kept in full.
    pub(super) json: Option<Value>,
    pub(super) remote: SocketAddr,
}

impl Request {
    /// The `access_token` of the query; empty counts as absent.
    pub(super) fn access_token(&self) -> Option<&str> {
        self.in_query("access_token").filter(|token| !token.is_empty())
    }

    /// A field of the query.
    pub(super) fn in_query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// A text field of the JSON body.
    pub(super) fn in_body(&self, name: &str) -> Option<&str> {
        self.json.as_ref()?.get(name)?.as_str()
    }

    /// The appid that the caller names, on the endpoints where it names one.
    pub(super) fn claimed_appid(&self) -> Option<&str> {
        match self.endpoint {
            Endpoint::Token | Endpoint::SessionOfCode | Endpoint::UserToken | Endpoint::UserTokenRefresh => {
                self.in_query("appid")
            }
            Endpoint::StableToken => self.in_body("appid"),
            Endpoint::ClearQuotaBySecret => self.in_body("appid").or_else(|| self.in_query("appid")),
            _ => None,
        }
    }

    /// The line asked for, if any.
    pub(super) fn line(&self) -> Option<Line> {
        match (self.endpoint, self.in_query("type")) {
            (Endpoint::Token, _) => Some(Line::Plain),
            (Endpoint::StableToken, _) => Some(Line::Stable),
            (Endpoint::Ticket, Some("jsapi")) => Some(Line::Jsapi),
            (Endpoint::Ticket, Some("wx_card")) => Some(Line::WxCard),
            (Endpoint::Ticket, Some("2")) => Some(Line::AppLogin),
            _ => None,
        }
    }

    /// The token type asked for, if any.
    pub(super) fn asked_type(&self) -> Option<&'static str> {
        self.line().map(Line::token_type)
    }

    /// Whether a new stable token is asked for whatever the age of the old one.
    pub(super) fn is_forced(&self) -> bool {
        self.endpoint == Endpoint::StableToken
            && self.json.as_ref().and_then(|body| body.get("force_refresh")?.as_bool()).unwrap_or(false)
    }

    /// Why the body is not what a JSON endpoint takes, if it is not.
    pub(super) fn body_refusal(&self) -> Option<Refusal> {
        let body = self.body.kept.trim_ascii();
        match () {
            () if self.method != "POST" => Some(Refusal::POST_REQUIRED),
            () if self.json.as_ref().is_some_and(Value::is_object) => None,
            // WeChat looks for the appid in the JSON body only, so fields in a form or in the query are "missing".
            () if body.is_empty() && self.query.contains_key("appid") => Some(Refusal::APPID_MISSING),
            () if body.is_empty() => Some(Refusal::EMPTY_BODY),
            () if !body.starts_with(b"{") && !body.starts_with(b"[") && body.contains(&b'=') => {
                Some(Refusal::APPID_MISSING)
            }
            () => Some(Refusal::WRONG_FORMAT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_slashes_are_one() {
        assert_eq!(Endpoint::at("//cgi-bin//token"), Endpoint::Token);
        assert_eq!(Endpoint::at("/cgi-bin/clear_quota/v2"), Endpoint::ClearQuotaBySecret);
        assert_eq!(Endpoint::at("/cgi-bin/menu/get"), Endpoint::Business);
    }

    #[test]
    fn the_stable_endpoint_takes_json_in_a_post_and_nothing_else() {
        let refused = |method: &str, body: &str, query: &[(&str, &str)]| {
            let request = Request {
                endpoint: Endpoint::StableToken,
                path: String::new(),
                method: method.to_owned(),
                raw_query: String::new(),
                query: query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
                headers: Vec::new(),
                body: Received { kept: body.as_bytes().to_vec(), ..Received::default() },
                json: serde_json::from_str(body).ok(),
                remote: "10.0.0.1:5".parse().unwrap(),
            };
            request.body_refusal().map(|refusal| refusal.errcode)
        };
        assert_eq!(refused("POST", "{}", &[]), None);
        assert_eq!(refused("GET", "{}", &[]), Some(43002));
        assert_eq!(refused("POST", "grant_type=client_credential&appid=wx1", &[]), Some(41002));
        assert_eq!(refused("POST", "", &[("appid", "wx1")]), Some(41002));
        assert_eq!(refused("POST", "", &[]), Some(44002));
        assert_eq!(refused("POST", "{\"appid\":", &[]), Some(47001));
        assert_eq!(refused("POST", "[]", &[]), Some(47001));
    }
}
