//! The families whose values are asked for at the scrape.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};

use super::process::{self, ProcessSnapshot};
use super::snapshot::{Buckets, CatchUpSnapshot, ClientsSnapshot, ClusterSnapshot, StorageSnapshot, StraysSnapshot};
use crate::lifecycle::{Component, Lifecycle, State};

type Source<T> = RwLock<Option<Box<dyn Fn() -> T + Send + Sync>>>;

/// Whom to ask. Nothing is attached at first: a broker that is still recovering shows what it has.
#[derive(Default)]
pub(super) struct Scraped {
    pub(super) lifecycle: RwLock<Option<Lifecycle>>,
    pub(super) clients: Source<ClientsSnapshot>,
    pub(super) storage: Source<StorageSnapshot>,
    pub(super) cluster: Source<ClusterSnapshot>,
    pub(super) catch_up: Source<CatchUpSnapshot>,
    pub(super) strays: Source<StraysSnapshot>,
}

impl fmt::Debug for Scraped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scraped")
    }
}

/// The registry's view of [`Scraped`].
pub(super) struct Collected(pub(super) Arc<Scraped>);

impl Collector for Collected {
    /// None: families with nothing attached are absent, and names are unique by the test of the rendered text.
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Families(Vec::new());
        build(&mut families);
        process(&mut families, &process::read());
        if let Some(state) = self.0.lifecycle.read().as_ref() {
            lifecycle(&mut families, state);
        }
        if let Some(read) = self.0.clients.read().as_ref() {
            clients(&mut families, &read());
        }
        if let Some(read) = self.0.storage.read().as_ref() {
            storage(&mut families, &read());
        }
        if let Some(read) = self.0.cluster.read().as_ref() {
            cluster(&mut families, &read());
        }
        if let Some(read) = self.0.catch_up.read().as_ref() {
            catch_up(&mut families, &read());
        }
        if let Some(read) = self.0.strays.read().as_ref() {
            strays(&mut families, &read());
        }
        families.0
    }
}

fn build(into: &mut Families) {
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    into.family(
        "streambus_build_info",
        "Always 1; the version of this binary.",
        MetricType::GAUGE,
        vec![(version, 1.0)],
    );
}

fn process(into: &mut Families, now: &ProcessSnapshot) {
    if let Some(bytes) = now.resident_bytes {
        into.gauge("streambus_process_resident_memory_bytes", "Memory of the process in RAM.", number(bytes));
    }
    if let Some(fds) = now.open_fds {
        into.gauge("streambus_process_open_fds", "File descriptors open.", number(fds));
    }
    if let Some(fds) = now.max_fds {
        into.gauge("streambus_process_max_fds", "File descriptors allowed.", number(fds));
    }
    if let Some(threads) = now.threads {
        into.gauge("streambus_process_threads", "Threads of the process.", number(threads));
    }
    if let Some(seconds) = now.cpu_seconds {
        into.counter("streambus_process_cpu_seconds_total", "Processor time used, user and system.", seconds);
    }
}

fn lifecycle(into: &mut Families, lifecycle: &Lifecycle) {
    let state = lifecycle.get().name();
    let states = State::NAMES.iter().map(|name| (vec![("state", *name)], flag(*name == state))).collect();
    into.family("streambus_state", "1 for the lifecycle state the broker is in.", MetricType::GAUGE, states);
    let ready = lifecycle.unready_reasons().is_empty();
    into.gauge("streambus_ready", "1 when this broker should get traffic.", flag(ready));
    let problems = lifecycle.problems();
    let has_problem = |component: Component| problems.iter().any(|problem| problem.component == component);
    let components = Component::ALL.iter().map(|c| (vec![("component", c.name())], flag(has_problem(*c)))).collect();
    into.family("streambus_problem", "1 while the component reports a problem.", MetricType::GAUGE, components);
}

fn clients(into: &mut Families, now: &ClientsSnapshot) {
    into.gauge(
        "streambus_inflight_bytes",
        "Bytes of client requests and answers in flight.",
        number(now.inflight_bytes),
    );
    into.gauge("streambus_inflight_limit_bytes", "The limit of in-flight bytes.", number(now.inflight_bytes_max));
}

