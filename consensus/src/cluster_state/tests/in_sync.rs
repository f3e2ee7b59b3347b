//! Rules I5, L1 and L2: changes of in-sync replicas, who stays eligible, who leads.

use super::*;
use crate::outcome::{ElectRefused, InvalidProposal};

fn broker(id: u32) -> BrokerId {
    BrokerId::new(id)
}

/// I5, one after the other. Catches: a check that is left out, and one that hides the answer of an earlier one.
#[test]
fn proposals_are_checked_in_order() {
    let mut m = Machine::with_brokers(4);
    m.topic(&[1, 2, 3], 1);
    m.fence(3);
    m.unfence(3);
    let good = m.proposal(&[1, 2, 3]);
    let epoch = m.epoch(1);

    let topic = PartitionId { topic: topic_id(9), ..good.id };
    let unknown = IsrProposal { id: topic, leader_epoch: LeaderEpoch::new(9), ..good.clone() };
    assert_eq!(m.propose(unknown), Err(AlterRefused::UnknownTopic));
    let partition = PartitionId { partition: PartitionIndex::new(1), ..good.id };
    assert_eq!(m.propose(IsrProposal { id: partition, ..good.clone() }), Err(AlterRefused::UnknownPartition));

    // KAFKA-14154: the sender has seen a newer state than this one.
    let newer = IsrProposal { leader_epoch: LeaderEpoch::new(1), ..good.clone() };
    assert_eq!(m.propose_as(2, epoch, newer), Err(AlterRefused::NotController));
    let newer = IsrProposal { partition_epoch: PartitionEpoch::new(9), ..good.clone() };
    assert_eq!(m.propose(newer), Err(AlterRefused::NotController));

    assert_eq!(m.propose_as(2, m.epoch(2), good.clone()), Err(AlterRefused::NotLeader));
    let stale = BrokerEpoch::new(epoch.get() - 1);
    assert_eq!(m.propose_as(1, stale, good.clone()), Err(AlterRefused::StaleBrokerEpoch));
    let old = IsrProposal { partition_epoch: PartitionEpoch::ZERO, ..good.clone() };
    assert_eq!(m.propose(old), Err(AlterRefused::InvalidUpdateVersion));

    let invalid = |problem| Err(AlterRefused::InvalidRequest(problem));
    let proposal = m.proposal(&[1, 2, 4]);
    assert_eq!(m.propose(proposal), invalid(InvalidProposal::NotAReplica(broker(4))));
    let proposal = m.proposal(&[1, 2, 2]);
    assert_eq!(m.propose(proposal), invalid(InvalidProposal::Repeated(broker(2))));
    let proposal = m.proposal(&[2, 3]);
    assert_eq!(m.propose(proposal), invalid(InvalidProposal::WithoutLeader));
    let again = IsrProposal { recovering: true, ..m.proposal(&[1]) };
    assert_eq!(m.propose(again), invalid(InvalidProposal::RecoveringAgain));

    // KIP-903: what broker 3 had fetched in its former life, this one may have lost.
    let mut former_life = good.clone();
    former_life.isr[2].epoch = BrokerEpoch::new(m.epoch(3).get() - 1);
    let refused = m.propose(former_life);
    assert_eq!(refused, Err(AlterRefused::IneligibleReplica(broker(3))));
    assert!(refused.is_err_and(|reason| reason.is_definitely_not_applied()));
    assert!(!AlterRefused::InvalidUpdateVersion.is_definitely_not_applied());

    let version = m.propose(good.clone()).unwrap();
    assert_eq!((ids(&version.isr), version.partition_epoch.get(), version.leader_epoch.get()), (vec![1, 2, 3], 2, 0));
    // KAFKA-14144: the same again, as after a lost answer, with the partition epoch it was decided on.
    assert_eq!(m.propose(good), Ok(version));
    assert_eq!(m.epochs(), (0, 2));

    m.fence(1);
    let fenced = IsrProposal { leader_epoch: LeaderEpoch::ZERO, ..m.proposal(&[1, 2]) };
    assert_eq!(m.propose_as(1, epoch, fenced), Err(AlterRefused::FencedLeaderEpoch));
}

