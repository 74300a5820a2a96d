//! What WeChat's error codes mean and what an operator does about them.
//!
//! The same code can mean two things: 40001 is a wrong AppSecret when a token is fetched, and a refused access token on every
//! other call. [`explain`] knows which; [`look_up`] gives the reading for a token fetch. Codes and their readings come from
//! WeChat's error tables for `/cgi-bin/token`, `/cgi-bin/stable_token` and `/cgi-bin/ticket/getticket`, and from answers seen.

mod table;

use std::net::IpAddr;
use std::time::Duration;

use crate::domain::refresh::{CallKind, FailureClass};

/// What stands in [`Entry::remedy`] where the address goes that WeChat saw the call come from.
pub const ADDRESS_SLOT: &str = "{ip}";

/// A language that operators read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// Simplified Chinese.
    Chinese,
}

/// One sentence in both languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// English.
    pub en: &'static str,
    /// Simplified Chinese.
    pub zh: &'static str,
}

impl Text {
    /// The sentence in `language`.
    pub const fn in_language(self, language: Language) -> &'static str {
        match language {
            Language::English => self.en,
            Language::Chinese => self.zh,
        }
    }
}

/// What one code means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// WeChat's code.
    pub code: i64,
    /// What kind of trouble it is.
    pub class: FailureClass,
    /// What happened.
    pub cause: Text,
    /// What to do about it. May hold [`ADDRESS_SLOT`], which [`hint`] fills.
    pub remedy: Text,
    /// The time before which asking again is useless or harmful.
    pub wait_at_least: Duration,
    /// The quota for this Beijing day is spent.
    pub until_midnight: bool,
}

/// The entry of a code, in the reading for a token fetch; `None` for a code that we do not know.
pub fn look_up(code: i64) -> Option<&'static Entry> {
    table::ENTRIES.binary_search_by_key(&code, |entry| entry.code).ok().map(|position| &table::ENTRIES[position])
}

/// The entry of a code in answer to `call`; `None` for a code that we do not know.
pub fn explain(call: CallKind, code: i64) -> Option<&'static Entry> {
    if code == table::TOKEN_NOT_LATEST.code && refuses_token(call, code) {
        return Some(&table::TOKEN_NOT_LATEST);
    }
    look_up(code)
}

/// Whether `code` in answer to `call` says that the access token sent along is not accepted.
pub const fn refuses_token(call: CallKind, code: i64) -> bool {
    matches!(call, CallKind::Ticket | CallKind::Probe) && matches!(code, 40_001 | 40_014 | 42_001)
}

/// One or two sentences for an operator: what happened, and what to do about it, with the address to allow where WeChat named
/// it. `errmsg` is only searched for that address; it is not repeated.
pub fn hint(call: CallKind, code: i64, errmsg: &str, language: Language) -> String {
    let Some(entry) = explain(call, code) else { return unknown(code, language) };
    let address = egress_ip(code, errmsg).map(|address| address.to_string());
    let address = address.as_deref().unwrap_or(match language {
        Language::English => "the public IP address of this server",
        Language::Chinese => "本服务器的公网 IP",
    });
    let remedy = entry.remedy.in_language(language).replace(ADDRESS_SLOT, address);
    match language {
        Language::English => format!("{} {remedy}", entry.cause.en),
        Language::Chinese => format!("{}{remedy}", entry.cause.zh),
    }
}

fn unknown(code: i64, language: Language) -> String {
    match language {
        Language::English => format!(
            "WeChat answered with error code {code}, which wxtoken does not know. \
             Look it up in WeChat's documentation; it is tried again at a slow pace."
        ),
        Language::Chinese => {
            format!("微信返回了 wxtoken 未收录的错误码 {code}。请查阅微信官方文档；系统会以较慢的节奏继续重试。")
        }
    }
}

/// The address that WeChat saw the call come from, where a refusal for the address names it; IPv4 also when it is written as
/// IPv4-mapped IPv6.
///
/// ```
/// use wxtoken::wechat::errcode::egress_ip;
///
/// let errmsg = "invalid ip 39.156.73.10 ipv6 ::ffff:39.156.73.10, not in whitelist rid: 65112232-35da441e-28f02baf";
/// assert_eq!(egress_ip(40_164, errmsg), "39.156.73.10".parse().ok());
/// ```
pub fn egress_ip(code: i64, errmsg: &str) -> Option<IpAddr> {
    if !matches!(code, 40_164 | 45_035 | 61_004) {
        return None;
    }
    errmsg
        .split(|char: char| !(char.is_ascii_hexdigit() || char == '.' || char == ':'))
        .find_map(|piece| address(piece).or_else(|| address(piece.trim_start_matches(':'))))
}

