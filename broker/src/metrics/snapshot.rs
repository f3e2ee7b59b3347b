//! What is asked for at a scrape: plain numbers, so that this crate's metrics know none of the parts they come from.

/// The client listener's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientsSnapshot {
    /// Bytes of requests and answers in flight.
    pub inflight_bytes: u64,
    /// The limit of the former.
    pub inflight_bytes_max: u64,
}

/// The cluster as this broker sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterSnapshot {
    /// Brokers registered.
    pub brokers: u64,
    /// Topics, internal ones included.
    pub topics: u64,
    /// Partitions of all topics.
    pub partitions: u64,
    /// Partitions that this broker leads.
    pub leading: u64,
    /// Partitions of the cluster without a leader.
    pub leaderless: u64,
    /// Partitions of the cluster that were once led by a replica that may have lacked acknowledged records.
    pub elected_uncleanly: u64,
    /// Partitions of the cluster with fewer in-sync replicas than replicas.
    pub under_replicated: u64,
    /// Partitions of the cluster with fewer in-sync replicas than their topic demands for `acks=all`.
    pub under_min_isr: u64,
    /// The metadata's Raft term.
    pub term: u64,
    /// The last metadata change applied here.
    pub applied: u64,
    /// The last metadata change in this broker's newest snapshot of it.
    pub snapshot: u64,
    /// The last metadata change that this broker's log has let go.
    pub purged: u64,
    /// Metadata snapshots this broker has written, since its process started.
    pub snapshots_built: u64,
    /// Metadata snapshots this broker was given instead of the changes it lacked, since its process started.
    pub snapshots_installed: u64,
    /// Metadata snapshots a peer sent that this broker refused as damaged, since its process started.
    pub snapshots_refused: u64,
    /// Whether this broker is the controller.
    pub is_controller: bool,
}

/// Catching up of replicas, as the leader of their partitions sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatchUpSnapshot {
    /// Replicas of partitions led here that are not in sync.
    pub replicas: u64,
    /// About how many bytes they lack.
    pub behind_bytes: u64,
    /// Bytes sent to them.
    pub sent_bytes: u64,
    /// Bytes per second that may be sent to them; zero without a limit.
    pub limit_bytes_per_second: u64,
}

/// Logs in quarantine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StraysSnapshot {
    /// How many there are.
    pub logs: u64,
    /// Bytes of their batches.
    pub bytes: u64,
}

/// The data directory. Counters count since the process started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StorageSnapshot {
    /// Bytes of the data directory in use.
    pub used_bytes: u64,
    /// Bytes free on its file system.
    pub free_bytes: u64,
    /// Journal segments in use.
    pub segments: u64,
    /// Stored ranges that fail their checksums.
    pub damaged_extents: u64,
    /// Writes are refused for good after a failed write or sync.
    pub is_read_only: bool,
    /// Writes are refused until there is space again.
    pub is_full: bool,
    /// Partition logs in the directory.
    pub logs: u64,
    /// Bytes held by the tail cache.
    pub tail_cache_bytes: u64,
    /// Reads answered from memory.
    pub tail_cache_hits: u64,
    /// Reads that went to the disk.
    pub tail_cache_misses: u64,
    /// Bytes read from the disk.
    pub read_bytes: u64,
    /// Group commits on disk.
    pub commits: u64,
    /// Entries in them.
    pub committed_entries: u64,
    /// Bytes in them, padding included.
    pub committed_bytes: u64,
    /// How long group commits took, from the write to stable storage.
    pub commit_seconds: Buckets,
    /// Appends refused: read-only, full, busy or out of order.
    pub appends_refused: u64,
    /// Reads refused because what they asked for is damaged.
    pub damaged_reads: u64,
    /// Damaged batches stored anew from another replica.
    pub repaired_batches: u64,
    /// Bytes of those.
    pub repaired_bytes: u64,
    /// Attempts to write the index or a checkpoint that failed and are repeated.
    pub maintenance_failures: u64,
    /// Segments whose records have all gone and whose space is used again.
    pub segments_recycled: u64,
    /// Bytes the scrub has verified.
    pub scrubbed_bytes: u64,
    /// Bytes of batches that compaction stored anew.
    pub compacted_bytes: u64,
    /// Bytes of batches that log compaction stored anew.
    pub cleaned_bytes: u64,
    /// Records that log compaction dropped.
    pub records_cleaned: u64,
    /// Segments that compaction gave back.
    pub segments_compacted: u64,
}

/// A histogram kept elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    /// Upper bounds (inclusive) in seconds, ascending, and how many observations fell into each, not cumulated. What is
    /// above the last bound goes into `beyond`.
    pub buckets: Vec<(f64, u64)>,
    /// Observations above the last bound.
    pub beyond: u64,
    /// The sum of all observations, in seconds.
    pub sum_seconds: f64,
}
