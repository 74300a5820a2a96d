//! Gathers settings from `.env`, the environment and flags. Nothing is parsed here but `.env` itself.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::table::{OTHER_NAMES, SETTINGS};

const DEFAULT_ENV_FILE: &str = ".env";
const PREFIX: &str = "WXTOKEN_";
const FILE_SUFFIX: &str = "_FILE";
/// Differences up to which two names are taken for each other.
const LARGEST_TYPO: usize = 4;

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file of settings.
    EnvFile {
        /// The file.
        path: PathBuf,
        /// The line that it ends on.
        line: usize,
    },
    /// In the environment.
    Environment,
    /// As a flag.
    Flag,
    /// In a file that the setting's `_FILE` names.
    SecretFile,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnvFile { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Environment => f.write_str("the environment"),
            Self::Flag => f.write_str("a flag"),
            Self::SecretFile => f.write_str("the file that its _FILE names"),
        }
    }
}

/// The values given, before they are parsed, and what was noticed on the way.
#[derive(Default)]
pub struct Sources {
    values: BTreeMap<String, (String, Origin)>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Sources {
    /// Reads `.env` (or `env_file`, which must then exist), lets the environment win over it and flags over both, and replaces each
    /// `NAME_FILE` of a secret by what the file holds.
    pub fn gather(
        env_file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        let mut sources = Self::default();
        let path = env_file.unwrap_or(Path::new(DEFAULT_ENV_FILE));
        match std::fs::read(path) {
            Ok(bytes) => sources.add_env_file(path, &bytes),
            Err(error) if error.kind() == ErrorKind::NotFound && env_file.is_none() => {}
            Err(error) => sources.problems.push(format!("{} cannot be read: {error}.", path.display())),
        }
        sources.add_environment(environment);
        for (name, value) in flags {
            sources.add(name.to_owned(), value, Origin::Flag);
        }
        sources.warn_of_unknown_names();
        sources.read_secret_files(|path| std::fs::read_to_string(path));
        sources
    }

    /// What is likely a mistake and does not stop the program, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(super) fn get(&self, name: &str) -> Option<(&str, &Origin)> {
        self.values.get(name).map(|(value, origin)| (value.as_str(), origin))
    }

    /// An empty value counts as absent: containers often pass on variables that are not set.
    pub(super) fn add(&mut self, name: String, value: String, origin: Origin) {
        if !value.trim().is_empty() {
            self.values.insert(name, (value, origin));
        }
    }

    pub(super) fn add_environment(&mut self, environment: impl IntoIterator<Item = (OsString, OsString)>) {
        for (name, value) in environment {
            let Ok(name) = name.into_string() else { continue };
            if !is_ours(&name) {
                continue;
            }
            match value.into_string() {
                Ok(value) => self.add(name, value, Origin::Environment),
                Err(_) => self.problems.push(format!("{name} is not UTF-8 text (given in the environment).")),
            }
        }
    }

    /// Every malformed line is a problem. Its text is never repeated: it may hold a secret.
    pub(super) fn add_env_file(&mut self, path: &Path, bytes: &[u8]) {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
                self.problems.push(format!("{}, line {line}: not UTF-8 text; save the file as UTF-8.", path.display()));
                return;
            }
        };
        let lines_read = Rc::new(Cell::new(0));
        let reader = LineByLine { rest: bytes, lines_read: Rc::clone(&lines_read) };
        for entry in dotenvy::from_read_iter(reader) {
            let line = lines_read.get();
            match entry {
                Ok((name, value)) => {
                    self.warn_of_expansion(path, line, &name, text.lines().nth(line.saturating_sub(1)).unwrap_or(""));
                    self.add(name, value, Origin::EnvFile { path: path.to_owned(), line });
                }
                Err(error) => self.problems.push(malformed(path, line, &error)),
            }
        }
    }

    fn warn_of_expansion(&mut self, path: &Path, line: usize, name: &str, text: &str) {
        if is_ours(name) && text.contains('$') && !text.contains('\'') {
            self.warnings.push(format!(
                "{}, line {line}: in {name} the $ and the name behind it are replaced by a variable; put the value in \
                 'single quotes' if it is meant literally.",
                path.display()
            ));
        }
    }

    pub(super) fn warn_of_unknown_names(&mut self) {
        let known: Vec<String> = known_names().collect();
        for name in self.values.keys().filter(|name| name.starts_with(PREFIX) && !known.contains(name)) {
            let nearest = known.iter().min_by_key(|candidate| differences(name, candidate));
            let largest = LARGEST_TYPO.min((name.len() - PREFIX.len()) / 2);
            let hint = nearest.filter(|candidate| differences(name, candidate) <= largest);
            let hint = hint.map_or_else(String::new, |candidate| format!("; did you mean {candidate}?"));
            self.warnings.push(format!("There is no setting {name}{hint}"));
        }
    }

    pub(super) fn read_secret_files(&mut self, read: impl Fn(&Path) -> io::Result<String>) {
        for setting in SETTINGS.iter().filter(|setting| setting.secret) {
            let name = setting.name;
            let Some((path, origin)) = self.values.remove(&format!("{name}{FILE_SUFFIX}")) else { continue };
            if let Some((_, other)) = self.values.get(name) {
                self.problems.push(format!(
                    "{name} and {name}{FILE_SUFFIX} are both given, in {other} and in {origin}; keep one of them."
                ));
                continue;
            }
            match read(Path::new(path.trim())) {
                Ok(text) if text.trim().is_empty() => {
                    self.problems.push(format!("{name}{FILE_SUFFIX} names an empty file (given in {origin})."));
                }
                Ok(text) => self.add(name.to_owned(), text.trim().to_owned(), Origin::SecretFile),
                Err(error) => self.problems.push(format!(
                    "{name}{FILE_SUFFIX} names a file that cannot be read: {error} (given in {origin})."
                )),
            }
        }
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || known_names().any(|known| known == name)
}

fn known_names() -> impl Iterator<Item = String> {
    let settings = SETTINGS.iter().map(|setting| setting.name.to_owned());
    let files =
        SETTINGS.iter().filter(|setting| setting.secret).map(|setting| format!("{}{FILE_SUFFIX}", setting.name));
    settings.chain(files).chain(OTHER_NAMES.iter().map(|name| (*name).to_owned()))
}

fn malformed(path: &Path, last_line: usize, error: &dotenvy::Error) -> String {
    let lines = match error {
        dotenvy::Error::LineParse(text, _) => text.lines().count().max(1),
        _ => 1,
    };
    format!(
        "{}, line {}: not of the form NAME=value; put a value with a space, a quote, a # or a $ in 'single quotes'.",
        path.display(),
        (last_line + 1).saturating_sub(lines).max(1)
    )
}

/// Hands out one line at a time, so that the parser has read as many lines as it has dealt with.
struct LineByLine<'a> {
    rest: &'a [u8],
    lines_read: Rc<Cell<usize>>,
}

impl Read for LineByLine<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let line_end = self.rest.iter().position(|byte| *byte == b'\n').map_or(self.rest.len(), |end| end + 1);
        let (piece, rest) = self.rest.split_at(line_end.min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(piece);
        self.rest = rest;
        if piece.ends_with(b"\n") || (rest.is_empty() && !piece.is_empty()) {
            self.lines_read.set(self.lines_read.get() + 1);
        }
        Ok(piece.len())
    }
}

/// How many letters to add, drop or change to make one name of the other.
fn differences(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (index, rival) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *rival);
            diagonal = row[index + 1];
            row[index + 1] = changed.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row[other.len()]
}
