//! What a workload reports. A number without its conditions is no result, so they stand in the same structure. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use crate::integrity::Verdict;
use crate::latency::Percentiles;
use crate::limits::Held;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Workload {
    /// Sending as fast as acknowledgements come.
    #[serde(rename = "produce")]
    Produce,
    /// Sending at a schedule.
    #[serde(rename = "produce at a fixed rate")]
    ProducePaced,
    /// Reading a topic from its beginning.
    #[serde(rename = "consume")]
    Consume,
    /// Reading what was just written.
    #[serde(rename = "tail")]
    Tail,
    /// Sending at a schedule and reading at the same time.
    #[serde(rename = "e2e")]
    EndToEnd,
}

impl Workload {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::ProducePaced => "produce at a fixed rate",
            Self::Consume => "consume",
            Self::Tail => "tail",
            Self::EndToEnd => "e2e",
        }
    }
}

/// The conditions of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conditions {
    /// The topic.
    pub topic: String,
    /// Its partitions.
    pub partitions: u32,
    /// Its replication factor.
    pub replication_factor: u32,
    /// Its sync mode: `sync` (on disk before the ack) or `async`.
    pub durability: String,
    /// Ack level: `all`, `leader` or `none`; `-` when nothing is produced.
    pub acks: String,
    /// Bytes of a record's value.
    pub record_bytes: usize,
    /// The producer's batch size, bytes.
    pub batch_bytes: usize,
    /// The codec.
    pub compression: String,
    /// Clients, each with its own connection and producer or consumer.
    pub clients: usize,
    /// Records that each client keeps in flight; 0 when the loop is open.
    pub in_flight: usize,
    /// The fixed rate of an open loop, records a second; 0 when the loop is closed.
    pub rate: u64,
    /// How often the records are read for the result; 0 when they are not.
    pub passes: u32,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What was measured.
    pub workload: Workload,
    /// Under which conditions.
    pub conditions: Conditions,
    /// Records that were acknowledged (produce) or received (consume, e2e).
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Records that failed.
    pub errors: u64,
    /// The first failure, in words.
    pub first_error: Option<String>,
    /// Wall-clock seconds from the first send to the last acknowledgement or receipt.
    pub seconds: f64,
    /// Records a second.
    pub records_per_second: f64,
    /// Millions of bytes of values a second.
    pub mb_per_second: f64,
    /// What the latencies measure.
    pub latency_of: &'static str,
    /// The latencies.
    pub latency: Percentiles,
    /// CPU seconds that the benchmark's own process used in that time.
    pub client_cpu_seconds: Option<f64>,
    /// CPU seconds that the broker used, when its process was named.
    pub broker_cpu_seconds: Option<f64>,
    /// The broker's resident memory at the end, bytes, when its process was named.
    pub broker_resident_bytes: Option<u64>,
    /// The most resident memory of the broker since it started, bytes, when its process was named.
    pub broker_peak_resident_bytes: Option<u64>,
    /// The check of everything that was written; absent when it was turned off.
    pub integrity: Option<Verdict>,
    /// Seconds that reading back took.
    pub verify_seconds: Option<f64>,
    /// The result beside the machine's own limits; empty when they were not given.
    pub limits: Vec<Held>,
}

impl Report {
    /// True when no record failed and nothing was lost, doubled, reordered or damaged.
    pub fn is_clean(&self) -> bool {
        self.errors == 0 && self.integrity.is_none_or(|verdict| verdict.is_clean())
    }

    /// CPU seconds for a million records.
    fn cpu_per_million(&self, cpu_seconds: Option<f64>) -> Option<f64> {
        cpu_seconds.filter(|_| self.records > 0).map(|seconds| seconds * 1e6 / self.records as f64)
    }

