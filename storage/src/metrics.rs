//! What the store counts: plain atomics, declared here and nowhere else. Nothing is sampled, nothing locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, in microseconds; one more bucket holds the rest.
pub const LATENCY_BOUNDS_US: [u64; 14] =
    [50, 100, 200, 300, 500, 750, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A distribution of durations in fixed buckets.
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl LatencyHistogram {
    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Durations counted per bucket: those at most [`LATENCY_BOUNDS_US`] each (and above the bound before), then the rest.
    pub fn buckets(&self) -> [u64; LATENCY_BOUNDS_US.len() + 1] {
        std::array::from_fn(|i| self.buckets.get(i).map_or(0, |bucket| bucket.load(Ordering::Relaxed)))
    }

    /// Sum of all durations, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.load(Ordering::Relaxed)
    }
}

/// What one store counts since it was opened.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    /// Commits of the journal, empty markers included.
    pub commits: Counter,
    /// Entries committed.
    pub commit_entries: Counter,
    /// Bytes of entries committed, headers included.
    pub commit_entry_bytes: Counter,
    /// Bytes written to the journal, padding included.
    pub commit_disk_bytes: Counter,
    /// Time of each durable write.
    pub commit_latency: LatencyHistogram,
    /// Batches accepted.
    pub batches_appended: Counter,
    /// Bytes of batches accepted.
    pub bytes_appended: Counter,
    /// Appends refused: latched, full, busy or out of order.
    pub appends_refused: Counter,
    /// Reads answered from the tail cache.
    pub tail_cache_hits: Counter,
    /// Reads that went to the disk.
    pub tail_cache_misses: Counter,
    /// Bytes read from the journal for reads.
    pub disk_read_bytes: Counter,
    /// Reads refused for damage, each time.
    pub damaged_reads: Counter,
    /// Damaged ranges found since opening, by recovery, reads and scrubbing.
    pub damage_found: Counter,
    /// Batches stored anew in place of damaged ones.
    pub batches_repaired: Counter,
    /// Bytes of those batches.
    pub bytes_repaired: Counter,
    /// Segments whose extents went to the index.
    pub segments_sealed: Counter,
    /// Segments recycled.
    pub segments_recycled: Counter,
    /// Bytes of batches that compaction stored anew.
    pub compacted_bytes: Counter,
    /// Bytes of batches that log compaction stored anew.
    pub cleaned_bytes: Counter,
    /// Records that log compaction dropped.
    pub records_cleaned: Counter,
    /// Segments that compaction gave back.
    pub segments_compacted: Counter,
    /// Checkpoints written.
    pub checkpoints: Counter,
    /// Attempts to index or checkpoint that failed and will be repeated.
    pub maintenance_failures: Counter,
    /// Bytes verified by scrubbing.
    pub scrubbed_bytes: Counter,
    /// Full passes of the scrub.
    pub scrub_passes: Counter,
    /// Bytes of batches that retention and trimming let go.
    pub trimmed_bytes: Counter,
    /// Producers forgotten for silence.
    pub producers_expired: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_land_in_the_bucket_that_bounds_them() {
        let histogram = LatencyHistogram::default();
        for us in [50, 51, 2_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let buckets = histogram.buckets();
        assert_eq!((buckets[0], buckets[1], buckets[14]), (1, 1, 1));
        assert_eq!(histogram.sum_us(), 2_000_101);
    }
}
