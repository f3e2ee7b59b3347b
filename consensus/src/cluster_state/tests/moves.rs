//! Rules R1 to R4: partitions that move.

use super::*;

fn brokers(ids: &[u32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId::new).collect()
}

fn reassign(replicas: &[u32]) -> Command {
    Command::Reassign { id: partition_id(), replicas: brokers(replicas), throttle: None }
}

fn throttled(replicas: &[u32], throttle: u64) -> Command {
    Command::Reassign { id: partition_id(), replicas: brokers(replicas), throttle: Some(throttle) }
}

fn cancel() -> Command {
    Command::CancelReassign { id: partition_id() }
}

fn moving(adding: &[u32], removing: &[u32]) -> Result<Outcome, RefusedReason> {
    Ok(Outcome::Reassigned { adding: brokers(adding), removing: brokers(removing) })
}

/// R1, R2, E1, trap 22. Catches: replicas that go before the new ones caught up, or a leader that keeps its epoch.
#[test]
fn move_to_other_brokers_completes_with_the_last_one_in_sync() {
    let mut m = Machine::with_brokers(4);
    m.topic(&[1, 2], 2);
    assert_eq!(m.apply(&reassign(&[3, 4])), moving(&[3, 4], &[1, 2]));
    assert_eq!(ids(&m.partition(1, 0).replicas), [3, 4, 1, 2]);
    assert_eq!((m.sets(), m.epochs()), ((Some(1), vec![1, 2], vec![], vec![]), (0, 1)), "R1: in sync is as before");
    assert_eq!(m.apply(&reassign(&[3, 4])), moving(&[3, 4], &[1, 2]));
    assert_eq!(m.epochs(), (0, 1), "a retry changes nothing");
    let proposal = m.proposal(&[3, 1, 2]);
    assert_eq!(m.propose(proposal).map(|version| ids(&version.isr)), Ok(vec![3, 1, 2]));
    assert!(m.partition(1, 0).is_moving());
    let proposal = m.proposal(&[3, 4, 1, 2]);
    let version = m.propose(proposal).unwrap();
    assert_eq!((ids(&version.isr), version.leader_epoch.get()), (vec![3, 4], 1), "the old leader is told by its epoch");
    assert_eq!(m.sets(), (Some(3), vec![3, 4], vec![], vec![]));
    assert_eq!((ids(&m.partition(1, 0).replicas), m.partition(1, 0).is_moving()), (vec![3, 4], false));
}

/// Catches: a limit that outlives its move, is set for a move that adds nobody, or cannot be changed on the way; and one
/// that takes the leadership along.
#[test]
fn a_limit_goes_with_the_move_and_ends_with_it() {
    let mut m = Machine::with_brokers(4);
    m.topic(&[1, 2], 2);
    let limit = |m: &Machine| m.partition(1, 0).throttle;
    let id = partition_id();
    let row_bytes = |m: &Machine| m.state.row(RowKey::Partition(id.topic, id.partition)).unwrap().len();
    assert_eq!(m.apply(&throttled(&[1, 3], 5)), moving(&[3], &[2]));
    assert_eq!((limit(&m), m.epochs()), (Some(5), (0, 1)));
    assert_eq!(m.apply(&throttled(&[1, 3], 9)), moving(&[3], &[2]));
    assert_eq!((limit(&m), m.epochs()), (Some(9), (0, 2)), "leaders learn of it, and go on");
    let limited = row_bytes(&m);
    assert_eq!(m.apply(&reassign(&[1, 3])), moving(&[3], &[2]));
    assert_eq!((limit(&m), row_bytes(&m)), (None, limited - 8), "without a limit, earlier releases read the row");
    m.apply(&throttled(&[1, 3], 0)).unwrap();
    let proposal = m.proposal(&[1, 2, 3]);
    m.propose(proposal).unwrap();
    assert_eq!((m.partition(1, 0).is_moving(), limit(&m)), (false, None), "it is done");
    m.apply(&throttled(&[1, 4], 7)).unwrap();
    assert_eq!(limit(&m), Some(7));
    m.apply(&cancel()).unwrap();
    assert_eq!(limit(&m), None, "it was cancelled");
    assert_eq!(m.apply(&throttled(&[1], 7)), moving(&[], &[]));
    assert_eq!(limit(&m), None, "nobody is added");
}

/// R1: removal and order alone. Catches: a step too many, or an epoch that does not grow where replicas go.
#[test]
fn removal_is_one_step_and_order_alone_keeps_the_leader() {
    let mut m = Machine::with_brokers(3);
    m.topic(&[1, 2, 3], 2);
    assert_eq!(m.apply(&reassign(&[2, 1, 3])), moving(&[], &[]));
    assert_eq!((m.sets().0, m.epochs()), (Some(1), (0, 1)));
    assert_eq!(m.apply(&reassign(&[2, 1])), moving(&[], &[]));
    assert_eq!((m.sets(), m.epochs()), ((Some(1), vec![2, 1], vec![], vec![]), (1, 2)), "R4: fetched in an old epoch");
}

