//! Errors of the crates below, as the answers a client gets: mapped here and nowhere else.
//!
//! Each message names the thing, the limit and the remedy. What a client cannot act on is logged here, once.

use streambus_consensus::error::ProposeError;
use streambus_consensus::outcome::{ElectRefused, Outcome, RefusedReason};
use streambus_consensus::placement::PlacementError;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::batch::{BatchError, ProducerStamp};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::offset::Offset;
use streambus_protocol::topic_config::ConfigProblem;
use streambus_storage::error::{AppendError, DurabilityLost, ReadError, StoreError};
use streambus_storage::producer_state::SequenceVerdict;

use crate::partition::Partition;

/// A batch that did not verify.
pub(crate) fn batch(partition: &Partition, error: &BatchError) -> ErrorBody {
    let code = error.error_code();
    let remedy = match code {
        ErrorCode::BatchTooLarge => "send smaller batches, or raise the topic's max.message.bytes",
        ErrorCode::UnsupportedBatch => "use record batch format 2 and one of the five codecs",
        ErrorCode::InvalidRecord => {
            "it has no key, and the topic keeps the last record of each key (cleanup.policy=compact): give every record a \
             key, or set the policy to delete; nothing was appended"
        }
        _ => "nothing was appended; send the batch again",
    };
    ErrorBody::new(code, format!("'{}' partition {}: {error}: {remedy}", partition.topic(), partition.id().partition))
}

/// A batch that the log did not take; nothing was appended.
pub(crate) fn append(error: &AppendError) -> ErrorBody {
    let code = match error {
        AppendError::ReadOnly(_) | AppendError::Closed => ErrorCode::StorageReadOnly,
        AppendError::Full(_) => ErrorCode::StorageFull,
        AppendError::Busy { .. } => ErrorCode::Overloaded,
        AppendError::TooLarge { .. } => ErrorCode::BatchTooLarge,
        AppendError::Deleted => ErrorCode::UnknownTopicId,
        AppendError::StaleEpoch { .. } => ErrorCode::FencedLeaderEpoch,
        AppendError::OutOfOrder { .. } => {
            // Offsets are assigned under the partition's own lock: this cannot happen unless that is broken.
            tracing::error!(%error, "an append lost its place");
            ErrorCode::Internal
        }
    };
    ErrorBody::new(code, error.to_string())
}

/// A batch whose sync failed.
pub(crate) fn durability_lost(error: DurabilityLost) -> ErrorBody {
    ErrorBody::new(ErrorCode::StorageFailed, format!("whether the batch survived is unknown: {error}"))
}

/// A batch that its producer's sequence refuses (KIP-98).
pub(crate) fn sequence(stamp: ProducerStamp, verdict: &SequenceVerdict) -> ErrorBody {
    let (code, what) = match verdict {
        SequenceVerdict::Accept | SequenceVerdict::Duplicate { .. } => {
            debug_assert!(false, "{verdict:?} is no refusal");
            (ErrorCode::Internal, "the batch was refused for no reason".to_owned())
        }
        SequenceVerdict::OutOfOrder { expected, .. } => (
            ErrorCode::OutOfOrderSequence,
            format!(
                "sequence {} arrived where {expected} is expected: a batch before it is missing",
                stamp.base_sequence
            ),
        ),
        SequenceVerdict::Fenced { .. } => (
            ErrorCode::FencedProducer,
            format!("a newer incarnation than epoch {} has written here: this one must stop", stamp.epoch),
        ),
        SequenceVerdict::TooOld => (
            ErrorCode::DuplicateSequence,
            format!("sequence {} was appended too long ago to name its offset", stamp.base_sequence),
        ),
    };
    ErrorBody::new(code, format!("producer {}: {what}", stamp.id))
}

/// A partition whose offsets are used up; it takes 292 years at a billion records a second.
pub(crate) fn offsets_exhausted(partition: &Partition) -> ErrorBody {
    ErrorBody::new(ErrorCode::Internal, format!("the offsets of {} are used up", partition.id()))
}

/// A read that failed.
pub(crate) fn read(partition: &Partition, from: Offset, error: &ReadError) -> ErrorBody {
    let place = format!("'{}' partition {}", partition.topic(), partition.id().partition);
    match error {
        ReadError::OutOfRange { start, end } => ErrorBody::new(
            ErrorCode::OffsetOutOfRange,
            format!("offset {from} is outside {place}, which has {start} up to {end}"),
        ),
        ReadError::Damaged { base, next } => ErrorBody::new(
            ErrorCode::StorageDamaged,
            format!(
                "{place}: offsets {base} up to {next} are damaged on this broker's disk: read from {next} to skip them"
            ),
        ),
        ReadError::Deleted => ErrorBody::new(ErrorCode::UnknownTopicId, format!("{place} was deleted")),
        ReadError::Index(_) | ReadError::Journal(_) => {
            tracing::error!(partition = %partition.id(), offset = %from, %error, "a read failed");
            ErrorBody::new(ErrorCode::StorageDamaged, format!("{place}: offset {from} cannot be read: {error}"))
        }
    }
}

/// A log that was not trimmed.
pub(crate) fn store(error: &StoreError) -> ErrorBody {
    match error {
        StoreError::Append(error) => append(error),
        StoreError::OutOfRange { .. } => ErrorBody::new(ErrorCode::OffsetOutOfRange, error.to_string()),
        StoreError::UnknownLog => ErrorBody::new(ErrorCode::UnknownTopicId, error.to_string()),
        StoreError::Read(_) | StoreError::Index(_) | StoreError::Identity(_) | StoreError::Io { .. } => {
            tracing::error!(%error, "the store refused a change");
            ErrorBody::new(ErrorCode::Internal, error.to_string())
        }
    }
}

