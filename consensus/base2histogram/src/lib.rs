//! A histogram with one bucket per power of two, in 65 counters and no tables.
//!
//! Written for this project; it has the part of the registry crate's interface that openraft compiles against.
//! openraft fills it only with its feature `runtime-stats`, which we do not enable.

use std::fmt;
use std::marker::PhantomData;

const BUCKETS: usize = 65;

/// Counts of values by their number of significant bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    total: u64,
    slot: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// A histogram without values.
    pub fn new() -> Self {
        Self { counts: [0; BUCKETS], total: 0, slot: PhantomData }
    }

    /// Counts `value` once.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value` so many times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bits = usize::try_from(u64::BITS - value.leading_zeros()).unwrap_or(BUCKETS - 1);
        if let Some(counter) = self.counts.get_mut(bits) {
            *counter = counter.saturating_add(count);
            self.total = self.total.saturating_add(count);
        }
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The smallest value of the bucket in which the given share of all values is reached; zero without values.
    pub fn percentile(&self, share: f64) -> u64 {
        let mut seen = 0.0;
        let wanted = share * self.total as f64;
        for (bits, count) in self.counts.iter().enumerate() {
            seen += *count as f64;
            if *count > 0 && seen >= wanted {
                return if bits == 0 { 0 } else { 1 << (bits - 1) };
            }
        }
        0
    }

    /// The usual percentiles.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.10),
            p50: self.percentile(0.50),
            p90: self.percentile(0.90),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// Percentiles of a histogram, each rounded down to a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were counted.
    pub samples: u64,
    /// The 0.1th percentile.
    pub p0_1: u64,
    /// The 1st percentile.
    pub p1: u64,
    /// The 5th percentile.
    pub p5: u64,
    /// The 10th percentile.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p99, .. } = self;
        write!(f, "{samples} values, median {p50}, 99th percentile {p99}")
    }
}

/// Several histograms as text, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsciiChart<T = ()> {
    series: Vec<(String, Histogram<T>)>,
}

impl<T> Default for AsciiChart<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> AsciiChart<T> {
    /// A chart without lines.
    pub fn new() -> Self {
        Self { series: Vec::new() }
    }

    /// Adds a line.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.series.push((name.to_owned(), histogram));
        self
    }

    /// The chart itself; there is only one form.
    pub fn compact(&self) -> &Self {
        self
    }

    /// The chart itself; there is only one form.
    pub fn detailed(&self) -> &Self {
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.series {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: values in the wrong bucket, at both ends of the range.
    #[test]
    fn percentiles_are_powers_of_two() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile(0.5), 0);
        histogram.record_n(0, 10);
        histogram.record_n(1000, 80);
        histogram.record_n(u64::MAX, 10);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p5, stats.p50, stats.p99), (100, 0, 512, 1 << 63));
    }
}
