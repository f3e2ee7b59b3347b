//! The store: reads from the tail cache and from the disk, and the index's floor lookup.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use streambus_protocol::ids::{PartitionId, PartitionIndex, TopicId};
use streambus_protocol::limits::BATCH_BYTES_MAX;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::{batch::UnverifiedBatch, compression::Compression, epoch::LeaderEpoch};
use streambus_storage::clock::SystemClock;
use streambus_storage::config::StoreConfig;
use streambus_storage::index::rocks::{RocksIndex, RocksSizes};
use streambus_storage::index::{Extent, Index, IndexChanges};
use streambus_storage::journal::{LogId, SegmentId};
use streambus_storage::partition_log::{LogOptions, PartitionLog, Read, ReadLimit};
use streambus_storage::store::Store;

use super::MicroError;
use super::sampler::{Sampler, nanos};
use super::wire_rows::batch_bytes;
use crate::stopwatch::Stopwatch;

/// Records of 100 bytes in a batch: about 64 KiB.
const BATCH_RECORDS: usize = 560;
/// Batches in the log that is read: fewer bytes than the tail cache holds.
const BATCHES: u64 = 256;
const READ_BYTES: usize = 256 << 10;
const EXTENTS_A_LOG: u64 = 10_000;
const LOGS: u64 = 10;

/// Measures reads and lookups under `directory`.
pub fn measure(sampler: &mut Sampler<'_>, directory: &Path) -> Result<(), MicroError> {
    index_lookup(sampler, directory)?;
    tail_cache_read(sampler, directory)?;
    disk_read(sampler, directory)
}

fn scratch(directory: &Path) -> Result<tempfile::TempDir, MicroError> {
    let scratch = tempfile::Builder::new().prefix("streambus-micro-").tempdir_in(directory);
    scratch.map_err(MicroError::io("store"))
}

fn index_lookup(sampler: &mut Sampler<'_>, directory: &Path) -> Result<(), MicroError> {
    let name = "store/index floor, 100,000 extents";
    if !sampler.wants(name) {
        return Ok(());
    }
    let refused = |error: streambus_storage::error::IndexError| MicroError::refused(name, error);
    let scratch = scratch(directory)?;
    let sizes = RocksSizes { cache_bytes: 8 << 20, write_buffer_bytes: 4 << 20 };
    let index = Index::new(Arc::new(RocksIndex::open(&scratch.path().join("index"), sizes).map_err(refused)?));
    let offset = |value: u64| Offset::new(value).unwrap_or(Offset::MAX);
    for log in 0..LOGS {
        let mut changes = IndexChanges::default();
        for number in 0..EXTENTS_A_LOG {
            let extent = Extent {
                base: offset(number * 100),
                next: offset(number * 100 + 100),
                segment: SegmentId::new(number / 1_000),
                position: number * 4_096,
                length: 4_096,
                batch_bytes: 4_000,
                max_timestamp: Timestamp::NONE,
            };
            changes.put_extent(LogId::new(log), &extent);
        }
        index.write(&changes).map_err(refused)?;
    }
    let (mut at, mut failed) = (0_u64, None);
    sampler.compute(name, 0, None, |times| {
        for _ in 0..times {
            // A stride that is prime to the range visits it out of order.
            at = (at + 7_919 * 100 + 50) % (EXTENTS_A_LOG * 100);
            match index.floor(LogId::new(at % LOGS), offset(at)) {
                Ok(Some(extent)) => drop(black_box(extent)),
                Ok(None) => failed = Some("nothing found".to_owned()),
                Err(error) => failed = Some(error.to_string()),
            }
        }
    });
    failed.map_or(Ok(()), |problem| Err(MicroError::refused(name, problem)))
}

/// A store whose one log holds [`BATCHES`] durable batches.
fn filled(directory: &Path, tail_cache_bytes: usize) -> Result<(Store, PartitionLog), MicroError> {
    let refused = |problem: &dyn std::fmt::Display| MicroError::refused("filling a store", problem);
    let config =
        StoreConfig { tail_cache_bytes, disk_reserve_bytes: 0, disk_reserve_ratio: 0.0, ..StoreConfig::default() };
    let (store, _report) =
        Store::open_dir(directory, config, Arc::new(SystemClock::new())).map_err(|error| refused(&error))?;
    let id = PartitionId { topic: TopicId::from_bytes([3; 16]), partition: PartitionIndex::new(0) };
    let log = store.create_log(id, LogOptions::default()).map_err(|error| refused(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(MicroError::io("filling a store"))?;
    for _ in 0..BATCHES {
        let batch = UnverifiedBatch::new(batch_bytes(BATCH_RECORDS, 100, Compression::None)?)
            .verify(BATCH_BYTES_MAX)
            .map_err(|error| refused(&error))?;
        let appended = log.append(batch.place(log.log_end(), LeaderEpoch::ZERO)).map_err(|error| refused(&error))?;
        runtime.block_on(appended.durable).map_err(|error| refused(&error))?;
    }
    Ok((store, log))
}

/// Offsets to read from, out of order, such that a whole read is there.
fn place(log: &PartitionLog, number: u64) -> Offset {
    let batch = (number * 97) % (BATCHES - 8);
    Offset::new(batch * u64::try_from(BATCH_RECORDS).unwrap_or(1)).unwrap_or_else(|| log.log_start())
}

fn tail_cache_read(sampler: &mut Sampler<'_>, directory: &Path) -> Result<(), MicroError> {
    let name = "store/read 256KiB, tail cache";
    if !sampler.wants(name) {
        return Ok(());
    }
    let scratch = scratch(directory)?;
    let (store, log) = filled(scratch.path(), 64 << 20)?;
    let limit = ReadLimit { bytes_max: READ_BYTES, below: log.durable_end() };
    let (mut number, mut failed) = (0, None);
    sampler.compute(name, READ_BYTES as u64, Some("machine/memcpy 1MiB"), |times| {
        for _ in 0..times {
            number += 1;
            match log.read(place(&log, number), limit) {
                Ok(Read::Ready(batches, _next)) => drop(black_box(batches)),
                Ok(Read::Disk(_)) => failed = Some("the batches are not in the cache".to_owned()),
                Err(error) => failed = Some(error.to_string()),
            }
        }
    });
    store.close().map_err(|error| MicroError::refused(name, error))?;
    failed.map_or(Ok(()), |problem| Err(MicroError::refused(name, problem)))
}

fn disk_read(sampler: &mut Sampler<'_>, directory: &Path) -> Result<(), MicroError> {
    let name = "store/read 256KiB, disk";
    if !sampler.wants(name) {
        return Ok(());
    }
    let scratch = scratch(directory)?;
    let (store, log) = filled(scratch.path(), 0)?;
    let limit = ReadLimit { bytes_max: READ_BYTES, below: log.durable_end() };
    let (mut samples, mut bytes) = (Vec::new(), 0_u64);
    for number in 0..sampler.operations() as u64 {
        let watch = Stopwatch::start();
        let read = log.read(place(&log, number), limit).map_err(|error| MicroError::refused(name, error))?;
        let batches = match read {
            Read::Ready(batches, _next) => batches,
            Read::Disk(disk) => disk.run().map_err(|error| MicroError::refused(name, error))?.0,
        };
        samples.push(nanos(watch.elapsed()));
        bytes += batches.iter().map(|batch| batch.len() as u64).sum::<u64>();
    }
    let average = bytes / (samples.len() as u64).max(1);
    sampler.add(name, average, Some("disk/read 64KiB scattered"), samples);
    store.close().map_err(|error| MicroError::refused(name, error))
}
