//! The adapter to the monotonic clock: every moment of a run is measured here.

use std::time::{Duration, Instant};

/// A point in time from which others are measured. Cheap to copy; copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
}

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock adapter of the tests")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Microseconds since the start.
    pub fn elapsed_micros(&self) -> u64 {
        u64::try_from(self.elapsed().as_micros()).expect("a run ends before half a million years")
    }
}
