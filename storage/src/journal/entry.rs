//! One entry: a 64-byte header under its own checksum, then the payload.
//!
//! ```text
//!  0 magic "SBEN"   4 crc32c of 8..64, seeded   8 lsn   16 log id   24 base offset   32 last offset
//! 40 max timestamp  48 payload bytes (u32)  52 leader epoch (u32)  56 payload crc32c (u32)  60 kind  61 zero x3
//! ```
//! Identity (log id, offsets, epoch) is under the header's checksum, so a misplaced batch is detected. A batch's
//! payload carries its own CRC-32C (Kafka record batch v2), so its `payload crc32c` is zero and what that checksum
//! leaves out (base offset, length, epoch, magic) must equal the header; so it is with a repair and a rewrite, which have
//! a batch as payload too. Other payloads are covered by the header's.

use bytes::Bytes;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use super::fields::{Fields, FieldsMut};
use super::position::{Location, LogId, Lsn, SegmentId};

/// Bytes of an entry's header.
pub const ENTRY_HEADER_BYTES: usize = 64;
/// Entries start at multiples of this.
pub const ENTRY_ALIGN_BYTES: usize = 8;
/// First four bytes of every entry, little-endian.
pub const ENTRY_MAGIC: u32 = u32::from_le_bytes(*b"SBEN");

/// What an entry says about its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A record batch: the payload is the placed batch.
    Batch = 1,
    /// The log was cut: everything from `base` on is gone; below the log start that is all of it, and the log goes on there.
    /// The payload is the store's, and mostly empty.
    Truncate = 2,
    /// The log's start moved: everything below `base` is gone.
    Trim = 3,
    /// Leader epoch `epoch` starts at `base`.
    EpochStart = 4,
    /// The log was created; the payload is the store's.
    LogCreated = 5,
    /// The log was deleted.
    LogDeleted = 6,
    /// Everything below `base` was committed and on stable storage. A version that does not know what it says passes over
    /// it.
    Checkpoint = 7,
    /// A record batch stored anew in place of a damaged one with the same offsets: the payload is the placed batch. It
    /// moves no end; an entry of this log with these offsets that lies before it means nothing any more.
    Repair = 8,
    /// A record batch that compaction stored anew: the payload is the placed batch. It moves no end; what the log had at
    /// these offsets before, in one batch or in several, need not be kept any more.
    Rewrite = 9,
}

impl EntryKind {
    /// Every kind, in numeric order.
    pub const ALL: [Self; 9] = [
        Self::Batch,
        Self::Truncate,
        Self::Trim,
        Self::EpochStart,
        Self::LogCreated,
        Self::LogDeleted,
        Self::Checkpoint,
        Self::Repair,
        Self::Rewrite,
    ];

    /// True when the payload is a record batch, which brings its own checksum.
    pub const fn holds_batch(self) -> bool {
        matches!(self, Self::Batch | Self::Repair | Self::Rewrite)
    }

    /// The kind of a stored number, or `None` when this version knows none.
    pub fn from_stored(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_stored() == value)
    }

    /// The number on disk.
    pub const fn to_stored(self) -> u8 {
        self as u8
    }
}

/// An entry to append.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Whose entry this is.
    pub log: LogId,
    /// What it says.
    pub kind: EntryKind,
    /// First offset (a batch), or the offset the kind speaks of.
    pub base: Offset,
    /// Last offset, inclusive (a batch); equal to `base` otherwise.
    pub last: Offset,
    /// Leader epoch.
    pub epoch: LeaderEpoch,
    /// Largest record timestamp, or [`Timestamp::NONE`].
    pub max_timestamp: Timestamp,
    /// For a batch the placed record batch, whose base offset and epoch must equal the fields above.
    pub payload: Bytes,
}

/// An entry on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Whose entry this is.
    pub log: LogId,
    /// What it says.
    pub kind: EntryKind,
    /// First offset (a batch), or the offset the kind speaks of.
    pub base: Offset,
    /// Last offset, inclusive (a batch); equal to `base` otherwise.
    pub last: Offset,
    /// Leader epoch.
    pub epoch: LeaderEpoch,
    /// Largest record timestamp, or [`Timestamp::NONE`].
    pub max_timestamp: Timestamp,
    /// Its place in the journal's order.
    pub lsn: Lsn,
    /// Its place on disk.
    pub location: Location,
}

impl CommittedEntry {
    /// Bytes of the payload alone.
    pub fn payload_bytes(&self) -> u32 {
        self.location.length.saturating_sub(ENTRY_HEADER_BYTES as u32)
    }
}

/// An entry that was read back and verified: at recovery, by a scan, or from an extent.
#[derive(Clone, Debug)]
pub struct ReplayedEntry {
    /// Everything but the payload.
    pub entry: CommittedEntry,
    /// The payload. A slice of a larger read: copy it to keep it for long.
    pub payload: Bytes,
}

/// What the replay callback wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayDecision {
    /// Go on.
    Continue,
    /// Give up opening; the text becomes part of [`OpenError::ReplayRefused`](super::OpenError::ReplayRefused).
    Stop(String),
}