/// Blocking work that ended without an answer: it panicked, or the runtime is going down.
pub(crate) fn blocking_failed(error: &tokio::task::JoinError) -> ErrorBody {
    if error.is_panic() {
        tracing::error!(%error, "a blocking read panicked");
    }
    ErrorBody::new(ErrorCode::Internal, "the read was interrupted")
}

/// A metadata change whose deadline passed.
pub(crate) fn metadata_timeout() -> ErrorBody {
    ErrorBody::new(
        ErrorCode::MetadataOutcomeUnknown,
        "the deadline passed before the metadata group answered: the change may have been made; look before you retry",
    )
}

/// A metadata change that was not made, or may have been.
pub(crate) fn propose(error: &ProposeError) -> ErrorBody {
    match error {
        ProposeError::Refused(reason) => refused(reason),
        ProposeError::NotApplied(_) => {
            ErrorBody::new(ErrorCode::NoController, format!("{error}: nothing was changed, try again shortly"))
        }
        ProposeError::Unknown(_) => ErrorBody::new(
            ErrorCode::MetadataOutcomeUnknown,
            format!("{error}: the change may have been made; look before you retry"),
        ),
    }
}

fn refused(reason: &RefusedReason) -> ErrorBody {
    let code = match reason {
        RefusedReason::NotFounded => ErrorCode::NotReady,
        RefusedReason::OtherCluster { .. } => ErrorCode::WrongCluster,
        RefusedReason::TopicExists { .. } => ErrorCode::TopicExists,
        RefusedReason::UnknownTopic(_) => ErrorCode::UnknownTopicId,
        RefusedReason::PartitionCount { .. } => ErrorCode::InvalidPartitions,
        RefusedReason::InvalidConfig(problems) => return config(problems),
        RefusedReason::InvalidAssignment { .. } => ErrorCode::InvalidReplicationFactor,
        RefusedReason::UnknownPartition(_) => ErrorCode::UnknownPartition,
        RefusedReason::TopicDeleted(_) => ErrorCode::UnknownTopicId,
        RefusedReason::ClusterLimit { .. }
        | RefusedReason::ProducerCount { .. }
        | RefusedReason::TooManyChanges { .. }
        | RefusedReason::DirectoryInUse { .. } => ErrorCode::InvalidRequest,
        RefusedReason::DuplicateBroker { .. } => ErrorCode::DuplicateBroker,
        RefusedReason::BrokerAlive(_) | RefusedReason::BrokerHoldsReplicas { .. } => ErrorCode::BrokerNotEmpty,
        RefusedReason::UnknownBroker(_) => ErrorCode::UnknownBroker,
        RefusedReason::StaleBrokerEpoch { .. } => ErrorCode::StaleBrokerEpoch,
        RefusedReason::TooFewInSync { .. } => ErrorCode::NotEnoughReplicas,
        // Somebody else changed it first: reading again and retrying is the remedy.
        RefusedReason::PartitionCountChanged { .. } | RefusedReason::ConfigVersionChanged { .. } => {
            return ErrorBody::new(ErrorCode::NoController, format!("{reason}: somebody changed it first, try again"));
        }
        RefusedReason::ZeroId | RefusedReason::TopicIdInUse { .. } | RefusedReason::Exhausted(_) => {
            tracing::error!(%reason, "the metadata group refused a change that this broker should not have proposed");
            ErrorCode::Internal
        }
    };
    ErrorBody::new(code, reason.to_string())
}

/// An election that changed nothing.
pub(crate) fn election(reason: &ElectRefused) -> ErrorBody {
    let code = match reason {
        ElectRefused::UnknownTopic => ErrorCode::UnknownTopicId,
        ElectRefused::UnknownPartition => ErrorCode::UnknownPartition,
        ElectRefused::NotAReplica(_) => ErrorCode::InvalidAssignment,
        ElectRefused::NotInSync(_) | ElectRefused::NotAlive(_) | ElectRefused::Draining(_) => {
            ErrorCode::IneligibleReplica
        }
        ElectRefused::NoneAlive => ErrorCode::LeaderNotAvailable,
        ElectRefused::Exhausted => {
            tracing::error!(%reason, "an election was refused for a reason that cannot be");
            ErrorCode::Internal
        }
    };
    ErrorBody::new(code, reason.to_string())
}

/// A topic configuration with everything that is wrong with it.
pub(crate) fn config(problems: &[ConfigProblem]) -> ErrorBody {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    ErrorBody::new(ErrorCode::InvalidConfig, texts.join("; "))
}

/// A topic that cannot be placed.
pub(crate) fn placement(error: &PlacementError) -> ErrorBody {
    ErrorBody::new(ErrorCode::InvalidReplicationFactor, error.to_string())
}

/// The block in the answer to an allocation, as `first..end`.
pub(crate) fn producer_ids(outcome: Outcome) -> Result<(i64, i64), ErrorBody> {
    match outcome {
        Outcome::ProducerIds { first, count } => Ok((first.get(), first.get().saturating_add(i64::from(count)))),
        other => Err(unexpected(&other)),
    }
}

/// An answer to another command than the one proposed.
pub(crate) fn unexpected(outcome: &Outcome) -> ErrorBody {
    tracing::error!(?outcome, "the metadata group answered another command");
    ErrorBody::new(ErrorCode::Internal, "the metadata group answered another command")
}