fn cluster(into: &mut Families, now: &ClusterSnapshot) {
    into.gauge("streambus_brokers", "Brokers registered in the cluster.", number(now.brokers));
    into.gauge("streambus_topics", "Topics of the cluster, internal ones included.", number(now.topics));
    into.gauge("streambus_partitions", "Partitions of the cluster.", number(now.partitions));
    into.gauge("streambus_partitions_led", "Partitions that this broker leads.", number(now.leading));
    into.gauge("streambus_partitions_leaderless", "Partitions without a leader.", number(now.leaderless));
    into.gauge(
        "streambus_partitions_elected_uncleanly",
        "Partitions that were once led by a replica that may have lacked acknowledged records.",
        number(now.elected_uncleanly),
    );
    into.gauge(
        "streambus_partitions_under_replicated",
        "Partitions with fewer in-sync replicas than replicas.",
        number(now.under_replicated),
    );
    into.gauge(
        "streambus_partitions_under_min_isr",
        "Partitions with fewer in-sync replicas than acks=all demands.",
        number(now.under_min_isr),
    );
    into.gauge("streambus_metadata_term", "The metadata's Raft term.", number(now.term));
    into.gauge("streambus_metadata_applied_index", "The last metadata change applied here.", number(now.applied));
    into.gauge(
        "streambus_metadata_snapshot_index",
        "The last metadata change in the newest snapshot here.",
        number(now.snapshot),
    );
    into.gauge(
        "streambus_metadata_purged_index",
        "The last metadata change that the log here has let go.",
        number(now.purged),
    );
    into.counter(
        "streambus_metadata_snapshots_built_total",
        "Metadata snapshots written here.",
        number(now.snapshots_built),
    );
    into.counter(
        "streambus_metadata_snapshots_installed_total",
        "Metadata snapshots taken from the controller instead of the changes missed.",
        number(now.snapshots_installed),
    );
    into.counter(
        "streambus_metadata_snapshots_refused_total",
        "Metadata snapshots that arrived damaged and were refused; each is sent again.",
        number(now.snapshots_refused),
    );
    into.gauge("streambus_controller", "1 when this broker is the controller.", flag(now.is_controller));
}

fn catch_up(into: &mut Families, now: &CatchUpSnapshot) {
    into.gauge(
        "streambus_catch_up_replicas",
        "Replicas of partitions led here that are not in sync.",
        number(now.replicas),
    );
    into.gauge("streambus_catch_up_behind_bytes", "About how many bytes they lack.", number(now.behind_bytes));
    into.counter("streambus_catch_up_sent_bytes_total", "Bytes sent to replicas not in sync.", number(now.sent_bytes));
    into.gauge(
        "streambus_catch_up_limit_bytes_per_second",
        "What may be sent to them: the setting, or more where more is appended; 0 without a limit.",
        number(now.limit_bytes_per_second),
    );
}

fn strays(into: &mut Families, now: &StraysSnapshot) {
    into.gauge(
        "streambus_storage_stray_logs",
        "Logs in quarantine: this broker is not known to hold them, and nothing proves that they may go.",
        number(now.logs),
    );
    into.gauge("streambus_storage_stray_bytes", "Bytes of the records in them.", number(now.bytes));
}

