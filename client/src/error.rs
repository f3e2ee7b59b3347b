//! What can go wrong, as one enum a caller can switch on.
//!
//! Every variant answers three questions: may the same call succeed later ([`Error::is_retriable`]), did time run out
//! ([`Error::is_timeout`]), and may the change have happened all the same ([`Error::is_outcome_unknown`]). An unknown
//! outcome is never reported as a plain failure.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::error_code::{Applied, ErrorCode};
use streambus_protocol::ids::TopicName;

/// One partition of one topic, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: TopicName,
    /// The partition's number, from zero.
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Why an operation did not succeed. Cheap to clone: the records of one batch share one failure.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Time ran out. The text names how often it was tried and the last cause.
    #[error("{op} timed out after {after:?} and {attempts} attempt(s){}{}", LastCause(last), Outcome(*outcome))]
    Timeout {
        /// The operation.
        op: &'static str,
        /// The time it was given.
        after: Duration,
        /// Attempts made, the unfinished one included.
        attempts: u32,
        /// What the last finished attempt ended with.
        last: Option<Box<Error>>,
        /// Whether the change may have happened all the same.
        outcome: Applied,
    },
    /// The context was cancelled.
    #[error("{op} was cancelled{}", Outcome(*outcome))]
    Cancelled {
        /// The operation.
        op: &'static str,
        /// Whether the change may have happened all the same.
        outcome: Applied,
    },
    /// No connection, or the connection broke.
    #[error("{addr}: {source}{}", Outcome(*outcome))]
    Io {
        /// The broker's address.
        addr: String,
        /// The cause.
        source: Arc<io::Error>,
        /// [`Applied::Unknown`] when the request may have reached the broker.
        outcome: Applied,
    },
    /// No topic of that name.
    #[error("no topic '{topic}'")]
    UnknownTopic {
        /// The name asked for.
        topic: String,
    },
    /// The topic has no such partition.
    #[error("topic '{}' has no partition {}", at.topic, at.partition)]
    UnknownPartition {
        /// The partition asked for.
        at: TopicPartition,
    },
    /// A single record that no batch may hold.
    #[error(
        "the record takes {size} bytes, at most {max} are allowed (producer `record_bytes_max`, topic `max.message.bytes`)"
    )]
    RecordTooLarge {
        /// Bytes of the record as encoded.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// The asked offset is not in the log. The consumer stays usable: seek, or stop.
    #[error("offset {offset} of {at} is not in the log, which holds {earliest}..{latest}")]
    OffsetOutOfRange {
        /// The partition.
        at: TopicPartition,
        /// The offset asked for.
        offset: u64,
        /// The first offset that exists.
        earliest: u64,
        /// The offset after the last readable one.
        latest: u64,
    },
    /// Records that were read are not in the log any more: a leader that lacked them was elected by force, and others have
    /// their offsets now. The consumer stays usable: seek, or stop.
    #[error(
        "{at}: records before offset {offset} that were read were lost in an unclean election and replaced by others"
    )]
    LogReplaced {
        /// The partition.
        at: TopicPartition,
        /// The offset that was to be read next.
        offset: u64,
    },
    /// A newer incarnation of this producer exists.
    #[error("fenced: a newer incarnation of this producer writes to {at}")]
    Fenced {
        /// Where it was noticed.
        at: TopicPartition,
    },
    /// The producer's memory budget is used up.
    #[error("the producer's buffer is full (`buffer_bytes`)")]
    BufferFull,
    /// The broker refused or failed.
    #[error("{}{code}{}", At(at), Detail(message))]
    Broker {
        /// The broker's code.
        code: ErrorCode,
        /// Its explanation: the thing, the limit, the remedy.
        message: String,
        /// The partition it is about, when it is about one.
        at: Option<TopicPartition>,
    },
    /// Bytes that break the protocol; the connection they came on is closed.
    #[error("{addr} broke the protocol: {reason}{}", Outcome(*outcome))]
    Protocol {
        /// Who sent them.
        addr: String,
        /// What was wrong.
        reason: String,
        /// [`Applied::Unknown`] when a request was in flight.
        outcome: Applied,
    },
    /// A stored batch whose bytes do not match their checksum, or do not decode. Reading stops before it.
    #[error("{at}: a batch at or after offset {offset} is corrupt: {reason}")]
    CorruptBatch {
        /// The partition.
        at: TopicPartition,
        /// The offset that was to be read next.
        offset: u64,
        /// What was wrong.
        reason: String,
    },
    /// A setting or argument is out of range.
    #[error("{what}")]
    Invalid {
        /// The setting or argument, the limit and the remedy.
        what: String,
    },
    /// The client, producer or consumer was closed.
    #[error("closed")]
    Closed,
}

