//! Printing: data to standard output, talk to standard error.

use std::error::Error;
use std::io::{self, ErrorKind, Write};

/// Writes a line of data. A reader that went away, as `head` does, is no failure; a full disk is.
pub(super) fn data(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{line}").and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line for the person at the terminal. There is nowhere to complain if that fails.
pub(super) fn talk(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A number and its noun.
pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// An error with everything that led to it, each part on a line of its own. Libraries often repeat the cause in their own
/// sentence; it is said once.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let sentence = cause.to_string().replace('\n', "\n  ");
        if !text.contains(&sentence) {
            text.push_str(":\n  ");
            text.push_str(&sentence);
        }
        source = cause.source();
    }
    text
}
