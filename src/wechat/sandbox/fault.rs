//! Faults that an account's calls run into, and which of them strikes a given call.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::domain::timestamp::Timestamp;

const MILLIS_PER_HOUR: i64 = 3_600_000;
/// How long after the full hour an `on_the_hour` fault strikes. The reports name the very second of the hour.
const ON_THE_HOUR_MILLIS: i64 = 10_000;

/// The kinds of call that a fault can strike and that the log names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// `GET /cgi-bin/token`.
    Token,
    /// `POST /cgi-bin/stable_token`.
    StableToken,
    /// `GET /cgi-bin/ticket/getticket`.
    Ticket,
    /// `GET /cgi-bin/get_api_domain_ip` and `GET /cgi-bin/getcallbackip`.
    Probe,
    /// `clear_quota`, `clear_quota/v2`, `openapi/quota/get` and `openapi/rid/get`.
    Quota,
    /// Any other path: a call that needs an access token and does nothing.
    Business,
    /// In a fault: every kind. The log never holds it.
    Any,
    /// In the log only: a mint by the control API or by [`Interference`](super::Interference).
    ForeignMint,
    /// In the log only: a withdrawal by the control API.
    Kill,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// errcode −1, WeChat's "busy, retry later".
    Busy,
    /// errcode −1000.
    SystemError,
    /// The fault's `errcode` and `errmsg`.
    Errcode,
    /// HTTP 502 with a page of HTML.
    #[serde(rename = "http_502")]
    Http502,
    /// HTTP 504 with a page of HTML.
    #[serde(rename = "http_504")]
    Http504,
    /// HTTP 200 without a body, `text/html; charset=gbk`.
    EmptyBody,
    /// HTTP 200 with a page of HTML, as a captive proxy sends.
    Html,
    /// The answer, cut in half; the HTTP framing is sound.
    TruncatedJson,
    /// `[]` instead of the answer.
    WrongShapeArray,
    /// `null` instead of the answer.
    WrongShapeNull,
    /// The answer with an empty string for a token.
    EmptyToken,
    /// The answer without a token.
    MissingToken,
    /// The answer with a token of `bytes` (1 MiB) letters.
    LongToken,
    /// The connection is reset (TCP RST) before the call is processed.
    ResetBefore,
    /// The call is processed, then the connection is reset.
    ResetAfter,
    /// The connection is closed (TCP FIN) before the call is processed.
    CloseBefore,
    /// The call is processed, then the connection is closed.
    CloseAfter,
    /// Nothing is processed or answered until the client hangs up.
    HangBefore,
    /// The call is processed and its answer never sent: "processed but reply lost".
    HangAfter,
    /// The body arrives one byte every `ms` (1000) milliseconds.
    SlowDrip,
    /// The call is processed and its answer sent `ms` (10000) milliseconds later.
    Slow,
    /// `Content-Length` promises more than is sent before the connection closes.
    TruncatedBody,
    /// HTTP 302 to `location` (`https://mp.weixin.qq.com/`).
    Redirect,
    /// The answer with `bytes` (2 MiB) of padding in it.
    HugeBody,
    /// The answer with a byte in it that is not UTF-8.
    InvalidUtf8,
    /// The answer followed by text that is not JSON.
    TrailingGarbage,
    /// The answer with its first field twice, the second time with another value.
    DuplicateKeys,
    /// The answer as it is, under `Content-Encoding: gzip`.
    FalseGzip,
}

impl FaultKind {
    /// Whether the call is processed (and mints) under this fault unless [`Fault::processed`] says otherwise.
    pub const fn is_processed(self) -> bool {
        !matches!(
            self,
            Self::Busy
                | Self::SystemError
                | Self::Errcode
                | Self::Http502
                | Self::Http504
                | Self::EmptyBody
                | Self::Html
                | Self::ResetBefore
                | Self::CloseBefore
                | Self::HangBefore
                | Self::Redirect
        )
    }
}

impl FaultKind {
    /// Whether it puts something else in the place of the answer's body, whatever that was.
    pub(super) const fn replaces_the_body(self) -> bool {
        matches!(
            self,
            Self::Http502
                | Self::Http504
                | Self::EmptyBody
                | Self::Html
                | Self::WrongShapeArray
                | Self::WrongShapeNull
                | Self::Redirect
        )
    }
}

