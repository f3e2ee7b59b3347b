//! How a background task that reads the disk spreads what it may read: little at a time, many times a second. Pure.
//!
//! A disk serves a large read before it turns to the commit that somebody waits for: 4 MiB once a second, from each of
//! three brokers on one disk, held commits up for 20 to 35 ms.

use std::time::Duration;

/// Between two steps of a task that has work.
const STEP: Duration = Duration::from_millis(50);
const STEPS_PER_SECOND: u64 = 20;
/// Between two looks of a task that has none.
const IDLE: Duration = Duration::from_secs(1);

/// What one step may read at `bytes_per_second`: at least one byte, which to the store means one commit or one batch.
pub(crate) fn share(bytes_per_second: u64) -> u64 {
    (bytes_per_second / STEPS_PER_SECOND).max(1)
}

/// How long to wait after a step that read `bytes`. A step may have to read more than its share, and waits for it.
pub(crate) fn pause(bytes: u64, bytes_per_second: u64) -> Duration {
    if bytes == 0 || bytes_per_second == 0 {
        return IDLE;
    }
    let millis = bytes.saturating_mul(1_000) / bytes_per_second;
    Duration::from_millis(millis).max(STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Catches a task that reads a second's worth at once, and one whose steps that had to read more than their share
    // add up to more than its rate.
    #[test]
    fn a_rate_is_kept_in_small_steps_whatever_a_step_has_to_read() {
        const MIB: u64 = 1 << 20;
        for rate in [64 * 1024, MIB, 4 * MIB, 16 * MIB, 1024 * MIB] {
            assert!(share(rate) * STEPS_PER_SECOND <= rate && share(rate) * (STEPS_PER_SECOND + 1) > rate);
            for least in [0, 10_000, 300_000, 5 * MIB] {
                let (mut read, mut waited) = (0, Duration::ZERO);
                for _ in 0..200 {
                    let step = share(rate).max(least);
                    read += step;
                    waited += pause(step, rate);
                }
                let per_second = u128::from(read) * 1_000 / waited.as_millis();
                let rate = u128::from(rate);
                assert!(per_second <= rate + rate / 50, "{per_second} of {rate} in steps of {least}");
                assert!(least > 0 || per_second >= rate - rate / 50, "{per_second} of {rate} in its own steps");
            }
        }
    }

    // Catches a loop without a pause where nothing is to do, or nothing may be done.
    #[test]
    fn without_work_it_looks_once_a_second() {
        assert_eq!((pause(0, 1 << 20), pause(1, 0), pause(0, 0)), (IDLE, IDLE, IDLE));
        assert_eq!(share(0), 1);
        assert_eq!(pause(1, u64::MAX), STEP);
        assert!(pause(u64::MAX, 1) > Duration::from_secs(86_400));
    }
}
