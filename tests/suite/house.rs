//! The rules of the house, held against the sources: who may use whom, and which words belong to one place only.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room and what it may use besides itself. `main → cli → startup → { http, refresher, mirror } → live → { store, wechat }
/// → { seal, domain }`, downwards only.
const ROOMS: &[(&str, &[&str])] = &[
    ("lib", &[]),
    ("main", &["cli"]),
    (
        "cli",
        &["startup", "http", "refresher", "mirror", "live", "store", "wechat", "seal", "domain", "config", "clock"],
    ),
    ("startup", &["http", "refresher", "mirror", "live", "store", "wechat", "seal", "domain", "config", "clock"]),
    // A report and a manual refresh come in by HTTP.
    ("http", &["refresher", "live", "store", "wechat", "seal", "domain", "clock"]),
    ("refresher", &["live", "store", "wechat", "seal", "domain", "clock", "fail_point"]),
    ("mirror", &["live", "store", "wechat", "seal", "domain", "clock"]),
    ("live", &["store", "wechat", "seal", "domain", "clock", "fail_point"]),
    ("store", &["seal", "domain", "fail_point"]),
    ("wechat", &["seal", "domain", "clock"]),
    ("seal", &["domain"]),
    ("domain", &[]),
    // The settings are checked in the words of those who will use them.
    ("config", &["store", "wechat", "domain"]),
    ("clock", &["domain"]),
    ("fail_point", &[]),
];

const DRIVER_WORDS: &[&str] = &["SqlitePool", "PgPool", "MySqlPool", "SqliteRow", "PgRow", "MySqlRow", "MySql"];
const DRIVERS: &[&str] = &["Sqlite", "Postgres", "sqlite", "postgres", "mysql"];
const CLOCK_READERS: &[&str] = &["SystemTime", "now_utc", "now_local"];

struct Source {
    path: PathBuf,
    words: Vec<String>,
}

impl Source {
    fn room(&self) -> &str {
        let first = self.path.iter().next().and_then(|part| part.to_str()).unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How often `super` leads from this file to the top of the crate.
    fn depth(&self) -> usize {
        let parts = self.path.components().count();
        if self.path.ends_with("mod.rs") { parts - 1 } else { parts }
    }

    fn is(&self, path: &str) -> bool {
        self.path == Path::new(path)
    }

    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|found| found == word)
    }

    /// Whether `words` stand here one after the other.
    fn has_path(&self, words: &[&str]) -> bool {
        self.words.windows(words.len()).any(|found| found == words)
    }

    /// The rooms that this file names, through `crate`, the crate's name or enough `super`s.
    fn used_rooms(&self) -> Vec<&str> {
        let mut rooms = Vec::new();
        for (index, word) in self.words.iter().enumerate() {
            let climbs = self.words[..=index].iter().rev().step_by(2).take_while(|word| *word == "super").count();
            let is_name = word == "wxtoken" && self.is("main.rs");
            if word == "crate" || is_name || (climbs > 0 && climbs >= self.depth()) {
                rooms.extend(heads(&self.words[index + 1..]));
            }
        }
        rooms.retain(|room| ROOMS.iter().any(|(name, _)| name == room));
        rooms
    }
}

/// The first names behind a path's first part: one, or those of a group in braces.
fn heads(words: &[String]) -> Vec<&str> {
    match words {
        [colons, brace, rest @ ..] if colons == "::" && brace == "{" => {
            let mut depth = 0;
            let mut names = Vec::new();
            let mut is_head = true;
            for word in rest {
                match word.as_str() {
                    "{" => depth += 1,
                    "}" if depth == 0 => break,
                    "}" => depth -= 1,
                    "," if depth == 0 => is_head = true,
                    name if is_head && depth == 0 => {
                        names.push(name);
                        is_head = false;
                    }
                    _ => {}
                }
            }
            names
        }
        [colons, name, ..] if colons == "::" => vec![name],
        _ => Vec::new(),
    }
}

/// The words of a source and its `::`, `{`, `}` and `,`; comments left out.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for line in text.lines() {
        let code = if line.trim_start().starts_with("//") { "" } else { line.split(" // ").next().unwrap_or("") };
        let mut word = String::new();
        let mut letters = code.chars().chain([' ']).peekable();
        while let Some(letter) = letters.next() {
            if letter.is_alphanumeric() || letter == '_' {
                word.push(letter);
                continue;
            }
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            if letter == ':' && letters.next_if_eq(&':').is_some() {
                words.push("::".to_owned());
            } else if !letter.is_whitespace() {
                words.push(letter.to_string());
            }
        }
    }
    words
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources can be read") {
            let path = entry.expect("a folder of sources can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source can be read");
                let path = path.strip_prefix(&root).expect("it was found there").to_owned();
                sources.push(Source { path, words: words(&text) });
            }
        }
    }
    assert!(sources.len() > 20, "these are not all the sources");
    sources
}

