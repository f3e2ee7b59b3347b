//! Rules B1 to B3, E1 and L3: lives of brokers.

use super::*;

fn broker(id: u32) -> BrokerId {
    BrokerId::new(id)
}

/// B1. Catches: two processes that serve under one id, and a restart or an exchanged disk that is taken for that.
#[test]
fn second_process_with_another_disk_is_refused_while_the_first_serves() {
    let mut m = Machine::with_brokers(1);
    let mut rival = register(1, 2);
    if let Command::RegisterBroker { directory, .. } = &mut rival {
        *directory = DirectoryId::from_bytes([9; 16]);
    }
    let refused = m.apply(&rival);
    assert!(matches!(refused, Err(RefusedReason::DuplicateBroker { .. })), "{refused:?}");
    assert!(m.apply(&register(1, 3)).is_ok(), "the same disk cannot be open twice");
    assert!(m.apply(&rival).is_ok(), "nobody serves now");
}

/// KAFKA-16757, B1. Catches: a registration that is answered twice and puts the broker out of service or loses a flag.
#[test]
fn repeated_registration_keeps_everything() {
    let mut m = Machine::with_brokers(2);
    m.topic(&[1, 2], 1);
    let epoch = m.epoch(1);
    m.apply(&Command::BeginShutdown { broker: broker(1), epoch }).unwrap();
    let before = m.state.broker(broker(1)).unwrap().clone();
    assert_eq!(m.apply(&register(1, 1)), Ok(Outcome::BrokerRegistered { epoch }));
    assert_eq!(m.state.broker(broker(1)), Some(&before));
    m.apply(&Command::SetDraining { broker: broker(1), draining: true }).unwrap();
    m.restart(1, 2, None);
    let next = m.state.broker(broker(1)).unwrap();
    assert_eq!((next.fenced, next.in_controlled_shutdown, next.draining), (true, false, true));
}

/// B2. Catches: a command of an isolated controller that hits the next life.
#[test]
fn fencing_and_unfencing_name_a_life() {
    let mut m = Machine::with_brokers(2);
    m.topic(&[1, 2], 1);
    let old = m.epoch(1);
    m.serve(1, 2);
    let nothing = Ok(Outcome::BrokerFenced { changed: false });
    assert_eq!(m.apply(&Command::FenceBroker { broker: broker(1), epoch: old }), nothing);
    assert!(!m.state.broker(broker(1)).unwrap().fenced);
    m.fence(1);
    assert_eq!(m.apply(&Command::FenceBroker { broker: broker(1), epoch: m.epoch(1) }), nothing);
    let nothing = Ok(Outcome::BrokerUnfenced { changed: false });
    assert_eq!(m.apply(&Command::UnfenceBroker { broker: broker(1), epoch: old }), nothing);
    assert_eq!(m.apply(&Command::UnfenceBroker { broker: broker(7), epoch: old }), nothing);
    assert!(m.state.broker(broker(1)).unwrap().fenced);
}

/// B2, E1. Catches: a fenced broker that leads or counts, and a leader epoch that grows for a follower.
#[test]
fn fenced_broker_leads_nothing_and_counts_nowhere() {
    let mut m = Machine::with_brokers(3);
    m.apply(&create("t", 1, &[&[1, 2, 3], &[2, 1, 3], &[1]])).unwrap();
    m.fence(1);
    let state = |m: &Machine, index| {
        let p = m.partition(1, index).clone();
        (p.leader.map(BrokerId::get), ids(&p.isr), p.leader_epoch.get(), p.partition_epoch.get())
    };
    assert_eq!(state(&m, 0), (Some(2), vec![2, 3], 1, 1));
    assert_eq!(state(&m, 1), (Some(2), vec![2, 3], 0, 1), "the leader stays: no new leader epoch");
    assert_eq!(state(&m, 2), (None, vec![1], 1, 1), "the last one stays in sync and leads nothing");
    m.unfence(1);
    assert_eq!(state(&m, 0), (Some(2), vec![2, 3], 1, 1), "it has to catch up first");
    assert_eq!(state(&m, 2), (Some(1), vec![1], 2, 2));
}

