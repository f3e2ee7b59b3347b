//! What recovery and scans found.

use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;

use super::entry::EntryKind;
use super::position::{Incarnation, LogId, Lsn, SegmentId};

/// The outcome of opening a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Entries handed to the replay callback.
    pub entries: u64,
    /// Valid commits read, empty ones included.
    pub commits: u64,
    /// Segment bytes read and verified.
    pub bytes: u64,
    /// Segments read.
    pub segments: u64,
    /// Bytes of the commit that was in flight when the last process ended and did not reach the disk whole; zero when
    /// there was none, or when not even its header is there. No entry of it was ever reported as committed.
    pub torn_tail_bytes: u64,
    /// Bytes that should be valid and are not, in journal order. Their entries are lost on this disk.
    pub damaged: Vec<DamagedRange>,
    /// The number the next entry gets.
    pub next_lsn: Lsn,
    /// How often the journal was opened, this time included.
    pub incarnation: Incarnation,
}

/// Bytes of the journal that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// The segment.
    pub segment: SegmentId,
    /// First damaged byte.
    pub position: u64,
    /// Bytes that cannot be trusted; up to the next thing that is valid.
    pub length: u64,
    /// First sequence number that is lost, inclusive.
    pub base_lsn: Lsn,
    /// End of the lost numbers, exclusive; equal to `base_lsn` when no entry is lost. `None` when not yet known: the
    /// damage reaches the end of what a scan has seen.
    pub next_lsn: Option<Lsn>,
    /// The entry, when exactly one is damaged and its header is valid.
    pub entry: Option<DamagedEntry>,
    /// What is wrong.
    pub reason: DamageReason,
}

/// The identity of a damaged entry whose header is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedEntry {
    /// Whose entry it is.
    pub log: LogId,
    /// Its kind.
    pub kind: EntryKind,
    /// First offset.
    pub base: Offset,
    /// Last offset, inclusive.
    pub last: Offset,
    /// Leader epoch.
    pub epoch: LeaderEpoch,
}

/// What is wrong with damaged bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DamageReason {
    /// The segment's header block. Its commits are read all the same.
    SegmentHeader = 1,
    /// A commit's header, or everything between two commits.
    Commit = 2,
    /// An entry's header: what it held is not known beyond its sequence number.
    EntryHeader = 3,
    /// An entry's payload.
    Payload = 4,
    /// The disk does not return the bytes.
    Unreadable = 5,
    /// The file is gone, or shorter than it was.
    Missing = 6,
}

impl DamageReason {
    /// Every reason, in numeric order.
    pub const ALL: [Self; 6] =
        [Self::SegmentHeader, Self::Commit, Self::EntryHeader, Self::Payload, Self::Unreadable, Self::Missing];

    /// The reason of a stored number, or `None` when this version knows none.
    pub fn from_stored(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.to_stored() == value)
    }

    /// The number on disk.
    pub const fn to_stored(self) -> u8 {
        self as u8
    }
}
