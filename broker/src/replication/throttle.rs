//! How much may be sent to replicas that nobody waits for: a token bucket in bytes, in which the present time is an
//! argument. Pure.
//!
//! ```text
//! rate = max(limit, 5/4 of the rate at which what there is to copy grows)
//! ```
//! A replica that gets less than is appended would never arrive, so the limit yields to what is appended: whoever sets it
//! too low gets a slow replica, never one that falls back for ever.

use std::time::Duration;

/// Bytes sent at once to replicas that are behind, one batch apart: what others in the same stream wait behind.
pub const PORTION_BYTES_MAX: u64 = 512 * 1024;

/// Growth is measured over spans of at least this.
const SPAN: Duration = Duration::from_secs(1);
/// Growth that was measured longer ago than this says nothing about now.
const SPAN_MAX: Duration = Duration::from_secs(5);
/// A portion smaller than this costs more than it brings: an extent is read whole.
const PORTION_BYTES_MIN: u64 = 4 * 1024;
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// The bucket. What was sent above it is a debt, so that one batch of any size can always be sent.
#[derive(Clone, Debug)]
pub struct Throttle {
    /// Bytes per second; none for no limit.
    limit: Option<u64>,
    /// What may be sent, in billionths of a byte: whole numbers at every rate.
    level: i128,
    filled_at: Duration,
    growth: Growth,
}

#[derive(Clone, Copy, Debug, Default)]
struct Growth {
    began: Duration,
    bytes: u64,
    per_second: u64,
}

impl Throttle {
    /// A full bucket at `now`, filled with `limit` bytes in a second; zero for no limit.
    pub fn new(limit: u64, now: Duration) -> Self {
        let growth = Growth { began: now, ..Growth::default() };
        let mut throttle = Self { limit: (limit > 0).then_some(limit), level: 0, filled_at: now, growth };
        throttle.level = throttle.capacity(now);
        throttle
    }

    /// What there is to copy has grown by `bytes`.
    pub fn on_growth(&mut self, bytes: u64, now: Duration) {
        // At the old rate up to here.
        self.fill(now);
        let growth = &mut self.growth;
        growth.bytes = growth.bytes.saturating_add(bytes);
        let span = now.saturating_sub(growth.began);
        if span >= SPAN {
            let per_second = u128::from(growth.bytes) * 1_000 / span.as_millis().max(1);
            *growth = Growth { began: now, bytes: 0, per_second: u64::try_from(per_second).unwrap_or(u64::MAX) };
        }
    }

    /// Bytes per second that may be sent now; none when there is no limit.
    pub fn rate(&self, now: Duration) -> Option<u64> {
        let is_recent = now.saturating_sub(self.growth.began) <= SPAN_MAX;
        let needed = if is_recent { self.growth.per_second.saturating_add(self.growth.per_second / 4) } else { 0 };
        self.limit.map(|limit| limit.max(needed))
    }

    /// Bytes that may be sent now, as long as they are worth it.
    ///
    /// # Errors
    /// How long to wait for that.
    pub fn available(&mut self, now: Duration) -> Result<u64, Duration> {
        let Some(rate) = self.rate(now) else { return Ok(PORTION_BYTES_MAX) };
        self.fill(now);
        let wanted = i128::from((rate / 10).clamp(PORTION_BYTES_MIN, PORTION_BYTES_MAX / 2)) * NANOS_PER_SECOND;
        if self.level >= wanted {
            let bytes = u64::try_from(self.level / NANOS_PER_SECOND).unwrap_or(0);
            return Ok(bytes.min(PORTION_BYTES_MAX));
        }
        let missing = (wanted - self.level).unsigned_abs().div_ceil(u128::from(rate.max(1)));
        Err(Duration::from_nanos(u64::try_from(missing).unwrap_or(u64::MAX)))
    }

    /// `bytes` were sent.
    pub fn take(&mut self, bytes: u64, now: Duration) {
        self.fill(now);
        self.level -= i128::from(bytes) * NANOS_PER_SECOND;
    }

    fn fill(&mut self, now: Duration) {
        let span = now.saturating_sub(self.filled_at);
        self.filled_at = self.filled_at.max(now);
        let rate = self.rate(now).unwrap_or(u64::MAX);
        let filled = i128::from(rate).saturating_mul(i128::try_from(span.as_nanos()).unwrap_or(i128::MAX));
        self.level = self.level.saturating_add(filled).min(self.capacity(now));
        debug_assert!(self.level <= self.capacity(now));
    }

