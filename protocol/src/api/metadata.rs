//! Where things are: brokers, topics, leaders.

use super::messages;
use super::session::ErrorBody;
use crate::codec::field_struct;
use crate::epoch::{LeaderEpoch, PartitionEpoch};
use crate::ids::{BrokerId, ClusterId, PartitionIndex, TopicId, TopicName};
use crate::limits::{PARTITIONS_PER_TOPIC_MAX, TOPICS_PER_RESPONSE_MAX};

field_struct! {
    /// Asks where topics are.
    pub struct MetadataRequest {
        /// The topics meant; `None` for all.
        pub topics: Option<Vec<TopicName>>,
    }
}

field_struct! {
    /// The cluster as this broker knows it.
    pub struct MetadataResponse {
        /// The cluster.
        pub cluster_id: ClusterId,
        /// The broker that decides about metadata, if there is one now.
        pub controller: Option<BrokerId>,
        /// The brokers that are alive.
        pub brokers: Vec<BrokerEndpoint>,
        /// One entry for each topic asked for, or for every topic.
        pub topics: Vec<TopicMetadata>,
    }
}

field_struct! {
    /// How to reach a broker.
    pub struct BrokerEndpoint {
        /// The broker.
        pub id: BrokerId,
        /// Its advertised host name or address.
        pub host: String,
        /// Its advertised port.
        pub port: u16,
        /// Its failure domain, if it was given one.
        pub rack: Option<String>,
    }
}

field_struct! {
    /// One topic, or why it cannot be described.
    pub struct TopicMetadata {
        /// The topic's name.
        pub name: TopicName,
        /// Its layout, or what is wrong.
        pub outcome: Result<TopicLayout, ErrorBody>,
    }
    count_max = TOPICS_PER_RESPONSE_MAX;
}

field_struct! {
    /// A topic's identity and partitions.
    pub struct TopicLayout {
        /// The topic's identity.
        pub id: TopicId,
        /// Its partitions, in order.
        pub partitions: Vec<PartitionLayout>,
    }
}

field_struct! {
    /// Who holds and who leads a partition.
    pub struct PartitionLayout {
        /// The partition.
        pub index: PartitionIndex,
        /// Its leader, if there is one now.
        pub leader: Option<BrokerId>,
        /// The epoch of that leader, or of the last one.
        pub leader_epoch: LeaderEpoch,
        /// The version of this partition's state.
        pub partition_epoch: PartitionEpoch,
        /// The brokers assigned, the preferred leader first.
        pub replicas: Vec<BrokerId>,
        /// The brokers in sync.
        pub isr: Vec<BrokerId>,
    }
    count_max = PARTITIONS_PER_TOPIC_MAX as usize;
}

messages! {
    Metadata: MetadataRequest => MetadataResponse;
}
