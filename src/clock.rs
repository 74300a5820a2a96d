//! The only reader of the wall clock.

use std::time::SystemTime;

use crate::domain::timestamp::Timestamp;

/// Tells the time to those who sit at the top of an operation; everything below takes `now` as an argument.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// The time by this machine's clock.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may ask")]
    pub fn now(self) -> Timestamp {
        let millis = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |span| span.as_millis());
        Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}
