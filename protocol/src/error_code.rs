//! What can go wrong, as a number that is never reused, with the three answers a caller needs.

use std::fmt;

/// Whether a failed mutation left a trace. An unknown outcome is never reported as failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The request certainly changed nothing.
    No,
    /// The request may have been applied, or may yet be.
    Unknown,
}

macro_rules! error_codes {
    ($($(#[$meta:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// A refusal or failure on the wire, 16 bits. Zero is success and has no variant.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[$meta])* $name = $code,)*
        }

        impl ErrorCode {
            /// Every code, in numeric order.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Reads the wire's number; `None` for success (0) and for numbers this version does not know.
            pub const fn from_wire(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The code's stable text, as JSON output carries it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

error_codes! {
    /// A defect of the broker; its log has the cause.
    Internal = 1, "INTERNAL";
    /// The frame or message does not decode.
    MalformedRequest = 2, "MALFORMED_REQUEST";
    /// The API key or its version is not served.
    UnsupportedApi = 3, "UNSUPPORTED_API";
    /// A value is outside its limit.
    InvalidRequest = 4, "INVALID_REQUEST";
    /// The first request must be a handshake.
    HandshakeRequired = 5, "HANDSHAKE_REQUIRED";
    /// The deadline passed before the outcome was known.
    Timeout = 6, "TIMEOUT";
    /// The broker has no memory budget left for this request.
    Overloaded = 7, "OVERLOADED";
    /// The broker is starting, recovering or draining.
    NotReady = 8, "NOT_READY";
    /// The request is larger than the broker allows.
    RequestTooLarge = 9, "REQUEST_TOO_LARGE";
    /// No topic of that name.
    UnknownTopic = 10, "UNKNOWN_TOPIC";
    /// No topic of that id: it was deleted, perhaps created anew.
    UnknownTopicId = 11, "UNKNOWN_TOPIC_ID";
    /// The topic has no such partition.
    UnknownPartition = 12, "UNKNOWN_PARTITION";
    /// A topic of that name exists.
    TopicExists = 13, "TOPIC_EXISTS";
    /// The name breaks the naming rule.
    InvalidTopicName = 14, "INVALID_TOPIC_NAME";
    /// A configuration key is unknown or its value out of range.
    InvalidConfig = 15, "INVALID_CONFIG";
    /// Partition count out of range, or fewer than the topic has.
    InvalidPartitions = 16, "INVALID_PARTITIONS";
    /// More replicas than brokers.
    InvalidReplicationFactor = 17, "INVALID_REPLICATION_FACTOR";
    /// The batch's checksum, count or lengths are wrong.
    CorruptBatch = 20, "CORRUPT_BATCH";
    /// The batch is larger than the topic's `max.message.bytes`.
    BatchTooLarge = 21, "BATCH_TOO_LARGE";
    /// The batch's format or codec is not accepted.
    UnsupportedBatch = 22, "UNSUPPORTED_BATCH";
    /// The asked offset is below the log start or above the end.
    OffsetOutOfRange = 23, "OFFSET_OUT_OF_RANGE";
    /// The asked offset is not known to be committed yet.
    OffsetNotAvailable = 24, "OFFSET_NOT_AVAILABLE";
    /// This broker does not lead the partition.
    NotLeader = 25, "NOT_LEADER";
    /// The request's leader epoch is older than the broker's.
    FencedLeaderEpoch = 26, "FENCED_LEADER_EPOCH";
    /// The request's leader epoch is newer than the broker's.
    UnknownLeaderEpoch = 27, "UNKNOWN_LEADER_EPOCH";
    /// Fewer in-sync replicas than the topic demands; nothing was appended.
    NotEnoughReplicas = 28, "NOT_ENOUGH_REPLICAS";
    /// Appended, but the in-sync set shrank before it was committed.
    NotEnoughReplicasAfterAppend = 29, "NOT_ENOUGH_REPLICAS_AFTER_APPEND";
    /// The partition has no leader now.
    LeaderNotAvailable = 30, "LEADER_NOT_AVAILABLE";
    /// The data directory takes no more writes: a sync failed.
    StorageReadOnly = 31, "STORAGE_READ_ONLY";
    /// The data directory is above its watermark.
    StorageFull = 32, "STORAGE_FULL";
    /// The asked range is damaged on this replica.
    StorageDamaged = 33, "STORAGE_DAMAGED";
    /// The write was handed to the disk and its sync failed.
    StorageFailed = 34, "STORAGE_FAILED";
    /// The topic does not take a record like one of the batch's: it is compacted, and the record has no key.
    InvalidRecord = 35, "INVALID_RECORD";
    /// A sequence number is missing before this one (KIP-98).
    OutOfOrderSequence = 40, "OUT_OF_ORDER_SEQUENCE";
    /// A newer incarnation of this producer exists.
    FencedProducer = 41, "FENCED_PRODUCER";
    /// The sequence number was appended too long ago to name its offset.
    DuplicateSequence = 42, "DUPLICATE_SEQUENCE";
    /// The cluster metadata has no quorum; nothing was changed.
    NoController = 50, "NO_CONTROLLER";
    /// The metadata change may have been applied.
    MetadataOutcomeUnknown = 51, "METADATA_OUTCOME_UNKNOWN";
    /// The cluster ids differ.
    WrongCluster = 52, "WRONG_CLUSTER";
    /// The API is served between brokers only, on the cluster listener.
    ClusterListenerOnly = 53, "CLUSTER_LISTENER_ONLY";
    /// The API is served to clients only; this is the cluster listener.
    ClientListenerOnly = 54, "CLIENT_LISTENER_ONLY";
    /// Another broker answers at this address.
    WrongBroker = 55, "WRONG_BROKER";
    /// A newer registration of this broker exists, or none.
    StaleBrokerEpoch = 56, "STALE_BROKER_EPOCH";
    /// No broker of that id is registered.
    UnknownBroker = 57, "UNKNOWN_BROKER";
    /// Another process with this broker id is alive.
    DuplicateBroker = 58, "DUPLICATE_BROKER";
    /// The broker is alive or still holds replicas.
    BrokerNotEmpty = 59, "BROKER_NOT_EMPTY";
    /// The subscription id is unknown on this connection, or in use.
    InvalidSubscription = 60, "INVALID_SUBSCRIPTION";
    /// The replica is not alive, not in sync, or not one of the partition.
    IneligibleReplica = 70, "INELIGIBLE_REPLICA";
    /// The list of replicas is empty, names a broker twice or one that is not registered.
    InvalidAssignment = 71, "INVALID_ASSIGNMENT";
    /// The partition is not being moved.
    NoReassignment = 72, "NO_REASSIGNMENT";
    /// The leader does not know the fetch session, or expected another sequence: start a new one.
    UnknownReplicaSession = 73, "UNKNOWN_REPLICA_SESSION";
    /// Appended, but leadership moved before it was committed: it may or may not survive.
    LeadershipLost = 74, "LEADERSHIP_LOST";
    /// A replica in sync stands in the reader's rack: read there (KIP-392).
    NearerReplica = 75, "NEARER_REPLICA";
}

impl ErrorCode {
    /// The wire's number; never zero.
    pub const fn to_wire(self) -> u16 {
        self as u16
    }

    /// True when the same request may succeed later or elsewhere, without anyone changing it.
    pub const fn is_retriable(self) -> bool {
        match self {
            Self::Timeout
            | Self::Overloaded
            | Self::NotReady
            | Self::UnknownTopicId
            | Self::OffsetNotAvailable
            | Self::NotLeader
            | Self::FencedLeaderEpoch
            | Self::UnknownLeaderEpoch
            | Self::NotEnoughReplicas
            | Self::NotEnoughReplicasAfterAppend
            | Self::LeaderNotAvailable
            | Self::StorageReadOnly
            | Self::StorageFull
            | Self::StorageDamaged
            | Self::StorageFailed
            | Self::NoController
            | Self::MetadataOutcomeUnknown
            | Self::IneligibleReplica
            | Self::UnknownReplicaSession
            | Self::LeadershipLost
            | Self::NearerReplica => true,
            Self::Internal
            | Self::MalformedRequest
            | Self::UnsupportedApi
            | Self::InvalidRequest
            | Self::HandshakeRequired
            | Self::RequestTooLarge
            | Self::UnknownTopic
            | Self::UnknownPartition
            | Self::TopicExists
            | Self::InvalidTopicName
            | Self::InvalidConfig
            | Self::InvalidPartitions
            | Self::InvalidReplicationFactor
            | Self::CorruptBatch
            | Self::BatchTooLarge
            | Self::UnsupportedBatch
            | Self::InvalidRecord
            | Self::OffsetOutOfRange
            | Self::OutOfOrderSequence
            | Self::FencedProducer
            | Self::DuplicateSequence
            | Self::WrongCluster
            | Self::ClusterListenerOnly
            | Self::ClientListenerOnly
            | Self::WrongBroker
            | Self::StaleBrokerEpoch
            | Self::UnknownBroker
            | Self::DuplicateBroker
            | Self::BrokerNotEmpty
            | Self::InvalidAssignment
            | Self::NoReassignment
            | Self::InvalidSubscription => false,
        }
    }

    /// Whether a mutation answered with this code may have happened.
    pub const fn applied(self) -> Applied {
        match self {
            Self::Internal
            | Self::Timeout
            | Self::NotEnoughReplicasAfterAppend
            | Self::StorageFailed
            | Self::LeadershipLost
            | Self::MetadataOutcomeUnknown => Applied::Unknown,
            // An old duplicate was applied once, long ago: the retry itself changed nothing.
            Self::MalformedRequest
            | Self::UnsupportedApi
            | Self::InvalidRequest
            | Self::HandshakeRequired
            | Self::Overloaded
            | Self::NotReady
            | Self::RequestTooLarge
            | Self::UnknownTopic
            | Self::UnknownTopicId
            | Self::UnknownPartition
            | Self::TopicExists
            | Self::InvalidTopicName
            | Self::InvalidConfig
            | Self::InvalidPartitions
            | Self::InvalidReplicationFactor
            | Self::CorruptBatch
            | Self::BatchTooLarge
            | Self::UnsupportedBatch
            | Self::InvalidRecord
            | Self::OffsetOutOfRange
            | Self::OffsetNotAvailable
            | Self::NotLeader
            | Self::FencedLeaderEpoch
            | Self::UnknownLeaderEpoch
            | Self::NotEnoughReplicas
            | Self::LeaderNotAvailable
            | Self::StorageReadOnly
            | Self::StorageFull
            | Self::StorageDamaged
            | Self::OutOfOrderSequence
            | Self::FencedProducer
            | Self::DuplicateSequence
            | Self::NoController
            | Self::WrongCluster
            | Self::ClusterListenerOnly
            | Self::ClientListenerOnly
            | Self::WrongBroker
            | Self::StaleBrokerEpoch
            | Self::UnknownBroker
            | Self::DuplicateBroker
            | Self::BrokerNotEmpty
            | Self::IneligibleReplica
            | Self::InvalidAssignment
            | Self::NoReassignment
            | Self::UnknownReplicaSession
            | Self::NearerReplica
            | Self::InvalidSubscription => Applied::No,
        }
    }

    /// True when an error of this code carries whom to ask instead, if that is known: who leads, or with `NEARER_REPLICA`
    /// who is near.
    pub const fn names_leader(self) -> bool {
        matches!(self, Self::NotLeader | Self::FencedLeaderEpoch | Self::LeadershipLost | Self::NearerReplica)
    }

    /// The HTTP status that says the same.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Internal | Self::StorageFailed | Self::StorageDamaged => 500,
            Self::MalformedRequest
            | Self::UnsupportedApi
            | Self::InvalidRequest
            | Self::HandshakeRequired
            | Self::InvalidTopicName
            | Self::InvalidConfig
            | Self::InvalidPartitions
            | Self::InvalidReplicationFactor
            | Self::CorruptBatch
            | Self::UnsupportedBatch
            | Self::InvalidRecord
            | Self::ClusterListenerOnly
            | Self::ClientListenerOnly
            | Self::InvalidAssignment
            | Self::InvalidSubscription => 400,
            Self::UnknownTopic | Self::UnknownTopicId | Self::UnknownPartition | Self::UnknownBroker => 404,
            Self::Timeout
            | Self::MetadataOutcomeUnknown
            | Self::NotEnoughReplicasAfterAppend
            | Self::LeadershipLost => 504,
            Self::TopicExists
            | Self::OutOfOrderSequence
            | Self::FencedProducer
            | Self::DuplicateSequence
            | Self::FencedLeaderEpoch
            | Self::WrongCluster
            | Self::WrongBroker
            | Self::StaleBrokerEpoch
            | Self::DuplicateBroker
            | Self::BrokerNotEmpty
            | Self::IneligibleReplica
            | Self::NoReassignment
            | Self::UnknownReplicaSession => 409,
            Self::RequestTooLarge | Self::BatchTooLarge => 413,
            Self::OffsetOutOfRange => 416,
            Self::NotLeader | Self::UnknownLeaderEpoch | Self::NearerReplica => 421,
            Self::Overloaded => 429,
            Self::StorageFull => 507,
            Self::NotReady
            | Self::OffsetNotAvailable
            | Self::NotEnoughReplicas
            | Self::LeaderNotAvailable
            | Self::StorageReadOnly
            | Self::NoController => 503,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire_and_zero_is_success() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_wire(code.to_wire()), Some(*code));
        }
        assert_eq!(ErrorCode::from_wire(0), None);
    }

    #[test]
    fn texts_and_numbers_are_unique() {
        for (i, a) in ErrorCode::ALL.iter().enumerate() {
            for b in &ErrorCode::ALL[i + 1..] {
                assert_ne!(a.as_str(), b.as_str());
                assert_ne!(a.to_wire(), b.to_wire());
            }
        }
    }
}
