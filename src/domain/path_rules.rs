//! Which of WeChat's paths a key may call through us.

use super::Invalid;

/// The most patterns in one list.
pub const MOST_PATTERNS: usize = 50;
/// The longest pattern, in characters.
pub const LONGEST_PATTERN: usize = 200;

/// A path, or with `*` at its end all that begin like it. WeChat's paths are compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(String);

impl Pattern {
    fn parse(field: &'static str, text: &str) -> Result<Self, Invalid> {
        let (fixed, _) = text.split_once('*').filter(|(_, rest)| rest.is_empty()).unwrap_or((text, ""));
        let is_path_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-.".contains(&byte);
        if !fixed.starts_with('/') || text.len() > LONGEST_PATTERN || !fixed.bytes().all(is_path_letter) {
            let reason = "a pattern is a path like /cgi-bin/menu/get, or its beginning and a * like /cgi-bin/message/*, \
                          of at most 200 characters";
            return Err(Invalid::new(field, reason));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    fn matches(&self, path: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => path.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning)),
            None => path.eq_ignore_ascii_case(&self.0),
        }
    }
}

/// The paths that a key may call, and those of them that it may not. Without any pattern it may call all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathRules {
    allowed: Vec<Pattern>,
    denied: Vec<Pattern>,
}

impl PathRules {
    /// Reads two lists of patterns. An empty list of allowed paths stands for all.
    ///
    /// # Errors
    /// When a list is too long or holds something that is no pattern.
    pub fn parse<'a>(
        allowed: impl IntoIterator<Item = &'a str>,
        denied: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Invalid> {
        let read = |field, texts: Vec<&str>| {
            if texts.len() > MOST_PATTERNS {
                return Err(Invalid::new(field, "name at most 50 patterns; shorten them with a * at the end"));
            }
            texts.into_iter().map(|text| Pattern::parse(field, text)).collect()
        };
        Ok(Self {
            allowed: read("allow_paths", allowed.into_iter().collect())?,
            denied: read("deny_paths", denied.into_iter().collect())?,
        })
    }

    /// Whether `path` may be called: it is allowed, and not denied.
    pub fn allow(&self, path: &str) -> bool {
        // Whether WeChat minds a slash at the end is not known.
        let path = path.trim_end_matches('/');
        (self.allowed.is_empty() || self.allowed.iter().any(|pattern| pattern.matches(path)))
            && !self.denied.iter().any(|pattern| pattern.matches(path))
    }

    /// Whether every path may be called.
    pub fn are_empty(&self) -> bool {
        self.allowed.is_empty() && self.denied.is_empty()
    }

    /// The patterns of the allowed paths.
    pub fn allowed(&self) -> impl Iterator<Item = &str> {
        self.allowed.iter().map(|pattern| pattern.0.as_str())
    }

    /// The patterns of the denied paths.
    pub fn denied(&self) -> impl Iterator<Item = &str> {
        self.denied.iter().map(|pattern| pattern.0.as_str())
    }

    /// Whether it can be said without doubt that these allow no more than `other`: `other` allows all, or both are the same.
    pub fn within(&self, other: &Self) -> bool {
        other.are_empty() || self == other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_and_not_denied_may_be_called() {
        let rules = PathRules::parse(["/cgi-bin/message/*", "/cgi-bin/menu/get"], ["/cgi-bin/message/mass/*"]).unwrap();
        for (path, may) in [
            ("/cgi-bin/message/custom/send", true),
            ("/CGI-BIN/Message/custom/send", true),
            ("/cgi-bin/menu/get/", true),
            ("/cgi-bin/message/mass/send", false),
            ("/cgi-bin/message/MASS/send", false),
            ("/cgi-bin/menu/get", true),
            ("/cgi-bin/menu/get/more", false),
            ("/cgi-bin/menu/delete", false),
            ("/cgi-bin/mess", false),
        ] {
            assert_eq!(rules.allow(path), may, "{path}");
        }
        assert!(PathRules::default().allow("/anything"));
        let denying = PathRules::parse([], ["/cgi-bin/menu/*"]).unwrap();
        assert!(denying.allow("/sns/jscode2session") && !denying.allow("/cgi-bin/menu/create"));
        let exact = PathRules::parse([], ["/cgi-bin/menu/delete"]).unwrap();
        assert!(!exact.allow("/cgi-bin/menu/delete/"));
        let nothing = PathRules::parse([], ["/*"]).unwrap();
        assert!(!nothing.allow("/cgi-bin/menu/create"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let long = format!("/{}", "x".repeat(LONGEST_PATTERN));
        for bad in ["", "cgi-bin/menu", "*", "/a*b", "/a**", "/a b", "/%2e", "/a?b=c", "https://x/", "/a\n", &long] {
            assert!(PathRules::parse([bad], []).is_err(), "{bad}");
        }
        assert!(PathRules::parse(["/x"; 51], []).is_err());
    }

    #[test]
    fn rules_are_within_themselves_and_within_none() {
        let some = PathRules::parse(["/a"], []).unwrap();
        assert!(some.within(&some) && some.within(&PathRules::default()) && !PathRules::default().within(&some));
    }
}
