//! Every limit of the cluster metadata, in one place, related by compile-time assertions.

use streambus_protocol::limits::{PARTITIONS_PER_TOPIC_MAX, TOPIC_NAME_BYTES_MAX};

/// Brokers the metadata remembers.
pub const BROKERS_MAX: usize = 1_000;
/// Topics of one cluster.
pub const TOPICS_MAX: usize = 100_000;
/// Partitions of one cluster, over all topics.
pub const PARTITIONS_MAX: u64 = 1_000_000;
/// Deleted topics the metadata remembers.
pub const DELETED_TOPICS_MAX: usize = 10_000;
/// Partitions that one command changes on a leader's or an operator's request.
pub const PROPOSALS_MAX: usize = 2_000;
/// Replicas of one partition.
pub const REPLICAS_MAX: usize = 16;
/// Configuration entries of one topic.
pub const CONFIG_ENTRIES_MAX: usize = 64;
/// Bytes of a configuration key.
pub const CONFIG_KEY_BYTES_MAX: usize = 128;
/// Bytes of a configuration value.
pub const CONFIG_VALUE_BYTES_MAX: usize = 1024;
/// Bytes of a host name (RFC 1035), a rack or a version.
pub const HOST_BYTES_MAX: usize = 255;
/// Producer ids handed out by one command.
pub const PRODUCER_BLOCK_MAX: u32 = 1_000_000;
/// Nodes of one Raft membership, learners included.
pub const RAFT_NODES_MAX: usize = 1_000;
/// Bytes of one encoded command. A larger one is never proposed.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of log entries read at once, for a follower or for apply. One entry is returned even if it is larger.
pub const LOG_READ_BYTES_MAX: usize = 512 * 1024;
/// Bytes of one encoded peer message: one full read and its envelope.
pub const PEER_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one snapshot file.
pub const SNAPSHOT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of an identity file. It is read whole.
pub const IDENTITY_BYTES_MAX: u64 = 4 * 1024;

/// Bytes of a text for people in a message between brokers.
pub const MESSAGE_TEXT_BYTES_MAX: usize = 1024;
/// Bytes of a hello or its answer.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

const PARTITION_COMMAND_BYTES: usize = 4 + REPLICAS_MAX * 4;
const PROPOSAL_BYTES: usize = 16 + 4 + 4 + 4 + 4 + REPLICAS_MAX * 12 + 1;
const CONFIG_BYTES: usize = CONFIG_ENTRIES_MAX * (CONFIG_KEY_BYTES_MAX + CONFIG_VALUE_BYTES_MAX + 4);
const _: () = assert!(PARTITIONS_PER_TOPIC_MAX <= 10_000);
const _: () = assert!(10_000 * PARTITION_COMMAND_BYTES + CONFIG_BYTES + TOPIC_NAME_BYTES_MAX + 64 <= COMMAND_BYTES_MAX);
const _: () = assert!(PROPOSALS_MAX * PROPOSAL_BYTES + 64 <= COMMAND_BYTES_MAX);
const _: () = assert!(LOG_READ_BYTES_MAX + COMMAND_BYTES_MAX < PEER_MESSAGE_BYTES_MAX);