fn address(piece: &str) -> Option<IpAddr> {
    let address = piece.trim_end_matches('.').parse::<IpAddr>().ok()?.to_canonical();
    (!address.is_unspecified()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code that the fact sheet names for a token fetch or as a sign of a bad token.
    const NEEDED: &str = "-1 -1000 40001 40002 40013 40014 40030 40125 40164 40243 41001 41002 41004 42001 42002 42007 43002 \
        43003 44002 45009 45011 45035 47001 48001 48004 48017 50002 50004 50007 61003 61004 61007 61023 61024 89501 89502 \
        89503 89504 89505 89506 89507";

    fn is_chinese(char: char) -> bool {
        ('\u{4e00}'..='\u{9fff}').contains(&char)
    }

    #[test]
    fn every_code_of_the_fact_sheet_is_known() {
        let needed: Vec<i64> = NEEDED.split_whitespace().map(|code| code.parse().unwrap()).collect();
        assert_eq!(needed.len(), 41);
        for code in &needed {
            assert_eq!(look_up(*code).map(|entry| entry.code), Some(*code), "{code}");
        }
        assert_eq!(table::ENTRIES.len(), needed.len());
        assert!(table::ENTRIES.is_sorted_by(|one, other| one.code < other.code));
        assert_eq!(look_up(0), None);
        assert_eq!(look_up(99_999), None);
    }

    #[test]
    fn every_entry_speaks_both_languages_in_one_sentence_each() {
        for entry in table::ENTRIES.iter().chain([&table::TOKEN_NOT_LATEST]) {
            for text in [entry.cause, entry.remedy] {
                assert!(
                    text.en.is_ascii() && text.en.ends_with('.') && text.en.len() >= 15,
                    "{}: {}",
                    entry.code,
                    text.en
                );
                assert_eq!(text.en.matches(". ").count(), 0, "{}: {}", entry.code, text.en);
                assert!(text.zh.chars().any(is_chinese) && text.zh.ends_with('。'), "{}: {}", entry.code, text.zh);
                assert_eq!(text.zh.matches('。').count(), 1, "{}: {}", entry.code, text.zh);
                assert_eq!(text.en.contains(ADDRESS_SLOT), text.zh.contains(ADDRESS_SLOT), "{}", entry.code);
                assert!(!text.en.contains("  ") && !text.zh.contains(' '.to_string().repeat(2).as_str()));
            }
        }
    }

    #[test]
    fn classes_decide_who_acts() {
        for (code, class) in [
            (-1, FailureClass::Transient),
            (-1_000, FailureClass::Transient),
            (45_009, FailureClass::Throttled),
            (45_011, FailureClass::Throttled),
            (40_001, FailureClass::NeedsHuman),
            (40_013, FailureClass::NeedsHuman),
            (40_164, FailureClass::NeedsHuman),
            (61_004, FailureClass::NeedsHuman),
            (89_503, FailureClass::NeedsHuman),
        ] {
            assert_eq!(look_up(code).unwrap().class, class, "{code}");
        }
        assert!(look_up(45_009).unwrap().until_midnight);
        assert!(!look_up(45_011).unwrap().until_midnight);
        assert_eq!(look_up(89_506).unwrap().wait_at_least, Duration::from_hours(24));
        assert_eq!(look_up(89_507).unwrap().wait_at_least, Duration::from_hours(1));
    }

    #[test]
    fn a_refused_access_token_is_not_a_wrong_secret() {
        assert_eq!(explain(CallKind::Mint, 40_001).unwrap().class, FailureClass::NeedsHuman);
        assert_eq!(explain(CallKind::Force, 40_001).unwrap().class, FailureClass::NeedsHuman);
        for code in [40_001, 40_014, 42_001] {
            for call in [CallKind::Ticket, CallKind::Probe] {
                assert!(refuses_token(call, code));
                assert_eq!(explain(call, code).unwrap().class, FailureClass::Transient);
                assert_eq!(explain(call, code).unwrap().code, code);
            }
            assert!(!refuses_token(CallKind::Mint, code));
        }
        assert!(!refuses_token(CallKind::Probe, 48_001));
    }

    #[test]
    fn the_address_is_found_in_every_text_seen() {
        for (code, errmsg, address) in [
            (
                40_164,
                "invalid ip 39.156.73.10 ipv6 ::ffff:39.156.73.10, not in whitelist rid: 65112232-35da441e-28f02baf",
                "39.156.73.10",
            ),
            (40_164, "invalid ip 1.2.3.4, not in whitelist hint: [UIluoA05892067]", "1.2.3.4"),
            (40_164, "invalid ip ::ffff:1.2.3.4, not in whitelist", "1.2.3.4"),
            (
                40_164,
                "invalid ip 2408:8756:2cff:f503::5d ipv6 2408:8756:2cff:f503::5d, not in whitelist rid: 6-3-2",
                "2408:8756:2cff:f503::5d",
            ),
            (
                61_004,
                "access clientip is not registered requestIP: 124.1.2.3 rid: 65112232-35da441e-28f02baf",
                "124.1.2.3",
            ),
            (61_004, "access clientip is not registered requestIP:124.1.2.3.", "124.1.2.3"),
        ] {
            assert_eq!(egress_ip(code, errmsg), address.parse().ok(), "{errmsg}");
        }
        for (code, errmsg) in [
            (40_164, ""),
            (40_164, "invalid ip 999.1.1.1, not in whitelist"),
            (40_164, "invalid ip :: , not in whitelist"),
            (40_164, "invalid ip, not in whitelist rid: 65112232-35da441e-28f02baf"),
            (40_013, "invalid ip 1.2.3.4"),
        ] {
            assert_eq!(egress_ip(code, errmsg), None, "{errmsg}");
        }
    }

    #[test]
    fn hints_name_the_address_to_allow() {
        let errmsg = "invalid ip 1.2.3.4, not in whitelist";
        for language in [Language::English, Language::Chinese] {
            let hint = hint(CallKind::Mint, 40_164, errmsg, language);
            assert!(hint.contains("1.2.3.4") && !hint.contains(ADDRESS_SLOT), "{hint}");
        }
        assert!(hint(CallKind::Mint, 40_164, "", Language::English).contains("the public IP address of this server"));
        assert!(hint(CallKind::Mint, 12_345, "", Language::English).contains("12345"));
        assert!(hint(CallKind::Mint, 12_345, "", Language::Chinese).contains("12345"));
        let (mint, probe) = (CallKind::Mint, CallKind::Probe);
        assert_ne!(hint(mint, 40_001, "", Language::Chinese), hint(probe, 40_001, "", Language::Chinese));
    }
}