/// Seed of every header checksum of one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumSeed(u32);

impl ChecksumSeed {
    /// The seed of `directory`'s journal.
    pub fn of(directory: streambus_protocol::ids::DirectoryId) -> Self {
        Self(crc32c::crc32c(directory.as_bytes()))
    }

    /// The seeded CRC-32C of `bytes`.
    pub(crate) fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// A decoded entry header; its checksum was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    pub(crate) lsn: Lsn,
    pub(crate) log: LogId,
    pub(crate) kind: EntryKind,
    pub(crate) base: Offset,
    pub(crate) last: Offset,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) payload_bytes: u32,
    pub(crate) payload_crc: u32,
}

impl EntryHeader {
    pub(crate) fn encode(&self, seed: ChecksumSeed) -> [u8; ENTRY_HEADER_BYTES] {
        let mut out = FieldsMut::<ENTRY_HEADER_BYTES>::new();
        out.u32(ENTRY_MAGIC);
        out.u32(0);
        out.u64(self.lsn.get());
        out.u64(self.log.get());
        out.u64(self.base.get());
        out.u64(self.last.get());
        out.i64(self.max_timestamp.as_millis());
        out.u32(self.payload_bytes);
        out.u32(self.epoch.get());
        out.u32(self.payload_crc);
        out.u8(self.kind.to_stored());
        out.finish_with_checksum(seed)
    }

    /// `None` when the bytes are too short, the magic or checksum is wrong, or a field is out of range.
    pub(crate) fn decode(bytes: &[u8], seed: ChecksumSeed) -> Option<Self> {
        let header = bytes.first_chunk::<ENTRY_HEADER_BYTES>()?;
        let mut fields = Fields::checked(header, ENTRY_MAGIC, seed)?;
        let lsn = Lsn::new(fields.u64()?);
        let log = LogId::new(fields.u64()?);
        let base = Offset::new(fields.u64()?)?;
        let last = Offset::new(fields.u64()?)?;
        let max_timestamp = Timestamp::from_millis(fields.i64()?);
        let payload_bytes = fields.u32()?;
        let epoch = LeaderEpoch::new(fields.u32()?);
        let payload_crc = fields.u32()?;
        let kind = EntryKind::from_stored(fields.u8()?)?;
        Some(Self { lsn, log, kind, base, last, epoch, max_timestamp, payload_bytes, payload_crc })
    }

    /// True when `bytes` starts with an entry's magic, whatever follows.
    pub(crate) fn starts(bytes: &[u8]) -> bool {
        bytes.first_chunk::<4>().is_some_and(|magic| u32::from_le_bytes(*magic) == ENTRY_MAGIC)
    }

    /// Bytes of header and payload.
    pub(crate) fn length(&self) -> u64 {
        ENTRY_HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }

    pub(crate) fn committed(&self, segment: SegmentId, position: u32) -> CommittedEntry {
        CommittedEntry {
            log: self.log,
            kind: self.kind,
            base: self.base,
            last: self.last,
            epoch: self.epoch,
            max_timestamp: self.max_timestamp,
            lsn: self.lsn,
            location: Location {
                segment,
                position,
                length: u32::try_from(self.length()).expect("limited when appended and when scanned"),
            },
        }
    }

    /// True when `payload` is what was appended under this header.
    pub(crate) fn covers(&self, payload: &[u8]) -> bool {
        if payload.len() as u64 != u64::from(self.payload_bytes) {
            return false;
        }
        if self.kind.holds_batch() {
            self.payload_crc == 0 && self.covers_batch(payload).is_some_and(|covered| covered)
        } else {
            crc32c::crc32c(payload) == self.payload_crc
        }
    }

    /// The fixed part of a Kafka record batch v2, big-endian: base offset i64 at 0, length i32 at 8 (bytes after it),
    /// leader epoch i32 at 12, magic at 16, crc32c u32 at 17 of everything from 21 on, last offset delta i32 at 23.
    fn covers_batch(&self, batch: &[u8]) -> Option<bool> {
        let (fixed, checked) = batch.split_at_checked(21)?;
        let word = |at: usize| Some(u32::from_be_bytes(*fixed.get(at..)?.first_chunk::<4>()?));
        let base = u64::from_be_bytes(*fixed.first_chunk::<8>()?);
        let delta = i32::from_be_bytes(*checked.get(2..)?.first_chunk::<4>()?);
        let last = base.checked_add_signed(i64::from(delta))?;
        Some(
            base == self.base.get()
                && last == self.last.get()
                && u64::from(word(8)?) + 12 == batch.len() as u64
                && word(12)? == self.epoch.get()
                && fixed.get(16) == Some(&2)
                && word(17)? == crc32c::crc32c(checked),
        )
    }
}

/// Zeros between an entry of `length` bytes and the next.
pub(crate) fn padding_after(length: usize) -> usize {
    length.next_multiple_of(ENTRY_ALIGN_BYTES) - length
}
