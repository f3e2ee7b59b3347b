//! What a scrape asks for: the parts' own numbers, translated once.

use std::sync::Arc;

use streambus_consensus::image::ClusterImage;
use streambus_protocol::ids::BrokerId;
use streambus_storage::metrics::{LATENCY_BOUNDS_US, StoreMetrics};
use streambus_storage::store::Store;

use crate::metrics::BrokerMetrics;
use crate::metrics::snapshot::{Buckets, ClientsSnapshot, ClusterSnapshot, StorageSnapshot};
use crate::net::admission::Admission;
use crate::service::directory::Directory;

/// Lets scrapes of `metrics` ask the other parts.
pub(super) fn attach(metrics: &BrokerMetrics, admission: &Arc<Admission>, store: &Store, directory: &Directory) {
    let admission = Arc::clone(admission);
    metrics.attach_clients(move || ClientsSnapshot {
        inflight_bytes: wide(admission.request_bytes_in_flight()),
        inflight_bytes_max: wide(admission.limits().request_bytes_max),
    });
    let store = store.clone();
    metrics.attach_storage(move || storage(&store));
    let directory = directory.clone();
    metrics.attach_cluster(move || cluster(&directory));
}

fn storage(store: &Store) -> StorageSnapshot {
    let status = store.status();
    let metrics = store.metrics();
    StorageSnapshot {
        used_bytes: status.used_bytes,
        free_bytes: status.free_bytes,
        segments: wide(status.segments),
        damaged_extents: wide(status.damaged.len()),
        is_read_only: status.read_only.is_some(),
        is_full: status.full,
        logs: wide(status.logs),
        tail_cache_bytes: wide(status.tail_cache_bytes),
        tail_cache_hits: metrics.tail_cache_hits.get(),
        tail_cache_misses: metrics.tail_cache_misses.get(),
        read_bytes: metrics.disk_read_bytes.get(),
        commits: metrics.commits.get(),
        committed_entries: metrics.commit_entries.get(),
        committed_bytes: metrics.commit_disk_bytes.get(),
        commit_seconds: commit_seconds(metrics),
        appends_refused: metrics.appends_refused.get(),
        damaged_reads: metrics.damaged_reads.get(),
        repaired_batches: metrics.batches_repaired.get(),
        repaired_bytes: metrics.bytes_repaired.get(),
        maintenance_failures: metrics.maintenance_failures.get(),
        segments_recycled: metrics.segments_recycled.get(),
        scrubbed_bytes: metrics.scrubbed_bytes.get(),
        compacted_bytes: metrics.compacted_bytes.get(),
        cleaned_bytes: metrics.cleaned_bytes.get(),
        records_cleaned: metrics.records_cleaned.get(),
        segments_compacted: metrics.segments_compacted.get(),
    }
}

fn commit_seconds(metrics: &StoreMetrics) -> Buckets {
    let counts = metrics.commit_latency.buckets();
    let seconds = |micros: u64| std::time::Duration::from_micros(micros).as_secs_f64();
    Buckets {
        buckets: LATENCY_BOUNDS_US.into_iter().map(seconds).zip(counts).collect(),
        beyond: counts.last().copied().unwrap_or(0),
        sum_seconds: seconds(metrics.commit_latency.sum_us()),
    }
}

fn cluster(directory: &Directory) -> ClusterSnapshot {
    let image = directory.image();
    let status = directory.metadata().status();
    let snapshot = ClusterSnapshot {
        brokers: wide(image.brokers.len()),
        topics: wide(image.topic_count()),
        partitions: image.partition_count(),
        term: status.term,
        applied: image.applied,
        snapshot: status.snapshot_index,
        purged: status.purged_index,
        snapshots_built: status.snapshots.built,
        snapshots_installed: status.snapshots.installed,
        snapshots_refused: status.snapshots.refused,
        is_controller: status.is_leader,
        ..ClusterSnapshot::default()
    };
    counted(snapshot, &image, directory.broker())
}

