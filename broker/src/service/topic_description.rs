//! What a topic looks like from this broker: the metadata, and the logs that are here.

use std::time::Duration;

use streambus_consensus::image::{PartitionImage, TopicImage};
use streambus_protocol::api::metadata::PartitionLayout;
use streambus_protocol::api::replica::LeaderLogState;
use streambus_protocol::api::topics::{ConfigEntry, DescribeTopicResponse, PartitionDescription, ReplicaDescription};
use streambus_protocol::ids::{PartitionId, PartitionIndex};
use streambus_protocol::offset::Offset;
use streambus_protocol::topic_config::TopicConfig;

use crate::partition::Partition;
use crate::partition::registry::Registry;
use crate::replication::leader_state::ReplicaStanding;

/// Everything there is to say about `topic`.
pub(crate) fn describe(topic: &TopicImage, registry: &Registry, now: Duration) -> DescribeTopicResponse {
    let config = TopicConfig::entries(&topic.config)
        .into_iter()
        .map(|(key, value, is_default)| ConfigEntry { key, value, is_default })
        .collect();
    let partitions = indexed(topic)
        .map(|(index, state)| {
            let layout = layout(index, state);
            match registry.get(PartitionId { topic: topic.id, partition: index }) {
                Some(partition) => {
                    let log = partition.log();
                    // The end last: each position is at most the ones read after it.
                    let log_start = log.log_start();
                    let high_watermark = partition.high_watermark();
                    PartitionDescription {
                        log_start,
                        high_watermark,
                        log_end: log.log_end(),
                        size_bytes: log.size_bytes(),
                        damaged: log.damaged().iter().map(|range| (range.base, range.next)).collect(),
                        replica_states: replica_states(&partition, now),
                        ..without_log(layout, state)
                    }
                }
                None => without_log(layout, state),
            }
        })
        .collect();
    DescribeTopicResponse { name: topic.name.clone(), id: topic.id, config, partitions }
}

/// Every replica, when this broker leads the partition and others hold it too.
fn replica_states(partition: &Partition, now: Duration) -> Vec<ReplicaDescription> {
    let standings = partition.standings(now);
    let end = standings.iter().map(|standing| standing.log_end).max().unwrap_or(Offset::ZERO);
    let describe = |standing: &ReplicaStanding| ReplicaDescription {
        broker: standing.broker,
        log_end: standing.log_end,
        durable_end: standing.durable_end,
        lag_records: standing.log_end.distance_to(end).unwrap_or(0),
        in_sync: standing.in_sync,
        caught_up_ms_ago: standing.caught_up_ago.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
        lag_bytes: partition.bytes_between(standing.log_end, end),
        bytes_per_second: partition.bytes_of(standing.records_per_second),
    };
    standings.iter().map(describe).collect()
}

/// What this broker, which leads `partition`, says about its log.
pub(crate) fn leader_log_state(partition: &Partition, now: Duration) -> LeaderLogState {
    let log = partition.log();
    // The end last: each position is at most the ones read after it.
    let log_start = log.log_start();
    let high_watermark = partition.high_watermark();
    LeaderLogState {
        log_start,
        high_watermark,
        log_end: log.log_end(),
        size_bytes: log.size_bytes(),
        damaged: log.damaged().iter().map(|range| (range.base, range.next)).collect(),
        replicas: replica_states(partition, now),
    }
}

/// What the metadata alone says about a partition.
fn without_log(layout: PartitionLayout, state: &PartitionImage) -> PartitionDescription {
    PartitionDescription {
        layout,
        log_start: Offset::ZERO,
        high_watermark: Offset::ZERO,
        log_end: Offset::ZERO,
        size_bytes: 0,
        damaged: Vec::new(),
        elr: state.elr.clone(),
        last_known_elr: state.last_known_elr.clone(),
        adding: state.adding.clone(),
        removing: state.removing.clone(),
        throttle: state.throttle,
        recovering: state.recovering,
        replica_states: Vec::new(),
    }
}

/// A topic's partitions with their numbers.
pub(crate) fn indexed(topic: &TopicImage) -> impl Iterator<Item = (PartitionIndex, &PartitionImage)> {
    (0..).map(PartitionIndex::new).zip(topic.partitions.iter().map(AsRef::as_ref))
}

/// One partition's state as the wire has it.
pub(crate) fn layout(index: PartitionIndex, state: &PartitionImage) -> PartitionLayout {
    PartitionLayout {
        index,
        leader: state.leader,
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        replicas: state.replicas.clone(),
        isr: state.isr.clone(),
    }
}
