//! The journal's settings and the relations between them.

use streambus_protocol::ids::DirectoryId;
use streambus_protocol::limits::BATCH_BYTES_MAX;

use super::commit::COMMIT_HEADER_BYTES;
use super::entry::ENTRY_HEADER_BYTES;
use super::error::OpenError;
use crate::aligned::BLOCK_BYTES;

/// Settings of one journal. None is reloaded while it runs.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// The data directory's identity: segments of another one are refused.
    pub directory: DirectoryId,
    /// Size of a segment file, in bytes; whole blocks, below 2 GiB. Default 256 MiB.
    pub segment_bytes: u32,
    /// A commit collects up to this many bytes; one larger entry is a commit of its own. Default 1 MiB: above it,
    /// throughput no longer grows and latency does.
    pub group_bytes: u32,
    /// Entries waiting behind a full group hold at most this many bytes; more is
    /// [`AppendError::Busy`](super::AppendError::Busy). Default 32 MiB.
    pub queue_bytes_max: u32,
    /// The largest payload of one entry. Default: the largest record batch.
    pub payload_bytes_max: u32,
    /// Silence after which an empty commit proves that the last one was synced, in milliseconds. Default 100.
    pub idle_marker_ms: u32,
    /// Recycled segment files kept for reuse; more are removed. Default 4. They are faster than new ones, because
    /// writing to blocks that were written before needs no file-system journal commit.
    pub spares_max: u32,
    /// So many bytes ahead of the commits are zeroed in a new segment while nothing is committed, up to 1 GiB; 0 for none.
    /// Default 16 MiB: some seconds of small commits. Takes effect where writes bypass the page cache.
    pub zero_ahead_bytes: u32,
    /// Bytes of all segment files together, spare ones included; `None` for no limit. Default none.
    pub total_bytes_max: Option<u64>,
    /// No new segment file is made when less than this would stay free on the file system. Default 0.
    pub reserve_bytes: u64,
}

impl JournalConfig {
    /// The defaults, for the data directory `directory`.
    pub fn new(directory: DirectoryId) -> Self {
        Self {
            directory,
            segment_bytes: 256 * 1024 * 1024,
            group_bytes: 1024 * 1024,
            queue_bytes_max: 32 * 1024 * 1024,
            payload_bytes_max: BATCH_BYTES_MAX as u32,
            idle_marker_ms: 100,
            spares_max: 4,
            zero_ahead_bytes: 16 * 1024 * 1024,
            total_bytes_max: None,
            reserve_bytes: 0,
        }
    }

    /// Checks every relation the code relies on.
    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        let refuse = |problem: String| Err(OpenError::Config { problem });
        let block = BLOCK_BYTES as u64;
        let segment = u64::from(self.segment_bytes);
        if self.directory.is_zero() {
            return refuse("the directory id is zero".to_owned());
        }
        if segment % block != 0 || segment > 1 << 31 {
            return refuse(format!("segment_bytes is {segment}; it must be whole {block}-byte blocks up to 2 GiB"));
        }
        if u64::from(self.group_bytes) < block {
            return refuse(format!("group_bytes is {}; it must be at least {block}", self.group_bytes));
        }
        // What is accepted must fit into half a segment even if it is committed in the worst portions, so that the
        // next segment can be prepared while the second half fills.
        let accepted = worst_case_bytes(self.pending_bytes_max(), u64::from(self.group_bytes));
        if segment / 2 < accepted + block {
            return refuse(format!(
                "segment_bytes is {segment}; with group_bytes {}, queue_bytes_max {} and payload_bytes_max {} it must \
                 be at least {}",
                self.group_bytes,
                self.queue_bytes_max,
                self.payload_bytes_max,
                (accepted + block) * 2
            ));
        }
        Ok(())
    }

    /// Bytes of entries that may be accepted and not yet in a commit: the group that collects and the queue.
    fn pending_bytes_max(&self) -> u64 {
        let entry = self.entry_bytes_max();
        // An empty queue takes one entry of any legal size.
        u64::from(self.group_bytes).max(entry) + u64::from(self.queue_bytes_max).max(entry)
    }

    /// Bytes of the largest entry, header and padding included.
    pub(crate) fn entry_bytes_max(&self) -> u64 {
        u64::from(self.payload_bytes_max) + (ENTRY_HEADER_BYTES + 8) as u64
    }
}

/// Bytes on disk of `entries` bytes of entries at most, however they are cut into commits of `group_bytes`.
///
/// Two neighbouring commits hold more than one group together, or they would have been one; each commit adds its
/// header and less than a block of zeros.
pub(crate) fn worst_case_bytes(entries: u64, group_bytes: u64) -> u64 {
    let commits = entries / group_bytes * 2 + 2;
    entries + commits * (BLOCK_BYTES + COMMIT_HEADER_BYTES) as u64
}
