//! Reads WeChat's answers. They are hostile input: nothing is believed that is not exactly as expected.
//!
//! An answer is one JSON object in UTF-8, told by its bytes and never by its `Content-Type`. A byte order mark and white
//! space around it are let pass; anything else after it is refused, and so is a field we read that stands there twice.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::clean::clean;
use super::error::{CallError, Refusal};
use crate::domain::refresh::CallKind;
use crate::domain::schedule::LONGEST_LIFETIME;
use crate::domain::secret::TokenValue;

/// A token or ticket as WeChat gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The value.
    pub value: TokenValue,
    /// How long it lives, counted from the moment the request was sent; 1 s to [`LONGEST_LIFETIME`].
    pub expires_in: Duration,
}

/// What an answer belongs to: the call it answers, and the credential that it must not repeat.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) call: CallKind,
    pub(super) credential: &'a str,
}

/// The field that holds what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueField {
    AccessToken,
    Ticket,
}

/// The fields we read. A repeated one is refused by the derived reader.
#[derive(Deserialize)]
struct Fields {
    errcode: Option<Value>,
    errmsg: Option<Value>,
    access_token: Option<Value>,
    ticket: Option<Value>,
    expires_in: Option<Value>,
    ip_list: Option<Value>,
}

/// Reads the answer to a call for a token or ticket.
pub(super) fn read_value(asked: Asked<'_>, body: &[u8], field: ValueField) -> Result<Answer, CallError> {
    let fields = read_accepted(asked, body)?;
    let (value, missing) = match field {
        ValueField::AccessToken => (fields.access_token, "it holds no access_token"),
        ValueField::Ticket => (fields.ticket, "it holds no ticket"),
    };
    let Some(Value::String(value)) = value.filter(|value| value != "") else {
        return Err(unreadable(missing));
    };
    let value = TokenValue::parse(&value).map_err(|_| unreadable("its token is too long or no visible ASCII"))?;
    let expires_in =
        fields.expires_in.as_ref().and_then(lifetime).ok_or(unreadable("its expires_in is no lifetime"))?;
    Ok(Answer { value, expires_in })
}

/// Reads the answer to a probe: accepted means a list of WeChat's addresses, however long, or a plain `errcode` of 0.
pub(super) fn read_probe(asked: Asked<'_>, body: &[u8]) -> Result<(), CallError> {
    let fields = read_accepted(asked, body)?;
    match fields.ip_list {
        Some(Value::Array(_)) => Ok(()),
        None if fields.errcode.is_some_and(|code| !code.is_null()) => Ok(()),
        _ => Err(unreadable("it holds no ip_list")),
    }
}

/// The refusal in a body that came with an HTTP status of failure; `None` when there is none.
pub(super) fn read_refusal(asked: Asked<'_>, body: &[u8]) -> Option<CallError> {
    read_accepted(asked, body).err().filter(|error| matches!(error, CallError::Refused(_)))
}

fn read_accepted(asked: Asked<'_>, body: &[u8]) -> Result<Fields, CallError> {
    let fields = read_fields(body)?;
    let errcode = match &fields.errcode {
        None => 0,
        Some(code) => integer(code).ok_or(unreadable("its errcode is no number"))?,
    };
    if errcode == 0 {
        return Ok(fields);
    }
    let errmsg = fields.errmsg.as_ref().and_then(Value::as_str).unwrap_or_default();
    let errmsg = clean(errmsg, asked.credential);
    Err(CallError::Refused(Refusal { call: asked.call, errcode, errmsg }))
}

