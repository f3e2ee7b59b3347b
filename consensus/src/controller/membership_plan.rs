//! Which disks take part in Raft. Pure: the nodes that joined, the membership, and the brokers in, one step out.
//!
//! One step at a time, each safe by itself: a disk becomes a learner, catches up, and only then takes a vote over; the
//! disk it stands in for leaves in the same change of membership. A disk that is out of the group for good is forgotten
//! last, so that its id is never given to another.

use std::collections::{BTreeMap, BTreeSet};

use streambus_protocol::ids::BrokerId;

use crate::election::Standing;
use crate::image::{ClusterImage, NodeImage};
use crate::types::{RaftId, RaftNode};

/// Voters a cluster should have, if it has that many disks: one may fail.
const VOTERS_WANTED: usize = 3;

/// The membership as Raft has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipView {
    /// The nodes that vote.
    pub voters: BTreeMap<RaftId, RaftNode>,
    /// The nodes that only follow.
    pub learners: BTreeMap<RaftId, RaftNode>,
    /// The learners that are at most a little behind.
    pub caught_up: BTreeSet<RaftId>,
}

/// One change of the membership, or of what is known about nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipStep {
    /// A disk that joined follows from now on.
    AddLearner {
        /// Its id.
        raft_id: RaftId,
        /// Where it is.
        node: RaftNode,
    },
    /// A learner votes from now on, and a voter neither votes nor follows any more.
    ReplaceVoter {
        /// Who leaves.
        old: RaftId,
        /// Who takes over.
        new: RaftId,
    },
    /// A learner votes from now on.
    AddVoter(RaftId),
    /// A voter whose broker was removed leaves, and nobody is there to take over.
    RemoveVoter(RaftId),
    /// A learner leaves.
    RemoveLearner(RaftId),
    /// A node that is no member any more is forgotten: propose [`crate::command::Command::RemoveNode`].
    Forget(RaftId),
}

/// The next step, or none when everything is as it should be or has to wait for a learner. `nodes` are the nodes that
/// joined, as in `image.nodes`.
pub fn next_step(
    nodes: &BTreeMap<RaftId, NodeImage>,
    membership: &MembershipView,
    image: &ClusterImage,
) -> Option<MembershipStep> {
    let plan = Plan { nodes, membership, image };
    plan.add_learner()
        .or_else(|| plan.replace_old_disk())
        .or_else(|| plan.retire_voter())
        .or_else(|| plan.add_voter())
        .or_else(|| plan.remove_learner())
        .or_else(|| plan.forget())
}

struct Plan<'a> {
    nodes: &'a BTreeMap<RaftId, NodeImage>,
    membership: &'a MembershipView,
    image: &'a ClusterImage,
}

impl Plan<'_> {
    fn add_learner(&self) -> Option<MembershipStep> {
        let missing = self.nodes.iter().find(|(id, node)| !self.is_member(**id) && self.is_wanted(**id, node.broker));
        missing.map(|(id, node)| MembershipStep::AddLearner {
            raft_id: *id,
            node: RaftNode { broker: node.broker, host: node.host.clone(), port: node.port },
        })
    }

    fn replace_old_disk(&self) -> Option<MembershipStep> {
        self.membership.voters.iter().find_map(|(old, node)| {
            let new = self.newest_disk(node.broker).filter(|new| new > old)?;
            self.is_ready(new).then_some(MembershipStep::ReplaceVoter { old: *old, new })
        })
    }

    fn retire_voter(&self) -> Option<MembershipStep> {
        let voters = &self.membership.voters;
        let (old, _) = voters.iter().find(|(_, node)| self.is_removed(node.broker))?;
        match self.free_learner() {
            Some(new) => Some(MembershipStep::ReplaceVoter { old: *old, new }),
            // The last voter is the cluster.
            None => (voters.len() > 1).then_some(MembershipStep::RemoveVoter(*old)),
        }
    }

    fn add_voter(&self) -> Option<MembershipStep> {
        let wanted = self.membership.voters.len() < VOTERS_WANTED;
        self.free_learner().filter(|_| wanted).map(MembershipStep::AddVoter)
    }

    fn remove_learner(&self) -> Option<MembershipStep> {
        let out = self.membership.learners.iter().find(|(id, node)| !self.is_wanted(**id, node.broker));
        out.map(|(id, _)| MembershipStep::RemoveLearner(*id))
    }

    fn forget(&self) -> Option<MembershipStep> {
        let out = self.nodes.iter().find(|(id, node)| !self.is_member(**id) && !self.is_wanted(**id, node.broker));
        out.map(|(id, _)| MembershipStep::Forget(*id))
    }

    fn is_member(&self, id: RaftId) -> bool {
        self.membership.voters.contains_key(&id) || self.membership.learners.contains_key(&id)
    }

    fn is_removed(&self, broker: BrokerId) -> bool {
        self.image.removed_brokers.contains_key(&broker) && !self.image.brokers.contains_key(&broker)
    }

    /// True for the newest disk of a broker that belongs to the cluster.
    fn is_wanted(&self, id: RaftId, broker: BrokerId) -> bool {
        !self.is_removed(broker) && self.newest_disk(broker).is_none_or(|newest| newest == id)
    }

    /// The newest disk that joined for `broker`; none for a founder that is still on its first disk.
    fn newest_disk(&self, broker: BrokerId) -> Option<RaftId> {
        self.nodes.iter().rev().find(|(_, node)| node.broker == broker).map(|(id, _)| *id)
    }

    fn is_ready(&self, id: RaftId) -> bool {
        self.membership.learners.contains_key(&id) && self.membership.caught_up.contains(&id)
    }

    /// A learner that has caught up, whose broker serves and has no vote.
    fn free_learner(&self) -> Option<RaftId> {
        let has_vote = |broker: BrokerId| self.membership.voters.values().any(|voter| voter.broker == broker);
        let serves = |broker: BrokerId| {
            self.image.brokers.get(&broker).is_some_and(|broker| broker.standing() == Standing::Serving)
        };
        let free = |id: &RaftId, node: &RaftNode| {
            self.is_ready(*id) && self.is_wanted(*id, node.broker) && serves(node.broker) && !has_vote(node.broker)
        };
        self.membership.learners.iter().find(|(id, node)| free(id, node)).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests;