/// B3. Catches: leaders that stay on a broker that stops, or writes that stop before it does.
#[test]
fn stopping_broker_hands_over_what_others_can_lead() {
    let mut m = Machine::with_brokers(3);
    m.apply(&create("t", 1, &[&[1, 2, 3], &[1, 2], &[1]])).unwrap();
    let min = config(&[("min.insync.replicas", "2")]);
    m.apply(&Command::AlterTopicConfig { id: topic_id(1), config: min, expected_version: 0 }).unwrap();
    let epoch = m.epoch(1);
    let stop = Command::BeginShutdown { broker: broker(1), epoch };
    assert_eq!(m.apply(&stop), Ok(Outcome::ShutdownBegun { leaderless_after: 1 }));
    let state = |m: &Machine, index| (m.partition(1, index).leader.map(BrokerId::get), ids(&m.partition(1, index).isr));
    assert_eq!(state(&m, 0), (Some(2), vec![2, 3]));
    assert_eq!(state(&m, 1), (Some(2), vec![1, 2]), "without it too few would be in sync");
    assert_eq!(state(&m, 2), (Some(1), vec![1]), "nobody else has it");
    assert_eq!(m.apply(&stop), Ok(Outcome::ShutdownBegun { leaderless_after: 1 }), "a retry changes nothing");
    let stale = Command::BeginShutdown { broker: broker(2), epoch };
    assert!(matches!(m.apply(&stale), Err(RefusedReason::StaleBrokerEpoch { .. })));
    m.fence(1);
    assert_eq!(state(&m, 1), (Some(2), vec![2]));
    assert_eq!(ids(&m.partition(1, 1).elr), [1]);
    let back = m.apply(&Command::UnfenceBroker { broker: broker(1), epoch });
    assert_eq!(back, Ok(Outcome::BrokerUnfenced { changed: false }), "a life that stops never serves again");
}

/// L3 against the clean case. Catches: an in-sync set that empties although nothing was lost, or stays although it was.
#[test]
fn restart_keeps_the_last_in_sync_replica_only_if_nothing_was_lost() {
    for (damaged, isr) in [(None, vec![1]), (Some(true), vec![])] {
        let mut m = Machine::with_brokers(1);
        m.topic(&[1], 1);
        m.restart(1, 2, damaged);
        assert_eq!(m.sets().1, isr, "{damaged:?}");
        m.unfence(1);
        assert_eq!(m.sets().0, Some(1), "the only replica leads again");
        assert_eq!(m.partition(1, 0).recovering, damaged.is_some());
    }
    let mut m = Machine::with_brokers(1);
    m.topic(&[1], 1);
    m.fence(1);
    m.restart(1, 2, Some(false));
    m.unfence(1);
    assert_eq!(m.sets(), (None, vec![], vec![], vec![]), "an empty disk does not serve as if nothing had been there");
}

/// Power loss of all at once. Catches: a state in which nobody may lead although nothing was lost.
#[test]
fn all_brokers_restart_and_the_last_complete_ones_lead() {
    let mut m = Machine::with_brokers(3);
    m.topic(&[1, 2, 3], 2);
    for id in 1..=3 {
        m.restart(id, 2, None);
    }
    assert_eq!(m.sets(), (None, vec![3], vec![2], vec![]));
    m.unfence(1);
    assert_eq!(m.sets().0, None, "replica 1 may lack what 2 and 3 acknowledged without it");
    m.unfence(2);
    assert_eq!(m.sets(), (Some(2), vec![2], vec![3], vec![]));
}

/// Creation. Catches: a fenced or stopping broker that counts as in sync from the start.
#[test]
fn new_partitions_count_brokers_in_service_only() {
    let mut m = Machine::with_brokers(4);
    m.fence(1);
    m.apply(&Command::BeginShutdown { broker: broker(2), epoch: m.epoch(2) }).unwrap();
    m.apply(&Command::SetDraining { broker: broker(3), draining: true }).unwrap();
    m.topic(&[1, 2, 3, 4], 1);
    assert_eq!(m.sets(), (Some(4), vec![3, 4], vec![], vec![]));
    let nobody = m.apply(&create("u", 2, &[&[1, 2]]));
    assert!(matches!(nobody, Err(RefusedReason::InvalidAssignment { .. })), "{nobody:?}");
}

