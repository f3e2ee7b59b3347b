//! Printing a journal: one line per entry, fields in a fixed order, so that it can be compared and searched. A batch's
//! checksum here is over all its stored bytes, placement included: replicas of a partition print the same one.

use std::io;

use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::offset::Offset;

use super::InspectError;
use super::segments::{Met, describe, directory_of, list, scan_segment};
use crate::checkpoint::Checkpoint;
use crate::disk::Disk;
use crate::identity::{IDENTITY_FILE, Identity};
use crate::journal::{EntryKind, ReplayedEntry};
use crate::store::replay::decode_creation;

/// Why a dump ended early.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The directory could not be looked at.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The output took no more.
    #[error("writing the dump failed: {0}")]
    Output(#[from] io::Error),
}

/// Writes the lines.
pub(super) fn dump(disk: &dyn Disk, sink: &mut dyn io::Write) -> Result<(), DumpError> {
    let identity = disk.read_file(IDENTITY_FILE).ok().and_then(|bytes| Identity::decode(&bytes).ok());
    let directory = identity.map(|identity| identity.directory).or_else(|| directory_of(disk));
    let Some(directory) = directory else { return Ok(()) };
    let newest = Checkpoint::load_all(disk, directory)?.newest;
    let durable_below = newest.as_ref().map_or_else(Default::default, Checkpoint::durable_below);
    let segments = list(disk)?;
    for (at, id) in segments.iter().enumerate() {
        writeln!(sink, "segment {id}")?;
        let mut failure = None;
        let tail = (at + 1 == segments.len()).then_some(durable_below);
        scan_segment(disk, directory, *id, tail, &mut |met| {
            if failure.is_none() {
                failure = line(sink, &met).err();
            }
        })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
    }
    Ok(())
}

fn line(sink: &mut dyn io::Write, met: &Met) -> io::Result<()> {
    match met {
        Met::Commit => Ok(()),
        Met::Entry(entry) => entry_line(sink, entry),
        Met::Torn { segment, position, bytes } => {
            writeln!(sink, "torn segment={segment} position={position} bytes={bytes}")
        }
        Met::Damage(range) => {
            let log = range.entry.map(|entry| entry.log.to_string()).unwrap_or_else(|| "?".to_owned());
            let damage = describe(range, None);
            write!(
                sink,
                "DAMAGED segment={} position={} length={} log={log} ",
                range.segment, range.position, range.length
            )?;
            if let Some(batch) = damage.batch {
                write!(sink, "offsets={}..{} ", batch.base, end_of(batch.last))?;
            }
            writeln!(sink, "what=\"{}\"", damage.what)
        }
    }
}

fn entry_line(sink: &mut dyn io::Write, replayed: &ReplayedEntry) -> io::Result<()> {
    let entry = &replayed.entry;
    write!(
        sink,
        "lsn={} segment={} position={} log={} ",
        entry.lsn, entry.location.segment, entry.location.position, entry.log
    )?;
    match entry.kind {
        EntryKind::Batch => {
            write!(
                sink,
                "batch offsets={}..{} epoch={} bytes={} crc32c={:08x} time={}",
                entry.base,
                end_of(entry.last),
                entry.epoch,
                replayed.payload.len(),
                crc32c::crc32c(&replayed.payload),
                entry.max_timestamp
            )?;
            if let Ok(batch) = PlacedBatch::verify_stored(replayed.payload.clone()) {
                write!(sink, " records={}", batch.record_count())?;
                if let Some(producer) = batch.producer() {
                    write!(
                        sink,
                        " producer={} producer-epoch={} sequence={}",
                        producer.id, producer.epoch, producer.base_sequence
                    )?;
                }
            }
            writeln!(sink)
        }
        EntryKind::Repair | EntryKind::Rewrite => writeln!(
            sink,
            "{} offsets={}..{} epoch={} bytes={} crc32c={:08x}",
            if entry.kind == EntryKind::Repair { "repair" } else { "rewrite" },
            entry.base,
            end_of(entry.last),
            entry.epoch,
            replayed.payload.len(),
            crc32c::crc32c(&replayed.payload)
        ),
        EntryKind::Truncate => writeln!(sink, "truncate end={}", entry.base),
        EntryKind::Trim => writeln!(sink, "trim start={}", entry.base),
        EntryKind::EpochStart => writeln!(sink, "epoch epoch={} start={}", entry.epoch, entry.base),
        EntryKind::LogCreated => match decode_creation(&replayed.payload) {
            Some((partition, _)) => writeln!(sink, "created partition={partition}"),
            None => writeln!(sink, "created partition=?"),
        },
        EntryKind::LogDeleted => writeln!(sink, "deleted"),
        EntryKind::Checkpoint => writeln!(sink, "committed end={}", entry.base),
    }
}

/// Where a batch with this last offset ends, exclusive.
fn end_of(last: Offset) -> u64 {
    last.next().map_or(last.get(), Offset::get)
}
