//! What a broker knows of the cluster's metadata and of its own part in it, noted for the verdict each time it is news.

use std::sync::Arc;

use parking_lot::Mutex;
use streambus_consensus::image::ClusterImage;
use streambus_consensus::node::MetadataStatus;
use streambus_consensus::snapshot::SnapshotCounts;
use streambus_protocol::ids::BrokerId;
use streambus_tests::event::What;

use super::{Machine, host};

/// How the brokers of a run deal with the log of the metadata, and what has become of it. Clones share the latter.
#[derive(Clone, Debug)]
pub(crate) struct MetadataLog {
    /// Changes between two snapshots, and changes that stay behind one.
    pub(crate) snapshot_changes: u32,
    pub(crate) kept_changes: u32,
    pub(crate) done: Arc<Mutex<Compaction>>,
}

/// What was done to metadata logs, on all brokers in all their lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compaction {
    /// Snapshots that a broker wrote of its own state.
    pub(crate) built: u64,
    /// Snapshots that a broker took from a controller.
    pub(crate) installed: u64,
    /// How often the beginning of a log went.
    pub(crate) purged: u64,
    /// Snapshots that a power cut left absent, in part or without their name.
    pub(crate) torn: u64,
}

/// What was seen of one life of a broker so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    snapshots: SnapshotCounts,
    /// Where its log began when it was looked at last.
    purged_index: Option<u64>,
}

impl Machine {
    /// Notes what is news in `image` and `status`.
    pub(super) fn observe(&self, image: &Arc<ClusterImage>, status: &MetadataStatus, seen: &mut Seen) {
        self.note_metadata(image, status);
        self.note_leaders(image);
        let mut done = self.metadata_log.done.lock();
        done.built += status.snapshots.built - seen.snapshots.built;
        done.installed += status.snapshots.installed - seen.snapshots.installed;
        done.purged += u64::from(seen.purged_index.is_some_and(|before| status.purged_index > before));
        drop(done);
        *seen = Seen { snapshots: status.snapshots, purged_index: Some(status.purged_index) };
    }

    fn note_metadata(&self, image: &ClusterImage, status: &MetadataStatus) {
        let me = host(self.id);
        // All of it: names, numbers and orders of everything that is published.
        let digest = crc32c::crc32c(format!("{image:?}").as_bytes());
        self.trace.event(&me, What::Applied { observer: self.id, index: image.applied, digest });
        let standing = What::Standing {
            observer: self.id,
            node: status.node.get(),
            term: status.term,
            voted: status.voted_term,
            leads: status.is_leader,
            last: status.last_index,
            applied: status.index,
        };
        self.trace.event(&me, standing);
    }

    /// Who leads, as this broker knows it.
    fn note_leaders(&self, image: &Arc<ClusterImage>) {
        let before = self.image.lock().replace(Arc::clone(image));
        let numbers = |ids: &[BrokerId]| ids.iter().map(|id| id.get()).collect::<Vec<_>>();
        for (id, _, partition) in image.partitions() {
            if before.as_ref().and_then(|before| before.partition(id)).is_some_and(|known| **known == *partition) {
                continue;
            }
            self.trace.event(
                &host(self.id),
                What::Leadership {
                    observer: self.id,
                    partition: id.partition.get(),
                    leader: partition.leader.map(|leader| leader.get()),
                    leader_epoch: partition.leader_epoch.get(),
                    isr: numbers(&partition.isr),
                    replicas: numbers(&partition.replicas),
                },
            );
        }
        for (id, broker) in &image.brokers {
            if before
                .as_ref()
                .and_then(|before| before.brokers.get(id))
                .is_none_or(|known| known.fenced != broker.fenced)
            {
                self.trace
                    .line(&host(self.id), &format!("sees broker {id} epoch {} fenced {}", broker.epoch, broker.fenced));
            }
        }
    }
}
