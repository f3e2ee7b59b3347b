//! The cluster's state at a glance.

use super::messages;
use super::metadata::BrokerEndpoint;
use crate::codec::field_struct;
use crate::ids::{BrokerId, ClusterId};

field_struct! {
    /// Asks for the cluster's state.
    pub struct ClusterDescribeRequest {}
}

field_struct! {
    /// The cluster's state as this broker knows it.
    pub struct ClusterDescribeResponse {
        /// The cluster.
        pub cluster_id: ClusterId,
        /// The broker that decides about metadata, if there is one now.
        pub controller: Option<BrokerId>,
        /// The Raft term of the metadata.
        pub metadata_term: u64,
        /// The Raft log index applied here.
        pub metadata_index: u64,
        /// Every registered broker.
        pub brokers: Vec<BrokerDescription>,
        /// How many topics there are.
        pub topics: u32,
        /// How many partitions they have together.
        pub partitions: u32,
        /// Partitions that have no leader.
        pub leaderless: u32,
        /// Partitions with fewer replicas in sync than assigned.
        pub under_replicated: u32,
        /// Partitions with fewer replicas in sync than `min.insync.replicas`.
        pub under_min_isr: u32,
    }
}

field_struct! {
    /// One broker.
    pub struct BrokerDescription {
        /// Who it is and where.
        pub endpoint: BrokerEndpoint,
        /// What it is doing, in one word.
        pub state: String,
        /// Its version.
        pub version: String,
        /// Partitions it leads.
        pub leaders: u32,
        /// Partitions it holds.
        pub replicas: u32,
        /// Bytes its data takes.
        pub disk_used_bytes: u64,
        /// Bytes left on its disk.
        pub disk_free_bytes: u64,
    }
}

messages! {
    ClusterDescribe: ClusterDescribeRequest => ClusterDescribeResponse;
}
