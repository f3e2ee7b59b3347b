//! What can be tuned in a data directory. Every field states its unit, default and range.

use std::time::Duration;

use streambus_protocol::ids::DirectoryId;
use streambus_protocol::limits::BATCH_BYTES_MAX;

use crate::compaction::Limits;
use crate::error::OpenError;
use crate::journal::JournalConfig;

/// The largest share of the file system that the reserve may claim.
const RESERVE_RATIO_MAX: f64 = 0.5;

/// Settings of one [`Store`](crate::store::Store). None of them reloads while it is open.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    /// Bytes of one journal segment. Default 256 MiB, 64 KiB to 2 GiB. Recovery scans one or two of them.
    pub segment_bytes: u64,
    /// A commit collects up to this many bytes. Default 1 MiB, 4 KiB or more.
    pub group_bytes: u32,
    /// Bytes of accepted batches that may wait for the disk; more is refused as busy. Default 16 MiB.
    pub queue_bytes_max: u32,
    /// Bytes of the largest batch. Default: the wire's limit, 8 MiB.
    pub batch_bytes_max: u32,
    /// Recycled segment files kept for reuse. Default 4; more are removed.
    pub spare_segments_max: u32,
    /// Bytes of recent batches kept in memory for all logs together. Default 32 MiB, 0 or more; batches that are not
    /// yet durable stay whatever this says.
    pub tail_cache_bytes: usize,
    /// Largest span of journal bytes that one index entry covers. Default 256 KiB, 4 KiB to 16 MiB.
    pub extent_bytes_max: u32,
    /// Index entries kept in memory before the journal's segment is full; more are moved to the index early.
    /// Default 100,000 (about 5 MiB), 16 or more.
    pub extents_in_memory_max: usize,
    /// Free bytes of the file system below which appends are refused. Default 2 GiB, 0 switches it off.
    pub disk_reserve_bytes: u64,
    /// The same as a share of free plus used bytes; the larger of both counts. Default 0.05, 0.0 to 0.5.
    pub disk_reserve_ratio: f64,
    /// How long a silent idempotent producer is remembered. Default one day.
    pub producer_expiry: Duration,
    /// Idempotent producers remembered for one log; the longest silent is forgotten first. Default 10,000, 1 or more.
    pub producers_per_log_max: usize,
    /// When copying live batches out of a segment pays.
    pub compaction: Limits,
    /// How long compaction rests once it found nothing to do. Default one minute.
    pub compaction_pause: Duration,
    /// Bytes that the keys of one log may take while it is compacted. Default 8 MiB, about 260,000 keys; a log with more is
    /// compacted in several goes.
    pub clean_map_bytes: usize,
    /// How long log compaction rests once it found nothing to do. Default 15 seconds.
    pub clean_pause: Duration,
    /// RocksDB's shared block cache. Default 8 MiB.
    pub index_cache_bytes: usize,
    /// RocksDB's write buffer. Default 4 MiB.
    pub index_write_buffer_bytes: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 256 << 20,
            group_bytes: 1 << 20,
            queue_bytes_max: 16 << 20,
            batch_bytes_max: BATCH_BYTES_MAX as u32,
            spare_segments_max: 4,
            tail_cache_bytes: 32 << 20,
            extent_bytes_max: 256 << 10,
            extents_in_memory_max: 100_000,
            disk_reserve_bytes: 2 << 30,
            disk_reserve_ratio: 0.05,
            producer_expiry: Duration::from_secs(24 * 60 * 60),
            producers_per_log_max: 10_000,
            compaction: Limits::default(),
            compaction_pause: Duration::from_secs(60),
            clean_map_bytes: 8 << 20,
            clean_pause: Duration::from_secs(15),
            index_cache_bytes: 8 << 20,
            index_write_buffer_bytes: 4 << 20,
        }
    }
}

impl StoreConfig {
    /// Sizes so small that segments fill, extents end and bounds are met within a few batches of at most 4 KiB: for
    /// tests and simulation.
    pub fn tiny() -> Self {
        Self {
            segment_bytes: 128 << 10,
            group_bytes: 8 << 10,
            queue_bytes_max: 16 << 10,
            batch_bytes_max: 4 << 10,
            spare_segments_max: 2,
            tail_cache_bytes: 8 << 10,
            extent_bytes_max: 8 << 10,
            extents_in_memory_max: 64,
            disk_reserve_bytes: 0,
            disk_reserve_ratio: 0.0,
            producers_per_log_max: 64,
            compaction_pause: Duration::ZERO,
            clean_map_bytes: 0,
            clean_pause: Duration::ZERO,
            ..Self::default()
        }
    }

    /// The journal's settings for the data directory `directory`, keeping `reserve_bytes` of the file system free.
    pub(crate) fn journal(&self, directory: DirectoryId, reserve_bytes: u64) -> Result<JournalConfig, OpenError> {
        let problem = format!("{} is outside 64 KiB to 2 GiB", self.segment_bytes);
        Ok(JournalConfig {
            segment_bytes: u32::try_from(self.segment_bytes)
                .map_err(|_| OpenError::Config { field: "segment_bytes", problem })?,
            group_bytes: self.group_bytes,
            queue_bytes_max: self.queue_bytes_max,
            payload_bytes_max: self.batch_bytes_max,
            spares_max: self.spare_segments_max,
            reserve_bytes,
            ..JournalConfig::new(directory)
        })
    }

    /// Checks every field against its range; the error names the first that is outside.
    pub fn validate(&self) -> Result<(), OpenError> {
        let refuse = |field, problem| Err(OpenError::Config { field, problem });
        if !(64 << 10..=2 << 30).contains(&self.segment_bytes) {
            return refuse("segment_bytes", format!("{} is outside 64 KiB to 2 GiB", self.segment_bytes));
        }
        if !(4 << 10..=16 << 20).contains(&self.extent_bytes_max) {
            return refuse("extent_bytes_max", format!("{} is outside 4 KiB to 16 MiB", self.extent_bytes_max));
        }
        if self.extents_in_memory_max < 16 {
            return refuse("extents_in_memory_max", format!("{} is below 16", self.extents_in_memory_max));
        }
        if !(0.0..=RESERVE_RATIO_MAX).contains(&self.disk_reserve_ratio) {
            return refuse("disk_reserve_ratio", format!("{} is outside 0.0 to 0.5", self.disk_reserve_ratio));
        }
        if self.producers_per_log_max == 0 {
            return refuse("producers_per_log_max", "0 would forget every producer at once".to_owned());
        }
        Ok(())
    }
}
