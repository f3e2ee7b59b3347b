//! The partition's state machine against a model broker that follows KIP-98, under every order of losses and refusals.

use proptest::prelude::*;
use streambus_protocol::batch::UnverifiedBatch;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::offset::Offset;

use super::*;

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

    /// True when a replica with this log may lead after one with `other`: it has all that the producer was told of.
    fn may_follow(&self, other: &Self) -> bool {
        let told = other.0.iter().filter(|batch| batch.acknowledged).count();
        told <= self.0.len() && self.0.iter().zip(&other.0).take(told).all(|(own, batch)| own.values == batch.values)
    }

    fn assert_in_order(&self) {
        let values: Vec<_> = self.0.iter().flat_map(|batch| batch.values.clone()).collect();
        let mut sorted = values.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted, values, "duplicates or reordering");
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
    /// A replica leads that has the log which the last move left behind, if it lacks nothing.
    Return {
        carried_out: u8,
    },
    /// A part of the delivery timeout passes.
    Wait,
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
        2 => (0u8..6).prop_map(|carried_out| Step::Return { carried_out }),
        1 => Just(Step::Wait),
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
    /// What another replica has, which followed the leader before this one.
    left_behind: Option<ModelLog>,
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
        let (wire, late) = (Vec::new(), Vec::new());
        Self { now: Instant::now(), state, log, left_behind: None, wire, late, next: 0, epoch: 0 }
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
                self.left_behind = Some(self.log.clone());
                self.log.without_last(lost.into());
                self.state.moved(self.now, false);
            }
            Step::Return { carried_out } => {
                self.leave(carried_out);
                if let Some(mut other) = self.left_behind.take().filter(|other| other.may_follow(&self.log)) {
                    for (own, batch) in other.0.iter_mut().zip(&self.log.0) {
                        own.acknowledged |= batch.acknowledged;
                    }
                    self.left_behind = Some(std::mem::replace(&mut self.log, other));
                }
                self.state.moved(self.now, false);
            }
            Step::Wait => {
                self.now += rules(0).delivery_timeout / 3;
                drop(self.state.expire(self.now));
            }
            Step::Recreate { carried_out } => {
                self.leave(carried_out);
                self.log.assert_in_order();
                self.log = ModelLog::default();
                self.left_behind = None;
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
