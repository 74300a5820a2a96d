//! How one simulated account behaves. Every switch has WeChat's usual behaviour as its default.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chain::Line;
use super::fault::Fault;
use super::whitelist::AddressRange;

/// The secret of an account for which nobody configured one.
pub const DEFAULT_SECRET: &str = "0123456789abcdef0123456789abcdef";
/// The longest span that a setting may name, in seconds: ten years.
const LONGEST_SECONDS: u32 = 315_360_000;

/// Whether an account may have tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountStanding {
    /// It may.
    #[default]
    Normal,
    /// 40243: the AppSecret was frozen in the console.
    SecretFrozen,
    /// 50002: limited, migrated or being cancelled.
    AccountLimited,
    /// 50004: forbidden to use access tokens.
    TokenForbidden,
    /// 50007: frozen.
    AccountFrozen,
}

/// Where the risk confirmation of the caller's address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum IpConfirmation {
    /// Not asked for.
    #[default]
    #[serde(rename = "none")]
    None,
    /// 89501: a confirmation is pending.
    #[serde(rename = "pending_89501")]
    Pending,
    /// 89503: this call needs one.
    #[serde(rename = "needed_89503")]
    Needed,
    /// 89507: refused, blocked for an hour.
    #[serde(rename = "refused_hour_89507")]
    RefusedForAnHour,
    /// 89506: refused again, blocked for a day.
    #[serde(rename = "refused_day_89506")]
    RefusedForADay,
}

/// The form of `expires_in` in a token's answer. Tickets always have the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpiresInForm {
    /// `7200`.
    #[default]
    Number,
    /// `"7200"`.
    String,
    /// Not there.
    Missing,
    /// `0`.
    Zero,
    /// `-1`.
    Negative,
    /// `99999999999`, more than any lifetime and more than 32 bits hold.
    Huge,
}

/// What happens to a forced refresh that comes too early or too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForceExcess {
    /// It is answered as if it had not been forced.
    #[default]
    Silent,
    /// 45011 inside the gap, 45009 beyond the day's number.
    Error,
}

/// What a ticket's `expires_in` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketExpiresIn {
    /// The full lifetime, however old the ticket is. That is what users report.
    #[default]
    AlwaysFull,
    /// What is left.
    Remainder,
}

/// When tickets change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketWindow {
    /// One lifetime after the first issue.
    #[default]
    FirstIssue,
    /// At multiples of the lifetime by the clock: with 7200 s, at every even hour.
    WallClock,
}

/// What follows the text of an errmsg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrmsgTail {
    /// ` rid: 655d878c-2e41a3f4-65f9b9ba`.
    #[default]
    Rid,
    /// `, rid: 655d878c-2e41a3f4-65f9b9ba`.
    CommaRid,
    /// ` hint: [3t96CA08684525]`, as in 2015 to 2020.
    Hint,
    /// Nothing, as in 2014.
    None,
}

/// The `content-type` of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentType {
    /// `application/json; encoding=utf-8`.
    #[default]
    JsonEncoding,
    /// `text/plain`.
    TextPlain,
    /// `text/html; charset=gbk`, although the body is UTF-8.
    HtmlGbk,
    /// No such header.
    None,
}

/// A step in the validation of a request that carries an AppSecret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStep {
    /// 40002 unless `grant_type` is `client_credential`.
    GrantType,
    /// 41002 when the appid is missing.
    AppidPresent,
    /// 40013 when there is no such account.
    AppidKnown,
    /// 41004 when the secret is missing.
    SecretPresent,
    /// 40125 (or 40001) when it is wrong.
    Secret,
    /// 40164 when the caller's address is not on the whitelist.
    Whitelist,
    /// 89501, 89503, 89506, 89507.
    IpConfirmation,
    /// 40243, 50002, 50004, 50007.
    Standing,
    /// 45009, 45011.
    Quota,
}

impl CheckStep {
    /// The order of an account for which nobody configured another. WeChat's own order is unknown.
    pub const USUAL_ORDER: [Self; 9] = [
        Self::GrantType,
        Self::AppidPresent,
        Self::AppidKnown,
        Self::SecretPresent,
        Self::Secret,
        Self::Whitelist,
        Self::IpConfirmation,
        Self::Standing,
        Self::Quota,
    ];
}

