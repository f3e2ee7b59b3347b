//! Sessions against each other: what one side leaves out the other must know already.

use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{PartitionIndex, TopicId};

use super::*;

fn id(partition: u32) -> PartitionId {
    PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(partition) }
}

fn position(partition: u32, fetch_offset: u64) -> ReplicaFetchPartition {
    let at = |value| Offset::new(value).expect("in range");
    ReplicaFetchPartition {
        topic: id(partition).topic,
        partition: id(partition).partition,
        leader_epoch: LeaderEpoch::new(1),
        fetch_offset: at(fetch_offset),
        durable_end: at(0),
        accepted_end: at(0),
        last_fetched_epoch: LeaderEpoch::UNKNOWN,
        log_start: at(0),
        known_high_watermark: at(0),
        bytes_max: 1_000,
    }
}

fn named(request: &SessionRequest) -> Vec<u32> {
    request.changed.iter().map(|position| position.partition.get()).collect()
}

fn queued(session: &mut LeaderSession) -> Vec<u32> {
    std::iter::from_fn(|| session.next_queued()).map(|(position, _)| position.partition.get()).collect()
}

/// Both ends after the follower has said all of its partitions.
fn opened(partitions: u32) -> (FollowerSession, LeaderSession) {
    let (mut follower, mut leader) = (FollowerSession::new(), LeaderSession::new(7));
    for partition in 0..partitions {
        follower.set(position(partition, 0));
    }
    let request = follower.next_request();
    assert_eq!((request.session, request.sequence), (0, 0));
    leader.on_request(request.session, request.sequence, request.changed, &request.forgotten).expect("the first");
    assert_eq!(queued(&mut leader).len(), partitions as usize);
    assert!(follower.on_answer(7, 0));
    (follower, leader)
}

// Catches requests and answers that grow with the number of idle partitions.
#[test]
fn only_what_changed_is_said_and_looked_at() {
    let (mut follower, mut leader) = opened(3);
    follower.set(position(0, 0));
    follower.set(position(1, 5));
    let request = follower.next_request();
    assert_eq!((request.session, request.sequence, named(&request)), (7, 1, vec![1]));
    leader.mark(id(2));
    assert!(!leader.mark(id(2)), "queued once");
    assert!(!leader.mark(id(9)), "not in the session");
    leader.on_request(7, 1, request.changed, &[]).expect("the next");
    assert_eq!(queued(&mut leader), [1, 2], "what the follower asks about comes first");
    assert!(!leader.has_queued());
}

// F2: catches a repeated or overtaken request that takes a follower's position back.
#[test]
fn f2_a_request_out_of_order_ends_the_session() {
    let (mut follower, mut leader) = opened(1);
    follower.set(position(0, 5));
    let request = follower.next_request();
    leader.on_request(7, 1, request.changed.clone(), &[]).expect("the next");
    let again = leader.on_request(7, 1, request.changed, &[]);
    assert_eq!(again, Err(UnknownSession { session: 7, sequence: 1 }));
    assert!(leader.on_request(8, 2, Vec::new(), &[]).is_err(), "another session's");
    assert!(leader.on_request(7, 3, Vec::new(), &[]).is_err(), "one is missing");
    assert!(leader.on_request(0, 0, Vec::new(), &[]).is_err(), "a beginning is another session");
}

// Catches an answer to a request of an earlier session taken for the present one's.
#[test]
fn f2_an_answer_out_of_order_begins_another_session_with_everything() {
    let (mut follower, _) = opened(2);
    follower.set(position(1, 5));
    assert_eq!(named(&follower.next_request()), [1]);
    assert!(!follower.on_answer(7, 0), "the answer before");
    let request = follower.next_request();
    assert_eq!((request.session, request.sequence, named(&request)), (0, 0, vec![0, 1]));
    assert!(!follower.on_answer(0, 0), "zero names no session");
    assert!(follower.on_answer(9, 0));
    assert_eq!(follower.next_request().session, 9);
}

