//! How long a transfer may take: a grace period plus the time its bytes need at the minimum rate.
//!
//! Pure: the caller brings the instants. One client that sends or takes a byte a second would otherwise hold its
//! frame's budget for hours. A known size raises the rate, so that no frame holds its budget longer than
//! `TRANSFER_TIME_MAX_S` and the grace, waits of its own for more budget apart.

use std::time::Duration;

use tokio::time::Instant;

use crate::net::limits::NetLimits;

/// The grace of a minimum rate that is switched off.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);
/// Seconds in which a transfer of known size must be complete, its grace apart.
const TRANSFER_TIME_MAX_S: u64 = 60;

/// One transfer (a frame being read, a write being flushed) and its allowance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    started: Instant,
    grace: Duration,
    bytes_per_second: u64,
    bytes: u64,
}

impl Progress {
    /// A transfer of unknown size that starts at `now`.
    pub(crate) fn start(now: Instant, limits: &NetLimits) -> Self {
        Self {
            started: now,
            grace: if limits.progress_bytes_per_second == 0 { FOR_EVER } else { limits.progress_grace },
            bytes_per_second: limits.progress_bytes_per_second.max(1),
            bytes: 0,
        }
    }

    /// Makes the rate high enough for `bytes` in all to arrive in time.
    pub(crate) fn expect(&mut self, bytes: usize) {
        let needed = u64::try_from(bytes).unwrap_or(u64::MAX) / TRANSFER_TIME_MAX_S;
        self.bytes_per_second = self.bytes_per_second.max(needed);
    }

    /// Forgives `time` in which the peer could not go on because of us.
    pub(crate) fn forgive(&mut self, time: Duration) {
        self.started += time;
    }

    /// Adds `bytes` that were moved.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// The instant by which more must have moved.
    pub(crate) fn deadline(&self) -> Instant {
        // A day bounds the sum, so that the instant cannot overflow whatever was moved.
        let earned_ms = self.bytes.saturating_mul(1_000) / self.bytes_per_second;
        let earned = Duration::from_millis(earned_ms.min(86_400_000));
        self.started + self.grace + earned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> NetLimits {
        NetLimits { progress_grace: Duration::from_secs(2), progress_bytes_per_second: 100, ..NetLimits::default() }
    }

    // Catches a rate that renews its grace with every byte: one byte a second would then live for ever.
    #[test]
    fn a_byte_a_second_falls_behind() {
        let start = Instant::now();
        let mut progress = Progress::start(start, &limits());
        let mut now = start;
        for _ in 0..2 {
            now += Duration::from_secs(1);
            assert!(now <= progress.deadline());
            progress.moved(1);
        }
        now += Duration::from_secs(1);
        assert!(now > progress.deadline());
    }

    // Catches a huge declared frame that dribbles in at the minimum rate and holds the shared budget for hours.
    #[test]
    fn a_known_size_must_arrive_within_its_time() {
        let start = Instant::now();
        let mut progress = Progress::start(start, &limits());
        progress.expect(16 * 1024 * 1024);
        progress.moved(100 * 60);
        assert!(progress.deadline() < start + Duration::from_secs(4));
    }

    #[test]
    fn the_minimum_rate_keeps_going_and_huge_counts_do_not_overflow() {
        let start = Instant::now();
        let mut progress = Progress::start(start, &limits());
        for second in 1..1_000 {
            assert!(start + Duration::from_secs(second) <= progress.deadline());
            progress.moved(100);
        }
        progress.moved(usize::MAX);
        assert!(progress.deadline() > start);
    }
}
