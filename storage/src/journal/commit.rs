//! One commit: what is written and synced together, whole 4 KiB blocks.
//!
//! ```text
//!  0 magic "SBCM"   4 crc32c of 8..64, seeded   8 segment id   16 commit sequence   24 incarnation   32 first lsn
//! 40 durable lsn    48 bytes of header and entries (u32)   52 entries (u32)   56 zero x8
//! ```
//! `durable lsn` is the end (exclusive) of what was known to be synced when this commit was written. A commit without
//! entries is a marker: it proves that everything before it was synced.

use super::entry::ChecksumSeed;
use super::fields::{Fields, FieldsMut};
use super::position::{CommitSequence, Incarnation, Lsn, SegmentId};
use crate::aligned::BLOCK_BYTES;

/// Bytes of a commit's header.
pub const COMMIT_HEADER_BYTES: usize = 64;
/// First four bytes of every commit, little-endian.
pub const COMMIT_MAGIC: u32 = u32::from_le_bytes(*b"SBCM");

/// A decoded commit header; its checksum was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    pub(crate) segment: SegmentId,
    pub(crate) sequence: CommitSequence,
    pub(crate) incarnation: Incarnation,
    pub(crate) first_lsn: Lsn,
    pub(crate) durable_lsn: Lsn,
    /// Header and entries, without the zeros up to the block.
    pub(crate) bytes: u32,
    pub(crate) entries: u32,
}

impl CommitHeader {
    pub(crate) fn encode(&self, seed: ChecksumSeed) -> [u8; COMMIT_HEADER_BYTES] {
        let mut out = FieldsMut::<COMMIT_HEADER_BYTES>::new();
        out.u32(COMMIT_MAGIC);
        out.u32(0);
        out.u64(self.segment.get());
        out.u64(self.sequence.get());
        out.u64(self.incarnation.get());
        out.u64(self.first_lsn.get());
        out.u64(self.durable_lsn.get());
        out.u32(self.bytes);
        out.u32(self.entries);
        out.finish_with_checksum(seed)
    }

    /// `None` when the bytes are too short, the magic or checksum is wrong, or a field is out of range.
    pub(crate) fn decode(bytes: &[u8], seed: ChecksumSeed) -> Option<Self> {
        let header = bytes.first_chunk::<COMMIT_HEADER_BYTES>()?;
        let mut fields = Fields::checked(header, COMMIT_MAGIC, seed)?;
        let header = Self {
            segment: SegmentId::new(fields.u64()?),
            sequence: CommitSequence::new(fields.u64()?),
            incarnation: Incarnation::new(fields.u64()?),
            first_lsn: Lsn::new(fields.u64()?),
            durable_lsn: Lsn::new(fields.u64()?),
            bytes: fields.u32()?,
            entries: fields.u32()?,
        };
        // Positions leave room for every step that later code takes without checking.
        let counts =
            [header.sequence.get(), header.incarnation.get(), header.first_lsn.get(), header.durable_lsn.get()];
        let sane = header.bytes as usize >= COMMIT_HEADER_BYTES && counts.iter().all(|count| *count < 1 << 62);
        sane.then_some(header)
    }

    /// True when `bytes` starts with a commit's magic, whatever follows.
    pub(crate) fn starts(bytes: &[u8]) -> bool {
        bytes.first_chunk::<4>().is_some_and(|magic| u32::from_le_bytes(*magic) == COMMIT_MAGIC)
    }

    /// Bytes on disk, zeros up to the block included.
    pub(crate) fn padded_bytes(&self) -> u64 {
        u64::from(self.bytes).next_multiple_of(BLOCK_BYTES as u64)
    }

    /// The number after this commit's last entry. Cannot overflow: both parts are limited when decoded.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.first_lsn.steps(u64::from(self.entries))
    }
}
