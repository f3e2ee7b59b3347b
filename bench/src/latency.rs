//! Latencies of a run: recorded in microseconds, reported as percentiles. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::stopwatch::micros;

/// The longest latency told apart from longer ones.
const HIGHEST_MICROS: u64 = 600_000_000;

/// A histogram of latencies, exact to three digits.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Option<Histogram<u64>>,
}

/// Percentiles in microseconds; all zero when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Measurements.
    pub count: u64,
    /// The arithmetic mean.
    pub mean_us: f64,
    /// The shortest.
    pub min_us: u64,
    /// The median.
    pub p50_us: u64,
    /// 90 % are at most this.
    pub p90_us: u64,
    /// 99 % are at most this.
    pub p99_us: u64,
    /// 99.9 % are at most this.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// An empty histogram.
    pub fn new() -> Self {
        // The bounds are constants that the library accepts; without it there would be no percentiles, never a panic.
        Self { histogram: Histogram::new_with_bounds(1, HIGHEST_MICROS, 3).ok() }
    }

    /// Records one latency.
    pub fn record(&mut self, latency: Duration) {
        self.record_micros(micros(latency));
    }

    /// Records one latency in microseconds.
    pub fn record_micros(&mut self, latency: u64) {
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(latency);
        }
    }

    /// Adds the measurements of `other`.
    pub fn add(&mut self, other: &Self) {
        if let (Some(histogram), Some(other)) = (&mut self.histogram, &other.histogram) {
            // Same bounds by construction, so nothing can be out of range.
            let _same_bounds = histogram.add(other);
        }
    }

    /// The latency that `share` (0 to 1) of the measurements do not exceed.
    pub fn at(&self, share: f64) -> Duration {
        Duration::from_micros(self.histogram.as_ref().map_or(0, |histogram| histogram.value_at_quantile(share)))
    }

    /// The percentiles.
    pub fn percentiles(&self) -> Percentiles {
        let Some(histogram) = self.histogram.as_ref().filter(|histogram| !histogram.is_empty()) else {
            return Percentiles::default();
        };
        Percentiles {
            count: histogram.len(),
            mean_us: (histogram.mean() * 10.0).round() / 10.0,
            min_us: histogram.min(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_measurements_and_of_nothing_are_zero() {
        assert_eq!(Latencies::new().percentiles(), Percentiles::default());
        let (mut low, mut high) = (Latencies::new(), Latencies::new());
        (1..=900).for_each(|_| low.record(Duration::from_micros(100)));
        (1..=100).for_each(|_| high.record(Duration::from_millis(5)));
        low.add(&high);
        let percentiles = low.percentiles();
        assert_eq!((percentiles.count, percentiles.p50_us, percentiles.p90_us), (1_000, 100, 100));
        assert!((4_990..=5_010).contains(&percentiles.p99_us), "{percentiles:?}");
        assert!(low.at(0.99) >= Duration::from_millis(4));
    }

    #[test]
    fn what_is_beyond_the_scale_is_not_forgotten() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(10_000));
        assert_eq!(latencies.percentiles().count, 1);
    }
}
