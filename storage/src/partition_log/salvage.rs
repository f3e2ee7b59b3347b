//! Finding the good entries in a span of the journal that has bad bytes in it.

use bytes::Bytes;

use crate::journal::entry::{ChecksumSeed, ENTRY_ALIGN_BYTES, ENTRY_HEADER_BYTES, EntryHeader};
use crate::journal::{ReplayedEntry, SegmentId};

/// Every entry in `bytes` (read from `position` of `segment`) whose header and payload prove, in order. Between two of
/// them anything may be missing.
///
/// An entry starts at a multiple of eight bytes, and a header that proves says where its payload ends, so the search
/// never looks for entries inside the payload of a good header, damaged or not.
pub(super) fn salvage_entries(
    bytes: &Bytes,
    segment: SegmentId,
    position: u64,
    seed: ChecksumSeed,
) -> Vec<ReplayedEntry> {
    let mut found: Vec<ReplayedEntry> = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= ENTRY_HEADER_BYTES) {
        let header = if EntryHeader::starts(rest) { EntryHeader::decode(rest, seed) } else { None };
        // A number that goes back is a leftover of a segment's earlier life.
        let header = header.filter(|header| found.last().is_none_or(|last| last.entry.lsn < header.lsn));
        let length = header.and_then(|header| usize::try_from(header.length()).ok());
        let (Some(header), Some(length)) = (header, length.filter(|length| *length <= rest.len())) else {
            at += ENTRY_ALIGN_BYTES;
            continue;
        };
        let payload = bytes.slice(at + ENTRY_HEADER_BYTES..at + length);
        if header.covers(&payload)
            && let Ok(start) = u32::try_from(position + at as u64)
        {
            found.push(ReplayedEntry { entry: header.committed(segment, start), payload });
        }
        at = (at + length).next_multiple_of(ENTRY_ALIGN_BYTES);
    }
    found
}