/// One fault of an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// The calls it strikes; all of them by default.
    #[serde(default = "every_call")]
    pub calls: Vec<CallKind>,
    /// How many more calls it strikes; without limit by default. Counts down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// The share of calls it strikes, 0 to 1; all of them by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Whether it strikes in the first ten seconds of an hour only.
    #[serde(default)]
    pub on_the_hour: bool,
    /// Overrides whether the call is processed before it goes wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processed: Option<bool>,
    /// For `errcode`: WeChat's code, never 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errcode: Option<i64>,
    /// For `errcode`: WeChat's text, without its tail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errmsg: Option<String>,
    /// For `slow` and `slow_drip`: milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// For `redirect`: the `Location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// For `huge_body` and `long_token`: bytes of padding, at most 64 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
}

fn every_call() -> Vec<CallKind> {
    vec![CallKind::Any]
}

impl Fault {
    /// A fault that strikes every call of every kind.
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            calls: every_call(),
            times: None,
            probability: None,
            on_the_hour: false,
            processed: None,
            errcode: None,
            errmsg: None,
            ms: None,
            location: None,
            bytes: None,
        }
    }

    /// Whether the call is processed before it goes wrong.
    pub fn is_processed(&self) -> bool {
        self.processed.unwrap_or(self.kind.is_processed())
    }

    /// A sentence on what is wrong with it, if anything is.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let calls_are_real = !self.calls.iter().any(|call| matches!(call, CallKind::ForeignMint | CallKind::Kill))
            && !self.calls.is_empty();
        match () {
            () if !calls_are_real => {
                Some("a fault's calls are any of token, stable_token, ticket, probe, quota, business and any")
            }
            () if self.probability.is_some_and(|share| !(0.0..=1.0).contains(&share)) => {
                Some("a fault's probability lies between 0 and 1")
            }
            () if self.kind == FaultKind::Errcode && self.errcode.is_none_or(|errcode| errcode == 0) => {
                Some("a fault of kind errcode needs an errcode other than 0")
            }
            () if self
                .location
                .as_ref()
                .is_some_and(|location| !location.bytes().all(|byte| byte.is_ascii_graphic())) =>
            {
                Some("a fault's location holds visible ASCII only; percent-encode the rest")
            }
            () if self.bytes.is_some_and(|bytes| bytes > 64 * 1024 * 1024) => {
                Some("a fault's bytes are at most 67108864")
            }
            () => None,
        }
    }

    fn strikes(&self, call: CallKind, now: Timestamp) -> bool {
        (self.calls.contains(&CallKind::Any) || self.calls.contains(&call))
            && self.times != Some(0)
            && (!self.on_the_hour || now.as_millis().rem_euclid(MILLIS_PER_HOUR) < ON_THE_HOUR_MILLIS)
            && self.probability.is_none_or(|share| rand::rng().random_bool(share))
    }
}

/// The first of `faults` that strikes `call` at `now`; its `times` go down by one.
pub(super) fn strike(faults: &mut [Fault], call: CallKind, now: Timestamp) -> Option<Fault> {
    let fault = faults.iter_mut().find(|fault| fault.strikes(call, now))?;
    fault.times = fault.times.map(|left| left.saturating_sub(1));
    Some(fault.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_PAST: Timestamp = Timestamp::from_millis(1_800_000);

    #[test]
    fn a_fault_strikes_its_calls_as_often_as_it_says() {
        let mut faults = [Fault { calls: vec![CallKind::Token], times: Some(2), ..Fault::new(FaultKind::Busy) }];
        assert!(strike(&mut faults, CallKind::Ticket, HALF_PAST).is_none());
        for _ in 0..2 {
            assert!(strike(&mut faults, CallKind::Token, HALF_PAST).is_some());
        }
        assert!(strike(&mut faults, CallKind::Token, HALF_PAST).is_none());
    }

    #[test]
    fn the_first_fault_that_fits_wins() {
        let mut faults = [
            Fault { probability: Some(0.0), ..Fault::new(FaultKind::Busy) },
            Fault { probability: Some(1.0), ..Fault::new(FaultKind::Html) },
        ];
        assert_eq!(strike(&mut faults, CallKind::Token, HALF_PAST).unwrap().kind, FaultKind::Html);
    }

    #[test]
    fn some_faults_strike_on_the_hour_only() {
        let mut faults = [Fault { on_the_hour: true, ..Fault::new(FaultKind::Busy) }];
        assert!(strike(&mut faults, CallKind::Token, HALF_PAST).is_none());
        assert!(strike(&mut faults, CallKind::Token, Timestamp::from_millis(7 * MILLIS_PER_HOUR + 9_999)).is_some());
        assert!(strike(&mut faults, CallKind::Token, Timestamp::from_millis(7 * MILLIS_PER_HOUR + 10_000)).is_none());
    }
}