/// Every breach of the rules by `source`, a sentence each.
fn breaches(source: &Source) -> Vec<String> {
    let room = source.room();
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("the room {room} is not in the table of this test")];
    };
    let mut found = Vec::new();
    for used in source.used_rooms() {
        if used != room && !allowed.contains(&used) {
            found.push(format!("{room} must not use {used}"));
        }
    }
    let mut forbid = |is_breach: bool, sentence: &str| {
        if is_breach {
            found.push(sentence.to_owned());
        }
    };
    forbid(room == "http" && (source.has("sqlx") || source.has("reqwest")), "http names neither sqlx nor reqwest");
    forbid(room == "domain" && ["async", "tokio", "Instant"].iter().any(|word| source.has(word)), "domain is pure");
    forbid(
        !source.is("clock.rs") && CLOCK_READERS.iter().any(|word| source.has(word)),
        "only clock.rs reads the clock",
    );
    let names_driver = DRIVER_WORDS.iter().any(|word| source.has(word))
        || DRIVERS.iter().any(|word| source.has_path(&["sqlx", "::", word]))
        || sqlx_groups(source).iter().any(|word| DRIVERS.contains(word));
    let is_db = source.is("store/db.rs") || source.path.starts_with("store/db");
    forbid(names_driver && !is_db, "only store/db.rs and what is under it name a database driver");
    found
}

fn sqlx_groups(source: &Source) -> Vec<&str> {
    let starts = source.words.iter().enumerate().filter(|(_, word)| *word == "sqlx");
    starts.flat_map(|(index, _)| heads(&source.words[index + 1..])).collect()
}

#[test]
fn every_source_keeps_the_rules_of_the_house() {
    let found: Vec<String> = sources()
        .iter()
        .flat_map(|source| {
            breaches(source).into_iter().map(|breach| format!("src/{}: {breach}", source.path.display()))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The texts of all Rust files below `folder`, this one left out.
fn texts(folder: &str) -> Vec<String> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut texts = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources can be read") {
            let path = entry.expect("a folder of sources can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("suite/house.rs") {
                texts.push(fs::read_to_string(&path).expect("a source can be read"));
            }
        }
    }
    texts
}

#[test]
fn every_fail_point_has_a_test() {
    let sources = texts("src").join("\n");
    let points: Vec<_> =
        sources.split("fail_point::pass(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(points.len() >= 5, "these are not all: {points:?}");
    let tests = texts("tests").join("\n");
    for point in points {
        // As it is given to a server: alone, with the time that is meant, or with what is to happen.
        let named = ['"', ':', '='].iter().any(|end| tests.contains(&format!("\"{point}{end}")));
        assert!(named, "no test names the fail point {point}");
    }
}

#[test]
fn a_breach_is_found() {
    for (path, text) in [
        ("store/token.rs", "use crate::wechat::Client;"),
        ("wechat/client.rs", "use crate::{domain::{token, key}, store};"),
        ("store/lease.rs", "use crate::clock::Clock;"),
        ("refresher/mod.rs", "let settings: crate::config::Settings;"),
        ("http/mod.rs", "use super::config::Settings;"),
        ("http/api/keys.rs", "use super::super::super::cli;"),
        ("live/mod.rs", "use crate::http::api;"),
        ("main.rs", "wxtoken::startup::serve();"),
        ("http/problem.rs", "impl From<reqwest::Error> for Problem {}"),
        ("store/key.rs", "use sqlx::{Row, postgres::PgRow};"),
        ("store/key.rs", "use sqlx::{Row, Sqlite};"),
        ("store/key.rs", "fn f(pool: &PgPool) {}"),
        ("domain/token.rs", "pub async fn f() {}"),
        ("domain/token.rs", "use std::time::Instant;"),
        ("refresher/mod.rs", "std::time::SystemTime::now()"),
        ("attic/mod.rs", ""),
    ] {
        let source = Source { path: path.into(), words: words(text) };
        assert_eq!(breaches(&source).len(), 1, "{path}: {text}");
    }
}

#[test]
fn what_is_allowed_is_no_breach() {
    for (path, text) in [
        ("store/token.rs", "use super::db::{Db, Dialect};\nmatch d { Dialect::Sqlite => 1, Dialect::Postgres => 2 }"),
        (
            "store/token.rs",
            "/// Not like [`crate::wechat::Client`].\n// use crate::wechat;\n#[derive(sqlx::FromRow)] struct Row;",
        ),
        ("http/console/pages.rs", "use super::mirror; use super::super::api;"),
        ("cli/migrate.rs", "use crate::{config::Settings, startup::{self, http}};"),
    ] {
        let source = Source { path: path.into(), words: words(text) };
        assert_eq!(breaches(&source), Vec::<String>::new(), "{path}: {text}");
    }
}
