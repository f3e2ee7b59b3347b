//! A plain sampler: warm up, take samples, report median, fastest and slowest, and the tail where there are samples
//! enough to speak of one. No statistics beyond that: on a shared machine the spread is the statement.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MicroOptions;
use crate::stopwatch::Stopwatch;

/// Time of one sample of a computing row.
const SAMPLE_TIME: Duration = Duration::from_millis(20);
const SAMPLES: usize = 25;
const QUICK_SAMPLES: usize = 5;
/// Single operations measured by a row that waits for a device.
const OPERATIONS: usize = 1_000;
const QUICK_OPERATIONS: usize = 100;
/// Samples that must lie beyond a percentile for it to mean something.
const SAMPLES_BEYOND_MIN: usize = 10;

/// One measured row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `group/what size`.
    pub name: String,
    /// What the name does not say and the number depends on, such as the kind of file that is written.
    #[serde(default)]
    pub conditions: Option<String>,
    /// Bytes that one operation moves, 0 when that means nothing.
    pub bytes: u64,
    /// Nanoseconds of one operation: the median of the samples.
    pub median_ns: f64,
    /// The fastest sample.
    pub min_ns: f64,
    /// The slowest sample.
    pub max_ns: f64,
    /// 90 % of the samples are at most this; absent when fewer than ten samples lie beyond.
    pub p90_ns: Option<f64>,
    /// 99 % of the samples are at most this; absent when fewer than ten samples lie beyond.
    pub p99_ns: Option<f64>,
    /// Samples taken.
    pub samples: usize,
    /// Millions of bytes a second at the median, when bytes mean something.
    pub mb_per_second: Option<f64>,
    /// The row this one is held against.
    pub baseline: Option<String>,
    /// How fast this row is as a share of its baseline: 1.0 is as fast; for rates and times alike, more is better.
    pub ratio: Option<f64>,
}

/// Takes samples and keeps rows.
pub struct Sampler<'a> {
    filters: Vec<String>,
    quick: bool,
    rows: Vec<Row>,
    progress: &'a mut dyn FnMut(&Row),
}

impl std::fmt::Debug for Sampler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

impl<'a> Sampler<'a> {
    /// A sampler with no rows yet.
    pub fn new(options: &MicroOptions, progress: &'a mut dyn FnMut(&Row)) -> Self {
        Self { filters: options.filters.clone(), quick: options.quick, rows: Vec::new(), progress }
    }

    /// True when the row is asked for. A row that others are divided by is measured when any of them may be: filters
    /// match the group too, so `--filter disk` measures all of that group.
    pub fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }

    /// Single operations that a row which waits for a device measures.
    pub fn operations(&self) -> usize {
        if self.quick { QUICK_OPERATIONS } else { OPERATIONS }
    }

    /// Measures a computing row: `work(n)` does the operation `n` times.
    pub fn compute(&mut self, name: &str, bytes: u64, baseline: Option<&str>, mut work: impl FnMut(u64)) {
        if !self.wants(name) {
            return;
        }
        let target = if self.quick { SAMPLE_TIME / 4 } else { SAMPLE_TIME };
        let mut iterations = 1_u64;
        // Doubling until one sample is long enough is the warm-up too.
        loop {
            let watch = Stopwatch::start();
            work(iterations);
            if watch.elapsed() >= target || iterations >= 1 << 40 {
                break;
            }
            iterations *= 2;
        }
        let count = if self.quick { QUICK_SAMPLES } else { SAMPLES };
        let samples: Vec<f64> = (0..count)
            .map(|_| {
                let watch = Stopwatch::start();
                work(iterations);
                nanos(watch.elapsed()) / iterations as f64
            })
            .collect();
        self.add(name, bytes, baseline, samples);
    }

    /// Keeps a row whose operations were timed one by one, in nanoseconds.
    pub fn add(&mut self, name: &str, bytes: u64, baseline: Option<&str>, samples: Vec<f64>) {
        self.keep(name, None, bytes, baseline, samples);
    }

    /// As [`Sampler::add`], for a row that needs its conditions told.
    pub fn add_under(&mut self, conditions: &str, name: &str, bytes: u64, baseline: Option<&str>, samples: Vec<f64>) {
        self.keep(name, Some(conditions), bytes, baseline, samples);
    }

    fn keep(
        &mut self,
        name: &str,
        conditions: Option<&str>,
        bytes: u64,
        baseline: Option<&str>,
        mut samples: Vec<f64>,
    ) {
        samples.sort_by(f64::total_cmp);
        let (Some(min_ns), Some(max_ns)) = (samples.first().copied(), samples.last().copied()) else { return };
        let median_ns = samples[samples.len() / 2];
        let baseline_row = baseline.and_then(|name| self.rows.iter().find(|row| row.name == name));
        let ratio = baseline_row.map(|base| match (bytes, base.bytes) {
            // Different sizes: compare rates.
            (own, of_base) if own > 0 && of_base > 0 => (own as f64 / median_ns) / (of_base as f64 / base.median_ns),
            _ => base.median_ns / median_ns,
        });
        let row = Row {
            name: name.to_owned(),
            conditions: conditions.map(str::to_owned),
            bytes,
            median_ns,
            min_ns,
            max_ns,
            p90_ns: percentile(&samples, 90),
            p99_ns: percentile(&samples, 99),
            samples: samples.len(),
            mb_per_second: (bytes > 0).then(|| bytes as f64 * 1e3 / median_ns),
            baseline: baseline_row.map(|row| row.name.clone()),
            ratio,
        };
        (self.progress)(&row);
        self.rows.push(row);
    }

    /// The rows measured.
    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }
}

