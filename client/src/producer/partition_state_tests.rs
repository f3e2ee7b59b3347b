//! The partition's state machine against a model broker that follows KIP-98, under every order of losses and refusals.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use streambus_protocol::batch::{BatchHeader, UnverifiedBatch};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::TopicName;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use crate::error::TopicPartition;

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
    let parcel = state.take(now)?;
    let bytes = parcel.recipe.cook(Compression::None).expect("built");
    state.built(parcel.id, bytes.clone());
    Some((parcel.id, bytes))
}

/// A state whose identity the broker knows.
fn established(batch_bytes: usize, now: Instant) -> PartitionState {
    let mut state = PartitionState::new(rules(batch_bytes), Some(identity(0)));
    push(&mut state, "first", now);
    let (first, _) = send(&mut state, now).expect("sendable");
    assert!(state.acknowledged(first).is_some());
    state
}

fn refusal(code: ErrorCode) -> Error {
    Error::Broker { code, message: String::new(), at: None }
}

fn lost() -> Error {
    let source = Arc::new(std::io::ErrorKind::ConnectionReset.into());
    Error::Io { addr: "b:1".into(), source, outcome: Applied::Unknown }
}

/// A broker's log and its memory of one producer.
#[derive(Default)]
struct ModelBroker {
    log: Vec<String>,
    /// Its epoch and its last batches: first and last sequence, offset.
    producer: Option<(i16, Vec<Remembered>)>,
}

type Remembered = (i32, i32, u64);

impl ModelBroker {
    fn append(&mut self, bytes: &Bytes) -> Result<u64, ErrorCode> {
        let header = BatchHeader::parse(bytes).expect("a batch");
        let stamp = header.producer().expect("stamped");
        let (first, last) =
            (stamp.base_sequence.get(), after(stamp.base_sequence, header.record_count as u32 - 1).get());
        match &mut self.producer {
            Some((epoch, _)) if stamp.epoch.get() < *epoch => return Err(ErrorCode::FencedProducer),
            Some((epoch, batches)) if stamp.epoch.get() == *epoch => {
                if let Some((_, _, base)) = batches.iter().find(|(f, l, _)| (*f, *l) == (first, last)) {
                    return Ok(*base);
                }
                let expected = batches.last().map_or(0, |(_, l, _)| after(Sequence::new(*l), 1).get());
                if first != expected {
                    return Err(ErrorCode::OutOfOrderSequence);
                }
            }
            Some(_) if first != 0 => return Err(ErrorCode::OutOfOrderSequence),
            // Whoever is unknown may start anywhere: its older batches may have been deleted with the log.
            _ => self.producer = Some((stamp.epoch.get(), Vec::new())),
        }
        let base = self.log.len() as u64;
        let placed = UnverifiedBatch::from_shared(bytes.clone())
            .verify(1 << 20)
            .expect("intact")
            .place(Offset::new(base).expect("small"), LeaderEpoch::ZERO);
        for stored in placed.records(1 << 20).expect("plain") {
            let value = stored.expect("intact").record.value.expect("a value");
            self.log.push(String::from_utf8(value.to_vec()).expect("text"));
        }
        if let Some((_, batches)) = &mut self.producer {
            batches.push((first, last, base));
            if batches.len() > 5 {
                batches.remove(0);
            }
        }
        Ok(base)
    }
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
    assert!(state.failed(first, lost(), now, |_| PAUSE).is_empty());
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
    state.acknowledged(first).expect("in flight");
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
    let ended = state.failed(bad, refusal(ErrorCode::BatchTooLarge), now, |_| PAUSE);
    assert_eq!(ended.len(), 1);
    assert_eq!(state.wants_newer_than(), None, "one is still in flight");
    assert!(state.failed(good, refusal(ErrorCode::OutOfOrderSequence), now, |_| PAUSE).is_empty(), "it is not lost");
    assert_eq!(state.sendable(now + PAUSE), Sendable::No);
    assert_eq!(state.wants_newer_than(), Some(Some(identity(0))));
    assert!(!state.adopt(identity(0)), "the same identity is no news");
    assert!(state.adopt(identity(1)));
    let (_, bytes) = send(&mut state, now).expect("under the new epoch");
    let stamp = BatchHeader::parse(&bytes).expect("a batch").producer().expect("stamped");
    assert_eq!((stamp.epoch.get(), stamp.base_sequence.get()), (1, 0));
}

