//! The query of a request in WeChat's shape: looked into, and changed in one place without touching the rest.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::refusal::Refusal;

/// What need not be escaped in a value: what WeChat's tokens are made of.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A query as it came, without its question mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a>(pub(super) &'a str);

impl<'a> Query<'a> {
    fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
        self.0.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (pair, name, value)
        })
    }

    /// The decoded value of the parameter `name`, if it is there.
    ///
    /// # Errors
    /// When it is there twice: whoever reads the other one would see another request.
    pub(super) fn one(self, name: &'static str) -> Result<Option<Cow<'a, str>>, Refusal> {
        let mut found = self.pairs().filter(|(_, found, _)| is_named(found, name)).map(|(_, _, value)| value);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => Ok(Some(decode(value))),
            (Some(_), Some(_)) => Err(Refusal::WRONG_PARAMETER.hint(format!("the parameter {name} is there twice"))),
        }
    }

    /// The query with `value` for `name`: in the place where the parameter stands, or at the end.
    pub(super) fn with(self, name: &str, value: &str) -> String {
        let mut query = String::with_capacity(self.0.len() + value.len() + name.len() + 2);
        self.write_with(&mut query, name, value);
        query
    }

    /// Writes the query with `value` for `name` to the end of `text`.
    pub(super) fn write_with(self, text: &mut String, name: &str, value: &str) {
        let (mut is_placed, mut is_first) = (false, true);
        let mut write = |piece: &str, encoded: Option<&str>| {
            if !std::mem::take(&mut is_first) {
                text.push('&');
            }
            text.push_str(piece);
            if let Some(value) = encoded {
                text.push('=');
                text.extend(utf8_percent_encode(value, VALUE));
            }
        };
        for (pair, found, _) in self.pairs() {
            if is_named(found, name) {
                is_placed = true;
                write(name, Some(value));
            } else {
                write(pair, None);
            }
        }
        if !is_placed {
            write(name, Some(value));
        }
    }
}

fn is_named(raw: &str, name: &str) -> bool {
    raw == name || (raw.contains(['%', '+']) && decode(raw) == name)
}

/// A component of a form as WHATWG's URL standard reads it: `+` is a space, and escapes that are none stay as they are.
fn decode(raw: &str) -> Cow<'_, str> {
    if !raw.contains(['%', '+']) {
        return Cow::Borrowed(raw);
    }
    let spaced = raw.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_however_it_is_spelt() {
        let one = |query| Query(query).one("secret").map(|found| found.map(Cow::into_owned));
        assert_eq!(one("appid=wx1&secret=s%5F1+x"), Ok(Some("s_1 x".to_owned())));
        assert_eq!(one("%73ecret=1"), Ok(Some("1".to_owned())));
        assert_eq!(one("secret"), Ok(Some(String::new())));
        assert_eq!(one("&&secrets=1&Secret=2&=3&secret%=4&a=secret"), Ok(None));
        assert_eq!(one("secret=%zz%"), Ok(Some("%zz%".to_owned())));
        assert!(one("secret=1&%73ecret=1").is_err());
    }

    #[test]
    fn a_value_is_put_in_its_place_and_the_rest_stays() {
        let with = |query| Query(query).with("access_token", "84_a/b=");
        assert_eq!(with("type=1&access_token=old&x=%E4+%7E"), "type=1&access_token=84_a%2Fb%3D&x=%E4+%7E");
        assert_eq!(with("x"), "x&access_token=84_a%2Fb%3D");
        assert_eq!(with(""), "access_token=84_a%2Fb%3D");
        assert_eq!(with("acces%73_token=1&y=2"), "access_token=84_a%2Fb%3D&y=2");
    }
}
