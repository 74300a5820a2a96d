//! Log lines go to standard error, so that they never mix with data.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing_subscriber::filter::{EnvFilter, ParseError};

use crate::config::LogFormat;

/// Starts logging what `filter` names. A second call changes nothing.
///
/// # Errors
/// When `filter` is no list of levels and directives.
pub(super) fn start(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(quieted(filter))?;
    let is_terminal = std::io::stderr().is_terminal();
    let logging = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => logging.json().flatten_event(true).try_init(),
        LogFormat::Text if is_terminal => logging.try_init(),
        LogFormat::Text => logging.with_ansi(false).try_init(),
    };
    // Only tests set it up twice in one process.
    drop(started);
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// One line for a panic, wherever it happens; what it ends is somebody else's to say.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    tracing::error!("a panic at {place}: {}", panic.payload_as_str().map_or("no message", without_quotation));
}

/// The standard library's messages quote a text that was cut wrongly, which may be a secret, after these words.
fn without_quotation(message: &str) -> &str {
    let line = message.lines().next().unwrap_or_default();
    line.split_once(" of `").map_or(line, |(words, _)| words)
}

/// Statements are for those who debug: at the levels above that, sqlx is heard only when it is named.
fn quieted(filter: &str) -> String {
    let lower = filter.to_ascii_lowercase();
    if ["debug", "trace", "sqlx"].iter().any(|word| lower.contains(word)) {
        return filter.to_owned();
    }
    format!("{filter},sqlx::query=off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_over_a_text_does_not_show_it() {
        let text = String::from("秘canary");
        let panic = std::panic::catch_unwind(|| text[1..].len()).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(!without_quotation(message).contains("canary"), "{message}");
        assert_eq!(without_quotation("fail point x"), "fail point x");
    }

    #[test]
    fn statements_are_quiet_until_somebody_asks() {
        assert_eq!(quieted("info"), "info,sqlx::query=off");
        assert_eq!(quieted("debug"), "debug");
        assert_eq!(quieted("warn,sqlx=warn"), "warn,sqlx=warn");
        assert!(EnvFilter::builder().parse(quieted("warn,wxtoken=info")).is_ok());
    }
}