/// A random span in milliseconds, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Latency {
    /// The shortest, in milliseconds.
    pub min: u64,
    /// The longest, in milliseconds.
    pub max: u64,
}

/// The share of calls that are much slower than the rest.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LatencyTail {
    /// 0 to 1.
    pub probability: f64,
    /// The shortest, in milliseconds.
    pub min: u64,
    /// The longest, in milliseconds.
    pub max: u64,
}

/// A second system that mints tokens for the same account at random times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interference {
    /// `plain`, or `stable`, where it forces.
    pub line: Line,
    /// The mean span between two mints, in seconds; the spans are distributed exponentially.
    pub mean_seconds: u32,
}

/// The behaviour of one account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the control API")]
pub struct Settings {
    /// The AppSecret.
    pub secret: String,
    /// 40125, or 40001 as older accounts see.
    pub wrong_secret_errcode: i64,
    /// Whether it may have tokens.
    pub state: AccountStanding,
    /// Addresses, CIDR ranges and `a.b.c.*`; empty means that every address may call.
    pub whitelist: Vec<String>,
    /// Where the risk confirmation stands.
    pub ip_confirmation: IpConfirmation,
    /// The order of validation. A step that is left out is not checked.
    pub check_order: Vec<CheckStep>,
    /// Lifetime of new access tokens.
    pub lifetime_seconds: u32,
    /// How long a replaced access token is honoured, and how long before expiry the stable line mints. With a lifetime that
    /// is not longer than this, every stable call mints.
    pub overlap_seconds: u32,
    /// Whether a replaced access token dies at its own nominal expiry at the latest.
    pub overlap_capped: bool,
    /// Whether the overlap lasts a random time between nothing and twice its length.
    pub overlap_fuzzy: bool,
    /// How long a new access token is refused with 40001, in milliseconds (replication delay).
    pub new_token_delay_ms: u64,
    /// Withdraws every new access token this long after its mint.
    pub withdraw_after_seconds: Option<u32>,
    /// Whether the stable line goes on answering a withdrawn token until it is forced.
    pub stable_returns_withdrawn: bool,
    /// The form of `expires_in`.
    pub expires_in_form: ExpiresInForm,
    /// The shortest span between two forced refreshes.
    pub force_gap_seconds: u32,
    /// Forced refreshes a day.
    pub force_per_day: u32,
    /// What happens to a forced refresh beyond either.
    pub force_excess: ForceExcess,
    /// Lifetime of tickets.
    pub ticket_lifetime_seconds: u32,
    /// What a ticket's `expires_in` says.
    pub ticket_expires_in: TicketExpiresIn,
    /// When tickets change.
    pub ticket_window: TicketWindow,
    /// How long a ticket is accepted beyond its lifetime, replaced or not.
    pub ticket_overlap_seconds: u32,
    /// Mints a day on the plain line.
    pub plain_per_day: u32,
    /// Calls a minute on the stable line.
    pub stable_per_minute: u32,
    /// Calls a day on the stable line.
    pub stable_per_day: u32,
    /// Calls a day for tickets of each kind together.
    pub ticket_per_day: u32,
    /// `clear_quota` calls a month.
    pub clear_quota_per_month: u32,
    /// The offset from UTC, in hours, of the midnight at which days and months begin.
    pub quota_utc_offset_hours: i8,
    /// What follows the text of an errmsg.
    pub errmsg_tail: ErrmsgTail,
    /// Whether 40001 and the plain line's 45009 point to getStableAccessToken.
    pub hint_on_40001: bool,
    /// The `content-type` of answers.
    pub content_type: ContentType,
    /// Whether answers begin with a UTF-8 byte order mark.
    pub bom: bool,
    /// How long every call takes.
    pub latency_ms: Latency,
    /// How long some calls take instead.
    pub latency_tail_ms: LatencyTail,
    /// What goes wrong; the first that fits a call strikes.
    pub faults: Vec<Fault>,
    /// A second system that mints for the same account.
    pub interference: Option<Interference>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            secret: DEFAULT_SECRET.to_owned(),
            wrong_secret_errcode: 40125,
            state: AccountStanding::default(),
            whitelist: Vec::new(),
            ip_confirmation: IpConfirmation::default(),
            check_order: CheckStep::USUAL_ORDER.to_vec(),
            lifetime_seconds: 7_200,
            overlap_seconds: 300,
            overlap_capped: false,
            overlap_fuzzy: false,
            new_token_delay_ms: 0,
            withdraw_after_seconds: None,
            stable_returns_withdrawn: false,
            expires_in_form: ExpiresInForm::default(),
            force_gap_seconds: 30,
            force_per_day: 20,
            force_excess: ForceExcess::default(),
            ticket_lifetime_seconds: 7_200,
            ticket_expires_in: TicketExpiresIn::default(),
            ticket_window: TicketWindow::default(),
            // Users saw an old ticket work more than 3 hours after its issue.
            ticket_overlap_seconds: 3_600,
            plain_per_day: 2_000,
            stable_per_minute: 10_000,
            stable_per_day: 500_000,
            // Users saw 45009 after this many.
            ticket_per_day: 10_000,
            clear_quota_per_month: 10,
            quota_utc_offset_hours: 8,
            errmsg_tail: ErrmsgTail::default(),
            hint_on_40001: false,
            content_type: ContentType::default(),
            bom: false,
            latency_ms: Latency::default(),
            latency_tail_ms: LatencyTail::default(),
            faults: Vec::new(),
            interference: None,
        }
    }
}

