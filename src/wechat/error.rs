//! How a call to WeChat fails.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use hyper_util::client::legacy::Error as ForwardError;

use super::errcode::{self, Language, Text};
use crate::domain::refresh::{CallKind, Failure, FailureClass};

type Cause = dyn Error + 'static;

/// A call to WeChat that brought nothing. Neither its text nor its debug form can hold a secret, a token or a URL: the
/// errors of the HTTP library are reduced to their kind and dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection came about, so nothing was sent.
    #[error("connecting to WeChat failed: {0}")]
    Connect(ConnectFault),
    /// The whole call took too long. WeChat may have processed it.
    #[error("no answer from WeChat within {} s", within.as_secs_f64())]
    TimedOut {
        /// The deadline of the call.
        within: Duration,
    },
    /// The connection ended before the answer did. WeChat may have processed the call.
    #[error("the connection to WeChat broke before its answer was complete")]
    Broken,
    /// An HTTP status of failure without a refusal of WeChat's in the body.
    #[error("WeChat answered with HTTP status {0}")]
    Status(u16),
    /// A redirect (the HTTP status), which is never followed: the AppSecret would go with it.
    #[error("the answer is a redirect (HTTP status {0}), which is not followed")]
    Redirected(u16),
    /// The body is larger than [`LARGEST_ANSWER`](super::LARGEST_ANSWER).
    #[error("the answer is larger than 64 KiB")]
    TooLarge,
    /// The answer is not what WeChat answers.
    #[error("the answer cannot be read: {what}")]
    Unreadable {
        /// What is wrong with it, as a sentence about "it".
        what: &'static str,
    },
    /// A ticket was asked for with a token type that is none. Nothing was sent.
    #[error("an access token is not a ticket and is not fetched like one")]
    NotATicket,
    /// WeChat said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Why no connection came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFault {
    /// The host's name has no address.
    #[error("the name of the host cannot be resolved")]
    Name,
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// No connection within the time allowed for connecting, encryption included.
    #[error("no connection in time")]
    TimedOut,
    /// The other side's certificate is not to be trusted.
    #[error("the certificate of the host is not trusted")]
    Certificate,
    /// Encryption could not be agreed on.
    #[error("TLS could not be set up")]
    Tls,
    /// Another fault of the network.
    #[error("{0}")]
    Network(io::ErrorKind),
}

/// An answer with an `errcode` other than 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("WeChat refused with errcode {errcode}: {errmsg}")]
pub struct Refusal {
    /// The call it answers: codes mean different things for different calls.
    pub call: CallKind,
    /// WeChat's code.
    pub errcode: i64,
    /// WeChat's text without control characters and credentials, at most [`LONGEST_ERRMSG`](super::LONGEST_ERRMSG)
    /// characters.
    pub errmsg: String,
}

impl CallError {
    /// What is kept of the failed call, and when to try again.
    pub fn failure(&self) -> Failure {
        let Self::Refused(refusal) = self else {
            return Failure {
                class: self.class_of_transport(),
                errcode: None,
                errmsg: self.to_string(),
                wait_at_least: Duration::ZERO,
                until_midnight: false,
                maybe_done: self.is_open(),
            };
        };
        let entry = errcode::explain(refusal.call, refusal.errcode);
        Failure {
            class: entry.map_or(FailureClass::Unknown, |entry| entry.class),
            errcode: Some(refusal.errcode),
            errmsg: refusal.errmsg.clone(),
            wait_at_least: entry.map_or(Duration::ZERO, |entry| entry.wait_at_least),
            until_midnight: entry.is_some_and(|entry| entry.until_midnight),
            maybe_done: false,
        }
    }

    /// WeChat no longer accepts the access token that the call was made with. Never true of a token fetch.
    pub fn token_refused(&self) -> bool {
        matches!(self, Self::Refused(refusal) if errcode::refuses_token(refusal.call, refusal.errcode))
    }