/// Adds what is to be counted partition by partition, for broker `me`.
fn counted(mut snapshot: ClusterSnapshot, image: &ClusterImage, me: BrokerId) -> ClusterSnapshot {
    for topic in image.topics() {
        for partition in &topic.partitions {
            snapshot.leading += u64::from(partition.leader == Some(me));
            snapshot.leaderless += u64::from(partition.leader.is_none());
            snapshot.elected_uncleanly += u64::from(partition.unclean_epoch.is_some());
            snapshot.under_replicated += u64::from(partition.isr.len() < partition.replicas.len());
            snapshot.under_min_isr += u64::from(partition.isr.len() < partition.in_sync_min(&topic.settings));
        }
    }
    snapshot
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use streambus_consensus::command::{Assignment, Command, Election, ElectionKind};
    use streambus_protocol::ids::{PartitionId, PartitionIndex, TopicId, TopicName};
    use streambus_protocol::timestamp::Timestamp;

    use super::*;
    use crate::partition::fixture::Metadata;

    // Catches an alarm that never ends: a topic may demand more replicas than it has left after a move.
    #[test]
    fn no_more_replicas_are_demanded_than_there_are() {
        let mut metadata = Metadata::founded();
        let (one, two) = (BrokerId::new(1), BrokerId::new(2));
        metadata.start(one);
        let gone = metadata.start(two);
        metadata.apply(&Command::CreateTopic {
            name: TopicName::new("t").expect("a name"),
            id: TopicId::from_bytes([1; 16]),
            partitions: vec![Assignment { replicas: vec![one] }, Assignment { replicas: vec![one, two] }],
            config: BTreeMap::from([("min.insync.replicas".to_owned(), "2".to_owned())]),
            at: Timestamp::from_millis(1),
        });
        let under = |metadata: &Metadata| counted(ClusterSnapshot::default(), &metadata.image(), one).under_min_isr;
        assert_eq!(under(&metadata), 0);
        metadata.apply(&Command::FenceBroker { broker: two, epoch: gone });
        assert_eq!(under(&metadata), 1, "the one that has lost a replica");
    }

    // Catches a loss that is forgotten once the partition is whole again.
    #[test]
    fn a_partition_that_was_elected_uncleanly_is_counted_for_good() {
        let mut metadata = Metadata::founded();
        let (one, two) = (BrokerId::new(1), BrokerId::new(2));
        let (first, second) = (metadata.start(one), metadata.start(two));
        let topic = TopicId::from_bytes([1; 16]);
        metadata.apply(&Command::CreateTopic {
            name: TopicName::new("t").expect("a name"),
            id: topic,
            partitions: vec![Assignment { replicas: vec![one, two] }],
            config: BTreeMap::from([("min.insync.replicas".to_owned(), "1".to_owned())]),
            at: Timestamp::from_millis(1),
        });
        let now = |metadata: &Metadata| counted(ClusterSnapshot::default(), &metadata.image(), one);
        metadata.apply(&Command::FenceBroker { broker: one, epoch: first });
        metadata.apply(&Command::FenceBroker { broker: two, epoch: second });
        metadata.apply(&Command::UnfenceBroker { broker: one, epoch: first });
        assert_eq!((now(&metadata).leaderless, now(&metadata).elected_uncleanly), (1, 0));
        let id = PartitionId { topic, partition: PartitionIndex::new(0) };
        metadata.apply(&Command::ElectLeaders { elections: vec![Election { id, kind: ElectionKind::Unclean }] });
        assert_eq!((now(&metadata).leading, now(&metadata).elected_uncleanly), (1, 1));
        metadata.apply(&Command::UnfenceBroker { broker: two, epoch: second });
        metadata.set_in_sync(id, &[one, two]);
        assert_eq!((now(&metadata).under_replicated, now(&metadata).elected_uncleanly), (0, 1));
    }
}