impl Error {
    /// True when the same call may succeed later without anybody changing anything.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Io { .. } | Self::BufferFull => true,
            Self::Broker { code, .. } => code.is_retriable(),
            // The connection is replaced; its successor may behave.
            Self::Protocol { .. } => true,
            Self::Cancelled { .. }
            | Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::RecordTooLarge { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::LogReplaced { .. }
            | Self::Fenced { .. }
            | Self::CorruptBatch { .. }
            | Self::Invalid { .. }
            | Self::Closed => false,
        }
    }

    /// True when time ran out, here or on the broker.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Broker { code: ErrorCode::Timeout, .. })
    }

    /// True when the change may have happened, or may yet happen.
    pub fn is_outcome_unknown(&self) -> bool {
        self.applied() == Applied::Unknown
    }

    /// Whether a failed change left a trace.
    pub fn applied(&self) -> Applied {
        match self {
            Self::Timeout { outcome, .. }
            | Self::Cancelled { outcome, .. }
            | Self::Io { outcome, .. }
            | Self::Protocol { outcome, .. } => *outcome,
            Self::Broker { code, .. } => code.applied(),
            Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::RecordTooLarge { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::LogReplaced { .. }
            | Self::Fenced { .. }
            | Self::BufferFull
            | Self::CorruptBatch { .. }
            | Self::Invalid { .. }
            | Self::Closed => Applied::No,
        }
    }

    /// The broker's code, when the broker answered; for a timeout, the code of the last attempt.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Broker { code, .. } => Some(*code),
            Self::Timeout { last: Some(last), .. } => last.code(),
            Self::UnknownTopic { .. } => Some(ErrorCode::UnknownTopic),
            Self::UnknownPartition { .. } => Some(ErrorCode::UnknownPartition),
            Self::OffsetOutOfRange { .. } => Some(ErrorCode::OffsetOutOfRange),
            Self::Fenced { .. } => Some(ErrorCode::FencedProducer),
            _ => None,
        }
    }

    /// The partition the error is about, when it is about one.
    pub fn partition(&self) -> Option<TopicPartition> {
        match self {
            Self::UnknownPartition { at }
            | Self::OffsetOutOfRange { at, .. }
            | Self::LogReplaced { at, .. }
            | Self::Fenced { at }
            | Self::CorruptBatch { at, .. }
            | Self::Broker { at: Some(at), .. } => Some(at.clone()),
            Self::Timeout { last: Some(last), .. } => last.partition(),
            _ => None,
        }
    }

    /// A refusal that is about no particular partition.
    pub(crate) fn from_body(body: ErrorBody) -> Self {
        Self::Broker { code: body.code, message: body.message, at: None }
    }

    /// A refusal about `topic`, which becomes [`Error::UnknownTopic`] where that is what it says.
    pub(crate) fn from_topic_body(body: ErrorBody, topic: &str) -> Self {
        match body.code {
            ErrorCode::UnknownTopic => Self::UnknownTopic { topic: topic.to_owned() },
            _ => Self::from_body(body),
        }
    }

    /// A refusal about one partition.
    pub(crate) fn from_partition_body(body: ErrorBody, at: TopicPartition) -> Self {
        match body.code {
            ErrorCode::UnknownTopic => Self::UnknownTopic { topic: at.topic.to_string() },
            ErrorCode::UnknownPartition => Self::UnknownPartition { at },
            ErrorCode::FencedProducer => Self::Fenced { at },
            _ => Self::Broker { code: body.code, message: body.message, at: Some(at) },
        }
    }
}

/// Why a record was not taken; the record is handed back.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError {
    /// The buffer is full: wait with `enqueue`, or drop the record.
    #[error("the producer's buffer is full")]
    Full(crate::record::Record),
    /// The topic's layout is not known yet; it is being fetched. `enqueue` waits for it.
    #[error("the topic's partitions are not known yet")]
    NotReady(crate::record::Record),
    /// The record can never be sent.
    #[error("{1}")]
    Refused(crate::record::Record, Box<Error>),
    /// The producer is closed.
    #[error("the producer is closed")]
    Closed(crate::record::Record),
}

struct LastCause<'a>(&'a Option<Box<Error>>);

impl fmt::Display for LastCause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(last) => write!(f, "; last: {last}"),
            None => Ok(()),
        }
    }
}

struct Outcome(Applied);

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Applied::No => Ok(()),
            Applied::Unknown => f.write_str(" (outcome unknown: it may have been applied)"),
        }
    }
}

struct At<'a>(&'a Option<TopicPartition>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(at) => write!(f, "{at}: "),
            None => Ok(()),
        }
    }
}

struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_names_attempts_last_cause_and_that_the_outcome_is_unknown() {
        let last = Error::Broker { code: ErrorCode::NotLeader, message: "broker 2 leads".into(), at: None };
        let error = Error::Timeout {
            op: "produce",
            after: Duration::from_secs(120),
            attempts: 7,
            last: Some(Box::new(last)),
            outcome: Applied::Unknown,
        };
        let text = error.to_string();
        for part in ["produce", "120s", "7 attempt", "NOT_LEADER", "broker 2 leads", "outcome unknown"] {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
        assert!(error.is_timeout() && error.is_retriable() && error.is_outcome_unknown());
        assert_eq!(error.code(), Some(ErrorCode::NotLeader));
    }

    #[test]
    fn every_broker_code_keeps_its_answers() {
        for code in ErrorCode::ALL {
            let error = Error::from_body(ErrorBody::new(*code, ""));
            assert_eq!(error.is_retriable(), code.is_retriable(), "{code}");
            assert_eq!(error.applied(), code.applied(), "{code}");
        }
    }
}