fn read_fields(body: &[u8]) -> Result<Fields, CallError> {
    let text = std::str::from_utf8(body).map_err(|_| unreadable("it is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    match text.bytes().next() {
        None => Err(unreadable("it is empty")),
        Some(b'<') => Err(unreadable("it is a web page, which something between here and WeChat may have sent")),
        // The derived reader would take an array for an object, field by field.
        Some(b'{') => serde_json::from_str(text).map_err(|_| unreadable("it is not one well-formed JSON object")),
        Some(_) => Err(unreadable("it is not a JSON object")),
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(digits) => digits.parse().ok(),
        _ => None,
    }
}

/// Seconds as an integer, a decimal number or a string of digits, cut to [`LONGEST_LIFETIME`]; `None` unless at least 1.
fn lifetime(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    let seconds = seconds.min(LONGEST_LIFETIME.as_secs_f64()).floor();
    (seconds >= 1.0).then(|| Duration::from_secs_f64(seconds))
}

const fn unreadable(what: &'static str) -> CallError {
    CallError::Unreadable { what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASKED: Asked<'static> = Asked { call: CallKind::Mint, credential: "canary" };

    fn token(body: &[u8]) -> Result<Answer, CallError> {
        read_value(ASKED, body, ValueField::AccessToken)
    }

    fn seconds(expires_in: &str) -> Option<u64> {
        let body = format!(r#"{{"access_token":"T","expires_in":{expires_in}}}"#);
        token(body.as_bytes()).ok().map(|answer| answer.expires_in.as_secs())
    }

    #[test]
    fn answers_in_every_dress_that_wechat_wears_are_read() {
        for body in [
            r#"{"access_token":"T","expires_in":7200}"#,
            r#"{"errcode":0,"errmsg":"ok","access_token":"T","expires_in":7200}"#,
            r#"{"errcode":"0","access_token":"T","expires_in":"7200"}"#,
            r#"{"errcode":null,"access_token":"T","expires_in":7200}"#,
            r#"{"access_token":"T","expires_in":7200,"warning_msg":"x","warning_msg":["y",{"z":null}]}"#,
            "\u{feff}{\"access_token\":\"T\",\"expires_in\":7200}",
            "\r\n {\"access_token\" : \"\\u0054\" , \"expires_in\" : 7.2e3 } \n\n",
        ] {
            let answer = token(body.as_bytes()).unwrap();
            assert_eq!((answer.value.expose(), answer.expires_in), ("T", LONGEST_LIFETIME), "{body}");
        }
        let ticket = br#"{"errcode":0,"errmsg":"ok","ticket":"K","expires_in":345}"#;
        let answer = read_value(ASKED, ticket, ValueField::Ticket).unwrap();
        assert_eq!((answer.value.expose(), answer.expires_in.as_secs()), ("K", 345));
    }

    #[test]
    fn lifetimes_are_believed_up_to_two_hours() {
        for (told, believed) in [
            ("1", Some(1)),
            ("345", Some(345)),
            ("\"345\"", Some(345)),
            ("345.9", Some(345)),
            ("7201", Some(7_200)),
            ("1e10", Some(7_200)),
            ("18446744073709551615", Some(7_200)),
            ("99999999999999999999999999", Some(7_200)),
            ("\"99999999999999999999999999\"", Some(7_200)),
            ("0", None),
            ("-0", None),
            ("0.5", None),
            ("-1", None),
            ("-1e308", None),
            ("1e999", None),
            ("null", None),
            ("true", None),
            ("NaN", None),
            ("\"NaN\"", None),
            ("\"\"", None),
            ("\" 7200\"", None),
            ("\"-1\"", None),
            ("\"1e3\"", None),
            ("\"two hours\"", None),
            ("[7200]", None),
            ("{\"seconds\":7200}", None),
        ] {
            assert_eq!(seconds(told), believed, "{told}");
        }
    }

    #[test]
    fn hostile_bodies_are_unreadable() {
        let deep = format!("{}{}", "{\"errcode\":".repeat(5_000), "}".repeat(5_000));
        let deep_list = format!("{{\"access_token\":{}", "[".repeat(60_000));
        let long = format!(r#"{{"access_token":"{}","expires_in":7200}}"#, "x".repeat(2_049));
        let utf16: Vec<u8> =
            "\u{feff}{\"access_token\":\"T\",\"expires_in\":7200}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let bodies: &[&[u8]] = &[
            b"",
            b" \r\n\t",
            b"\xef\xbb\xbf",
            b"\0",
            b"ok",
            b"null",
            b"true",
            b"NaN",
            b"0",
            b"7200",
            b"\"T\"",
            b"[]",
            br#"["T"]"#,
            br#"[0,"ok","T",null,7200,[]]"#,
            br#"[{"access_token":"T","expires_in":7200}]"#,
            b"{}",
            b"{",
            b"}{",
            br#"{"errcode":0}"#,
            br#"{"errcode":0,"errmsg":"ok"}"#,
            br#"{"access_token":"T"}"#,
            br#"{"expires_in":7200}"#,
            br#"{"access_token":"","expires_in":7200}"#,
            br#"{"access_token":null,"expires_in":7200}"#,
            br#"{"access_token":5,"expires_in":7200}"#,
            br#"{"access_token":["T"],"expires_in":7200}"#,
            br#"{"access_token":"a b","expires_in":7200}"#,
            br#"{"access_token":"a\u0000b","expires_in":7200}"#,
            "{\"access_token\":\"令牌\",\"expires_in\":7200}".as_bytes(),
            br#"{"ACCESS_TOKEN":"T","expires_in":7200}"#,
            br#"{"ticket":"T","expires_in":7200}"#,
            br#"{"data":{"access_token":"T","expires_in":7200}}"#,
            br#"{"access_token":"T","expires_in":72"#,
            br#"{"access_token":"T","expires_in":7200}x"#,
            br#"{"access_token":"T","expires_in":7200}{}"#,
            b"{\"access_token\":\"T\",\"expires_in\":7200}\0",
            br#"{"access_token":"T","access_token":"U","expires_in":7200}"#,
            br#"{"access_token":"T","expires_in":7200,"expires_in":1}"#,
            br#"{"errcode":0,"errcode":40013,"access_token":"T","expires_in":7200}"#,
            br#"{"errcode":40013,"errcode":0,"access_token":"T","expires_in":7200}"#,
            br#"{"access_token":"T","expires_in":7200,}"#,
            br"{'access_token':'T','expires_in':7200}",
            br#"callback({"access_token":"T","expires_in":7200})"#,
            br#"{"errcode":"none","access_token":"T","expires_in":7200}"#,
            br#"{"errcode":0.5,"access_token":"T","expires_in":7200}"#,
            br#"{"errcode":99999999999999999999,"errmsg":"x"}"#,
            br#"{"errcode":true,"access_token":"T","expires_in":7200}"#,
            b"<html><body>502 Bad Gateway</body></html>",
            b"\xef\xbb\xbf<!DOCTYPE html>",
            b"{\"access_token\":\"T\xff\",\"expires_in\":7200}",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
            &utf16,
            deep.as_bytes(),
            deep_list.as_bytes(),
            long.as_bytes(),
        ];
        for body in bodies {
            let error = token(body).unwrap_err();
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
            assert!(matches!(error, CallError::Unreadable { .. }), "{shown}: {error:?}");
        }
    }

    #[test]
    fn a_code_of_failure_wins_over_a_token() {
        for (body, errcode, errmsg) in [
            (r#"{"errcode":40013,"errmsg":"invalid appid rid: 1"}"#, 40_013, "invalid appid rid: 1"),
            (r#"{"errcode":"40125","errmsg":"bad canary\n"}"#, 40_125, "bad ***"),
            (r#"{"errcode":-1,"access_token":"T","expires_in":7200}"#, -1, ""),
            (r#"{"errcode":"-1000","errmsg":{"deep":1}}"#, -1_000, ""),
        ] {
            let refusal = Refusal { call: CallKind::Mint, errcode, errmsg: errmsg.to_owned() };
            assert_eq!(token(body.as_bytes()), Err(CallError::Refused(refusal)), "{body}");
        }
    }

    #[test]
    fn a_probe_needs_its_list_or_a_plain_yes() {
        let probe = |body: &str| read_probe(Asked { call: CallKind::Probe, ..ASKED }, body.as_bytes());
        assert_eq!(probe(r#"{"ip_list":["101.89.47.18"]}"#), Ok(()));
        assert_eq!(probe(r#"{"errcode":0,"ip_list":[]}"#), Ok(()));
        assert_eq!(probe(r#"{"errcode":0,"errmsg":"ok"}"#), Ok(()));
        for body in ["{}", r#"{"errcode":null}"#, r#"{"errcode":0,"ip_list":"101.89.47.18"}"#, "<html>"] {
            assert!(matches!(probe(body), Err(CallError::Unreadable { .. })), "{body}");
        }
        assert!(matches!(probe(r#"{"errcode":42001,"ip_list":[]}"#), Err(CallError::Refused(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_upset_the_reader(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = token(&body);
            let _ = read_probe(ASKED, &body);
            let _ = read_refusal(ASKED, &body);
        }

        #[test]
        fn no_near_miss_upsets_the_reader(
            value in r#"("[^"]{0,9}"|-?[0-9]{0,25}(\.[0-9]{1,3})?(e[0-9]{1,3})?|null|\[\]|\{\})"#, code in "(0|-?[1-9][0-9]{0,20}|null)",
        ) {
            let body = format!(r#"{{"errcode":{code},"errmsg":{value},"access_token":{value},"expires_in":{value}}}"#);
            if let Ok(answer) = token(body.as_bytes()) {
                prop_assert!(answer.expires_in >= Duration::from_secs(1) && answer.expires_in <= LONGEST_LIFETIME);
            }
        }
    }
}
