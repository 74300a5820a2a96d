//! Log lines go to standard error, so that they never mix with data.

use std::io::IsTerminal;

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
    Ok(())
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
    fn statements_are_quiet_until_somebody_asks() {
        assert_eq!(quieted("info"), "info,sqlx::query=off");
        assert_eq!(quieted("debug"), "debug");
        assert_eq!(quieted("warn,sqlx=warn"), "warn,sqlx=warn");
        assert!(EnvFilter::builder().parse(quieted("warn,wxtoken=info")).is_ok());
    }
}