/// R2. Catches: a removal that leaves too few in sync, or nobody to lead.
#[test]
fn removal_waits_until_enough_of_the_others_are_in_sync() {
    let mut m = Machine::with_brokers(3);
    m.topic(&[1, 2, 3], 2);
    m.in_sync(&[1, 2]);
    assert_eq!(m.apply(&reassign(&[1, 3])), moving(&[], &[2]));
    assert_eq!(ids(&m.partition(1, 0).replicas), [1, 3, 2]);
    let proposal = m.proposal(&[1, 3, 2]);
    assert_eq!(m.propose(proposal).map(|version| ids(&version.isr)), Ok(vec![1, 3]));
    assert_eq!(ids(&m.partition(1, 0).replicas), [1, 3]);
}

/// R3, KAFKA-14424. Catches: a cancel that leaves nobody to lead, or gives complete replicas up.
#[test]
fn cancel_needs_the_old_replicas() {
    let mut m = Machine::with_brokers(4);
    m.topic(&[1, 2], 2);
    assert_eq!(m.apply(&cancel()), moving(&[], &[]), "nothing moves");
    assert_eq!(m.epochs(), (0, 0));
    m.apply(&reassign(&[3, 4])).unwrap();
    let proposal = m.proposal(&[3, 1, 2]);
    m.propose(proposal).unwrap();
    m.fence(1);
    m.fence(2);
    assert_eq!(m.sets(), (Some(3), vec![3], vec![2], vec![]));
    let refused = m.apply(&cancel());
    assert!(matches!(refused, Err(RefusedReason::TooFewInSync { in_sync: 0, .. })), "{refused:?}");
    m.unfence(1);
    m.unfence(2);
    let refused = m.apply(&cancel());
    assert!(
        matches!(refused, Err(RefusedReason::TooFewInSync { in_sync: 0, .. })),
        "alive is not in sync: {refused:?}"
    );
    let proposal = m.proposal(&[3, 1, 2]);
    m.propose(proposal).unwrap();
    let led = m.epochs().0;
    assert_eq!(m.apply(&cancel()), moving(&[], &[]));
    assert_eq!(m.sets(), (Some(1), vec![1, 2], vec![], vec![]));
    assert_eq!((ids(&m.partition(1, 0).replicas), m.epochs().0), (vec![1, 2], led + 1));
}

/// L2, R3. Catches: a cancel that decides by the way which of two damaged replicas' records are given up.
#[test]
fn cancel_drops_no_last_known_replica() {
    let mut m = Machine::with_brokers(3);
    m.topic(&[1, 2], 2);
    m.apply(&reassign(&[3, 2])).unwrap();
    let proposal = m.proposal(&[3, 1]);
    m.propose(proposal).unwrap();
    m.restart(1, 2, Some(true));
    m.restart(3, 2, Some(true));
    m.unfence(1);
    m.unfence(3);
    assert_eq!(m.sets(), (None, vec![], vec![], vec![3, 1]));
    let refused = m.apply(&cancel());
    assert!(matches!(refused, Err(RefusedReason::TooFewInSync { in_sync: 0, .. })), "{refused:?}");
}

/// Catches: a second target that forgets the first one's newcomers, or the replicas from before both.
#[test]
fn another_target_replaces_a_move_under_way() {
    let mut m = Machine::with_brokers(4);
    m.topic(&[1, 2], 1);
    m.apply(&reassign(&[3, 1])).unwrap();
    assert_eq!(m.apply(&reassign(&[4, 1])), moving(&[4], &[2]));
    assert_eq!(ids(&m.partition(1, 0).replicas), [4, 1, 2]);
    assert_eq!(m.apply(&reassign(&[1, 2])), moving(&[], &[]));
    assert_eq!((ids(&m.partition(1, 0).replicas), m.partition(1, 0).is_moving()), (vec![1, 2], false));
}

/// Catches: a target that cannot be reached, or is no list of replicas.
#[test]
fn targets_are_checked() {
    let mut m = Machine::with_brokers(5);
    m.topic(&[1, 2], 1);
    m.fence(3);
    m.fence(2);
    m.apply(&Command::SetDraining { broker: BrokerId::new(4), draining: true }).unwrap();
    let problem = |m: &mut Machine, target: &[u32]| match m.apply(&reassign(target)) {
        Err(RefusedReason::InvalidAssignment { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(&mut m, &[]), AssignmentProblem::Empty);
    assert_eq!(problem(&mut m, &[1, 1]), AssignmentProblem::Repeated(BrokerId::new(1)));
    assert_eq!(problem(&mut m, &[1, 9]), AssignmentProblem::UnknownBroker(BrokerId::new(9)));
    assert_eq!(problem(&mut m, &[1, 3]), AssignmentProblem::Fenced(BrokerId::new(3)));
    assert_eq!(problem(&mut m, &[1, 4]), AssignmentProblem::Draining(BrokerId::new(4)));
    let many: Vec<u32> = (1..=17).collect();
    assert_eq!(problem(&mut m, &many), AssignmentProblem::TooMany);
    assert_eq!(m.apply(&reassign(&[5, 2])), moving(&[5], &[1]), "a replica that is down may stay one");
    let elsewhere = PartitionId { partition: PartitionIndex::new(7), ..partition_id() };
    let unknown = m.apply(&Command::Reassign { id: elsewhere, replicas: brokers(&[1]), throttle: None });
    assert_eq!(unknown, Err(RefusedReason::UnknownPartition(elsewhere)));
}
