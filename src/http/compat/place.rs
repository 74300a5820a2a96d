//! What a path in WeChat's shape asks for.
//!
//! WeChat's paths consist of letters, digits and a few signs. A path with escapes, dot segments or path parameters may be read in two ways, and
//! then it would be decided here what one of them may do and done there what the other one says; so it is refused.

use std::borrow::Cow;

/// The first segments of our own paths, besides those that number a version.
const OURS: [&str; 11] = [
    "livez",
    "healthz",
    "readyz",
    "metrics",
    "openapi.json",
    "docs",
    "console",
    "problems",
    "assets",
    "favicon.ico",
    "robots.txt",
];

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// `GET /cgi-bin/token`.
    Token,
    /// `…/token` under any prefix, for the client that appends that to a base of its own; or a path of WeChat's that ends so.
    TokenAlias(Cow<'a, str>),
    /// `POST /cgi-bin/stable_token`.
    StableToken,
    /// `GET /cgi-bin/ticket/getticket`.
    Ticket,
    /// Any other path of WeChat's.
    Api(Cow<'a, str>),
    /// `/wx/{appid}` and then a path of WeChat's.
    OfAccount(Cow<'a, str>, Box<Place<'static>>),
    /// A path that could be read in two ways.
    Ambiguous,
}

/// What `path` asks for; `None` when it is one of ours. WeChat's have two segments at least.
pub(super) fn place_of(path: &str) -> Option<Place<'_>> {
    let path = collapse(path);
    let mut segments = path.split('/').skip(1);
    let first = segments.next().unwrap_or_default();
    let is_single = segments.next().is_none_or(str::is_empty);
    let is_ours = OURS.iter().any(|ours| ours.eq_ignore_ascii_case(first)) || is_version(first);
    if is_ours || (is_single && !first.eq_ignore_ascii_case("token")) {
        return None;
    }
    Some(place(path))
}

/// `v1` and what may come after it.
fn is_version(segment: &str) -> bool {
    let digits = segment.strip_prefix(['v', 'V']).unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn place(path: Cow<'_, str>) -> Place<'_> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~:@!$&'()*+,=".contains(&byte);
    if !path.bytes().all(is_plain) || path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Place::Ambiguous;
    }
    if let Some((appid, rest)) = of_account(&path) {
        return match place(Cow::Owned(rest.to_owned())) {
            Place::Ambiguous | Place::OfAccount(..) => Place::Ambiguous,
            inner => Place::OfAccount(Cow::Owned(appid.to_owned()), Box::new(inner.into_owned())),
        };
    }
    // Whether WeChat minds the case or a slash at the end is not known; what might mint is never sent there.
    let bare = path.trim_end_matches('/');
    if bare.eq_ignore_ascii_case("/cgi-bin/token") {
        Place::Token
    } else if bare.eq_ignore_ascii_case("/cgi-bin/stable_token") {
        Place::StableToken
    } else if bare.eq_ignore_ascii_case("/cgi-bin/ticket/getticket") {
        Place::Ticket
    } else if may_mint(bare) {
        Place::Ambiguous
    } else if ends_with_token(bare) {
        Place::TokenAlias(path)
    } else {
        Place::Api(path)
    }
}

/// Whether a path begins like one that mints: what WeChat makes of the rest is not known.
fn may_mint(path: &str) -> bool {
    let mut segments = path.split('/').skip(1);
    let is_cgi = segments.next().is_some_and(|first| first.eq_ignore_ascii_case("cgi-bin"));
    let second = segments.next().unwrap_or_default().to_ascii_lowercase();
    is_cgi && (second.starts_with("token") || second.starts_with("stable_token"))
}

fn of_account(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/wx/")?;
    let slash = rest.find('/')?;
    Some(rest.split_at(slash))
}

fn ends_with_token(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(_, last)| last.eq_ignore_ascii_case("token"))
}

/// The path with each run of slashes as one.
fn collapse(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut collapsed = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !collapsed.ends_with('/') {
            collapsed.push(letter);
        }
    }
    Cow::Owned(collapsed)
}

impl Place<'_> {
    /// The same without a loan.
    fn into_owned(self) -> Place<'static> {
        match self {
            Self::Token => Place::Token,
            Self::TokenAlias(path) => Place::TokenAlias(Cow::Owned(path.into_owned())),
            Self::StableToken => Place::StableToken,
            Self::Ticket => Place::Ticket,
            Self::Api(path) => Place::Api(Cow::Owned(path.into_owned())),
            Self::OfAccount(appid, inner) => Place::OfAccount(Cow::Owned(appid.into_owned()), inner),
            Self::Ambiguous => Place::Ambiguous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(path: &str) -> Place<'_> {
        Place::Api(Cow::Borrowed(path))
    }

    #[test]
    fn tokens_and_tickets_are_found_however_the_path_is_spelt() {
        for path in ["/cgi-bin/token", "//cgi-bin//token", "/cgi-bin/token/", "/CGI-BIN/Token"] {
            assert_eq!(place_of(path), Some(Place::Token), "{path}");
        }
        assert_eq!(place_of("//cgi-bin/stable_token"), Some(Place::StableToken));
        assert_eq!(place_of("/cgi-bin/ticket/getticket/"), Some(Place::Ticket));
        for path in ["/token", "/proxy/v2/token", "//token"] {
            assert!(matches!(place_of(path), Some(Place::TokenAlias(_))), "{path}");
        }
    }

    #[test]
    fn paths_of_ours_are_left_alone() {
        for path in [
            "/",
            "",
            "/v1",
            "/v1/accounts",
            "//v1/accounts",
            "/livez",
            "/console/x",
            "/nothing",
            "/docs/",
            "/V1/x",
            "/v2/accounts",
            "*",
        ] {
            assert_eq!(place_of(path), None, "{path}");
        }
    }

    #[test]
    fn every_other_path_is_wechats() {
        assert_eq!(place_of("/cgi-bin/menu/get"), Some(api("/cgi-bin/menu/get")));
        assert_eq!(place_of("/sns/oauth2/access_token"), Some(api("/sns/oauth2/access_token")));
        assert_eq!(place_of("/wxa//msg_sec_check"), Some(api("/wxa/msg_sec_check")));
    }

    #[test]
    fn an_account_in_the_path_is_taken_off() {
        let of = |inner| Some(Place::OfAccount(Cow::Borrowed("wx1"), Box::new(inner)));
        assert_eq!(place_of("/wx/wx1/cgi-bin/menu/get"), of(api("/cgi-bin/menu/get").into_owned()));
        assert_eq!(place_of("/wx//wx1//cgi-bin/token"), of(Place::Token));
        assert_eq!(place_of("/wx/wx1/wx/wx2/cgi-bin/menu/get"), Some(Place::Ambiguous));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_neither() {
        for path in [
            "/cgi-bin/%74oken",
            "/cgi-bin/x/../token",
            "/cgi-bin/./token",
            "/cgi-bin/x%2f..%2ftoken",
            "/cgi-bin/token;jsessionid=1",
            "/cgi-bin/%00",
            "/wx/wx1/cgi-bin/%74oken",
            "/cgi-bin/token/x",
            "/cgi-bin/token,",
            "/cgi-bin/Stable_Token=",
            "/cgi-bin/token.json",
        ] {
            assert_eq!(place_of(path), Some(Place::Ambiguous), "{path}");
        }
    }
}
