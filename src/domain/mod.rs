//! Plain types and pure rules. Nothing here does I/O, waits, or asks for the time: `now` and random rolls are arguments.

pub mod account;
pub mod adoption;
pub mod budget;
pub mod health;
pub mod key;
pub mod mirror;
pub mod path_rules;
pub mod refresh;
pub mod schedule;
pub mod sdk;
pub mod secret;
pub mod settlement;
pub mod signature;
pub mod suspicion;
pub mod timestamp;
pub mod token;

/// A value that a caller gave us and that we refuse, with the field it stood in and a sentence that says what to do.
///
/// The sentence never repeats the value: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// The field's name as the caller spelled it, `appid` for example.
    pub field: &'static str,
    /// What is wrong and what to do about it.
    pub reason: String,
}

impl Invalid {
    /// An error for `field` with the sentence `reason`.
    pub fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }
}

/// Lower-case hexadecimal text of `bytes`.
pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