/// I5, KIP-841. Catches: a fenced or stopping broker that is taken into the in-sync set.
#[test]
fn only_brokers_in_service_come_into_the_in_sync_set() {
    let mut m = Machine::with_brokers(3);
    m.topic(&[1, 2, 3], 1);
    m.fence(3);
    let proposal = m.proposal(&[1, 2, 3]);
    assert_eq!(m.propose(proposal), Err(AlterRefused::IneligibleReplica(broker(3))));
    m.apply(&Command::BeginShutdown { broker: broker(2), epoch: m.epoch(2) }).unwrap();
    assert_eq!(m.sets(), (Some(1), vec![1], vec![], vec![]));
    let proposal = m.proposal(&[1, 2]);
    assert_eq!(m.propose(proposal), Err(AlterRefused::IneligibleReplica(broker(2))));
}

/// Each proposal of one command stands for itself. Catches: one refusal that takes others with it, or a mixed-up order.
#[test]
fn proposals_of_one_command_are_independent() {
    let mut m = Machine::with_brokers(3);
    m.apply(&create("t", 1, &[&[1, 2], &[1, 3]])).unwrap();
    let second = PartitionId { partition: PartitionIndex::new(1), ..partition_id() };
    let bad = IsrProposal { leader_epoch: LeaderEpoch::new(7), ..m.proposal(&[1]) };
    let good = IsrProposal { id: second, ..m.proposal(&[1]) };
    let command =
        Command::AlterPartitions { broker: broker(1), broker_epoch: m.epoch(1), proposals: vec![bad, good.clone()] };
    let Ok(Outcome::PartitionsAltered { results }) = m.apply(&command) else { panic!("refused") };
    assert_eq!(results[0], Err(AlterRefused::NotController));
    assert_eq!(results[1].as_ref().map(|version| ids(&version.isr)), Ok(vec![1]));
    assert_eq!(ids(&m.partition(1, 0).isr), [1, 2]);
    let many = vec![good; crate::limits::PROPOSALS_MAX + 1];
    let command = Command::AlterPartitions { broker: broker(1), broker_epoch: m.epoch(1), proposals: many };
    assert!(matches!(m.apply(&command), Err(RefusedReason::TooManyChanges { requested: 2001, max: 2000 })));
}

/// L1. Catches: a complete replica that is forgotten, and one that is kept as eligible when it is not complete.
#[test]
fn member_that_leaves_too_few_behind_is_eligible() {
    let mut m = Machine::with_brokers(3);
    m.topic(&[1, 2, 3], 2);
    m.in_sync(&[1, 2]);
    assert_eq!(m.sets(), (Some(1), vec![1, 2], vec![], vec![]), "two are enough: records go on without replica 3");
    m.in_sync(&[1]);
    assert_eq!(m.sets(), (Some(1), vec![1], vec![2], vec![]), "nothing can be acknowledged without replica 2");
    m.fence(1);
    assert_eq!(m.sets(), (Some(2), vec![2], vec![1], vec![]), "L2: the eligible one leads, the last one is eligible");
    m.fence(2);
    assert_eq!(m.sets(), (None, vec![2], vec![1], vec![]), "replica 3 lacks records");
    m.unfence(1);
    assert_eq!(m.sets(), (Some(1), vec![1], vec![2], vec![]));
    m.in_sync(&[1, 3]);
    assert_eq!(m.sets(), (Some(1), vec![1, 3], vec![], vec![]), "enough again: replica 2 falls behind");
}