    /// Nothing was sent: WeChat cannot have processed the call.
    pub const fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::NotATicket)
    }

    /// It is open whether WeChat has done what was asked: the request was sent, and no answer came that says no.
    const fn is_open(&self) -> bool {
        matches!(
            self,
            Self::TimedOut { .. } | Self::Broken | Self::Status(500..) | Self::TooLarge | Self::Unreadable { .. }
        )
    }

    /// The address that WeChat saw the call come from, where it refused the call for that and said so.
    pub fn egress_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Refused(refusal) => errcode::egress_ip(refusal.errcode, &refusal.errmsg),
            _ => None,
        }
    }

    /// What happened and what to do about it, for an operator.
    pub fn hint(&self, language: Language) -> String {
        match self {
            Self::Refused(refusal) => errcode::hint(refusal.call, refusal.errcode, &refusal.errmsg, language),
            _ => self.hint_on_transport().in_language(language).to_owned(),
        }
    }

    /// Statuses that only a wrong address or a proxy explains are tried at a slower pace, with a warning.
    const fn class_of_transport(&self) -> FailureClass {
        match self {
            Self::Status(408) => FailureClass::Transient,
            Self::Status(429) => FailureClass::Throttled,
            Self::Redirected(_) | Self::NotATicket | Self::Status(..500) => FailureClass::Unknown,
            _ => FailureClass::Transient,
        }
    }

    const fn hint_on_transport(&self) -> Text {
        match self {
            Self::Connect(fault) => fault.hint(),
            Self::TimedOut { .. } | Self::Broken => Text {
                en: "WeChat was reached but did not answer in full; the call is repeated soon, and if this goes on, look for a \
                     firewall or proxy that cuts connections.",
                zh: "已连上微信，但未收到完整应答。稍后会自动重试；若持续出现，请检查是否有防火墙或代理中断了连接。",
            },
            Self::Status(500..) => Text {
                en: "WeChat or a proxy before it is in trouble; the call is repeated soon.",
                zh: "微信或其前面的代理出现故障，稍后会自动重试。",
            },
            Self::Status(_) | Self::Redirected(_) => Text {
                en: "This is not how WeChat answers; check WXTOKEN_WECHAT_URL and any proxy or login page between this server and \
                     WeChat.",
                zh: "这不像是微信的应答。请检查 WXTOKEN_WECHAT_URL，以及本服务器与微信之间的代理或上网认证页面。",
            },
            Self::TooLarge | Self::Unreadable { .. } => Text {
                en: "The answer is not WeChat's usual one and was thrown away; the call is repeated soon, and if this goes on, look \
                     for a proxy or login page between this server and WeChat.",
                zh: "应答不符合微信的格式，已丢弃。稍后会自动重试；若持续出现，请检查本服务器与微信之间的代理或上网认证页面。",
            },
            Self::NotATicket | Self::Refused(_) => Text {
                en: "This is a mistake in wxtoken; please report it to its makers.",
                zh: "这是 wxtoken 自身的错误，请反馈给维护者。",
            },
        }
    }
}

impl ConnectFault {
    const fn hint(self) -> Text {
        match self {
            Self::Name => Text {
                en: "The name of WeChat's host cannot be resolved; check the DNS settings of this server and WXTOKEN_WECHAT_URL.",
                zh: "无法解析微信的域名。请检查本服务器的 DNS 设置和 WXTOKEN_WECHAT_URL。",
            },
            Self::Certificate => Text {
                en: "The certificate that the host showed is not trusted, so nothing was sent; look for a proxy that intercepts \
                     encrypted traffic, and check this server's clock.",
                zh: "对方出示的证书不受信任，因此未发送任何内容。请检查是否有代理拦截了加密流量，并核对本服务器的时钟。",
            },
            Self::Tls => Text {
                en: "No encrypted connection could be set up; check that WXTOKEN_WECHAT_URL points to WeChat and that no firewall \
                     interferes.",
                zh: "无法建立加密连接。请检查 WXTOKEN_WECHAT_URL 是否指向微信，以及是否受到防火墙干扰。",
            },
            Self::Refused | Self::TimedOut | Self::Network(_) => Text {
                en: "WeChat cannot be reached; check that this server may connect to the internet on port 443.",
                zh: "无法连接微信。请检查本服务器能否通过 443 端口访问互联网。",
            },
        }
    }
}

impl From<&reqwest::Error> for CallError {
    /// Keeps the kind of trouble only. A deadline is not seen here: the client sets its own around the whole call.
    fn from(error: &reqwest::Error) -> Self {
        if error.is_connect() {
            return Self::Connect(ConnectFault::of(error));
        }
        Self::of_exchange(successors(error))
    }
}

impl From<&ForwardError> for CallError {
    fn from(error: &ForwardError) -> Self {
        if error.is_connect() {
            return Self::Connect(ConnectFault::of_causes(successors(error)));
        }
        Self::of_exchange(successors(error))
    }
}

impl From<&hyper::Error> for CallError {
    fn from(error: &hyper::Error) -> Self {
        if error.is_parse() { NOT_HTTP } else { Self::Broken }
    }
}

/// What hyper says when bytes make no sense to it.
const NOT_HTTP: CallError = CallError::Unreadable { what: "it is not proper HTTP" };

impl CallError {
    fn of_exchange<'a>(mut causes: impl Iterator<Item = &'a Cause>) -> Self {
        let is_parse = |cause: &Cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse);
        if causes.any(is_parse) { NOT_HTTP } else { Self::Broken }
    }
}

impl ConnectFault {
    fn of(error: &reqwest::Error) -> Self {
        if error.is_dns() {
            return Self::Name;
        }
        if error.is_timeout() {
            return Self::TimedOut;
        }
        Self::of_causes(successors(error))
    }

