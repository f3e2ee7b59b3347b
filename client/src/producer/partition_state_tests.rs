//! The partition's state machine, case by case.

use super::*;
use bytes::Bytes;
use streambus_protocol::batch::BatchHeader;
use streambus_protocol::ids::TopicName;
use streambus_protocol::timestamp::Timestamp;

use crate::error::TopicPartition;

#[path = "partition_state_model.rs"]
mod model;

const PAUSE: Duration = Duration::from_millis(10);

fn rules(batch_bytes: usize) -> Arc<Rules> {
    Arc::new(Rules {
        batch_bytes,
        record_bytes_max: 4096,
        in_flight_max: 5,
        compression: Compression::None,
        linger: Duration::ZERO,
        delivery_timeout: Duration::from_secs(10),
        stamps: true,
    })
}

fn identity(epoch: i16) -> Identity {
    Identity { id: ProducerId::new(7), epoch: ProducerEpoch::new(epoch) }
}

fn completion() -> Arc<BatchCompletion> {
    let topic = TopicName::new("t").expect("valid");
    Arc::new(BatchCompletion::new(Arc::new(TopicPartition { topic, partition: 0 })))
}

fn record(text: &str) -> Record {
    Record::new(text.to_owned(), Timestamp::from_millis(1))
}

fn push(state: &mut PartitionState, text: &str, now: Instant) -> Pushed {
    state.push(&record(text), text.len(), || now, completion).expect("fits")
}

fn send(state: &mut PartitionState, now: Instant) -> Option<(u64, Bytes)> {
    ship(state, now).map(|(id, _, bytes)| (id, bytes))
}

/// Sends a batch; returns its number, its attempt and its bytes.
fn ship(state: &mut PartitionState, now: Instant) -> Option<(u64, u32, Bytes)> {
    let parcel = state.take(now)?;
    let bytes = parcel.recipe.cook(Compression::None).expect("built");
    state.built(parcel.id, bytes.clone());
    Some((parcel.id, parcel.attempt, bytes))
}

/// The present attempt at a batch fails.
fn fail(state: &mut PartitionState, id: u64, error: Error, now: Instant) -> Vec<Ended> {
    let attempt = state.flight(id).expect("in flight").batch.attempts;
    state.failed(id, attempt, error, now, |_| PAUSE)
}

/// A state whose identity the broker knows.
fn established(batch_bytes: usize, now: Instant) -> PartitionState {
    let mut state = PartitionState::new(rules(batch_bytes), Some(identity(0)));
    push(&mut state, "first", now);
    let (first, _) = send(&mut state, now).expect("sendable");
    assert!(state.acknowledged(first, 1).is_some());
    state
}

fn refusal(code: ErrorCode) -> Error {
    Error::Broker { code, message: String::new(), at: None }
}

fn lost() -> Error {
    let source = Arc::new(std::io::ErrorKind::ConnectionReset.into());
    Error::Io { addr: "b:1".into(), source, outcome: Applied::Unknown }
}

#[test]
fn sequences_wrap_from_the_largest_to_zero() {
    assert_eq!(after(Sequence::new(0), 10), Sequence::new(10));
    assert_eq!(after(Sequence::new(i32::MAX), 1), Sequence::new(0));
    assert_eq!(after(Sequence::new(i32::MAX - 1), 4), Sequence::new(2));
}

#[test]
fn a_retry_sends_the_identical_bytes_before_anything_new() {
    let now = Instant::now();
    let mut state = established(1024, now);
    push(&mut state, "a", now);
    let (first, bytes) = send(&mut state, now).expect("sendable");
    push(&mut state, "b", now);
    assert!(fail(&mut state, first, lost(), now).is_empty());
    assert_eq!(state.sendable(now), Sendable::At(now + PAUSE), "what waits does not overtake");
    let later = now + PAUSE;
    let (again, same) = send(&mut state, later).expect("due");
    assert_eq!((again, same), (first, bytes));
    let (second, _) = send(&mut state, later).expect("the new one follows");
    assert_ne!(second, first);
}

#[test]
fn small_batches_collect_while_two_are_in_flight_and_five_is_the_limit() {
    let now = Instant::now();
    let mut state = established(1024, now);
    for text in ["a", "b"] {
        push(&mut state, text, now);
        send(&mut state, now).expect("eager");
    }
    push(&mut state, "c", now);
    assert_eq!(state.sendable(now), Sendable::No, "too small to be worth a third request");
    for _ in 0..20 {
        push(&mut state, &"x".repeat(900), now);
    }
    let mut sent = 2;
    while send(&mut state, now).is_some() {
        sent += 1;
    }
    assert_eq!(sent, 5);
}

