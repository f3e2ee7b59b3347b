//! How long to wait before the next attempt: exponential, capped, jittered. Pure: the random bits are an argument.
//!
//! The jitter is "equal" (half fixed, half random): it spreads a herd of clients and still never retries at once.

use std::time::Duration;

/// A schedule of pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Pauses that begin at `first` and double up to `max`.
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { first, max: max.max(first) }
    }

    /// The pause after `failures` failed attempts (1 is the first), given 64 random bits.
    pub(crate) fn pause(&self, failures: u32, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let full = self.first.saturating_mul(1 << doublings).min(self.max);
        let half = full / 2;
        // 16 bits of fraction are more than jitter needs; the product cannot overflow below 36 years.
        let fraction = u32::try_from(random & 0xFFFF).unwrap_or(0);
        half + half.saturating_mul(fraction) / 0xFFFF
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Catches an overflow in the doubling, a pause of zero, and jitter outside half..full.
        #[test]
        fn grows_to_the_cap_and_stays_within_half_and_full(failures in 0u32..200, random: u64) {
            let backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
            let pause = backoff.pause(failures, random);
            let doubled = Duration::from_millis(20).saturating_mul(1 << failures.saturating_sub(1).min(7));
            let full = doubled.min(Duration::from_secs(2));
            prop_assert!(pause >= full / 2 && pause <= full, "{pause:?} for {failures}, full {full:?}");
        }
    }

    #[test]
    fn a_cap_below_the_first_pause_is_lifted_to_it() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::ZERO);
        assert_eq!(backoff.pause(9, u64::MAX), Duration::from_secs(1));
    }
}
