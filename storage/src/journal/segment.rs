//! One segment file: its name and its header block.
//!
//! ```text
//!  0 magic "SBJRNSEG"   8 format version (u32)  12 zero (u32)  16 directory id (16 bytes)  32 segment id
//! 40 base lsn   48 first commit sequence   56 incarnation   64 segment bytes   ...zeros...   4092 crc32c of 0..4092
//! ```
//! Magic, format version and checksum keep their places in every future format, so that a newer file is told from a
//! damaged one. The checksum is not seeded: it must be readable without knowing the directory.

use streambus_protocol::ids::DirectoryId;

use super::fields::{Fields, FieldsMut};
use super::position::{CommitSequence, Incarnation, Lsn, SegmentId};
use crate::aligned::BLOCK_BYTES;

/// The format this version writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;
/// First eight bytes of every segment file.
pub const SEGMENT_MAGIC: [u8; 8] = *b"SBJRNSEG";
/// Where the first commit starts.
pub const SEGMENT_HEADER_BYTES: u64 = BLOCK_BYTES as u64;
/// What every segment's file name starts with.
pub const SEGMENT_PREFIX: &str = "journal-";
/// What the names of files kept for reuse start with. Their content means nothing.
pub const SPARE_PREFIX: &str = "spare-";

const SUFFIX: &str = ".seg";
const CHECKSUM_AT: usize = BLOCK_BYTES - 4;

/// The file name of `segment`.
pub fn segment_file_name(segment: SegmentId) -> String {
    format!("{SEGMENT_PREFIX}{:016x}{SUFFIX}", segment.get())
}

/// The file name of the spare file number `number`.
pub(crate) fn spare_file_name(number: u64) -> String {
    format!("{SPARE_PREFIX}{number:016x}{SUFFIX}")
}

/// The number in a spare file's name, or `None` when it is none of ours.
pub(crate) fn spare_number(name: &str) -> Option<u64> {
    hexadecimal(name.strip_prefix(SPARE_PREFIX)?)
}

/// The segment a file name stands for, or `None` when it is no segment's name.
pub fn segment_of_file_name(name: &str) -> Option<SegmentId> {
    hexadecimal(name.strip_prefix(SEGMENT_PREFIX)?).map(SegmentId::new)
}

fn hexadecimal(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    // Only the exact form, so that no two names mean one segment; and with room for the steps that follow.
    let exact = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    exact.then(|| u64::from_str_radix(digits, 16).ok()).flatten().filter(|number| *number < 1 << 62)
}

/// A segment's header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The data directory it belongs to.
    pub directory: DirectoryId,
    /// Its generation.
    pub segment: SegmentId,
    /// The number of the first entry in it.
    pub base_lsn: Lsn,
    /// The number of the first commit in it.
    pub first_sequence: CommitSequence,
    /// How often the journal had been opened when it was started.
    pub incarnation: Incarnation,
    /// Size of the file, in bytes.
    pub segment_bytes: u64,
}

/// What a header block turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderBlock {
    /// A header of this format.
    Valid(SegmentHeader),
    /// A header whose checksum is right and whose format is newer than [`FORMAT_VERSION`].
    Newer {
        /// Its format.
        version: u32,
    },
    /// Anything else.
    Damaged,
}

impl SegmentHeader {
    /// The whole block.
    #[allow(clippy::indexing_slicing, reason = "our own memory: out of range is a mistake of this file, not of a disk")]
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut out = FieldsMut::<BLOCK_BYTES>::new();
        out.put(&SEGMENT_MAGIC);
        out.u32(FORMAT_VERSION);
        out.u32(0);
        out.put(self.directory.as_bytes());
        out.u64(self.segment.get());
        out.u64(self.base_lsn.get());
        out.u64(self.first_sequence.get());
        out.u64(self.incarnation.get());
        out.u64(self.segment_bytes);
        let mut block = out.finish();
        let checksum = crc32c::crc32c(&block[..CHECKSUM_AT]);
        block[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads a header block.
    pub fn decode(block: &[u8]) -> HeaderBlock {
        Self::decode_known(block).unwrap_or(HeaderBlock::Damaged)
    }

    fn decode_known(block: &[u8]) -> Option<HeaderBlock> {
        let (checked, rest) = block.split_at_checked(CHECKSUM_AT)?;
        if u32::from_le_bytes(*rest.first_chunk::<4>()?) != crc32c::crc32c(checked) {
            return None;
        }
        let mut fields = Fields::new(checked);
        if fields.bytes::<8>()? != SEGMENT_MAGIC {
            return None;
        }
        let version = fields.u32()?;
        if version > FORMAT_VERSION {
            return Some(HeaderBlock::Newer { version });
        }
        fields.u32()?;
        let header = Self {
            directory: DirectoryId::from_bytes(fields.bytes()?),
            segment: SegmentId::new(fields.u64()?),
            base_lsn: Lsn::new(fields.u64()?),
            first_sequence: CommitSequence::new(fields.u64()?),
            incarnation: Incarnation::new(fields.u64()?),
            segment_bytes: fields.u64()?,
        };
        let counts = [header.base_lsn.get(), header.first_sequence.get(), header.incarnation.get()];
        counts.iter().all(|count| *count < 1 << 62).then_some(HeaderBlock::Valid(header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            directory: DirectoryId::from_bytes([7; 16]),
            segment: SegmentId::new(3),
            base_lsn: Lsn::new(40),
            first_sequence: CommitSequence::new(9),
            incarnation: Incarnation::new(2),
            segment_bytes: 1 << 20,
        }
    }

    /// Catches a header field that the checksum leaves out, and one that is not read back.
    #[test]
    fn every_flipped_bit_of_the_header_block_is_noticed() {
        let block = header().encode();
        assert_eq!(SegmentHeader::decode(&block), HeaderBlock::Valid(header()));
        for bit in 0..block.len() * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), HeaderBlock::Damaged, "bit {bit}");
        }
    }

    /// Catches treating a newer file as a damaged one, which would quarantine good data.
    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut block = header().encode();
        block[8] = 2;
        let checksum = crc32c::crc32c(&block[..CHECKSUM_AT]);
        block[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&block), HeaderBlock::Newer { version: 2 });
    }

    /// Catches two names for one segment.
    #[test]
    fn only_the_exact_name_is_a_segment() {
        let name = segment_file_name(SegmentId::new(0xab));
        assert_eq!(name, "journal-00000000000000ab.seg");
        assert_eq!(segment_of_file_name(&name), Some(SegmentId::new(0xab)));
        for strange in
            ["journal-AB.seg", "journal-00000000000000AB.seg", "journal-+0000000000000ab.seg", "journal-.seg"]
        {
            assert_eq!(segment_of_file_name(strange), None, "{strange}");
        }
    }
}
