//! Brokers that leave for good, and disks that join.

use super::*;

fn broker(id: u32) -> BrokerId {
    BrokerId::new(id)
}

fn join(id: u32, directory: u8, port: u16) -> Command {
    Command::JoinNode {
        broker: broker(id),
        directory: DirectoryId::from_bytes([directory; 16]),
        host: "h".to_owned(),
        port,
        returns: false,
    }
}

/// Catches: a removed broker that can never be one again, because its emptied disk counts as removed too; a join that ends a
/// removal which came after it was decided on.
#[test]
fn removed_broker_that_returns_is_removed_no_longer() {
    let mut m = Machine::with_brokers(2);
    m.fence(2);
    m.apply(&Command::RemoveBroker { broker: broker(2), epoch: m.epoch(2) }).unwrap();
    let Command::JoinNode { broker: id, directory, host, port, .. } = join(2, 5, 1) else { unreachable!() };
    let back = Command::JoinNode { broker: id, directory, host, port, returns: true };
    m.apply(&join(2, 5, 1)).unwrap();
    assert!(m.state.image.removed_brokers.contains_key(&id), "it did not know of the removal");
    let again = m.apply(&back);
    assert!(m.state.image.removed_brokers.is_empty());
    assert!(matches!(again, Ok(Outcome::NodeJoined { .. })), "{again:?}");
    assert_eq!(m.apply(&back), again, "asked again, the disk has the same id");
    assert_eq!(m.state.image.nodes.len(), 1);
}

/// Catches: a broker that is removed while it serves or holds replicas, and a removal that cannot be retried.
#[test]
fn broker_is_removed_when_nothing_needs_it() {
    let mut m = Machine::with_brokers(2);
    m.topic(&[1, 2], 1);
    let epoch = m.epoch(2);
    let remove = |epoch| Command::RemoveBroker { broker: broker(2), epoch };
    assert_eq!(m.apply(&remove(epoch)), Err(RefusedReason::BrokerAlive(broker(2))));
    m.fence(2);
    let holds = Err(RefusedReason::BrokerHoldsReplicas { broker: broker(2), replicas: 1 });
    assert_eq!(m.apply(&remove(epoch)), holds);
    m.apply(&Command::Reassign { id: partition_id(), replicas: vec![broker(1)], throttle: None }).unwrap();
    let stale = m.apply(&remove(BrokerEpoch::new(1)));
    assert!(matches!(stale, Err(RefusedReason::StaleBrokerEpoch { .. })), "{stale:?}");
    assert_eq!(m.apply(&remove(epoch)), Ok(Outcome::BrokerRemoved { changed: true }));
    assert_eq!(m.apply(&remove(epoch)), Ok(Outcome::BrokerRemoved { changed: false }));
    assert_eq!(m.state.image.removed_brokers.get(&broker(2)), Some(&epoch));
    m.restart(2, 5, None);
    assert!(m.state.image.removed_brokers.is_empty(), "it is back");
    assert_eq!(
        m.apply(&Command::SetDraining { broker: broker(9), draining: true }),
        Err(RefusedReason::UnknownBroker(broker(9)))
    );
}

/// Trap 5. Catches: one Raft id for two disks, two for one, or an id that comes back after its node was removed.
#[test]
fn raft_ids_belong_to_one_disk_for_ever() {
    let mut m = Machine::with_brokers(2);
    let joined = |m: &mut Machine, command| match m.apply(&command) {
        Ok(Outcome::NodeJoined { raft_id }) => raft_id,
        other => panic!("{other:?}"),
    };
    let refused = m.apply(&join(1, 5, 1));
    assert!(matches!(refused, Err(RefusedReason::DuplicateBroker { .. })), "broker 1 serves elsewhere: {refused:?}");
    m.fence(1);
    let first = joined(&mut m, join(1, 5, 1));
    assert_eq!(first.get(), RaftId::JOINED_MIN.get() + m.index);
    assert_eq!(joined(&mut m, join(1, 5, 1)), first);
    assert_eq!(joined(&mut m, join(1, 5, 2)), first, "the address may change");
    assert_eq!(m.state.image.nodes[&first].port, 2);
    let second = joined(&mut m, join(1, 6, 1));
    assert!(second > first, "an exchanged disk is another node");
    let owner = Err(RefusedReason::DirectoryInUse { directory: DirectoryId::from_bytes([5; 16]), owner: broker(1) });
    assert_eq!(m.apply(&join(2, 5, 1)), owner);
    assert_eq!(m.apply(&join(2, 0, 1)), Err(RefusedReason::ZeroId));
    let remove = Command::RemoveNode { raft_id: first };
    assert_eq!(m.apply(&remove), Ok(Outcome::NodeRemoved { changed: true }));
    assert_eq!(m.apply(&remove), Ok(Outcome::NodeRemoved { changed: false }));
    assert!(joined(&mut m, join(1, 5, 1)) > second, "never the same id again");
}