/// L1. Catches: eligible replicas that outlive the rule they were counted by, and leaders that are not told.
#[test]
fn another_min_in_sync_counts_eligible_replicas_anew() {
    let mut m = Machine::with_brokers(3);
    m.topic(&[1, 2, 3], 2);
    m.in_sync(&[1, 2]);
    m.in_sync(&[1]);
    assert_eq!(m.sets().2, [2]);
    let before = m.proposal(&[1, 2]);
    let alter = |pairs: &[(&str, &str)], expected_version| Command::AlterTopicConfig {
        id: topic_id(1),
        config: config(pairs),
        expected_version,
    };
    m.apply(&alter(&[("min.insync.replicas", "1")], 0)).unwrap();
    assert_eq!(m.sets(), (Some(1), vec![1], vec![], vec![]), "records go on with replica 1 alone");
    m.apply(&alter(&[("min.insync.replicas", "3")], 1)).unwrap();
    assert_eq!(m.sets(), (Some(1), vec![1], vec![], vec![]), "replica 2 has missed what replica 1 committed alone");
    assert_eq!(m.epochs(), (0, 4), "every partition is told");
    assert_eq!(m.propose(before), Err(AlterRefused::InvalidUpdateVersion), "decided under another rule");
    m.apply(&alter(&[("min.insync.replicas", "3"), ("retention.ms", "5")], 2)).unwrap();
    assert_eq!(m.epochs(), (0, 4), "other settings change no partition");
}

/// L1. Catches: complete replicas that are forgotten although nothing could be committed without them all the while, so
/// that nobody may lead when the last one in sync dies.
#[test]
fn eligible_replicas_survive_a_min_in_sync_that_is_not_reached_either() {
    let mut m = Machine::with_brokers(4);
    m.topic(&[1, 2, 3, 4], 3);
    m.in_sync(&[1, 2, 3]);
    m.in_sync(&[1]);
    assert_eq!(m.sets(), (Some(1), vec![1], vec![2, 3], vec![]));
    let alter = |min: &str, expected_version| Command::AlterTopicConfig {
        id: topic_id(1),
        config: config(&[("min.insync.replicas", min)]),
        expected_version,
    };
    let (_, told) = m.epochs();
    m.apply(&alter("4", 0)).unwrap();
    assert_eq!(m.sets(), (Some(1), vec![1], vec![2, 3], vec![]), "one was too few for three, so it is for four");
    m.apply(&alter("2", 1)).unwrap();
    assert_eq!(m.sets(), (Some(1), vec![1], vec![2, 3], vec![]), "and for two");
    assert_eq!(m.epochs(), (0, told + 2), "leaders are told");
    m.fence(1);
    assert_eq!(m.sets(), (Some(2), vec![2], vec![1, 3], vec![]));
}

/// L2, L3, L5. Catches: an emptied disk that is taken for a complete replica, or that leads without an operator's word.
#[test]
fn lost_disks_leave_every_set() {
    let mut m = Machine::with_brokers(3);
    m.topic(&[1, 2, 3], 2);
    m.in_sync(&[1, 2]);
    m.in_sync(&[1]);
    m.fence(2);
    m.restart(2, 2, Some(false));
    assert_eq!(m.sets(), (Some(1), vec![1], vec![], vec![]), "an empty disk is known to hold nothing");
    m.fence(1);
    assert_eq!(m.sets(), (None, vec![1], vec![], vec![]), "the last one stays");
    m.restart(1, 2, Some(true));
    assert_eq!(m.sets(), (None, vec![], vec![], vec![1]), "damaged, and still the best there is");
    m.unfence(2);
    assert_eq!(m.sets().0, None, "neither the emptied nor the lagging replica leads");
    m.unfence(1);
    assert_eq!(m.sets(), (Some(1), vec![1], vec![], vec![]));
    assert!(m.partition(1, 0).recovering);
    let grown = IsrProposal { recovering: true, ..m.proposal(&[1, 3]) };
    let refused = AlterRefused::InvalidRequest(InvalidProposal::RecoveringWithOthers);
    assert_eq!(m.propose(grown), Err(refused));
    m.in_sync(&[1, 3]);
    assert!(!m.partition(1, 0).recovering);
}