/// Trap 21. Catches: a creation whose late retry brings a deleted topic back, and a deletion that cannot be retried.
#[test]
fn deleted_topics_stay_deleted() {
    let mut m = Machine::with_brokers(1);
    m.topic(&[1], 1);
    let delete = Command::DeleteTopic { id: topic_id(1) };
    let deleted = m.apply(&delete).unwrap();
    assert!(m.state.image.is_deleted(topic_id(1)) && !m.state.image.is_deleted(topic_id(2)));
    assert_eq!(m.apply(&delete), Ok(deleted));
    assert_eq!(m.apply(&create("t", 1, &[&[1]])), Err(RefusedReason::TopicDeleted(topic_id(1))));
    assert!(m.apply(&create("t", 2, &[&[1]])).is_ok(), "the name is free");
    assert_eq!(m.apply(&Command::DeleteTopic { id: topic_id(3) }), Err(RefusedReason::UnknownTopic(topic_id(3))));
}

/// Catches: a record of deleted topics without bound, or one that forgets the newest first.
#[test]
fn oldest_deletions_are_forgotten() {
    use crate::deleted_topics::{DeletedTopic, DeletedTopics};
    let max = crate::limits::DELETED_TOPICS_MAX as u64;
    let topic = |n: u64| {
        let id = TopicId::from_bytes(u128::from(n + 1).to_be_bytes());
        DeletedTopic { id, name: TopicName::new("t").unwrap() }
    };
    let mut deleted = DeletedTopics::default();
    for n in 0..max {
        assert_eq!(deleted.add(n, topic(n)), None);
    }
    assert_eq!(deleted.add(max, topic(max)), Some(0));
    assert!(deleted.get(topic(0).id).is_none() && deleted.get(topic(1).id).is_some());
    assert_eq!(deleted.indexes().count() as u64, max);
}

/// Catches: an epoch that wraps, or goes beyond what a batch can carry.
#[test]
fn exhausted_epochs_refuse_and_change_nothing() {
    let mut m = Machine::with_brokers(2);
    m.topic(&[1, 2], 1);
    let set = |m: &mut Machine, leader: u32, partition: u32| {
        let topic = m.state.topics_mut().get_mut(&topic_id(1)).map(Arc::make_mut).unwrap();
        let state = Arc::make_mut(&mut topic.partitions[0]);
        state.leader_epoch = LeaderEpoch::new(leader);
        state.partition_epoch = PartitionEpoch::new(partition);
    };
    let fence = Command::FenceBroker { broker: broker(1), epoch: m.epoch(1) };
    set(&mut m, i32::MAX as u32, 0);
    assert_eq!(m.apply(&fence), Err(RefusedReason::Exhausted(crate::outcome::Counter::LeaderEpoch)));
    set(&mut m, 0, u32::MAX);
    assert_eq!(m.apply(&fence), Err(RefusedReason::Exhausted(crate::outcome::Counter::PartitionEpoch)));
    set(&mut m, i32::MAX as u32 - 1, 0);
    m.fence(1);
    assert_eq!(m.epochs().0, i32::MAX as u32);
}

/// Catches: an election that may have lost records and is forgotten, with the next leadership or with a restart; and one
/// that lost nothing and passes for such. A follower that has to give up what it knows to be committed asks for it.
#[test]
fn last_unclean_election_is_remembered() {
    let mut machine = Machine::with_brokers(3);
    machine.topic(&[1, 2, 3], 1);
    let unclean = |machine: &Machine| machine.partition(1, 0).unclean_epoch.map(LeaderEpoch::get);
    machine.fence(1);
    machine.fence(2);
    machine.fence(3);
    assert_eq!((machine.sets().0, unclean(&machine)), (None, None), "leaderships that ended lost nothing");
    machine.unfence(1);
    assert_eq!(machine.sets().0, None, "broker 3 was the last in sync");
    let elections = vec![Election { id: partition_id(), kind: ElectionKind::Unclean }];
    machine.apply(&Command::ElectLeaders { elections }).unwrap();
    let (epoch, _) = machine.epochs();
    assert_eq!((machine.sets().0, unclean(&machine)), (Some(1), Some(epoch)));
    // Clean from here on: the others come back, and leadership moves.
    machine.unfence(2);
    machine.in_sync(&[1, 2]);
    machine.fence(1);
    let (later, _) = machine.epochs();
    assert!(later > epoch);
    assert_eq!((machine.sets().0, unclean(&machine)), (Some(2), Some(epoch)), "the last one that was");

    let mut builder = crate::rows::StateBuilder::default();
    for key in machine.state.row_keys() {
        builder.add(&key.encode(), &machine.state.row(key).unwrap()).unwrap();
    }
    assert_eq!(builder.finish(machine.index).unwrap(), machine.state, "it is kept");
}