fn storage(into: &mut Families, now: &StorageSnapshot) {
    into.gauge("streambus_storage_used_bytes", "Bytes of the data directory in use.", number(now.used_bytes));
    into.gauge("streambus_storage_free_bytes", "Bytes free on its file system.", number(now.free_bytes));
    into.gauge("streambus_storage_segments", "Journal segments in use.", number(now.segments));
    into.gauge("streambus_storage_logs", "Partition logs in the data directory.", number(now.logs));
    into.gauge(
        "streambus_storage_damaged_extents",
        "Stored ranges that fail their checksums.",
        number(now.damaged_extents),
    );
    into.gauge(
        "streambus_storage_read_only",
        "1 after a failed write or sync: nothing is written until a restart.",
        flag(now.is_read_only),
    );
    into.gauge("streambus_storage_full", "1 while writes are refused for lack of space.", flag(now.is_full));
    into.gauge("streambus_storage_tail_cache_bytes", "Bytes held by the tail cache.", number(now.tail_cache_bytes));
    into.counter("streambus_storage_tail_cache_hits_total", "Reads answered from memory.", number(now.tail_cache_hits));
    into.counter(
        "streambus_storage_tail_cache_misses_total",
        "Reads that went to the disk.",
        number(now.tail_cache_misses),
    );
    into.counter("streambus_storage_read_bytes_total", "Bytes read from the disk.", number(now.read_bytes));
    into.counter("streambus_storage_commits_total", "Group commits on disk.", number(now.commits));
    into.counter(
        "streambus_storage_committed_entries_total",
        "Journal entries in group commits.",
        number(now.committed_entries),
    );
    into.counter(
        "streambus_storage_committed_bytes_total",
        "Bytes of group commits, padding included.",
        number(now.committed_bytes),
    );
    into.histogram(
        "streambus_storage_commit_seconds",
        "Time of a group commit from its write to stable storage.",
        &now.commit_seconds,
    );
    into.counter(
        "streambus_storage_appends_refused_total",
        "Appends refused: read-only, full, busy or out of order.",
        number(now.appends_refused),
    );
    into.counter(
        "streambus_storage_damaged_reads_total",
        "Reads refused because what they asked for is damaged.",
        number(now.damaged_reads),
    );
    into.counter(
        "streambus_storage_repaired_batches_total",
        "Damaged batches that were stored anew from another replica.",
        number(now.repaired_batches),
    );
    into.counter(
        "streambus_storage_repaired_bytes_total",
        "Bytes of batches that were stored anew from another replica.",
        number(now.repaired_bytes),
    );
    into.counter(
        "streambus_storage_maintenance_failures_total",
        "Attempts to write the index or a checkpoint that failed and are repeated.",
        number(now.maintenance_failures),
    );
    into.counter(
        "streambus_storage_segments_recycled_total",
        "Segments whose records have all gone and whose space is used again.",
        number(now.segments_recycled),
    );
    into.counter("streambus_storage_scrubbed_bytes_total", "Bytes the scrub has verified.", number(now.scrubbed_bytes));
    into.counter(
        "streambus_storage_compacted_bytes_total",
        "Bytes of batches that compaction stored anew.",
        number(now.compacted_bytes),
    );
    into.counter(
        "streambus_storage_cleaned_bytes_total",
        "Bytes of batches that log compaction stored anew.",
        number(now.cleaned_bytes),
    );
    into.counter(
        "streambus_storage_records_cleaned_total",
        "Records that log compaction dropped for newer ones of their keys, or as tombstones.",
        number(now.records_cleaned),
    );
    into.counter(
        "streambus_storage_segments_compacted_total",
        "Segments that compaction gave back; they count as recycled too.",
        number(now.segments_compacted),
    );
}

/// Families under construction. An empty one must not be added: the registry takes it for a defect.
struct Families(Vec<MetricFamily>);

impl Families {
    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help, MetricType::GAUGE, vec![(Vec::new(), value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help, MetricType::COUNTER, vec![(Vec::new(), value)]);
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType, values: Vec<(Vec<(&str, &str)>, f64)>) {
        let metrics = values.into_iter().map(|(labels, value)| {
            let labels = labels.into_iter().map(|(name, value)| {
                let mut pair = proto::LabelPair::default();
                pair.set_name(name.to_owned());
                pair.set_value(value.to_owned());
                pair
            });
            let mut metric = proto::Metric::from_label(labels.collect());
            if kind == MetricType::COUNTER {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        });
        let metrics = metrics.collect();
        self.push(name, help, kind, metrics);
    }

    fn histogram(&mut self, name: &str, help: &str, values: &Buckets) {
        let mut cumulated: u64 = 0;
        let mut buckets = Vec::with_capacity(values.buckets.len());
        for (bound, observed) in &values.buckets {
            cumulated = cumulated.saturating_add(*observed);
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulated);
            buckets.push(bucket);
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(cumulated.saturating_add(values.beyond));
        histogram.set_sample_sum(values.sum_seconds);
        let mut metric = proto::Metric::from_label(Vec::new());
        metric.set_histogram(histogram);
        self.push(name, help, MetricType::HISTOGRAM, vec![metric]);
    }

    fn push(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<proto::Metric>) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

/// Prometheus knows only floating point: above 2^53 the last digits are rounded, which no graph can show.
fn number(value: u64) -> f64 {
    value as f64
}
