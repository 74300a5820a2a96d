//! WeChat's answers as text, sound or damaged.

use serde_json::Value;

use super::fault::{Fault, FaultKind};
use super::settings::ExpiresInForm;

/// Padding of a `huge_body` fault that names no size, in bytes.
const HUGE_BODY_BYTES: usize = 2 * 1024 * 1024;
/// The token of a `long_token` fault that names no size, in bytes.
const LONG_TOKEN_BYTES: usize = 1024 * 1024;

/// What is answered, before any fault.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// An access token.
    Token { value: String, expires_in: u64, form: ExpiresInForm },
    /// A ticket, whose answer also says `errcode: 0`.
    Ticket { value: String, expires_in: u64 },
    /// A refusal.
    Refused { errcode: i64, errmsg: String },
    /// A file of the simulator's pattern.
    File { length: u64 },
    /// Something else.
    Other(Value),
}

impl Answer {
    /// WeChat's JSON, with fields in WeChat's order; empty for a file, which is none.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Token { value, expires_in, form } => {
                format!("{{\"access_token\":\"{value}\"{}}}", expires_in_field(*form, *expires_in))
            }
            Self::Ticket { value, expires_in } => {
                format!("{{\"errcode\":0,\"errmsg\":\"ok\",\"ticket\":\"{value}\",\"expires_in\":{expires_in}}}")
            }
            Self::Refused { errcode, errmsg } => {
                format!("{{\"errcode\":{errcode},\"errmsg\":{}}}", Value::from(errmsg.as_str()))
            }
            Self::File { .. } => String::new(),
            Self::Other(value) => value.to_string(),
        }
    }

    /// The token or ticket it gives.
    pub(super) fn value(&self) -> Option<&str> {
        match self {
            Self::Token { value, .. } | Self::Ticket { value, .. } => Some(value),
            Self::Refused { .. } | Self::File { .. } | Self::Other(_) => None,
        }
    }

    fn without_value(&self) -> String {
        match self {
            Self::Token { expires_in, form, .. } => {
                format!("{{{}}}", expires_in_field(*form, *expires_in).trim_start_matches(','))
            }
            Self::Ticket { expires_in, .. } => {
                format!("{{\"errcode\":0,\"errmsg\":\"ok\",\"expires_in\":{expires_in}}}")
            }
            Self::Refused { .. } | Self::File { .. } | Self::Other(_) => self.to_text(),
        }
    }

    fn with_value(&self, value: &str) -> Self {
        let value = value.to_owned();
        match self.clone() {
            Self::Token { expires_in, form, .. } => Self::Token { value, expires_in, form },
            Self::Ticket { expires_in, .. } => Self::Ticket { value, expires_in },
            other => other,
        }
    }

    /// The body's bytes under `fault`. Faults of the connection leave the body as it is.
    pub(super) fn to_bytes(&self, fault: Option<&Fault>) -> Vec<u8> {
        let text = self.to_text();
        let Some(fault) = fault else { return text.into_bytes() };
        match fault.kind {
            FaultKind::EmptyBody => Vec::new(),
            FaultKind::Html => page("200 OK", "Please sign in to this network"),
            FaultKind::Http502 => page("502 Bad Gateway", "502 Bad Gateway"),
            FaultKind::Http504 => page("504 Gateway Time-out", "504 Gateway Time-out"),
            FaultKind::Redirect => page("302 Found", "302 Found"),
            FaultKind::TruncatedJson => text.as_bytes()[..text.len() / 2].to_vec(),
            FaultKind::WrongShapeArray => b"[]".to_vec(),
            FaultKind::WrongShapeNull => b"null".to_vec(),
            FaultKind::EmptyToken => self.with_value("").to_text().into_bytes(),
            FaultKind::MissingToken => self.without_value().into_bytes(),
            FaultKind::LongToken => {
                self.with_value(&"x".repeat(fault.bytes.unwrap_or(LONG_TOKEN_BYTES))).to_text().into_bytes()
            }
            FaultKind::TrailingGarbage => (text + "\n<!-- served by cache 7 -->").into_bytes(),
            FaultKind::InvalidUtf8 => spoilt(text.into_bytes()),
            FaultKind::DuplicateKeys => self.with_first_field_twice(&text),
            FaultKind::HugeBody => {
                let padding = "x".repeat(fault.bytes.unwrap_or(HUGE_BODY_BYTES));
                with_last_field(text, &format!("\"padding\":\"{padding}\"")).into_bytes()
            }
            _ => text.into_bytes(),
        }
    }

    fn with_first_field_twice(&self, text: &str) -> Vec<u8> {
        let again = match self {
            Self::Token { .. } => "\"access_token\":\"not-the-token\"",
            Self::Ticket { .. } => "\"ticket\":\"not-the-ticket\"",
            Self::Refused { .. } | Self::File { .. } | Self::Other(_) => "\"errcode\":-1",
        };
        with_last_field(text.to_owned(), again).into_bytes()
    }
}