impl Settings {
    /// These settings with the fields of the JSON object `patch` in place of theirs. Objects merge, lists are replaced,
    /// and `null` brings back a default.
    ///
    /// # Errors
    /// A sentence that names the field when `patch` holds an unknown one or a value that makes no sense.
    pub fn merged(&self, patch: &Value) -> Result<Self, String> {
        let Value::Object(fields) = patch else {
            return Err("settings are a JSON object; an empty one is fine".to_owned());
        };
        let mut merged = serde_json::to_value(self).map_err(|error| error.to_string())?;
        merge(&mut merged, &Value::Object(fields.clone()));
        let settings: Self = serde_json::from_value(merged).map_err(|error| error.to_string())?;
        settings.problem().map_or(Ok(settings), Err)
    }

    /// A sentence on what is wrong with these settings, if anything is.
    pub(super) fn problem(&self) -> Option<String> {
        let bad_range = self.whitelist.iter().find(|entry| AddressRange::parse(entry).is_none());
        if let Some(entry) = bad_range {
            return Some(format!(
                "whitelist: {entry:?} is neither an address, nor a CIDR range, nor of the form a.b.c.*"
            ));
        }
        if let Some(problem) = self.faults.iter().find_map(Fault::problem) {
            return Some(problem.to_owned());
        }
        self.numbers_problem().map(str::to_owned)
    }

    fn numbers_problem(&self) -> Option<&'static str> {
        let spans = [self.lifetime_seconds, self.ticket_lifetime_seconds];
        let tail = self.latency_tail_ms;
        match () {
            () if spans.iter().any(|span| !(1..=LONGEST_SECONDS).contains(span)) => {
                Some("lifetime_seconds and ticket_lifetime_seconds lie between 1 and 315360000")
            }
            () if self.latency_ms.min > self.latency_ms.max || tail.min > tail.max => {
                Some("a latency's min is not above its max")
            }
            () if !(0.0..=1.0).contains(&tail.probability) => {
                Some("latency_tail_ms: the probability lies between 0 and 1")
            }
            () if !matches!(self.wrong_secret_errcode, 40001 | 40125) => Some("wrong_secret_errcode is 40125 or 40001"),
            () if !(-12..=14).contains(&self.quota_utc_offset_hours) => {
                Some("quota_utc_offset_hours lies between -12 and 14")
            }
            () if self.interference.is_some_and(|other| other.line.is_ticket() || other.mean_seconds == 0) => {
                Some("interference has the line plain or stable and mean_seconds of at least 1")
            }
            () => None,
        }
    }
}

fn merge(base: &mut Value, patch: &Value) {
    let (Value::Object(base), Value::Object(patch)) = (base, patch) else { return };
    for (name, value) in patch {
        match (base.get_mut(name), value) {
            (Some(Value::Object(_)), Value::Object(_)) => {
                if let Some(slot) = base.get_mut(name) {
                    merge(slot, value);
                }
            }
            (_, Value::Null) => {
                base.remove(name);
            }
            _ => {
                base.insert(name.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