#[test]
fn a_batch_in_doubt_is_never_given_another_sequence_number() {
    let now = Instant::now();
    let mut state = established(1024, now);
    push(&mut state, "bad", now);
    let (bad, _) = send(&mut state, now).expect("sendable");
    push(&mut state, "doubtful", now);
    let (doubtful, bytes) = send(&mut state, now).expect("sendable");
    state.failed(doubtful, lost(), now, |_| PAUSE);
    state.failed(bad, refusal(ErrorCode::BatchTooLarge), now, |_| PAUSE);
    assert_eq!(state.wants_newer_than(), None);
    let (again, same) = send(&mut state, now + PAUSE).expect("asked again under its own number");
    assert_eq!((again, same), (doubtful, bytes));
    let ended = state.expire(now + Duration::from_secs(60));
    assert!(ended.is_empty(), "it is being sent");
    state.failed(doubtful, lost(), now + PAUSE, |_| PAUSE);
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

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    LostBefore,
    LostAfter,
    NotLeader,
    Unknown,
    Fatal,
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    Send,
    /// Resolves the oldest request on the wire.
    Resolve(Fate),
    Adopt,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        6 => Just(Fate::Answered),
        1 => Just(Fate::LostBefore),
        1 => Just(Fate::LostAfter),
        1 => Just(Fate::NotLeader),
        1 => Just(Fate::Unknown),
        1 => Just(Fate::Fatal),
    ];
    prop_oneof![
        4 => (1u8..4).prop_map(Step::Push),
        4 => Just(Step::Send),
        4 => fate.prop_map(Step::Resolve),
        1 => Just(Step::Adopt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Catches duplicates, reordering, lost records, a wrong offset in an acknowledgement, and a machine that gets stuck:
    /// whatever is lost, refused or answered late, the log holds every record at most once, in order, and everything
    /// acknowledged is where its acknowledgement says.
    #[test]
    fn whatever_happens_the_log_is_in_order_without_duplicates(steps in prop::collection::vec(step(), 1..120)) {
        let mut now = Instant::now();
        let mut state = PartitionState::new(rules(256), Some(identity(0)));
        let (mut broker, mut wire) = (ModelBroker::default(), Vec::<(u64, Bytes)>::new());
        let (mut next, mut epoch) = (0u32, 0i16);
        let mut texts: std::collections::HashMap<u64, Vec<String>> = std::collections::HashMap::new();
        let mut resolve = |state: &mut PartitionState, broker: &mut ModelBroker, id: u64, bytes: &Bytes, fate: Fate, now: Instant| {
            let answer = match fate {
                Fate::LostBefore => Err(lost()),
                Fate::NotLeader => Err(refusal(ErrorCode::NotLeader)),
                Fate::Fatal => Err(refusal(ErrorCode::CorruptBatch)),
                Fate::LostAfter => { let _ = broker.append(bytes); Err(lost()) }
                Fate::Unknown => { let _ = broker.append(bytes); Err(refusal(ErrorCode::Timeout)) }
                Fate::Answered => broker.append(bytes).map_err(refusal),
            };
            match answer {
                Ok(base) => {
                    let batch = state.acknowledged(id).expect("in flight");
                    let expected = &texts_of(bytes);
                    assert_eq!(batch.records as usize, expected.len());
                    let stored = &broker.log[base as usize..base as usize + expected.len()];
                    assert_eq!(stored, &expected[..], "acknowledged elsewhere than stored");
                }
                Err(error) => {
                    for ended in state.failed(id, error, now, |_| PAUSE) {
                        texts.remove(&ended.batch.id);
                    }
                }
            }
        };
        for step in steps {
            now += Duration::from_millis(7);
            match step {
                Step::Push(count) => for _ in 0..count {
                    push(&mut state, &format!("{next:06}-{}", "x".repeat((next % 40) as usize)), now);
                    next += 1;
                },
                // The connection delivers in the order of sending: what is ahead on the wire is resolved first.
                Step::Send => wire.extend(send(&mut state, now)),
                Step::Resolve(fate) if !wire.is_empty() => {
                    let (id, bytes) = wire.remove(0);
                    resolve(&mut state, &mut broker, id, &bytes, fate, now);
                }
                Step::Resolve(..) => {}
                Step::Adopt => if state.wants_newer_than().is_some() {
                    epoch += 1;
                    prop_assert!(state.adopt(identity(epoch)));
                },
            }
        }
        // Faults end: everything must get an outcome.
        for _ in 0..2000 {
            if state.is_idle() { break }
            now += PAUSE;
            if state.wants_newer_than().is_some() {
                epoch += 1;
                state.adopt(identity(epoch));
            }
            wire.extend(send(&mut state, now));
            if !wire.is_empty() {
                let (id, bytes) = wire.remove(0);
                resolve(&mut state, &mut broker, id, &bytes, Fate::Answered, now);
            }
        }
        prop_assert!(state.is_idle(), "stuck: {state:?}");
        let mut sorted = broker.log.clone();
        sorted.sort();
        sorted.dedup();
        prop_assert_eq!(&sorted, &broker.log, "duplicates or reordering");
    }
}

fn texts_of(bytes: &Bytes) -> Vec<String> {
    let placed = UnverifiedBatch::from_shared(bytes.clone())
        .verify(1 << 20)
        .expect("intact")
        .place(Offset::ZERO, LeaderEpoch::ZERO);
    let records = placed.records(1 << 20).expect("plain");
    records
        .map(|stored| {
            let value = stored.expect("intact").record.value.expect("a value");
            String::from_utf8(value.to_vec()).expect("text")
        })
        .collect()
}
