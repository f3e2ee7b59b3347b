//! What can go wrong with the journal, one enum for each family of operations.

use std::io;
use std::sync::Arc;

use streambus_protocol::ids::DirectoryId;

use super::position::{LogId, SegmentId};
use crate::latch::LatchReason;

/// Why an entry was not appended. Nothing of it was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Durability was lost earlier: the journal takes no more entries in this process.
    #[error("the journal is read-only: {0}")]
    ReadOnly(Arc<LatchReason>),
    /// No space for another segment; succeeds again when segments are recycled or the file system has space.
    #[error("the journal has no space for another segment ({problem}); free space or shorten retention")]
    Full {
        /// Why there is none.
        problem: Arc<str>,
    },
    /// Too much waits for the disk already; succeeds once commits have drained it.
    #[error("{queued_bytes} bytes wait for the disk, the limit is {limit_bytes}")]
    Busy {
        /// Bytes that wait.
        queued_bytes: u64,
        /// The configured limit.
        limit_bytes: u64,
    },
    /// The payload is larger than configured.
    #[error("an entry may have at most {max} payload bytes, this one has {bytes}")]
    TooLarge {
        /// The payload's bytes.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

/// Why bytes could not be read from the journal.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The segment is not, or no longer, part of the journal.
    #[error("segment {0} is not part of the journal")]
    NoSegment(SegmentId),
    /// The range is outside the segment.
    #[error("bytes {position}+{length} are outside segment {segment}")]
    OutOfSegment {
        /// The segment.
        segment: SegmentId,
        /// First byte asked for.
        position: u64,
        /// Bytes asked for.
        length: u64,
    },
    /// The bytes are not what was written: never serve them.
    #[error("segment {segment} is damaged at byte {position}")]
    Damaged {
        /// The segment.
        segment: SegmentId,
        /// Where the first damaged entry starts.
        position: u64,
        /// Whose entry it is, when its header is readable.
        log: Option<LogId>,
    },
    /// The disk refused.
    #[error("reading segment {segment} failed: {source}")]
    Io {
        /// The segment.
        segment: SegmentId,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// Why a segment was not recycled.
#[derive(Debug, thiserror::Error)]
pub enum RecycleError {
    /// The segment is not, or no longer, part of the journal.
    #[error("segment {0} is not part of the journal")]
    NoSegment(SegmentId),
    /// The segment is still being written.
    #[error("segment {0} is the active one")]
    Active(SegmentId),
    /// Durability was lost earlier: files are left as they are.
    #[error("the journal is read-only: {0}")]
    ReadOnly(Arc<LatchReason>),
    /// The disk refused; the segment is out of the journal, its file will be found again at the next start.
    #[error("recycling segment {segment} failed: {source}")]
    Io {
        /// The segment.
        segment: SegmentId,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// Why the journal was not opened. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is out of range.
    #[error("journal configuration: {problem}")]
    Config {
        /// What, and what it should be.
        problem: String,
    },
    /// Written by a newer version of this program.
    #[error(
        "'{file}' has journal format {found}, this version reads up to {supported}: start the version that wrote it"
    )]
    NewerFormat {
        /// The file.
        file: String,
        /// Its format.
        found: u32,
        /// The newest format this version reads.
        supported: u32,
    },
    /// The file belongs to another data directory.
    #[error(
        "'{file}' belongs to data directory {found}, this is {expected}: the file was copied here; move it back, or \
         restore this directory as a whole"
    )]
    ForeignSegment {
        /// The file.
        file: String,
        /// The directory it belongs to.
        found: DirectoryId,
        /// This directory.
        expected: DirectoryId,
    },
    /// A file name that starts like a segment's and does not go on like one.
    #[error("'{file}' is no journal segment and in its place: move it elsewhere")]
    StrangeFile {
        /// The file.
        file: String,
    },
    /// The replay callback gave up.
    #[error("replay stopped: {problem}")]
    ReplayRefused {
        /// Its reason.
        problem: String,
    },
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