    fn of_causes<'a>(causes: impl Iterator<Item = &'a Cause>) -> Self {
        let mut kind = io::ErrorKind::Other;
        for cause in causes {
            match cause.downcast_ref::<rustls::Error>() {
                Some(rustls::Error::InvalidCertificate(_)) => return Self::Certificate,
                Some(_) => return Self::Tls,
                None => kind = cause.downcast_ref::<io::Error>().map_or(kind, io::Error::kind),
            }
        }
        match kind {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            other => Self::Network(other),
        }
    }
}

/// What is behind an error, from its cause on.
fn successors(error: &impl Error) -> impl Iterator<Item = &Cause> {
    std::iter::successors(error.source(), |cause| next_cause(*cause))
}

/// An I/O error that wraps another names as its source the other's source; this stops at the wrapped one too.
fn next_cause(cause: &Cause) -> Option<&Cause> {
    match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => cause.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(call: CallKind, errcode: i64, errmsg: &str) -> CallError {
        CallError::Refused(Refusal { call, errcode, errmsg: errmsg.to_owned() })
    }

    fn transport_errors() -> Vec<CallError> {
        let faults = [
            ConnectFault::Name,
            ConnectFault::Refused,
            ConnectFault::TimedOut,
            ConnectFault::Certificate,
            ConnectFault::Tls,
            ConnectFault::Network(io::ErrorKind::NetworkUnreachable),
        ];
        let mut errors: Vec<_> = faults.into_iter().map(CallError::Connect).collect();
        errors.extend([
            CallError::TimedOut { within: Duration::from_secs(8) },
            CallError::Broken,
            CallError::Status(502),
            CallError::Status(403),
            CallError::Redirected(302),
            CallError::TooLarge,
            CallError::Unreadable { what: "it is empty" },
            CallError::NotATicket,
        ]);
        errors
    }

    #[test]
    fn every_failure_of_the_network_is_a_sentence_and_has_advice() {
        let shown: Vec<_> = transport_errors().iter().map(ToString::to_string).collect();
        assert_eq!(shown[1], "connecting to WeChat failed: connection refused");
        assert_eq!(shown[5], "connecting to WeChat failed: network unreachable");
        assert_eq!(shown[6], "no answer from WeChat within 8 s");
        for error in transport_errors() {
            assert_eq!(error.failure().errmsg, error.to_string());
            assert_eq!(error.failure().errcode, None);
            assert!(error.hint(Language::English).is_ascii() && error.hint(Language::English).ends_with('.'));
            assert!(error.hint(Language::Chinese).ends_with('。'));
            assert!(!error.token_refused());
        }
    }

    #[test]
    fn classes_of_transport() {
        let class = |error: CallError| error.failure().class;
        assert_eq!(class(CallError::Broken), FailureClass::Transient);
        for status in [408, 500, 502, 504, 599] {
            assert_eq!(class(CallError::Status(status)), FailureClass::Transient, "{status}");
        }
        for status in [400, 403, 404, 407, 499] {
            assert_eq!(class(CallError::Status(status)), FailureClass::Unknown, "{status}");
        }
        assert_eq!(class(CallError::Status(429)), FailureClass::Throttled);
        assert_eq!(class(CallError::Redirected(302)), FailureClass::Unknown);
    }

    #[test]
    fn only_what_never_left_is_unsent() {
        let unsent = transport_errors().into_iter().filter(CallError::is_unsent).count();
        assert_eq!(unsent, 7);
        assert!(!refused(CallKind::Mint, -1, "").is_unsent());
    }

    #[test]
    fn refusals_carry_their_class_and_their_waits() {
        let spent = refused(CallKind::Mint, 45_009, "reach max api daily quota limit").failure();
        assert_eq!((spent.class, spent.until_midnight, spent.errcode), (FailureClass::Throttled, true, Some(45_009)));
        let locked = refused(CallKind::Mint, 89_506, "").failure();
        assert_eq!((locked.class, locked.wait_at_least.as_secs()), (FailureClass::NeedsHuman, 86_400));
        assert_eq!(refused(CallKind::Mint, 12_345, "").failure().class, FailureClass::Unknown);
    }

    #[test]
    fn a_code_is_read_in_the_light_of_its_call() {
        let secret_wrong = refused(CallKind::Mint, 40_001, "invalid credential");
        assert_eq!((secret_wrong.failure().class, secret_wrong.token_refused()), (FailureClass::NeedsHuman, false));
        let token_refused = refused(CallKind::Ticket, 40_001, "invalid credential");
        assert_eq!((token_refused.failure().class, token_refused.token_refused()), (FailureClass::Transient, true));
    }

    #[test]
    fn whitelist_refusals_name_the_address() {
        let error = refused(CallKind::Mint, 40_164, "invalid ip 1.2.3.4 ipv6 ::ffff:1.2.3.4, not in whitelist");
        assert_eq!(error.egress_ip(), "1.2.3.4".parse().ok());
        assert!(error.hint(Language::English).contains("Add 1.2.3.4 to the IP whitelist"));
        assert_eq!(CallError::Broken.egress_ip(), None);
    }
}