/// L2. Catches: records given up without leave, or an operator's word that is not followed.
#[test]
fn unclean_leader_needs_leave() {
    let elect = |kind| Command::ElectLeaders { elections: vec![Election { id: partition_id(), kind }] };
    let mut m = Machine::with_brokers(3);
    m.topic(&[1, 2, 3], 1);
    m.in_sync(&[1]);
    assert_eq!(
        m.apply(&elect(ElectionKind::Unclean)),
        Ok(Outcome::LeadersElected { results: vec![Ok(broker(1))] }),
        "there is a leader: nothing to give up"
    );
    assert_eq!(m.epochs(), (0, 1));
    m.fence(1);
    assert_eq!(m.sets(), (None, vec![1], vec![], vec![]));
    let led = m.epochs().0;
    assert_eq!(m.apply(&elect(ElectionKind::Unclean)), Ok(Outcome::LeadersElected { results: vec![Ok(broker(2))] }));
    assert_eq!(m.sets(), (Some(2), vec![2], vec![], vec![]));
    assert!(m.partition(1, 0).recovering && m.epochs().0 > led);
    m.fence(2);
    m.fence(3);
    let nobody = Ok(Outcome::LeadersElected { results: vec![Err(ElectRefused::NoneAlive)] });
    assert_eq!(m.apply(&elect(ElectionKind::Unclean)), nobody);

    let mut m = Machine::with_brokers(2);
    m.topic(&[1, 2], 1);
    m.in_sync(&[1]);
    m.fence(1);
    let allow = config(&[("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")]);
    m.apply(&Command::AlterTopicConfig { id: topic_id(1), config: allow, expected_version: 0 }).unwrap();
    assert_eq!(m.sets(), (Some(2), vec![2], vec![], vec![]), "the topic's word is enough");
}

/// L6. Catches: an election that changes the in-sync set, or elects a replica that may not lead.
#[test]
fn requested_leader_must_be_in_sync_and_in_service() {
    let mut m = Machine::with_brokers(4);
    m.topic(&[1, 2, 3], 1);
    let elect = |m: &mut Machine, kind| {
        let elections = vec![Election { id: partition_id(), kind }];
        match m.apply(&Command::ElectLeaders { elections }) {
            Ok(Outcome::LeadersElected { mut results }) => results.remove(0),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(elect(&mut m, ElectionKind::To(broker(2))), Ok(broker(2)));
    assert_eq!((m.sets(), m.epochs()), ((Some(2), vec![1, 2, 3], vec![], vec![]), (1, 1)));
    assert_eq!(elect(&mut m, ElectionKind::To(broker(2))), Ok(broker(2)));
    assert_eq!(m.epochs(), (1, 1), "a retry changes nothing");
    assert_eq!(elect(&mut m, ElectionKind::Preferred), Ok(broker(1)));
    assert_eq!(elect(&mut m, ElectionKind::To(broker(4))), Err(ElectRefused::NotAReplica(broker(4))));
    m.in_sync(&[1, 2]);
    assert_eq!(elect(&mut m, ElectionKind::To(broker(3))), Err(ElectRefused::NotInSync(broker(3))));
    m.apply(&Command::SetDraining { broker: broker(2), draining: true }).unwrap();
    assert_eq!(elect(&mut m, ElectionKind::To(broker(2))), Err(ElectRefused::Draining(broker(2))));
    m.fence(3);
    assert_eq!(elect(&mut m, ElectionKind::To(broker(3))), Err(ElectRefused::NotAlive(broker(3))));
    let elsewhere = PartitionId { topic: topic_id(8), ..partition_id() };
    let elections = vec![Election { id: elsewhere, kind: ElectionKind::Preferred }];
    let unknown = Ok(Outcome::LeadersElected { results: vec![Err(ElectRefused::UnknownTopic)] });
    assert_eq!(m.apply(&Command::ElectLeaders { elections }), unknown);
}
