//! This node's view of who is a member, how it lets others join, and how a controller changes the membership.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::Precondition;
use streambus_protocol::ids::{BrokerId, DirectoryId};
use tokio::time::{sleep, timeout};

use super::Inner;
use super::control_loop::{PROPOSE_PATIENCE, REFUSED_PAUSE};
use crate::command::Command;
use crate::controller::membership_plan::{MembershipStep, MembershipView, next_step};
use crate::error::ProposeError;
use crate::hello::{Disk, Holder, Joined, Place, Standing};
use crate::image::ClusterImage;
use crate::outcome::{Outcome, RefusedReason};
use crate::types::{LogId, RaftId, RaftNode, TypeConfig};

/// A learner that lags by no more entries has caught up: it is sent the rest with the next few requests.
const CAUGHT_UP_LAG: u64 = 100;

/// One node of the Raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its id, for ever the same disk's.
    pub raft_id: RaftId,
    /// The broker whose disk it is.
    pub broker: BrokerId,
    /// Whether it votes.
    pub role: NodeRole,
    /// Entries that it has not confirmed yet. Only the controller knows.
    pub lag: Option<u64>,
}

/// What a node does in the Raft group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// It votes and counts towards a quorum.
    Voter,
    /// It only follows.
    Learner,
}

/// A change of the membership, and the membership it was decided on.
pub(super) struct MembershipChange {
    kind: ChangeKind,
    decided_on: Option<LogId>,
}

enum ChangeKind {
    Planned(MembershipStep),
    /// A former controller did not get to the second half of its change.
    Complete(BTreeSet<RaftId>),
}

impl Inner {
    /// What this node's disk is to its cluster: `before` until the first entry is in its log.
    pub(crate) fn standing(&self, before: Standing) -> Standing {
        let metrics = self.raft.server_metrics();
        let has_members = metrics.borrow_watched().membership_config.membership().voter_ids().next().is_some();
        if has_members { Standing::Member(self.identity.cluster_id) } else { before }
    }