#[test]
fn one_batch_at_a_time_until_the_broker_knows_the_producer() {
    let now = Instant::now();
    let mut state = PartitionState::new(rules(1024), Some(identity(0)));
    push(&mut state, "a", now);
    let (first, _) = send(&mut state, now).expect("sendable");
    push(&mut state, "b", now);
    assert_eq!(state.sendable(now), Sendable::No, "a broker that does not know us might store b first");
    state.acknowledged(first, 1).expect("in flight");
    assert_eq!(state.sendable(now), Sendable::Now);
}

#[test]
fn a_record_larger_than_a_batch_travels_alone_and_one_over_the_limit_is_refused() {
    let now = Instant::now();
    let mut state = PartitionState::new(rules(1024), Some(identity(0)));
    push(&mut state, "small", now);
    assert_eq!(push(&mut state, &"x".repeat(2000), now).index, 0);
    assert_eq!(push(&mut state, "after", now).index, 0, "nothing joins it");
    let error = state.push(&record(&"x".repeat(5000)), 5000, || now, completion).expect_err("too large");
    assert!(matches!(error, Error::RecordTooLarge { max: 4096, .. }), "{error}");
    assert_eq!(push(&mut state, "and on", now).index, 1, "the refused record spoilt nothing");
}

#[test]
fn a_batch_given_up_leaves_a_gap_so_the_next_ones_take_a_new_epoch_from_zero() {
    let now = Instant::now();
    let mut state = established(1024, now);
    push(&mut state, "bad", now);
    let (bad, _) = send(&mut state, now).expect("sendable");
    push(&mut state, "good", now);
    let (good, _) = send(&mut state, now).expect("sendable");
    let ended = fail(&mut state, bad, refusal(ErrorCode::BatchTooLarge), now);
    assert_eq!(ended.len(), 1);
    assert_eq!(state.wants_newer_than(), None, "one is still in flight");
    assert!(fail(&mut state, good, refusal(ErrorCode::OutOfOrderSequence), now).is_empty(), "it is not lost");
    assert_eq!(state.sendable(now + PAUSE), Sendable::No);
    assert_eq!(state.wants_newer_than(), Some(Some(identity(0))));
    assert!(!state.adopt(identity(0)), "the same identity is no news");
    assert!(state.adopt(identity(1)));
    let (_, bytes) = send(&mut state, now).expect("under the new epoch");
    let stamp = BatchHeader::parse(&bytes).expect("a batch").producer().expect("stamped");
    assert_eq!((stamp.epoch.get(), stamp.base_sequence.get()), (1, 0));
}

// Catches a producer that asks for the first of several batches again and again, until all of them are past their time, when
// a new leader lacks what its predecessor had acknowledged.
#[test]
fn what_follows_a_batch_that_the_leader_cannot_have_is_not_there_either() {
    let now = Instant::now();
    let mut state = established(1024, now);
    let sent = ["a", "b"].map(|text| {
        push(&mut state, text, now);
        send(&mut state, now).expect("sendable").0
    });
    // The leader is gone, and may have stored both.
    state.moved(now, false);
    let (again, _) = send(&mut state, now).expect("the first is asked for");
    assert_eq!((again, state.sendable(now)), (sent[0], Sendable::No), "one at a time");
    assert!(fail(&mut state, again, refusal(ErrorCode::OutOfOrderSequence), now).is_empty(), "it is not lost");
    assert_eq!(state.wants_newer_than(), Some(Some(identity(0))), "neither is there under the old identity");
    assert!(state.adopt(identity(1)));
    let (again, bytes) = send(&mut state, now).expect("under the new epoch");
    let stamp = BatchHeader::parse(&bytes).expect("a batch").producer().expect("stamped");
    assert_eq!((again, stamp.epoch.get(), stamp.base_sequence.get()), (sent[0], 1, 0));
}

