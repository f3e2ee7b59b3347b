//! The machine's own limits beside an end-to-end result: which row of the micro benchmarks bounds which workload, and how
//! near the workload came. Pure.
//!
//! The limits are what `streambus-micro -o json` wrote. They say something about a result only when both are of one run
//! on one machine.

use serde::{Deserialize, Serialize};

use crate::micro::disk_rows::{LARGEST_READ_ROW, LARGEST_WRITE_ROW, PACED_RATE, PACED_ROW};
use crate::micro::machine_rows::{MEMCPY_ROW, PING_PONG_ROW, STREAM_ROW};
use crate::micro::sampler::Row;
use crate::report::{Report, Workload};

/// The rows of a run of `streambus-micro`.
#[derive(Clone, Debug, Deserialize)]
pub struct Limits {
    rows: Vec<Row>,
}

/// What of a result is held against a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Millions of bytes of values a second: the limit is the most there can be.
    MbPerSecond,
    /// The median latency in microseconds: the limit is the least there can be.
    P50Us,
    /// The 99th percentile of the latency in microseconds, likewise.
    P99Us,
}

/// A result beside a limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Held {
    /// The row of the micro benchmarks that is the limit.
    pub limit: String,
    /// What is compared.
    pub measure: Measure,
    /// What the workload reached.
    pub own: f64,
    /// What the limit is.
    pub limit_value: f64,
    /// `own` divided by `limit_value`: a share of the limit for a rate, how many times the limit for a latency.
    pub factor: f64,
}

/// Limits that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("not what `streambus-micro -o json` writes: {0}")]
pub struct LimitsError(#[from] serde_json::Error);

impl Limits {
    /// Reads the document that `streambus-micro -o json` writes.
    pub fn parse(text: &str) -> Result<Self, LimitsError> {
        Ok(serde_json::from_str(text)?)
    }

    /// Holds a result against the limits that bound its workload; a limit that was not measured is left out.
    pub fn hold(&self, report: &Report) -> Vec<Held> {
        let conditions = &report.conditions;
        let is_synced = conditions.durability == "sync";
        // Latencies compare at one rate only: at another, batches and queues are others.
        let latencies: &[(Measure, &str)] = if conditions.rate != PACED_RATE {
            &[]
        } else if is_synced {
            &[(Measure::P50Us, PACED_ROW), (Measure::P99Us, PACED_ROW), (Measure::P50Us, PING_PONG_ROW)]
        } else {
            &[(Measure::P50Us, PING_PONG_ROW)]
        };
        let rates: &[&str] = match report.workload {
            _ if !latencies.is_empty() => &[],
            Workload::Produce | Workload::ProducePaced | Workload::EndToEnd if is_synced => {
                &[LARGEST_WRITE_ROW, STREAM_ROW, MEMCPY_ROW]
            }
            Workload::Produce | Workload::ProducePaced | Workload::EndToEnd | Workload::Tail => {
                &[STREAM_ROW, MEMCPY_ROW]
            }
            Workload::Consume => &[STREAM_ROW, LARGEST_READ_ROW, MEMCPY_ROW],
        };
        let rates = rates.iter().map(|name| (Measure::MbPerSecond, *name));
        latencies
            .iter()
            .copied()
            .chain(rates)
            .filter_map(|(measure, name)| self.beside(report, measure, name))
            .collect()
    }

    fn beside(&self, report: &Report, measure: Measure, name: &str) -> Option<Held> {
        let row = self.rows.iter().find(|row| row.name == name)?;
        let (own, limit_value) = match measure {
            Measure::MbPerSecond => (report.mb_per_second, row.mb_per_second?),
            Measure::P50Us => (report.latency.p50_us as f64, row.median_ns / 1e3),
            Measure::P99Us => (report.latency.p99_us as f64, row.p99_ns? / 1e3),
        };
        (limit_value > 0.0).then(|| Held {
            limit: name.to_owned(),
            measure,
            own,
            limit_value,
            factor: own / limit_value,
        })
    }
}

impl Held {
    /// One line for people.
    pub fn describe(&self) -> String {
        let Self { limit, own, limit_value, factor, .. } = self;
        let latency =
            |name: &str| format!("{name} {own:.0} us is {factor:.1} times that of {limit} ({limit_value:.0} us)");
        match self.measure {
            Measure::MbPerSecond => {
                // Less than a percent is told with its digits: 0 % would read as nothing.
                let share = factor * 100.0;
                let digits = usize::from(share < 1.0) * 2;
                format!("{share:.digits$} % of {limit} ({limit_value:.0} MB/s)")
            }
            Measure::P50Us => latency("p50"),
            Measure::P99Us => latency("p99"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    const ROW: &str = r#"{"name":"NAME","bytes":4096,"median_ns":90000.0,"min_ns":1.0,"max_ns":2.0,
        "p90_ns":null,"p99_ns":700000.0,"samples":1000,"mb_per_second":1000.0,"baseline":null,"ratio":null}"#;

    fn limits(names: &[&str]) -> Limits {
        let rows: Vec<String> = names.iter().map(|name| ROW.replace("NAME", name)).collect();
        Limits::parse(&format!("{{\"disk\":\"x\",\"quick\":false,\"rows\":[{}]}}", rows.join(","))).expect("parses")
    }

    /// Catches: a rate held against a latency's limit, and a factor turned upside down.
    #[test]
    fn a_batched_rate_is_a_share_of_the_raw_writes() {
        let held = limits(&[PACED_ROW, LARGEST_WRITE_ROW]).hold(&report());
        assert_eq!(held.len(), 1, "{held:?}");
        assert_eq!((held[0].measure, held[0].factor), (Measure::MbPerSecond, 0.05));
        assert_eq!(held[0].describe(), format!("5 % of {LARGEST_WRITE_ROW} (1000 MB/s)"));
    }

    /// Catches: single sends compared by throughput alone, which hides the tail that the goal is about.
    #[test]
    fn single_sends_are_held_against_raw_syncs_at_their_own_rate_only() {
        let mut single = report();
        single.workload = Workload::ProducePaced;
        single.conditions.rate = PACED_RATE;
        single.latency.p50_us = 450;
        single.latency.p99_us = 2_100;
        let held = limits(&[PACED_ROW]).hold(&single);
        let told: Vec<String> = held.iter().map(Held::describe).collect();
        assert_eq!(
            told,
            [
                format!("p50 450 us is 5.0 times that of {PACED_ROW} (90 us)"),
                format!("p99 2100 us is 3.0 times that of {PACED_ROW} (700 us)"),
            ]
        );
        single.conditions.rate = 50_000;
        assert_eq!(limits(&[PACED_ROW]).hold(&single), []);
        single.conditions.rate = PACED_RATE;
        single.conditions.durability = "async".into();
        assert_eq!(limits(&[PACED_ROW, LARGEST_WRITE_ROW]).hold(&single), [], "nothing waits for the disk");
    }

    #[test]
    fn what_is_no_report_of_rows_is_refused() {
        assert!(Limits::parse("{}").is_err());
        assert!(Limits::parse("not json").is_err());
    }
}
