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

/// A partition's log, with what its leader remembers of one producer. The memory is a function of the log, as it is in a
/// broker that rebuilds it after a change of leader.
#[derive(Clone, Default)]
struct ModelLog(Vec<ModelBatch>);

#[derive(Clone)]
struct ModelBatch {
    epoch: i16,
    first: i32,
    last: i32,
    values: Vec<String>,
    /// The producer was told: no leader may lack it.
    acknowledged: bool,
}

impl ModelLog {
    /// Appends; returns the place of the batch.
    fn append(&mut self, bytes: &Bytes) -> Result<usize, ErrorCode> {
        let header = BatchHeader::parse(bytes).expect("a batch");
        let stamp = header.producer().expect("stamped");
        let first = stamp.base_sequence.get();
        let last = after(stamp.base_sequence, header.record_count as u32 - 1).get();
        // Whoever is unknown may start anywhere: its older batches may have been deleted with the log.
        if let Some(known) = self.0.last() {
            let epoch = stamp.epoch.get();
            if epoch < known.epoch {
                return Err(ErrorCode::FencedProducer);
            }
            let recent = (0..self.0.len()).rev().take_while(|place| self.0[*place].epoch == epoch).take(5);
            let same = |place: &usize| (self.0[*place].first, self.0[*place].last) == (first, last);
            if let Some(place) = recent.into_iter().find(same) {
                return Ok(place);
            }
            let expected = if epoch == known.epoch { after(Sequence::new(known.last), 1).get() } else { 0 };
            if first != expected {
                return Err(ErrorCode::OutOfOrderSequence);
            }
        }
        let values = texts_of(bytes);
        self.0.push(ModelBatch { epoch: stamp.epoch.get(), first, last, values, acknowledged: false });
        Ok(self.0.len() - 1)
    }

    /// The log of a leader that lacks the last `lost` batches, as far as nobody was told of them.
    fn without_last(&mut self, lost: usize) {
        for _ in 0..lost {
            if self.0.last().is_some_and(|batch| !batch.acknowledged) {
                self.0.pop();
            }
        }
    }

    fn assert_in_order(&self) {
        let values: Vec<_> = self.0.iter().flat_map(|batch| batch.values.clone()).collect();
        let mut sorted = values.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted, values, "duplicates or reordering");
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
    /// Resolves the oldest request on the wire to the present leader.
    Resolve(Fate),
    /// Answers, or refuses, the oldest request that an older leader has.
    Late,
    /// Another leader: the old one has carried out so many of the requests it has, the new one lacks so many batches.
    Move {
        carried_out: u8,
        lost: u8,
    },
    /// Deleted and created anew.
    Recreate {
        carried_out: u8,
    },
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
        8 => (1u8..4).prop_map(Step::Push),
        8 => Just(Step::Send),
        8 => fate.prop_map(Step::Resolve),
        2 => Just(Step::Late),
        2 => (0u8..6, 0u8..6).prop_map(|(carried_out, lost)| Step::Move { carried_out, lost }),
        1 => (0u8..6).prop_map(|carried_out| Step::Recreate { carried_out }),
        2 => Just(Step::Adopt),
    ]
}

/// A request that is under way.
struct Request {
    id: u64,
    attempt: u32,
    bytes: Bytes,
}

/// A producer's partition and the leaders it deals with.
struct World {
    now: Instant,
    state: PartitionState,
    log: ModelLog,
    wire: Vec<Request>,
    /// What older leaders have, with the place in the log where they put it.
    late: Vec<(Request, Option<usize>)>,
    next: u32,
    epoch: i16,
}

impl World {
    fn new() -> Self {
        let state = PartitionState::new(rules(256), Some(identity(0)));
        let log = ModelLog::default();
        Self { now: Instant::now(), state, log, wire: Vec::new(), late: Vec::new(), next: 0, epoch: 0 }
    }

