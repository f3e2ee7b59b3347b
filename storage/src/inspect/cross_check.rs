//! Comparing the index with the journal: every extent must begin where an entry of its log and offset lies.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::BytesMut;
use streambus_protocol::ids::DirectoryId;

use super::segments::Walked;
use super::{Damage, VerifyReport};
use crate::checkpoint::LogSnapshot;
use crate::disk::{Disk, DiskFile, OpenHow};
use crate::index::{Extent, Index};
use crate::journal::entry::{ChecksumSeed, ENTRY_HEADER_BYTES, EntryHeader};
use crate::journal::reader::parse_entries;
use crate::journal::segment::segment_file_name;
use crate::journal::{CommittedEntry, LogId, SegmentId};
use crate::store::INDEX_DIRECTORY;

/// Reads the header of the first entry of every extent and compares it.
pub(super) fn cross_check(
    disk: &dyn Disk,
    directory: DirectoryId,
    index: &Index,
    walked: &Walked,
    logs: &BTreeMap<LogId, LogSnapshot>,
    report: &mut VerifyReport,
) {
    let seed = ChecksumSeed::of(directory);
    let mut open: Option<(SegmentId, std::sync::Arc<dyn DiskFile>)> = None;
    let outcome = index.all_extents(|log, extent| {
        report.extents += 1;
        // What a log has given up may be left in the index until the next cleaning, or come back with what was not flushed.
        let trimmed = walked.starts.get(&log).copied().unwrap_or_default();
        let held = logs.get(&log).filter(|held| walked.live_logs.contains(&held.log));
        let relevant = held.is_some_and(|held| extent.next > held.start.max(trimmed) && extent.base < held.end);
        // The header of its first batch may be the damage that was repaired: the extent goes on covering the others.
        if !relevant || walked.stored_anew.begins_at(log, extent.base) {
            return ControlFlow::Continue(());
        }
        let found = if walked.segments.contains(&extent.segment) {
            let file = match &open {
                Some((segment, file)) if *segment == extent.segment => Ok(file.clone()),
                _ => disk.open(&segment_file_name(extent.segment), OpenHow::ReadOnly),
            };
            file.map_err(|error| error.to_string()).and_then(|file| {
                open = Some((extent.segment, file.clone()));
                compare(&*file, log, &extent, seed)
            })
        } else {
            Err("its segment is missing".to_owned())
        };
        if let Err(problem) = found {
            report.add(Damage {
                file: INDEX_DIRECTORY.to_owned(),
                position: Some(extent.position),
                length: Some(u64::from(extent.length)),
                what: format!(
                    "the index sends offset {} to segment {}: {problem}; those offsets are not served from there",
                    extent.base, extent.segment
                ),
                log: logs.get(&log).map(|log| log.partition.to_string()),
                batch: None,
                hidden: Vec::new(),
            });
        }
        ControlFlow::Continue(())
    });
    if let Err(error) = outcome {
        report.add_file(INDEX_DIRECTORY, error.to_string());
    }
}

/// True when the batch at the extent's base lies anywhere in its span.
fn holds(file: &dyn DiskFile, log: LogId, extent: &Extent, seed: ChecksumSeed) -> Result<bool, String> {
    let mut bytes = BytesMut::zeroed(usize::try_from(extent.length).map_err(|error| error.to_string())?);
    file.read_at(extent.position, &mut bytes).map_err(|error| error.to_string())?;
    let entries = parse_entries(&bytes.freeze(), extent.segment, extent.position, seed).unwrap_or_default();
    let is_first = |entry: &CommittedEntry| entry.log == log && entry.base == extent.base && entry.kind.holds_batch();
    Ok(entries.iter().any(|replayed| is_first(&replayed.entry)))
}

fn compare(file: &dyn DiskFile, log: LogId, extent: &Extent, seed: ChecksumSeed) -> Result<(), String> {
    let mut header = [0; ENTRY_HEADER_BYTES];
    file.read_at(extent.position, &mut header).map_err(|error| error.to_string())?;
    match EntryHeader::decode(&header, seed) {
        Some(header) if header.log == log && header.base == extent.base => Ok(()),
        // What compaction left of a larger extent begins further on in its span.
        Some(_) if holds(file, log, extent, seed)? => Ok(()),
        Some(header) => Err(format!("there is offset {} of log {}", header.base, header.log)),
        None => Err("there is no readable entry".to_owned()),
    }
}
