//! Ending the leaderships that another broker has by now, or nobody: no disk is needed for it.
//!
//! While a leadership is on its way to a disk that hangs, newer metadata goes on ending others here, so that this broker
//! can say how far it has acted on it and keeps its contact with the controller. Whatever is taken up later is compared
//! with the newest metadata first: a leadership that has ended meanwhile does not begin.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use streambus_consensus::delta::ClusterDelta;
use streambus_consensus::image::ClusterImage;
use streambus_protocol::ids::{BrokerId, PartitionId, PartitionIndex};
use streambus_storage::clock::Clock;

use crate::partition::registry::Registry;
use crate::partition::role::{Leadership, Role};

/// Ends leaderships. Cheap to share; called by the one task that follows the metadata.
pub struct StepDown {
    broker: BrokerId,
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    /// The newest metadata that was looked at.
    newest: ArcSwap<ClusterImage>,
}

impl StepDown {
    /// Of the partitions that `broker` holds.
    pub(super) fn new(broker: BrokerId, registry: Arc<Registry>, clock: Arc<dyn Clock>) -> Self {
        Self { broker, registry, clock, newest: ArcSwap::from_pointee(ClusterImage::empty()) }
    }

    /// Ends what has ended by `image`, and notes it.
    pub fn look(&self, image: &Arc<ClusterImage>) {
        let before = self.newest.load_full();
        if image.applied < before.applied {
            return;
        }
        let delta = ClusterDelta::between(&before, image);
        self.newest.store(Arc::clone(image));
        let deleted = delta.deleted.iter().flat_map(|topic| {
            let index = |(index, _)| PartitionId { topic: topic.id, partition: PartitionIndex::new(index) };
            (0..).zip(&topic.partitions).map(index)
        });
        let mut changed = false;
        for id in delta.partitions.iter().map(|change| change.id).chain(deleted) {
            changed |= self.end(id, image);
        }
        if changed {
            self.registry.announce_change();
        }
        self.registry.note_stepped_down(image.applied);
    }

    /// False when the newest metadata has another leadership than `role`.
    pub(super) fn still_stands(&self, id: PartitionId, role: &Role) -> bool {
        let newest = self.newest.load();
        newest.partition(id).is_some_and(|state| {
            state.leader_epoch == role.leader_epoch && Leadership::of(self.broker, state.leader) == role.leadership
        })
    }

    /// Ends the leadership of one partition, if it is led here and not by `image`.
    fn end(&self, id: PartitionId, image: &ClusterImage) -> bool {
        let Some(partition) = self.registry.get(id) else { return false };
        let role = partition.role();
        if role.leadership != Leadership::Here {
            return false;
        }
        let next = image.topic_by_id(id.topic).and_then(|topic| Some((topic, topic.partition(id.partition)?)));
        let next = match next {
            Some((topic, state)) if state.replicas.contains(&self.broker) => Role::of(self.broker, image, topic, state),
            Some((_, state)) => {
                let leader_epoch = state.leader_epoch;
                Role { leadership: Leadership::Nobody, leader_epoch, ..Role::clone(&role) }
            }
            None => Role { leadership: Leadership::Nobody, ..Role::clone(&role) },
        };
        if next.leadership == Leadership::Here {
            return false;
        }
        partition.set_role(next, self.clock.monotonic());
        self.registry.announce_role(id);
        true
    }
}

impl fmt::Debug for StepDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepDown").field("newest", &self.newest.load().applied).finish_non_exhaustive()
    }
}