/// The smallest of the sorted samples that `share` of a hundred do not exceed, as the histograms of the end-to-end rows
/// define it; `None` when the samples are too few to speak of it.
fn percentile(sorted: &[f64], share: usize) -> Option<f64> {
    let rank = sorted.len().saturating_mul(share).div_ceil(100);
    if sorted.len().saturating_sub(rank) < SAMPLES_BEYOND_MIN {
        return None;
    }
    sorted.get(rank.checked_sub(1)?).copied()
}

/// `duration` in nanoseconds.
pub fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// A row as a line of a table.
pub fn line(row: &Row) -> String {
    let rate = row.mb_per_second.map_or(String::new(), |rate| format!("{rate:.0} MB/s"));
    let ratio = match (&row.baseline, row.ratio) {
        (Some(baseline), Some(ratio)) => format!("{:.0} % of {baseline}", ratio * 100.0),
        _ => String::new(),
    };
    let span = format!("[{}..{}]", time_shown(row.min_ns), time_shown(row.max_ns));
    let tail = row.p99_ns.map_or(String::new(), |p99| format!("p99 {}", time_shown(p99)));
    let conditions = row.conditions.as_ref().map_or(String::new(), |conditions| format!("  ({conditions})"));
    format!("{:<50} {:>10} {span:<24} {tail:<13} {rate:>12}  {ratio}{conditions}", row.name, time_shown(row.median_ns))
        .trim_end()
        .to_owned()
}

fn time_shown(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.1} ns"),
        ns if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn rows_are_divided_by_their_baseline_by_rate_or_by_time() {
        let options = MicroOptions { filters: vec!["a/".into()], quick: true, directory: PathBuf::new() };
        let mut heard = 0;
        let mut progress = |_: &Row| heard += 1;
        let mut sampler = Sampler::new(&options, &mut progress);
        assert!(sampler.wants("a/x") && !sampler.wants("b/x"));
        sampler.add("a/base", 100, None, vec![30.0, 10.0, 20.0]);
        sampler.add("a/half rate", 200, Some("a/base"), vec![80.0]);
        sampler.add("a/twice as fast", 0, Some("a/base"), vec![10.0]);
        sampler.add("a/unknown base", 0, Some("none"), vec![10.0]);
        sampler.add_under("a file of its own", "a/under conditions", 0, Some("a/base"), vec![20.0]);
        let rows = sampler.into_rows();
        assert_eq!(rows[0].median_ns, 20.0);
        assert_eq!(rows[1].ratio, Some(0.5));
        assert_eq!(rows[2].ratio, Some(2.0));
        assert_eq!((rows[3].ratio, rows[3].baseline.clone()), (None, None));
        assert_eq!(heard, 5);
        assert!(line(&rows[1]).contains("50 % of a/base"));
        assert!(line(&rows[4]).contains("100 % of a/base  (a file of its own)"), "{}", line(&rows[4]));
    }

    /// Catches: a p99 that is the slowest sample, one off by a rank, and one told of a handful of samples.
    #[test]
    fn a_percentile_is_told_only_when_ten_samples_lie_beyond() {
        let samples = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        assert_eq!(percentile(&samples(1_000), 99), Some(990.0));
        assert_eq!(percentile(&samples(1_099), 99), Some(1_089.0));
        assert_eq!(percentile(&samples(999), 99), None);
        assert_eq!(percentile(&samples(100), 90), Some(90.0));
        assert_eq!(percentile(&samples(99), 90), None);
        assert_eq!(percentile(&[], 99), None);
        let options = MicroOptions { filters: Vec::new(), quick: true, directory: PathBuf::new() };
        let mut progress = |_: &Row| {};
        let mut sampler = Sampler::new(&options, &mut progress);
        sampler.add("a/many", 0, None, samples(2_000));
        sampler.add("a/few", 0, None, samples(25));
        let rows = sampler.into_rows();
        assert!(line(&rows[0]).contains("p99 2.0 us"), "{}", line(&rows[0]));
        assert!(!line(&rows[1]).contains("p99"), "{}", line(&rows[1]));
    }
}