    /// A tenth of a second: what was not used for longer is lost.
    fn capacity(&self, now: Duration) -> i128 {
        let tenth = self.rate(now).unwrap_or(u64::MAX) / 10;
        i128::from(tenth.max(PORTION_BYTES_MAX)) * NANOS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Sends for `seconds`, from `from` on, while `appended` bytes are appended in each; how much was sent, by second.
    fn send(throttle: &mut Throttle, from: u64, seconds: u64, appended: u64) -> Vec<u64> {
        let mut sent = vec![0; usize::try_from(seconds).expect("few")];
        for (second, sent) in (0..).zip(&mut sent) {
            for step in 0..1_000 {
                let now = ms((from + second) * 1_000 + step);
                throttle.on_growth(appended / 1_000, now);
                while let Ok(bytes) = throttle.available(now) {
                    assert!(bytes > 0 && bytes <= PORTION_BYTES_MAX);
                    throttle.take(bytes, now);
                    *sent += bytes;
                }
            }
        }
        sent
    }

    // Catches a bucket that leaks or overflows: what is sent in a second is the limit, the first second's stock apart.
    #[test]
    fn what_is_sent_is_what_the_limit_allows() {
        for limit in [64 * 1024, MIB, 33 * MIB] {
            let mut throttle = Throttle::new(limit, Duration::ZERO);
            let sent = send(&mut throttle, 0, 20, 0);
            let stock = (limit / 10).max(PORTION_BYTES_MAX);
            let all: u64 = sent.iter().sum();
            assert!(all <= 20 * limit + stock, "{all} in 20 s at {limit}");
            assert!(all + PORTION_BYTES_MAX >= 20 * limit, "{all} in 20 s at {limit}");
        }
    }

    // Catches a limit below the producers' rate, at which a replica would fall back for ever.
    #[test]
    fn a_limit_below_what_is_appended_yields_to_it() {
        let appended = 10 * MIB;
        let mut throttle = Throttle::new(MIB, Duration::ZERO);
        let sent: u64 = send(&mut throttle, 0, 30, appended)[2..].iter().sum();
        assert!(sent > 28 * appended * 11 / 10, "{sent} bytes do not catch up with {appended} in a second");
        assert!(sent < 28 * appended * 13 / 10, "{sent}: hardly a limit");
        let rate = throttle.rate(ms(30_000)).expect("a limit");
        assert!((12 * MIB..14 * MIB).contains(&rate), "{rate}");
        assert_eq!(throttle.rate(ms(36_000)), Some(MIB), "growth of long ago says nothing about now");
    }

    // Catches a batch that is larger than the bucket and never sent, or sent for free.
    #[test]
    fn a_batch_above_what_is_there_is_a_debt() {
        let mut throttle = Throttle::new(MIB, Duration::ZERO);
        throttle.available(ms(0)).expect("full");
        throttle.take(8 * MIB, ms(0));
        let wait = throttle.available(ms(0)).expect_err("in debt");
        assert!((ms(7_400)..ms(8_000)).contains(&wait), "{wait:?}");
        assert!(throttle.available(wait - ms(1)).is_err());
        assert!(throttle.available(wait + ms(1)).is_ok(), "the wait is what is needed");
    }

    // Catches a quiet hour that is made up for in one burst.
    #[test]
    fn what_was_not_used_is_lost() {
        let mut throttle = Throttle::new(20 * MIB, Duration::ZERO);
        let mut burst = 0;
        while let Ok(bytes) = throttle.available(ms(3_600_000)) {
            throttle.take(bytes, ms(3_600_000));
            burst += bytes;
        }
        assert!((MIB..=2 * MIB).contains(&burst), "{burst} bytes at once");
    }

    #[test]
    fn without_a_limit_there_is_always_a_portion() {
        let mut throttle = Throttle::new(0, Duration::ZERO);
        for _ in 0..1_000 {
            assert_eq!(throttle.available(ms(1)), Ok(PORTION_BYTES_MAX));
            throttle.take(PORTION_BYTES_MAX, ms(1));
        }
        assert_eq!(throttle.rate(ms(1)), None);
    }
}