    /// The report as lines of `name  value`.
    pub fn text(&self) -> String {
        let c = &self.conditions;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "{name:<12}{value}");
        };
        line("workload", self.workload.name().to_owned());
        line(
            "topic",
            format!(
                "{} ({} partitions, replication {}, durability {})",
                c.topic, c.partitions, c.replication_factor, c.durability
            ),
        );
        let pace = match (c.rate, c.in_flight) {
            (0, 0) => String::new(),
            (0, in_flight) => format!(", {in_flight} in flight each"),
            (rate, _) => format!(", {rate} records/s open loop"),
        };
        let passes = if c.passes > 1 { format!(", read {} times", c.passes) } else { String::new() };
        line(
            "load",
            format!(
                "acks {}, records of {} B, batches of {} B, compression {}, {} client(s){pace}{passes}",
                c.acks, c.record_bytes, c.batch_bytes, c.compression, c.clients
            ),
        );
        line("records", format!("{} in {:.3} s, {} errors", self.records, self.seconds, self.errors));
        if let Some(error) = &self.first_error {
            line("first error", error.clone());
        }
        line("rate", format!("{:.0} records/s  {:.2} MB/s", self.records_per_second, self.mb_per_second));
        self.limits.iter().for_each(|held| line("limit", held.describe()));
        let l = &self.latency;
        if l.count > 0 {
            line(
                "latency us",
                format!(
                    "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}  mean {:.0}  ({})",
                    l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.max_us, l.mean_us, self.latency_of
                ),
            );
        }
        for (name, cpu) in [("client CPU", self.client_cpu_seconds), ("broker CPU", self.broker_cpu_seconds)] {
            if let (Some(cpu), Some(per_million)) = (cpu, self.cpu_per_million(cpu)) {
                line(name, format!("{cpu:.2} s, {per_million:.2} s per million records"));
            }
        }
        if let Some(bytes) = self.broker_resident_bytes {
            let mebibytes = |bytes: u64| bytes as f64 / 1_048_576.0;
            let peak = self
                .broker_peak_resident_bytes
                .map_or(String::new(), |peak| format!(", at most {:.1} MiB since it started", mebibytes(peak)));
            line("broker RSS", format!("{:.1} MiB{peak}", mebibytes(bytes)));
        }
        match &self.integrity {
            Some(verdict) => line("integrity", verdict.describe()),
            None => line("integrity", "not checked".to_owned()),
        }
        text
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn report() -> Report {
        Report {
            workload: Workload::Produce,
            conditions: Conditions {
                topic: "t".into(),
                partitions: 3,
                replication_factor: 1,
                durability: "sync".into(),
                acks: "all".into(),
                record_bytes: 100,
                batch_bytes: 65_536,
                compression: "none".into(),
                clients: 2,
                in_flight: 1_000,
                rate: 0,
                passes: 0,
            },
            records: 1_000_000,
            bytes: 100_000_000,
            errors: 0,
            first_error: None,
            seconds: 2.0,
            records_per_second: 500_000.0,
            mb_per_second: 50.0,
            latency_of: "send to ack",
            latency: Percentiles { count: 10, p50_us: 5, ..Percentiles::default() },
            client_cpu_seconds: Some(1.5),
            broker_cpu_seconds: None,
            broker_resident_bytes: None,
            broker_peak_resident_bytes: None,
            integrity: Some(Verdict { by_stamp: true, acked: 1, read: 1, ..Verdict::default() }),
            verify_seconds: None,
            limits: Vec::new(),
        }
    }

    /// Catches: a name in the text that is not the name in the JSON.
    #[test]
    fn a_workload_has_one_name() {
        use Workload::{Consume, EndToEnd, Produce, ProducePaced, Tail};
        for workload in [Produce, ProducePaced, Consume, Tail, EndToEnd] {
            assert_eq!(serde_json::to_value(workload).ok(), Some(workload.name().into()));
        }
    }

    #[test]
    fn every_number_is_told_with_its_conditions() {
        let text = report().text();
        for part in [
            "acks all",
            "replication 1",
            "durability sync",
            "100 B",
            "65536 B",
            "2 client(s)",
            "OK",
            "1.50 s per million",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn a_loss_or_an_error_is_never_clean() {
        assert!(report().is_clean());
        assert!(!Report { errors: 1, ..report() }.is_clean());
        let lossy = Verdict { lost: 1, ..Verdict::default() };
        assert!(!Report { integrity: Some(lossy), ..report() }.is_clean());
    }
}
