//! Raft ids for disks that join after the founding. An id is the log index of the join, so no two disks ever share one.

use super::{ClusterState, RowKey, Touched};
use crate::image::NodeImage;
use crate::limits::RAFT_NODES_MAX;
use crate::outcome::{Counter, Limited, Outcome, RefusedReason};
use crate::types::RaftId;

impl ClusterState {
    /// Idempotent by disk; where the disk is reached may have changed meanwhile. A new disk waits until its broker's
    /// former life is fenced: two processes with one broker id must not take each other's place.
    ///
    /// A broker that was removed and `returns` is no removed one from here on. Otherwise its disk would not be let in, since
    /// it can register, which ends the removal too, only once it is.
    pub(super) fn join_node(
        &mut self,
        index: u64,
        node: NodeImage,
        returns: bool,
        touched: &mut Touched,
    ) -> Result<Outcome, RefusedReason> {
        let NodeImage { broker, directory, .. } = node;
        if directory.is_zero() {
            return Err(RefusedReason::ZeroId);
        }
        let known = self.image.nodes.iter().find(|(_, node)| node.directory == directory);
        let raft_id = match known {
            Some((_, known)) if known.broker != broker => {
                return Err(RefusedReason::DirectoryInUse { directory, owner: known.broker });
            }
            Some((raft_id, _)) => *raft_id,
            None if self.broker(broker).is_some_and(|b| !b.fenced) => {
                let current = self.broker(broker).map_or(directory, |b| b.directory);
                return Err(RefusedReason::DuplicateBroker { broker, current, given: directory });
            }
            None if self.image.nodes.len() >= RAFT_NODES_MAX => {
                return Err(RefusedReason::ClusterLimit { what: Limited::Nodes, max: RAFT_NODES_MAX as u64 });
            }
            None => {
                let id = RaftId::JOINED_MIN.get().checked_add(index);
                RaftId::new(id.ok_or(RefusedReason::Exhausted(Counter::RaftIds))?)
            }
        };
        if returns && self.image.removed_brokers.remove(&broker).is_some() {
            touched.insert(RowKey::RemovedBroker(broker));
        }
        if self.image.nodes.get(&raft_id) != Some(&node) {
            self.image.nodes.insert(raft_id, node);
            touched.insert(RowKey::Node(raft_id));
        }
        Ok(Outcome::NodeJoined { raft_id })
    }

    pub(super) fn remove_node(&mut self, raft_id: RaftId, touched: &mut Touched) -> Outcome {
        let changed = self.image.nodes.remove(&raft_id).is_some();
        if changed {
            touched.insert(RowKey::Node(raft_id));
        }
        Outcome::NodeRemoved { changed }
    }
}
