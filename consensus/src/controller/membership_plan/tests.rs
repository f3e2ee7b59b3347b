//! Steps of membership: in order, one at a time, and none that could cost a vote too many.

use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::DirectoryId;

use super::*;
use crate::command::{ClusterEndpoint, Incarnation};
use crate::image::BrokerImage;

const JOINED: u64 = RaftId::JOINED_MIN.get();

struct Cluster {
    image: ClusterImage,
    membership: MembershipView,
}

impl Cluster {
    /// Founders 1, 2 and 3, all serving.
    fn founded() -> Self {
        let mut cluster = Self { image: ClusterImage::empty(), membership: MembershipView::default() };
        for id in 1..=3 {
            cluster.serve(id);
            cluster.membership.voters.insert(RaftId::new(u64::from(id)), raft_node(id));
        }
        cluster
    }

    fn serve(&mut self, id: u32) {
        let broker = BrokerImage {
            endpoint: BrokerEndpoint { id: BrokerId::new(id), host: "h".to_owned(), port: 1, rack: None },
            cluster: ClusterEndpoint { host: "h".to_owned(), port: 2 },
            epoch: BrokerEpoch::new(1),
            incarnation: Incarnation::from_bytes([1; 16]),
            directory: DirectoryId::from_bytes([1; 16]),
            fenced: false,
            in_controlled_shutdown: false,
            draining: false,
            version: String::new(),
            rack: None,
        };
        self.image.brokers.insert(BrokerId::new(id), broker);
    }

    fn remove(&mut self, id: u32) {
        self.image.brokers.remove(&BrokerId::new(id));
        self.image.removed_brokers.insert(BrokerId::new(id), BrokerEpoch::new(1));
    }

    fn join(&mut self, raft: u64, id: u32) {
        let directory = DirectoryId::from_bytes([u8::try_from(raft % 250).unwrap() + 1; 16]);
        let node = NodeImage { broker: BrokerId::new(id), directory, host: "h".to_owned(), port: 2 };
        self.image.nodes.insert(RaftId::new(raft), node);
    }

    fn step(&self) -> Option<MembershipStep> {
        next_step(&self.image.nodes, &self.membership, &self.image)
    }

    /// Does what the steps say, until none is left.
    fn run(&mut self) -> Vec<MembershipStep> {
        let mut steps = Vec::new();
        while let Some(step) = self.step() {
            assert!(steps.len() < 20, "the plan never ends: {steps:?}");
            let view = &mut self.membership;
            match &step {
                MembershipStep::AddLearner { raft_id, node } => {
                    view.learners.insert(*raft_id, node.clone());
                    view.caught_up.insert(*raft_id);
                }
                MembershipStep::ReplaceVoter { old, new } => {
                    view.voters.remove(old).expect("it had a vote");
                    let node = view.learners.remove(new).expect("it was a learner");
                    view.voters.insert(*new, node);
                }
                MembershipStep::AddVoter(id) => {
                    let node = view.learners.remove(id).expect("it was a learner");
                    view.voters.insert(*id, node);
                }
                MembershipStep::RemoveVoter(id) => {
                    view.voters.remove(id).expect("it had a vote");
                }
                MembershipStep::RemoveLearner(id) => {
                    view.learners.remove(id).expect("it was a learner");
                }
                MembershipStep::Forget(id) => {
                    self.image.nodes.remove(id).expect("it was known");
                }
            }
            steps.push(step);
        }
        steps
    }
}

fn raft_node(id: u32) -> RaftNode {
    RaftNode { broker: BrokerId::new(id), host: "h".to_owned(), port: 2 }
}

fn added(raft: u64, id: u32) -> MembershipStep {
    MembershipStep::AddLearner { raft_id: RaftId::new(raft), node: raft_node(id) }
}

fn replaced(old: u64, new: u64) -> MembershipStep {
    MembershipStep::ReplaceVoter { old: RaftId::new(old), new: RaftId::new(new) }
}

/// Catches: a wiped disk whose old vote is taken away before the new one can vote, or that keeps two.
#[test]
fn wiped_disk_takes_its_vote_over_once_it_caught_up() {
    let mut cluster = Cluster::founded();
    assert_eq!(cluster.step(), None, "founders are as they should be");
    cluster.join(JOINED + 9, 2);
    assert_eq!(cluster.step(), Some(added(JOINED + 9, 2)));
    cluster.membership.learners.insert(RaftId::new(JOINED + 9), raft_node(2));
    assert_eq!(cluster.step(), None, "it has to catch up first");
    cluster.membership.caught_up.insert(RaftId::new(JOINED + 9));
    assert_eq!(cluster.step(), Some(replaced(2, JOINED + 9)));
    assert_eq!(cluster.run(), [replaced(2, JOINED + 9)]);
}

/// Catches: the disk before the last one that stays a member, or stays known for ever.
#[test]
fn disk_wiped_twice_leaves_only_the_last_one() {
    let mut cluster = Cluster::founded();
    cluster.join(JOINED + 9, 2);
    cluster.membership.learners.insert(RaftId::new(JOINED + 9), raft_node(2));
    cluster.join(JOINED + 20, 2);
    let steps = cluster.run();
    let out = RaftId::new(JOINED + 9);
    let expected = [
        added(JOINED + 20, 2),
        replaced(2, JOINED + 20),
        MembershipStep::RemoveLearner(out),
        MembershipStep::Forget(out),
    ];
    assert_eq!(steps, expected);
}

/// Catches: a further broker that gets a vote nobody asked for, or a removed one that keeps its vote.
#[test]
fn further_brokers_follow_and_take_over_from_removed_ones() {
    let mut cluster = Cluster::founded();
    cluster.serve(4);
    cluster.join(JOINED + 5, 4);
    assert_eq!(cluster.run(), [added(JOINED + 5, 4)]);
    cluster.remove(1);
    assert_eq!(cluster.run(), [replaced(1, JOINED + 5)]);
    cluster.remove(4);
    let gone = RaftId::new(JOINED + 5);
    assert_eq!(cluster.run(), [MembershipStep::RemoveVoter(gone), MembershipStep::Forget(gone)]);
    assert_eq!(cluster.membership.voters.len(), 2);
    cluster.serve(5);
    cluster.join(JOINED + 8, 5);
    assert_eq!(cluster.run(), [added(JOINED + 8, 5), MembershipStep::AddVoter(RaftId::new(JOINED + 8))]);
}

/// Catches: a vote for a broker that is fenced or being drained, and a removal of the last voter.
#[test]
fn votes_go_to_serving_brokers_and_the_last_one_stays() {
    let mut cluster = Cluster::founded();
    cluster.serve(4);
    cluster.join(JOINED + 5, 4);
    cluster.image.brokers.get_mut(&BrokerId::new(4)).unwrap().draining = true;
    cluster.run();
    cluster.remove(1);
    assert_eq!(cluster.run(), [MembershipStep::RemoveVoter(RaftId::new(1))]);
    cluster.remove(2);
    cluster.remove(3);
    assert_eq!(cluster.run(), [MembershipStep::RemoveVoter(RaftId::new(2))]);
    assert_eq!(cluster.membership.voters.len(), 1);
}
