//! The entries of one commit, laid out in aligned memory exactly as they go to disk.

use bytes::Bytes;

use super::commit::{COMMIT_HEADER_BYTES, CommitHeader};
use super::entry::{ChecksumSeed, CommittedEntry, ENTRY_HEADER_BYTES, EntryHeader, NewEntry, padding_after};
use super::position::{CommitSequence, Incarnation, Lsn, SegmentId};
use crate::aligned::{AlignedBuffer, Blocks, round_up_to_block};

/// A commit that collects. The commit header's place is kept free at the front.
#[derive(Debug)]
pub(crate) struct Group {
    buffer: AlignedBuffer,
    /// Bytes used, commit header included.
    used: usize,
    /// Headers with their positions within the commit, in order.
    entries: Vec<(u32, EntryHeader)>,
    /// The usual size; a larger buffer is given back after use.
    bytes: usize,
}

#[allow(clippy::indexing_slicing, reason = "our own memory: out of range is a mistake of this file, not of a disk")]
impl Group {
    /// An empty group that usually holds `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { buffer: AlignedBuffer::zeroed(bytes), used: COMMIT_HEADER_BYTES, entries: Vec::new(), bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of the first entry.
    pub(crate) fn first_lsn(&self) -> Option<Lsn> {
        self.entries.first().map(|(_, header)| header.lsn)
    }

    /// Bytes of entries.
    pub(crate) fn entry_bytes(&self) -> u64 {
        (self.used - COMMIT_HEADER_BYTES) as u64
    }

    /// Bytes on disk.
    pub(crate) fn padded_bytes(&self) -> u64 {
        round_up_to_block(self.used) as u64
    }

    /// True when an entry of `entry_bytes` (header and padding included) may join. An empty group takes any.
    pub(crate) fn fits(&self, entry_bytes: usize) -> bool {
        self.is_empty() || self.used + entry_bytes <= self.bytes
    }

    /// Lays `entry` out behind the others. The caller has checked that it fits.
    pub(crate) fn push(&mut self, lsn: Lsn, entry: &NewEntry, payload_crc: u32, seed: ChecksumSeed) {
        let length = ENTRY_HEADER_BYTES + entry.payload.len();
        let padding = padding_after(length);
        let end = self.used + length + padding;
        if end > self.buffer.capacity() {
            // Only a first entry that is larger than the usual group gets here, so nothing but the header is behind.
            assert!(self.is_empty(), "an entry that does not fit joined a group");
            self.buffer = AlignedBuffer::zeroed(end);
        }
        let header = EntryHeader {
            lsn,
            log: entry.log,
            kind: entry.kind,
            base: entry.base,
            last: entry.last,
            epoch: entry.epoch,
            max_timestamp: entry.max_timestamp,
            payload_bytes: u32::try_from(entry.payload.len()).expect("limited by the configuration"),
            payload_crc,
        };
        let position = u32::try_from(self.used).expect("a commit is smaller than a segment");
        let memory = &mut self.buffer.as_mut_slice()[self.used..end];
        memory[..ENTRY_HEADER_BYTES].copy_from_slice(&header.encode(seed));
        memory[ENTRY_HEADER_BYTES..length].copy_from_slice(&entry.payload);
        memory[length..].fill(0);
        self.entries.push((position, header));
        self.used = end;
    }

    /// Completes the commit with its header and zeros up to the block. Without entries it is a marker.
    pub(crate) fn seal(&mut self, place: CommitPlace, next_lsn: Lsn, seed: ChecksumSeed) -> Blocks<'_> {
        let first_lsn = self.entries.first().map_or(next_lsn, |(_, header)| header.lsn);
        let header = CommitHeader {
            segment: place.segment,
            sequence: place.sequence,
            incarnation: place.incarnation,
            first_lsn,
            durable_lsn: first_lsn,
            bytes: u32::try_from(self.used).expect("a commit is smaller than a segment"),
            entries: u32::try_from(self.entries.len()).expect("a commit is smaller than a segment"),
        };
        let padded = round_up_to_block(self.used);
        let memory = self.buffer.as_mut_slice();
        memory[self.used..padded].fill(0);
        memory[..COMMIT_HEADER_BYTES].copy_from_slice(&header.encode(seed));
        self.buffer.blocks(padded)
    }

    /// Appends what observers are told about each entry, the commit starting at `position` of `segment`.
    pub(crate) fn committed(&self, segment: SegmentId, position: u64, out: &mut Vec<CommittedEntry>) {
        out.extend(self.entries.iter().map(|(at, header)| {
            let position = u32::try_from(position + u64::from(*at)).expect("segments are smaller than 4 GiB");
            header.committed(segment, position)
        }));
    }

    /// Forgets the entries and keeps the memory, unless it is larger than usual.
    pub(crate) fn clear(&mut self) {
        self.used = COMMIT_HEADER_BYTES;
        self.entries.clear();
        if self.buffer.capacity() > round_up_to_block(self.bytes) {
            self.buffer = AlignedBuffer::zeroed(self.bytes);
        }
    }
}

/// Where a commit goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitPlace {
    pub(crate) segment: SegmentId,
    pub(crate) sequence: CommitSequence,
    pub(crate) incarnation: Incarnation,
}

/// Bytes of an entry with `payload`, header and padding included.
pub(crate) fn entry_bytes(payload: &Bytes) -> usize {
    let length = ENTRY_HEADER_BYTES + payload.len();
    length + padding_after(length)
}