#[test]
fn a_batch_in_doubt_is_never_given_another_sequence_number() {
    let now = Instant::now();
    let mut state = established(1024, now);
    push(&mut state, "bad", now);
    let (bad, _) = send(&mut state, now).expect("sendable");
    push(&mut state, "doubtful", now);
    let (doubtful, bytes) = send(&mut state, now).expect("sendable");
    fail(&mut state, doubtful, lost(), now);
    fail(&mut state, bad, refusal(ErrorCode::BatchTooLarge), now);
    assert_eq!(state.wants_newer_than(), None);
    let (again, same) = send(&mut state, now + PAUSE).expect("asked again under its own number");
    assert_eq!((again, same), (doubtful, bytes));
    let ended = state.expire(now + Duration::from_secs(60));
    assert!(ended.is_empty(), "it is being sent");
    fail(&mut state, doubtful, lost(), now + PAUSE);
    let ended = state.expire(now + Duration::from_secs(60));
    assert!(ended.first().expect("given up").error.is_outcome_unknown());
}

#[test]
fn what_was_never_sent_times_out_with_a_known_outcome() {
    let now = Instant::now();
    let mut state = PartitionState::new(rules(1024), None);
    push(&mut state, "a", now);
    assert_eq!(state.sendable(now), Sendable::No, "no identity yet");
    let ended = state.expire(now + Duration::from_secs(10));
    let error = &ended.first().expect("given up").error;
    assert!(error.is_timeout() && !error.is_outcome_unknown(), "{error}");
    assert!(state.is_idle());
}

#[test]
fn linger_holds_a_batch_back_and_flush_lets_it_go() {
    let now = Instant::now();
    let mut rules = Arc::unwrap_or_clone(rules(1024));
    rules.linger = Duration::from_millis(5);
    let mut state = PartitionState::new(Arc::new(rules), Some(identity(0)));
    push(&mut state, "a", now);
    assert_eq!(state.sendable(now), Sendable::At(now + Duration::from_millis(5)));
    assert_eq!(state.flush(now).len(), 1);
    assert_eq!(state.sendable(now), Sendable::Now);
}

/// A topic created anew knows nothing of the producer: the second batch in flight must not be its first.
#[test]
fn after_a_move_what_is_sent_again_goes_in_order_and_one_at_a_time() {
    let now = Instant::now();
    for recreated in [false, true] {
        let mut state = established(1024, now);
        push(&mut state, "a", now);
        let (first, attempt, bytes) = ship(&mut state, now).expect("sendable");
        push(&mut state, "b", now);
        let (second, _) = send(&mut state, now).expect("sendable");
        fail(&mut state, second, refusal(ErrorCode::UnknownTopicId), now);
        state.moved(now, recreated);
        assert_eq!(send(&mut state, now).expect("no pause"), (first, bytes), "the same bytes: it may have been stored");
        assert_eq!(state.sendable(now + PAUSE), Sendable::No, "not before the first is answered");
        let overtaken = state.failed(first, attempt, refusal(ErrorCode::UnknownTopicId), now, |_| PAUSE);
        assert!(
            overtaken.is_empty() && state.sendable(now + PAUSE) == Sendable::No,
            "an overtaken attempt says nothing"
        );
        state.acknowledged(first, attempt).expect("in flight: stored by the old leader after all");
        assert!(!state.established, "the new leader has not answered");
        if recreated {
            assert!(state.adopt(identity(1)), "what was certainly not stored takes a new identity");
        }
        let (again, bytes) = send(&mut state, now).expect("its turn");
        let stamp = BatchHeader::parse(&bytes).expect("a batch").producer().expect("stamped");
        assert_eq!((stamp.epoch.get(), stamp.base_sequence.get()), if recreated { (1, 0) } else { (0, 2) });
        state.acknowledged(again, 2).expect("in flight");
        assert!(state.established && state.is_idle());
    }
}

/// Two batches that a leader has which is gone; the first is past its time when the next leader is there.
fn given_up_in_doubt(now: Instant) -> (PartitionState, u64, Instant) {
    let mut state = established(1024, now);
    push(&mut state, "first", now);
    send(&mut state, now).expect("sendable");
    let soon = now + Duration::from_secs(1);
    push(&mut state, "second", soon);
    let (second, _) = send(&mut state, soon).expect("sendable");
    state.moved(soon, false);
    let late = now + Duration::from_secs(10);
    let ended = state.expire(late);
    assert_eq!(ended.len(), 1);
    assert!(ended.iter().all(|ended| ended.error.is_outcome_unknown()), "the old leader may have stored it");
    (state, second, late)
}