#[test]
fn partitions_leave_and_come_back() {
    let (mut follower, mut leader) = opened(2);
    follower.remove(id(0));
    let request = follower.next_request();
    assert_eq!((named(&request), request.forgotten.clone()), (vec![], vec![id(0)]));
    leader.mark(id(0));
    leader.on_request(7, 1, request.changed, &request.forgotten).expect("the next");
    assert!(queued(&mut leader).is_empty(), "forgotten while it was queued");
    assert!(follower.on_answer(7, 1));
    follower.set(position(0, 9));
    let request = follower.next_request();
    leader.on_request(7, 2, request.changed, &request.forgotten).expect("the next");
    assert_eq!(leader.next_queued().map(|(position, fresh)| (position.fetch_offset.get(), fresh)), Some((9, true)));
}

#[test]
fn a_partition_whose_answer_was_not_used_is_said_again() {
    let (mut follower, _) = opened(2);
    follower.repeat(id(1));
    follower.repeat(id(8));
    assert_eq!(named(&follower.next_request()), [1]);
    assert!(!follower.has_changes());
}

#[test]
fn more_partitions_than_a_request_may_name_take_several() {
    let mut follower = FollowerSession::new();
    let many = u32::try_from(PARTITIONS_PER_REQUEST_MAX).expect("small") + 5;
    for partition in 0..many {
        follower.set(position(partition, 0));
    }
    let first = follower.next_request();
    assert_eq!((first.changed.len(), first.is_complete), (PARTITIONS_PER_REQUEST_MAX, false));
    assert!(follower.on_answer(3, 0));
    let second = follower.next_request();
    assert_eq!((second.changed.len(), second.is_complete), (5, true));
}

// H4: the leader answers for the watermark's sake only while the follower does not know it.
#[test]
fn h4_a_watermark_that_was_told_is_known() {
    let (_, mut leader) = opened(1);
    leader.on_told(id(0), Offset::new(8).expect("small"), Offset::ZERO);
    leader.mark(id(0));
    assert_eq!(
        leader.next_queued().map(|(position, fresh)| (position.known_high_watermark.get(), fresh)),
        Some((8, false))
    );
}

// Catches a partition that is looked at for every record appended while it may not be sent, or is forgotten meanwhile.
#[test]
fn what_is_held_back_is_not_queued_and_comes_in_its_turn() {
    let (mut follower, mut leader) = opened(3);
    leader.hold(id(2), HeldBy::All);
    leader.hold(id(0), HeldBy::All);
    leader.hold(id(2), HeldBy::All);
    assert!(!leader.mark(id(2)) && !leader.has_queued(), "it has news already");
    assert!(leader.mark(id(1)));
    follower.set(position(2, 5));
    let request = follower.next_request();
    leader.on_request(7, 1, request.changed, &[id(0)]).expect("the next");
    assert_eq!(queued(&mut leader), [2, 1], "what the follower says is looked at all the same");
    let held: Vec<_> = std::iter::from_fn(|| leader.next_held()).collect();
    assert_eq!(held, [position(2, 5)], "once, where it is now, and none that was forgotten");
    assert!(!leader.has_held() && leader.mark(id(2)));
}

// Catches partitions under limits of their own that wait behind the others, or are sent twice because they changed sides.
#[test]
fn what_moves_under_its_own_limit_is_held_apart() {
    let (_, mut leader) = opened(3);
    leader.hold(id(0), HeldBy::All);
    leader.hold(id(1), HeldBy::Move);
    leader.hold(id(2), HeldBy::Move);
    assert_eq!(leader.held_by_moves(), [id(1), id(2)]);
    assert_eq!(leader.take_held_by_move(id(2)).map(|position| id_of(&position)), Some(id(2)));
    assert_eq!(leader.take_held_by_move(id(2)), None, "it is held no longer");
    assert!(leader.release(id(1)));
    assert!(leader.has_held_by_all() && leader.held_by_moves().is_empty());
    leader.hold(id(1), HeldBy::All);
    let held: Vec<_> = std::iter::from_fn(|| leader.next_held()).map(|position| id_of(&position)).collect();
    assert_eq!(held, [id(0), id(1)]);
    assert!(!leader.has_held());
}
