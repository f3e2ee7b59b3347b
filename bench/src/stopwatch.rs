//! The adapter to the clock: measurements start here and nowhere else in this crate.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time from which others are measured. Cheap to copy; copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
}

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock adapter of the benchmarks")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Microseconds since the start.
    pub fn elapsed_micros(&self) -> u64 {
        micros(self.elapsed())
    }

    /// Waits until `offset` after the start; returns at once when that has passed, so that an open-loop schedule catches
    /// up instead of drifting, and lateness counts as latency.
    ///
    /// The runtime's timer has a grain of a millisecond, which is several synced writes: the last stretch is slept on a
    /// thread, by the kernel's finer timer. Dropped, that thread ends its short sleep for nobody.
    pub async fn wait_until(&self, offset: Duration) {
        if let Some(rough) = offset.checked_sub(LAST_STRETCH).and_then(|rough| self.started.checked_add(rough)) {
            tokio::time::sleep_until(rough.into()).await;
        }
        let left = offset.saturating_sub(self.elapsed());
        if !left.is_zero() {
            #[expect(clippy::disallowed_methods, reason = "this is the clock adapter of the benchmarks")]
            let slept = tokio::task::spawn_blocking(move || std::thread::sleep(left)).await;
            // A runtime that is shutting down ends the wait early, and with it the run.
            let _ended_early = slept;
        }
    }

    /// Like [`wait_until`](Self::wait_until), for a thread of its own that measures without a runtime.
    #[expect(clippy::disallowed_methods, reason = "this is the clock adapter of the benchmarks")]
    pub fn block_until(&self, offset: Duration) {
        std::thread::sleep(offset.saturating_sub(self.elapsed()));
    }
}

/// Seconds since the Unix epoch; 0 when the clock stands before it.
#[expect(clippy::disallowed_methods, reason = "this is the clock adapter of the benchmarks")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What the runtime's timer leaves to the kernel's: its grain, and what it may be late.
const LAST_STRETCH: Duration = Duration::from_millis(2);

/// `duration` in whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A number that differs from run to run, so that a run knows its own records in a topic that others use too.
#[expect(clippy::disallowed_methods, reason = "this is the clock adapter of the benchmarks")]
pub fn run_number() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let folded = since.as_nanos() ^ (since.as_nanos() >> 32) ^ u128::from(std::process::id()).rotate_left(16);
    u32::try_from(folded & u128::from(u32::MAX)).unwrap_or(0)
}