fn expires_in_field(form: ExpiresInForm, expires_in: u64) -> String {
    match form {
        ExpiresInForm::Number => format!(",\"expires_in\":{expires_in}"),
        ExpiresInForm::String => format!(",\"expires_in\":\"{expires_in}\""),
        ExpiresInForm::Missing => String::new(),
        ExpiresInForm::Zero => ",\"expires_in\":0".to_owned(),
        ExpiresInForm::Negative => ",\"expires_in\":-1".to_owned(),
        ExpiresInForm::Huge => ",\"expires_in\":99999999999".to_owned(),
    }
}

fn with_last_field(mut object: String, field: &str) -> String {
    object.truncate(object.len().saturating_sub(1));
    object.push(',');
    object.push_str(field);
    object.push('}');
    object
}

/// Puts a byte that UTF-8 never has inside the last string or number.
fn spoilt(mut text: Vec<u8>) -> Vec<u8> {
    let middle = text.len() / 2;
    text.insert(middle, 0xff);
    text
}

fn page(title: &str, words: &str) -> Vec<u8> {
    format!("<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{words}</h1></body>\r\n</html>\r\n")
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(form: ExpiresInForm) -> Answer {
        Answer::Token { value: "98_x".into(), expires_in: 7_200, form }
    }

    #[test]
    fn expires_in_takes_every_form() {
        for (form, text) in [
            (ExpiresInForm::Number, r#"{"access_token":"98_x","expires_in":7200}"#),
            (ExpiresInForm::String, r#"{"access_token":"98_x","expires_in":"7200"}"#),
            (ExpiresInForm::Missing, r#"{"access_token":"98_x"}"#),
            (ExpiresInForm::Zero, r#"{"access_token":"98_x","expires_in":0}"#),
            (ExpiresInForm::Negative, r#"{"access_token":"98_x","expires_in":-1}"#),
            (ExpiresInForm::Huge, r#"{"access_token":"98_x","expires_in":99999999999}"#),
        ] {
            assert_eq!(token(form).to_text(), text);
        }
    }

    #[test]
    fn damage_is_what_its_name_says() {
        let damaged = |kind| {
            let bytes = token(ExpiresInForm::Number).to_bytes(Some(&Fault::new(kind)));
            String::from_utf8_lossy(&bytes).into_owned()
        };
        assert_eq!(damaged(FaultKind::WrongShapeArray), "[]");
        assert_eq!(damaged(FaultKind::WrongShapeNull), "null");
        assert_eq!(damaged(FaultKind::EmptyToken), r#"{"access_token":"","expires_in":7200}"#);
        assert_eq!(damaged(FaultKind::MissingToken), r#"{"expires_in":7200}"#);
        assert!(serde_json::from_str::<Value>(&damaged(FaultKind::LongToken)).unwrap()["access_token"].is_string());
        assert_eq!(damaged(FaultKind::TruncatedJson), r#"{"access_token":"98_"#);
        assert_eq!(
            damaged(FaultKind::DuplicateKeys),
            r#"{"access_token":"98_x","expires_in":7200,"access_token":"not-the-token"}"#
        );
        assert!(damaged(FaultKind::InvalidUtf8).contains('\u{fffd}'));
        let huge = damaged(FaultKind::HugeBody);
        assert!(huge.len() > 1024 * 1024 && serde_json::from_str::<Value>(&huge).is_ok());
        assert!(serde_json::from_str::<Value>(&damaged(FaultKind::TrailingGarbage)).is_err());
    }
}