// Catches a record that is stored twice: once by a leader that was cut off, behind one that was given up meanwhile, and once
// more under a newer epoch, because the leader in between missed both; then a replica that has the first copy leads.
#[test]
fn what_is_in_doubt_behind_a_batch_given_up_in_doubt_is_sent_under_no_other_number() {
    let (mut state, second, late) = given_up_in_doubt(Instant::now());
    push(&mut state, "third", late);
    let (again, _) = send(&mut state, late).expect("asked for under its own number");
    assert_eq!(again, second);
    let ended = fail(&mut state, second, refusal(ErrorCode::OutOfOrderSequence), late);
    let error = &ended.first().expect("another leader may have it").error;
    assert!(error.is_outcome_unknown(), "{error}");
    assert!(state.adopt(identity(1)), "what was never sent goes on");
    let (_, bytes) = send(&mut state, late).expect("under the new epoch");
    let stamp = BatchHeader::parse(&bytes).expect("a batch").producer().expect("stamped");
    assert_eq!((stamp.epoch.get(), stamp.base_sequence.get()), (1, 0));
}

// Catches the same when the leader misses the second while the first, which it misses too, is still to be sent again.
#[test]
fn a_leader_that_misses_what_was_before_a_batch_in_doubt_does_not_settle_it() {
    let now = Instant::now();
    let mut state = established(1024, now);
    let sent = ["first", "second"].map(|text| {
        push(&mut state, text, now + PAUSE);
        send(&mut state, now + PAUSE).expect("sendable").0
    });
    for id in sent {
        assert!(fail(&mut state, id, lost(), now + PAUSE).is_empty());
    }
    let later = now + PAUSE * 3;
    assert_eq!([(); 2].map(|()| send(&mut state, later).expect("again").0), sent);
    fail(&mut state, sent[0], refusal(ErrorCode::NotEnoughReplicas), later);
    assert!(fail(&mut state, sent[1], refusal(ErrorCode::OutOfOrderSequence), later).is_empty());
    let late = now + Duration::from_secs(9);
    let (again, _) = send(&mut state, late).expect("again");
    assert_eq!(again, sent[0]);
    let later_than_its_time = now + Duration::from_secs(11);
    assert_eq!(fail(&mut state, sent[0], lost(), later_than_its_time).len(), 1, "given up in doubt");
    assert_eq!(state.wants_newer_than(), None, "the second is in flight still, under its own number");
}

// Catches a batch that is given up although it cannot be anywhere: the one before it was refused by everybody who saw it.
#[test]
fn what_is_in_doubt_behind_a_batch_that_is_nowhere_is_nowhere_either() {
    let now = Instant::now();
    let mut state = established(1024, now);
    let sent = ["refused", "doubtful"].map(|text| {
        push(&mut state, text, now);
        send(&mut state, now).expect("sendable").0
    });
    fail(&mut state, sent[1], lost(), now);
    assert_eq!(fail(&mut state, sent[0], refusal(ErrorCode::BatchTooLarge), now).len(), 1);
    send(&mut state, now + PAUSE).expect("asked again under its own number");
    assert!(fail(&mut state, sent[1], refusal(ErrorCode::OutOfOrderSequence), now + PAUSE).is_empty());
    assert_eq!(state.wants_newer_than(), Some(Some(identity(0))), "it waits for the new epoch");
}

// Catches a batch in doubt that keeps the others from ever being sent, when the one before it is certainly nowhere but the one
// before that was given up in doubt.
#[test]
fn one_that_is_certainly_missing_settles_what_is_behind_it() {
    let now = Instant::now();
    let mut state = established(1024, now);
    push(&mut state, "first", now);
    let (first, _) = send(&mut state, now).expect("sendable");
    let soon = now + Duration::from_secs(1);
    let sent = ["second", "third"].map(|text| {
        push(&mut state, text, soon);
        // Full, so that it does not collect.
        state.waiting.iter_mut().for_each(|batch| batch.content.seal());
        send(&mut state, soon).expect("sendable").0
    });
    for (id, error) in [(first, lost()), (sent[0], refusal(ErrorCode::NotLeader)), (sent[1], lost())] {
        assert!(fail(&mut state, id, error, soon).is_empty());
    }
    let late = now + Duration::from_secs(10);
    assert_eq!(state.expire(late).len(), 1);
    assert_eq!(send(&mut state, late).expect("again").0, sent[0]);
    assert!(fail(&mut state, sent[0], refusal(ErrorCode::OutOfOrderSequence), late).is_empty());
    assert_eq!(state.wants_newer_than(), Some(Some(identity(0))), "neither has a place under the old identity");
}
