//! Creating, changing, describing and deleting topics.

use std::collections::BTreeMap;

use super::messages;
use super::metadata::PartitionLayout;
use crate::codec::field_struct;
use crate::ids::{BrokerId, PartitionIndex, TopicId, TopicName};
use crate::limits::{CONFIG_ENTRIES_MAX, PARTITIONS_PER_TOPIC_MAX, TOPICS_PER_RESPONSE_MAX};
use crate::offset::Offset;

field_struct! {
    /// Creates a topic.
    pub struct CreateTopicRequest {
        /// Its name.
        pub name: TopicName,
        /// How many partitions; 0 for the broker's default.
        pub partitions: u32,
        /// How many replicas of each; 0 for the broker's default.
        pub replication_factor: u16,
        /// What differs from the defaults, see `topic_config`.
        pub config: BTreeMap<String, String>,
        /// Only check whether it could be created.
        pub validate_only: bool,
    }
}

field_struct! {
    /// The topic as created, or as it would be.
    pub struct CreateTopicResponse {
        /// Its identity; all zero after `validate_only`.
        pub id: TopicId,
        /// Its partitions.
        pub partitions: u32,
        /// Replicas of each.
        pub replication_factor: u16,
    }
}

field_struct! {
    /// Deletes a topic and its records.
    pub struct DeleteTopicRequest {
        /// Its name.
        pub name: TopicName,
    }
}

field_struct! {
    /// The topic is gone.
    pub struct DeleteTopicResponse {
        /// The identity it had.
        pub id: TopicId,
    }
}

field_struct! {
    /// Asks for every topic.
    pub struct ListTopicsRequest {}
}

field_struct! {
    /// Every topic.
    pub struct ListTopicsResponse {
        /// In the order of their names.
        pub topics: Vec<TopicListing>,
    }
}

field_struct! {
    /// One topic in a list.
    pub struct TopicListing {
        /// Its name.
        pub name: TopicName,
        /// Its identity.
        pub id: TopicId,
        /// Its partitions.
        pub partitions: u32,
        /// Replicas of each.
        pub replication_factor: u16,
        /// True for a topic the broker made for itself.
        pub internal: bool,
    }
    count_max = TOPICS_PER_RESPONSE_MAX;
}

field_struct! {
    /// Asks for one topic in detail.
    pub struct DescribeTopicRequest {
        /// Its name.
        pub name: TopicName,
    }
}

field_struct! {
    /// One topic in detail.
    pub struct DescribeTopicResponse {
        /// Its name.
        pub name: TopicName,
        /// Its identity.
        pub id: TopicId,
        /// Every configuration key with its value in force.
        pub config: Vec<ConfigEntry>,
        /// Its partitions, in order.
        pub partitions: Vec<PartitionDescription>,
    }
}

field_struct! {
    /// A configuration key with its value in force.
    pub struct ConfigEntry {
        /// The key.
        pub key: String,
        /// The value.
        pub value: String,
        /// True when nobody set it.
        pub is_default: bool,
    }
    count_max = CONFIG_ENTRIES_MAX;
}

field_struct! {
    /// One partition with the state of its leader's log. Where the leader cannot be asked, they are those of the asked
    /// broker's own replica, and zero when it has none.
    pub struct PartitionDescription {
        /// Who holds and leads it.
        pub layout: PartitionLayout,
        /// The first offset still there.
        pub log_start: Offset,
        /// The first offset not committed yet.
        pub high_watermark: Offset,
        /// The offset the next record gets.
        pub log_end: Offset,
        /// Bytes of its record batches.
        pub size_bytes: u64,
        /// Damaged ranges of offsets, half-open.
        pub damaged: Vec<(Offset, Offset)>,
        /// Replicas that may lead although not in sync (KIP-966).
        pub elr: Vec<BrokerId>,
        /// Replicas that were complete once and may have lost records since; the last resort of an election.
        pub last_known_elr: Vec<BrokerId>,
        /// Replicas that a move adds.
        pub adding: Vec<BrokerId>,
        /// Replicas that a move drops.
        pub removing: Vec<BrokerId>,
        /// Bytes per second that the move may send to those it adds, zero for no limit; `None` for what the leader is set
        /// to.
        pub throttle: Option<u64>,
        /// True after an election that may have lost records, until its leader has recovered.
        pub recovering: bool,
        /// Each replica as the leader sees it; empty when the leader could not be asked.
        pub replica_states: Vec<ReplicaDescription>,
    }
    count_max = PARTITIONS_PER_TOPIC_MAX as usize;
}

field_struct! {
    /// One replica as the partition's leader sees it.
    #[derive(Copy)]
    pub struct ReplicaDescription {
        /// The broker.
        pub broker: BrokerId,
        /// The offset its next record gets.
        pub log_end: Offset,
        /// The end of what it has on stable storage.
        pub durable_end: Offset,
        /// Records it lacks.
        pub lag_records: u64,
        /// True when it counts for acknowledgements.
        pub in_sync: bool,
        /// How long ago it had everything the leader had, in milliseconds; `None` if not in this leadership.
        pub caught_up_ms_ago: Option<u64>,
        /// About how many record bytes it lacks.
        pub lag_bytes: u64,
        /// About how many record bytes it got in a second, lately.
        pub bytes_per_second: u64,
    }
}

field_struct! {
    /// Grows a topic.
    pub struct AddPartitionsRequest {
        /// Its name.
        pub name: TopicName,
        /// How many partitions it shall have.
        pub total: u32,
    }
}

field_struct! {
    /// The topic has grown.
    pub struct AddPartitionsResponse {
        /// How many partitions it has.
        pub total: u32,
    }
}

field_struct! {
    /// Changes a topic's configuration.
    pub struct AlterTopicRequest {
        /// Its name.
        pub name: TopicName,
        /// Keys to set.
        pub set: BTreeMap<String, String>,
        /// Keys to return to their defaults.
        pub remove: Vec<String>,
    }
}

field_struct! {
    /// The configuration is in force.
    pub struct AlterTopicResponse {}
}

field_struct! {
    /// Deletes a partition's oldest records.
    pub struct TrimLogRequest {
        /// The topic's name.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// The first offset to keep.
        pub before: Offset,
    }
}

field_struct! {
    /// The records are gone.
    pub struct TrimLogResponse {
        /// The first offset still there.
        pub log_start: Offset,
    }
}

messages! {
    CreateTopic: CreateTopicRequest => CreateTopicResponse;
    DeleteTopic: DeleteTopicRequest => DeleteTopicResponse;
    ListTopics: ListTopicsRequest => ListTopicsResponse;
    DescribeTopic: DescribeTopicRequest => DescribeTopicResponse;
    AddPartitions: AddPartitionsRequest => AddPartitionsResponse;
    AlterTopic: AlterTopicRequest => AlterTopicResponse;
    TrimLog: TrimLogRequest => TrimLogResponse;
}
