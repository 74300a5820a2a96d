//! The time: this host's steady clock, set by the database's.
//!
//! Instances on hosts whose clocks differ share rows that hold times. So the wall clock is read once, at the start. From then on time goes on with a
//! clock that nobody sets, and its offset is measured against the database's clock at the start and every minute: all instances go by that one.
//!
//! | the database's clock is found | what is done |
//! |---|---|
//! | within the error of the measurement | nothing |
//! | up to 5 s off | it is followed |
//! | more than 5 s ahead, on a server | it is followed: this machine was paused, or that clock was set; a token that seems expired is only fetched again |
//! | otherwise | 1 s of it is followed at each measurement: a clock that was set back must not make dead tokens live again |
//!
//! On SQLite the database's clock is the wall clock of this very host, so when that is set, ours hardly moves. The steady
//! clock goes on while a machine sleeps (where the system has such a clock), so a laptop that wakes up knows its tokens are old.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use crate::domain::timestamp::Timestamp;

/// A difference that is put right at once.
const DRIFT: i64 = 5_000;
/// What one measurement puts right of a larger one.
const STEP: i64 = 1_000;

/// Tells the time to those who sit at the top of an operation; everything below takes `now` as an argument. Clones share one clock.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Milliseconds to add to the steady clock.
    offset: AtomicI64,
    measured_at: AtomicI64,
    gap: AtomicI64,
}

/// How the clock stands, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// How far this clock is ahead of the host's wall clock.
    pub ahead_of_host: i64,
    /// When the database's clock was last read; `None` before the first time.
    pub measured_at: Option<Timestamp>,
    /// How far the database's clock was ahead of this one then, of which a part may have been put right since.
    pub gap: i64,
}

/// The database's clock as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Measurement {
    /// What it said.
    pub told: Timestamp,
    /// By our clock, when it was asked.
    pub asked_at: Timestamp,
    /// By our clock, when the answer was there.
    pub answered_at: Timestamp,
    /// Whether it is the clock of another host.
    pub elsewhere: bool,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A clock that says what the wall clock says now.
    pub fn new() -> Self {
        let offset = AtomicI64::new(wall() - steady());
        Self(Arc::new(Shared { offset, measured_at: AtomicI64::new(0), gap: AtomicI64::new(0) }))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(steady() + self.0.offset.load(Ordering::Relaxed))
    }

    /// Sets this clock, that nobody has relied on yet, to the database's.
    pub fn set(&self, measured: Measurement) {
        let gap = measured.gap();
        self.0.offset.fetch_add(gap, Ordering::Relaxed);
        self.note(measured, 0);
    }

    /// Goes by the database's clock as far as that is safe. Returns the difference that was found, if it is one that nobody's clock drifts by.
    pub fn follow(&self, measured: Measurement) -> Option<i64> {
        let gap = measured.gap();
        self.0.offset.fetch_add(correction(gap, measured), Ordering::Relaxed);
        self.note(measured, gap);
        (gap.abs() > DRIFT).then_some(gap)
    }

    fn note(&self, measured: Measurement, gap: i64) {
        self.0.gap.store(gap, Ordering::Relaxed);
        self.0.measured_at.store(measured.answered_at.as_millis(), Ordering::Relaxed);
    }

    /// How the clock stands.
    pub fn reading(&self) -> Reading {
        let measured_at = self.0.measured_at.load(Ordering::Relaxed);
        Reading {
            ahead_of_host: self.now().as_millis() - wall(),
            measured_at: (measured_at > 0).then(|| Timestamp::from_millis(measured_at)),
            gap: self.0.gap.load(Ordering::Relaxed),
        }
    }
}

impl Measurement {
    /// How far the database's clock is ahead of ours, taking it that it was read half-way between question and answer.
    fn gap(&self) -> i64 {
        let between = i64::midpoint(self.asked_at.as_millis(), self.answered_at.as_millis());
        self.told.as_millis() - between
    }

    fn error(&self) -> i64 {
        (self.answered_at.as_millis() - self.asked_at.as_millis()) / 2 + 1
    }
}

fn correction(gap: i64, measured: Measurement) -> i64 {
    if gap.abs() <= measured.error() {
        0
    } else if gap.abs() <= DRIFT || (gap > 0 && measured.elsewhere) {
        gap
    } else {
        STEP * gap.signum()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that may ask")]
fn wall() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds by a clock that nobody sets.
fn steady() -> i64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(clock: &Clock, ahead: i64, elsewhere: bool) -> Measurement {
        let now = clock.now();
        let told = Timestamp::from_millis(now.as_millis() + ahead);
        Measurement { told, asked_at: now, answered_at: now, elsewhere }
    }

    #[test]
    fn the_first_measurement_sets_the_clock() {
        let clock = Clock::new();
        for hours in [-2, 2] {
            let before = clock.now();
            clock.set(measured(&clock, hours * 3_600_000, true));
            let moved = clock.now().as_millis() - before.as_millis();
            assert!((moved - hours * 3_600_000).abs() < 1_000, "{moved}");
        }
    }

    #[test]
    fn drift_is_followed_and_the_error_of_a_measurement_is_not() {
        let at = |millis: i64| Timestamp::from_millis(1_000_000 + millis);
        let slow = |told| Measurement { told: at(told), asked_at: at(0), answered_at: at(400), elsewhere: true };
        for (told, expected) in [(200, 0), (390, 0), (0, 0), (700, 500), (-1_800, -2_000)] {
            let measured = slow(told);
            assert_eq!(correction(measured.gap(), measured), expected, "{told}");
        }
    }

    #[test]
    fn a_clock_that_is_set_moves_ours_only_where_that_is_safe() {
        let clock = Clock::new();
        let hours = 2 * 3_600_000;
        for (ahead, elsewhere, expected) in
            [(hours, true, hours), (-hours, true, -STEP), (hours, false, STEP), (-hours, false, -STEP)]
        {
            let measured = measured(&clock, ahead, elsewhere);
            assert_eq!(correction(measured.gap(), measured), expected, "{ahead} {elsewhere}");
            assert_eq!(clock.follow(measured), Some(ahead));
        }
    }
}