    fn take(&mut self, step: &Step) {
        self.now += Duration::from_millis(7);
        match *step {
            Step::Push(count) => {
                for _ in 0..count {
                    let text = format!("{:06}-{}", self.next, "x".repeat((self.next % 40) as usize));
                    push(&mut self.state, &text, self.now);
                    self.next += 1;
                }
            }
            // The connection delivers in the order of sending: what is ahead on the wire is resolved first.
            Step::Send => {
                let shipped = ship(&mut self.state, self.now);
                self.wire.extend(shipped.map(|(id, attempt, bytes)| Request { id, attempt, bytes }));
            }
            Step::Resolve(fate) if !self.wire.is_empty() => self.resolve(fate),
            Step::Late if !self.late.is_empty() => {
                let (request, place) = self.late.remove(0);
                match place.filter(|place| self.log.0.get(*place).is_some_and(|b| b.values == texts_of(&request.bytes)))
                {
                    Some(place) => self.acknowledge(&request, place),
                    None => self.fail(&request, refusal(ErrorCode::NotLeader)),
                }
            }
            Step::Resolve(_) | Step::Late => {}
            Step::Move { carried_out, lost } => {
                self.leave(carried_out);
                self.log.without_last(lost.into());
                self.state.moved(self.now, false);
            }
            Step::Recreate { carried_out } => {
                self.leave(carried_out);
                self.log.assert_in_order();
                self.log = ModelLog::default();
                // What an answer of the old topic says is about the old log.
                self.late.iter_mut().for_each(|(_, place)| *place = None);
                self.state.moved(self.now, true);
            }
            Step::Adopt => {
                if self.state.wants_newer_than().is_some() {
                    self.epoch += 1;
                    assert!(self.state.adopt(identity(self.epoch)));
                }
            }
        }
    }

    /// The leader carries out so many of the requests on the wire and answers none.
    fn leave(&mut self, carried_out: u8) {
        for (n, request) in std::mem::take(&mut self.wire).into_iter().enumerate() {
            let place = if n < carried_out.into() { self.log.append(&request.bytes).ok() } else { None };
            self.late.push((request, place));
        }
    }

    fn resolve(&mut self, fate: Fate) {
        let request = self.wire.remove(0);
        let answer = match fate {
            Fate::LostBefore => Err(lost()),
            Fate::NotLeader => Err(refusal(ErrorCode::NotLeader)),
            Fate::Fatal => Err(refusal(ErrorCode::CorruptBatch)),
            Fate::LostAfter => {
                let _ = self.log.append(&request.bytes);
                Err(lost())
            }
            Fate::Unknown => {
                let _ = self.log.append(&request.bytes);
                Err(refusal(ErrorCode::Timeout))
            }
            Fate::Answered => self.log.append(&request.bytes).map_err(refusal),
        };
        match answer {
            Ok(place) => self.acknowledge(&request, place),
            Err(error) => self.fail(&request, error),
        }
    }

    fn acknowledge(&mut self, request: &Request, place: usize) {
        // What is before it is committed with it.
        self.log.0[..=place].iter_mut().for_each(|batch| batch.acknowledged = true);
        assert_eq!(self.log.0[place].values, texts_of(&request.bytes), "acknowledged elsewhere than stored");
        // None when another attempt has told already.
        let _ = self.state.acknowledged(request.id, request.attempt);
    }

    fn fail(&mut self, request: &Request, error: Error) {
        self.state.failed(request.id, request.attempt, error, self.now, |_| PAUSE);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Catches duplicates, reordering, lost records, a wrong offset in an acknowledgement, and a machine that gets stuck:
    /// whatever is lost, refused or answered late, wherever the leader goes and whatever it lacks, the log holds every
    /// record at most once, in order, and everything acknowledged is where its acknowledgement says.
    #[test]
    fn whatever_happens_the_log_is_in_order_without_duplicates(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.take(step));
        // Faults end: everything must get an outcome.
        for _ in 0..2000 {
            if world.state.is_idle() { break }
            for step in [Step::Late, Step::Adopt, Step::Send, Step::Resolve(Fate::Answered)] {
                world.take(&step);
            }
        }
        prop_assert!(world.state.is_idle(), "stuck: {:?}", world.state);
        world.log.assert_in_order();
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
