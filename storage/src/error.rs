//! What can go wrong above the journal: one enum for each family of operations.

use std::io;
use std::sync::Arc;

use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;

use crate::identity::IdentityError;
use crate::journal;
use crate::latch::LatchReason;

/// Why a data directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is out of range.
    #[error("storage configuration: {field}: {problem}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The directory is not one this version may use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Another process has the directory open.
    #[error("'{path}' is in use by another process: stop it, or give this broker a directory of its own")]
    Locked {
        /// The lock file.
        path: String,
    },
    /// No checkpoint can be read although there should be one.
    #[error(
        "no checkpoint in the data directory can be read ({found}) and the journal does not start at its first segment \
         any more: move this directory aside and let the broker refill an empty one from its peers, or restore it from \
         a backup"
    )]
    Checkpoint {
        /// The files and what is wrong with each.
        found: String,
    },
    /// The journal refused.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// The index refused.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The disk refused.
    #[error("{operation} '{file}' failed: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: String,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// Why the index could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IndexError {
    /// Its content is damaged. The journal has everything: the index is rebuilt from it at the next start.
    #[error("the index is damaged ({0}); it is rebuilt from the journal at the next start")]
    Damaged(String),
    /// The store below failed.
    #[error("the index failed: {0}")]
    Store(String),
}

/// Why a batch was not appended. Nothing of it was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Durability was lost earlier: the directory takes no more writes in this process.
    #[error("the data directory is read-only: {0}")]
    ReadOnly(Arc<LatchReason>),
    /// The file system is above its watermark; heals when space returns.
    #[error("the data directory is full: {0}")]
    Full(Arc<str>),
    /// Too much waits for the disk; succeeds once commits have drained it.
    #[error("{queued_bytes} bytes wait for the disk, the limit is {limit_bytes}")]
    Busy {
        /// Bytes that wait.
        queued_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The batch does not continue the log. A defect or a lost race of the caller.
    #[error("the batch starts at offset {found}, the log ends at {expected}")]
    OutOfOrder {
        /// The log end.
        expected: Offset,
        /// The batch's base offset.
        found: Offset,
    },
    /// The batch's leader epoch is older than the log's newest.
    #[error("the batch has leader epoch {found}, the log is at {current}")]
    StaleEpoch {
        /// The newest epoch in the log.
        current: LeaderEpoch,
        /// The batch's.
        found: LeaderEpoch,
    },
    /// The batch is larger than the store takes.
    #[error("a batch may have at most {max} bytes, this one has {bytes}")]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The log was deleted.
    #[error("the log was deleted")]
    Deleted,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl From<journal::AppendError> for AppendError {
    fn from(error: journal::AppendError) -> Self {
        match error {
            journal::AppendError::ReadOnly(reason) => Self::ReadOnly(reason),
            journal::AppendError::Full { problem } => Self::Full(problem),
            journal::AppendError::Busy { queued_bytes, limit_bytes } => Self::Busy { queued_bytes, limit_bytes },
            journal::AppendError::TooLarge { bytes, max } => Self::TooLarge { bytes, max },
            journal::AppendError::Closed => Self::Closed,
        }
    }
}

/// Why a log was not trimmed, cut, or told of a new leadership; or the store not changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The journal did not take the change; see there. Nothing was changed.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The offset is not within the log.
    #[error("offset {asked} is outside the log, which has {start} to {end}")]
    OutOfRange {
        /// The offset asked for.
        asked: Offset,
        /// The log start.
        start: Offset,
        /// The log end.
        end: Offset,
    },
    /// There is no such log.
    #[error("there is no such log in this data directory")]
    UnknownLog,
    /// The batch boundary at the new end could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The index refused.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The directory belongs to another broker or cluster.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The disk refused.
    #[error("{operation} '{file}' failed: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: String,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// Why batches were not stored anew in place of damaged ones.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The journal did not take a batch; see there.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A batch is no stored batch, or they are out of order.
    #[error("the batches cannot repair a log: {0}")]
    Invalid(String),
    /// The log has these offsets in good order: they are not replaced.
    #[error("offsets {base} to {next} are not damaged on this disk")]
    NotDamaged {
        /// First offset.
        base: Offset,
        /// The offset after the last.
        next: Offset,
    },
    /// The batch's leader epoch does not fit what the log knows around it: it is another history's.
    #[error("a batch at offset {base} has leader epoch {found}, which does not fit its neighbours")]
    Epoch {
        /// Its first offset.
        base: Offset,
        /// Its epoch.
        found: LeaderEpoch,
    },
    /// What deleted a record of a batch is on its way to the disk in another form: ask again.
    #[error("offset {0} is being stored anew")]
    Moving(Offset),
    /// The log has too many repaired stretches: drop this replica and let it be filled anew.
    #[error("the log has {limit} repaired stretches, the most it may have: replace this replica")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The batch is outside the log's durable range, or what is stored around it could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why batches were not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is below the log start or above its end.
    #[error("the log has offsets {start} to {end}")]
    OutOfRange {
        /// The log start.
        start: Offset,
        /// The log end.
        end: Offset,
    },
    /// These offsets are damaged on this disk: fetch them from another replica, or skip them knowingly.
    #[error("offsets {base} to {next} are damaged on this disk")]
    Damaged {
        /// First damaged offset.
        base: Offset,
        /// The first offset behind the damage.
        next: Offset,
    },
    /// The log was deleted.
    #[error("the log was deleted")]
    Deleted,
    /// The index could not answer.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The disk could not answer.
    #[error(transparent)]
    Journal(#[from] journal::ReadError),
}

/// Why a batch that was appended is not known to be durable: its outcome is unknown until the process restarts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurabilityLost {
    /// A write or sync failed.
    #[error("{0}")]
    Latched(Arc<LatchReason>),
    /// The log was deleted before its commit.
    #[error("the log was deleted before the batch was on disk")]
    Deleted,
    /// The log was cut below the batch before its commit: it is no part of the log any more.
    #[error("the log was truncated below the batch before it was on disk")]
    Truncated,
    /// The store was closed before its commit.
    #[error("the store was closed before the batch was on disk")]
    Closed,
}