    /// What this node knows of a disk that says hello.
    pub(crate) fn place_of(&self, disk: &Disk) -> Place {
        if disk.cluster != self.identity.cluster_id {
            return Place::Unknown;
        }
        let confirmed = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let matched = metrics.replication.as_ref().and_then(|nodes| nodes.get(&disk.raft).copied().flatten());
            matched.map_or(0, |matched| matched.index)
        };
        // Confirmed means durable there. Running on would make Raft stop the controller, and rightly so.
        if confirmed > disk.last && self.is_followed() { Place::LogLost } else { self.peers.place_of(disk.raft) }
    }

    /// Gives an empty disk of `broker` its Raft id.
    pub(crate) async fn give_raft_id(
        &self,
        broker: BrokerId,
        directory: DirectoryId,
        host: String,
        port: u16,
    ) -> Joined {
        // One that hears too late of a removal is told that it was removed, and asks again with another empty disk.
        let returns = self.images.borrow().removed_brokers.contains_key(&broker);
        let command = Command::JoinNode { broker, directory, host, port, returns };
        match self.propose(command, self.config.tuning.propose).await {
            Ok(Outcome::NodeJoined { raft_id }) => Joined::As(raft_id),
            Ok(other) => Joined::NotNow(format!("a join was answered with {other:?}")),
            Err(ProposeError::Refused(reason @ RefusedReason::DuplicateBroker { .. })) => {
                self.holder(broker).map_or_else(|| Joined::NotNow(reason.to_string()), Joined::Taken)
            }
            // Asked again, the same disk gets the same id, so an unknown outcome needs no other treatment.
            Err(e) => Joined::NotNow(e.to_string()),
        }
    }

    /// Who is in service under that broker id.
    fn holder(&self, broker: BrokerId) -> Option<Holder> {
        let image = self.images.borrow().clone();
        let registered = image.brokers.get(&broker).filter(|registered| !registered.fenced)?;
        Some(Holder {
            epoch: registered.epoch,
            directory: registered.directory,
            host: registered.cluster.host.clone(),
            port: registered.cluster.port,
            term: self.raft.server_metrics().borrow_watched().vote.leader_id.term,
        })
    }

    /// Every node of the group.
    pub(super) fn nodes(&self) -> Vec<NodeStatus> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<RaftId> = membership.voter_ids().collect();
        let last = metrics.last_log_index;
        let status = |(id, node): (&RaftId, &RaftNode)| {
            let confirmed = metrics.replication.as_ref().and_then(|nodes| nodes.get(id));
            let confirmed = confirmed.map(|matched| matched.as_ref().map_or(0, |id| id.index));
            NodeStatus {
                raft_id: *id,
                broker: node.broker,
                role: if voters.contains(id) { NodeRole::Voter } else { NodeRole::Learner },
                lag: confirmed.zip(last).map(|(confirmed, last)| last.saturating_sub(confirmed)),
            }
        };
        membership.nodes().map(status).collect()
    }

    /// What the controller changes next; none while a change is not committed yet.
    pub(super) fn next_membership_change(&self, image: &ClusterImage) -> Option<MembershipChange> {
        let (view, decided_on) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let effective = &metrics.membership_config;
            if effective.log_id() != metrics.committed_membership_config.log_id() {
                return None;
            }
            let decided_on = *effective.log_id();
            let configs = effective.membership().get_joint_config();
            if let [_, .., last] = configs.as_slice() {
                return Some(MembershipChange { kind: ChangeKind::Complete(last.clone()), decided_on });
            }
            let voter_ids: BTreeSet<RaftId> = effective.membership().voter_ids().collect();
            let nodes = effective.membership().nodes().map(|(id, node)| (*id, node.clone()));
            let (voters, learners): (BTreeMap<_, _>, BTreeMap<_, _>) =
                nodes.partition(|(id, _)| voter_ids.contains(id));
            let last = metrics.last_log_index.unwrap_or(0);
            let has_caught_up = |id: &RaftId| {
                let matched = metrics.replication.as_ref().and_then(|nodes| nodes.get(id)).and_then(Option::as_ref);
                matched.is_some_and(|matched| last.saturating_sub(matched.index) <= CAUGHT_UP_LAG)
            };
            let caught_up = learners.keys().copied().filter(has_caught_up).collect();
            (MembershipView { voters, learners, caught_up }, decided_on)
        };
        let step = next_step(&image.nodes, &view, image)?;
        Some(MembershipChange { kind: ChangeKind::Planned(step), decided_on })
    }

    /// Carries out one change. Refused by Raft when the membership is not the one it was decided on.
    pub(super) async fn change_membership(&self, change: MembershipChange) {
        let members = match change.kind {
            ChangeKind::Complete(voters) => ChangeMembers::ReplaceAllVoters(voters),
            ChangeKind::Planned(step) => {
                tracing::info!(?step, "the controller changes the membership");
                match step {
                    MembershipStep::AddLearner { raft_id, node } => {
                        ChangeMembers::AddNodes(BTreeMap::from([(raft_id, node)]))
                    }
                    MembershipStep::ReplaceVoter { old, new } => ChangeMembers::Batch(vec![
                        ChangeMembers::AddVoterIds(BTreeSet::from([new])),
                        ChangeMembers::RemoveVoters(BTreeSet::from([old])),
                    ]),
                    MembershipStep::AddVoter(new) => ChangeMembers::AddVoterIds(BTreeSet::from([new])),
                    MembershipStep::RemoveVoter(old) => ChangeMembers::RemoveVoters(BTreeSet::from([old])),
                    MembershipStep::RemoveLearner(old) => ChangeMembers::RemoveNodes(BTreeSet::from([old])),
                    MembershipStep::Forget(raft_id) => {
                        return self.carry_out(Command::RemoveNode { raft_id }).await;
                    }
                }
            }
        };
        let precondition =
            Precondition::<TypeConfig>::LastMembershipLogId { last_membership_log_id: change.decided_on };
        let changed = self.raft.change_membership_if(members, false, [precondition]);
        match timeout(PROPOSE_PATIENCE, changed).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::info!(%error, "the membership was not changed");
                // A controller whose lease is over is refused at once, and would be asked again without end.
                sleep(REFUSED_PAUSE).await;
            }
            Err(_) => tracing::info!("the change of the membership is not committed yet"),
        }
    }
}
