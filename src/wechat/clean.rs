//! Makes WeChat's texts fit to be stored, logged and shown.

/// The most characters kept of WeChat's `errmsg`.
pub const LONGEST_ERRMSG: usize = 300;

/// `text` without control characters, at most [`LONGEST_ERRMSG`] characters long, and with `***` wherever `credential`
/// stands in it, in plain or percent-encoded.
pub(super) fn clean(text: &str, credential: &str) -> String {
    let visible: String = text.chars().filter(|char| !is_invisible(*char)).collect();
    let mut cleaned = String::new();
    let mut length = 0;
    let mut rest = visible.as_str();
    while let Some(next) = rest.chars().next() {
        if let Some(after) = skip_credential(rest, credential) {
            cleaned.push_str("***");
            length += 3;
            rest = after;
        } else {
            cleaned.push(next);
            length += 1;
            rest = &rest[next.len_utf8()..];
        }
        // Stopping here, not cutting afterwards, bounds the work and never leaves a part of a credential at the end.
        if length >= LONGEST_ERRMSG {
            break;
        }
    }
    cleaned.chars().take(LONGEST_ERRMSG).collect::<String>().trim().to_owned()
}

/// What follows `credential` at the start of `text`, as it is or with any of its bytes as `%XX`; `None` if it is not there.
fn skip_credential<'a>(text: &'a str, credential: &str) -> Option<&'a str> {
    if credential.is_empty() {
        return None;
    }
    // A credential may itself look percent-encoded, so its plain form goes first.
    text.strip_prefix(credential).or_else(|| credential.bytes().try_fold(text, skip_byte))
}

/// Credentials are visible ASCII, so a byte is a character.
fn skip_byte(text: &str, byte: u8) -> Option<&str> {
    if let Some(escape) = text.strip_prefix('%').and_then(|rest| rest.get(..2))
        && u8::from_str_radix(escape, 16).is_ok_and(|decoded| decoded == byte)
    {
        return text.get(3..);
    }
    text.strip_prefix(char::from(byte))
}

/// Control characters, and the marks that hide text or turn its direction round.
fn is_invisible(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invisible_characters_go_and_the_rest_stays() {
        let dirty = "invalid\r\n appid\u{1b}[31m\0\u{202e} 无效\u{200b}\n";
        assert_eq!(clean(dirty, "secret"), "invalid appid[31m 无效");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(clean(&"错".repeat(70_000), "secret"), "错".repeat(LONGEST_ERRMSG));
        let cut = clean(&format!("{}secret", "x".repeat(298)), "secret");
        assert_eq!(cut, format!("{}**", "x".repeat(298)));
    }

    #[test]
    fn the_credential_is_hidden_however_it_is_written() {
        for told in ["a+b/c%", "a%2Bb%2Fc%25", "a%2bb%2fc%25", "%61+b%2Fc%", "a+\u{0}b/\u{200b}c%"] {
            assert_eq!(clean(&format!("bad <{told}> given"), "a+b/c%"), "bad <***> given", "{told}");
        }
        assert_eq!(clean("%2525!", "%2525"), "***!");
        assert_eq!(clean("secretsecretsecre", "secret"), "******secre");
        assert_eq!(clean("kept", ""), "kept");
        assert_eq!(clean("%", "secret"), "%");
        assert_eq!(clean("%7", "secret"), "%7");
        assert_eq!(clean("%错", "secret"), "%错");
    }

    proptest! {
        #[test]
        fn no_text_shows_its_credential(
            before in ".{0,20}", after in ".{0,20}", credential in "[!-)+-~]{4,40}", times in 0_usize..40,
        ) {
            let cleaned = clean(&format!("{before}{}{after}", credential.repeat(times)), &credential);
            prop_assert!(!cleaned.contains(&credential));
            prop_assert!(cleaned.chars().count() <= LONGEST_ERRMSG);
        }
    }
}
