//! A store and the simplest thing that behaves alike, driven by the same random operations.
//!
//! The journal has one order for all logs. So after a crash the store must equal the model after some prefix of the
//! accepted operations, and that prefix must include every operation whose promise was kept. Nothing weaker is checked:
//! a lost, doubled, reordered or resurrected batch in any log fails.
//!
//! One log is compacted by key. Of that, every record must be one that was written, the newest of every key must be there,
//! and no offset may be missing. As in a cluster, nothing is cut that was agreed on.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use streambus_protocol::batch::PlacedBatch;
use streambus_storage::error::{AppendError, StoreError};
use streambus_storage::partition_log::options::Compaction;
use streambus_storage::partition_log::{Agreed, Durable, LogOptions, PartitionLog};
use streambus_storage::producer_state::SequenceVerdict;
use streambus_storage::store::Store;

use crate::world::{Spec, World, batch, create, offset, partition, read_all, settle, stamp};

/// The log that is compacted by key.
const COMPACTED: u32 = 2;

/// What compaction may do there at any time.
const EAGER: Compaction = Compaction { delete_retention_ms: 1_000, min_lag_ms: 0, min_dirty_millionths: 0 };

/// One log of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelLog {
    pub start: u64,
    pub end: u64,
    /// Base, next and bytes of every batch that still has an offset at or above the start.
    pub batches: Vec<(u64, u64, Bytes)>,
    pub epochs: Vec<(u32, u64)>,
    /// Sequence, count and base offset of the last ten batches of the one producer. After a cut that leaves less than five of
    /// them, those that are in the log.
    pub produced: Vec<(i32, u32, u64)>,
}

pub type Model = BTreeMap<u32, ModelLog>;

/// An operation that was accepted, in terms of the model.
#[derive(Clone, Debug)]
pub enum Accepted {
    Create(u32),
    Delete(u32),
    Append(u32, PlacedBatch),
    Trim(u32, u64),
    Truncate(u32, u64),
    Restart(u32, u64),
    Epoch(u32, u32),
}

impl Accepted {
    fn name(&self) -> String {
        match self {
            Self::Append(p, batch) => format!("append {p} {}..{}", batch.base_offset(), batch.next_offset()),
            other => format!("{other:?}"),
        }
    }

    fn apply(&self, model: &mut Model) {
        match self {
            Self::Create(p) => {
                model.insert(*p, ModelLog::default());
            }
            Self::Delete(p) => {
                model.remove(p);
            }
            Self::Append(p, batch) => {
                let log = model.get_mut(p).expect("exists");
                let (base, next) = (batch.base_offset().get(), batch.next_offset().get());
                log.assign_epoch(batch.leader_epoch().get(), base);
                if let Some(stamp) = batch.producer() {
                    if log.produced.len() == 10 {
                        log.produced.remove(0);
                    }
                    log.produced.push((stamp.base_sequence.get(), batch.record_count(), base));
                }
                log.batches.push((base, next, batch.as_bytes().clone()));
                log.end = next;
            }
            Self::Trim(p, to) => {
                let log = model.get_mut(p).expect("exists");
                log.start = log.start.max(*to);
                log.batches.retain(|(_, next, _)| *next > *to);
                while log.epochs.len() > 1 && log.epochs[1].1 <= *to {
                    log.epochs.remove(0);
                }
                if let Some(first) = log.epochs.first_mut() {
                    first.1 = first.1.max(*to);
                }
            }
            Self::Truncate(p, to) => {
                let log = model.get_mut(p).expect("exists");
                log.end = *to;
                log.batches.retain(|(_, next, _)| next <= to);
                log.epochs.retain(|(_, start)| start < to);
                let known = log.produced.len();
                log.produced.retain(|(_, count, base)| base + u64::from(*count) <= *to);
                // What compaction leaves of a batch may say nothing of its producer.
                if log.produced.len() < known.min(5) && *p != COMPACTED {
                    log.recall();
                }
            }
            Self::Restart(p, at) => {
                model.insert(*p, ModelLog { start: *at, end: *at, ..ModelLog::default() });
            }
            Self::Epoch(p, epoch) => {
                let log = model.get_mut(p).expect("exists");
                let end = log.end;
                log.assign_epoch(*epoch, end);
            }
        }
    }
}

impl ModelLog {
    /// Remembers of the one producer what the log says, and what it no longer says.
    fn recall(&mut self) {
        let oldest = self.produced.first().map_or(u64::MAX, |(_, _, base)| *base);
        let batches = self.batches.iter().filter(|(base, _, _)| *base < oldest);
        let batches = batches.map(|(_, _, bytes)| PlacedBatch::verify_stored(bytes.clone()).expect("a valid batch"));
        let older: Vec<_> = batches
            .filter_map(|batch| {
                Some((batch.producer()?.base_sequence.get(), batch.record_count(), batch.base_offset().get()))
            })
            .collect();
        self.produced.splice(..0, older);
        let surplus = self.produced.len().saturating_sub(10);
        self.produced.drain(..surplus);
    }

    fn assign_epoch(&mut self, epoch: u32, start: u64) {
        if self.epochs.last().is_some_and(|last| last.0 >= epoch) {
            return;
        }
        self.epochs.retain(|known| known.1 < start);
        self.epochs.push((epoch, start));
    }
}

/// The store, the model, and what may still be lost.
pub struct Pair {
    pub world: World,
    pub store: Option<Store>,
    /// The model as of the last crash or reopening.
    base: Model,
    /// Accepted since, in order, with their promises.
    accepted: Vec<(Accepted, Option<Durable>)>,
    acked: usize,
    random: SmallRng,
    salt: u64,
    /// What the next batch of the one producer begins with.
    sequence: i32,
    pub crashes: u64,
    /// Bytes that compaction copied.
    pub copied_bytes: u64,
    /// Records that compaction by key dropped.
    pub records_removed: u64,
    /// What was agreed on of the log that is compacted by key.
    agreed: u64,
    /// The same of its life before, which a crash may bring back.
    agreed_before: u64,
}

impl Pair {
    pub fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let store = Some(world.open());
        Self {
            world,
            store,
            base: Model::new(),
            accepted: Vec::new(),
            acked: 0,
            random: SmallRng::seed_from_u64(seed),
            salt: 0,
            sequence: 0,
            crashes: 0,
            copied_bytes: 0,
            records_removed: 0,
            agreed: 0,
            agreed_before: 0,
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open")
    }

    fn now(&self) -> Model {
        self.after(self.accepted.len())
    }

    fn after(&self, count: usize) -> Model {
        let mut model = self.base.clone();
        for (operation, _) in &self.accepted[..count] {
            operation.apply(&mut model);
        }
        model
    }

    fn accept(&mut self, operation: Accepted, durable: Option<Durable>) {
        self.accepted.push((operation, durable));
    }

    /// Notes which promises were kept. The journal keeps them in order, so one vouches for all before it.
    fn collect_acks(&mut self) {
        for (at, (_, durable)) in self.accepted.iter_mut().enumerate() {
            if let Some(promise) = durable
                && promise.now() == Some(Ok(()))
            {
                self.acked = self.acked.max(at + 1);
                *durable = None;
            }
        }
    }

    /// One random operation. `Err` when the disk has stopped under it.
    pub fn operate(&mut self) {
        let p = self.random.random_range(0..3_u32);
        let model = self.now();
        let log = self.store().log(partition(p));
        assert_eq!(log.is_some(), model.contains_key(&p), "the store and the model agree on which logs exist");
        let Some(log) = log else {
            self.create(p);
            return;
        };
        let known = &model[&p];
        match self.random.random_range(0..100) {
            0..55 => self.append(p, &log, known),
            55..62 => {
                let to = self.random.random_range(known.start..=known.end);
                if let Ok((new_start, durable)) = self.allowed(log.trim(offset(to))) {
                    assert_eq!(new_start.get(), to.max(known.start));
                    // One that changes nothing has no entry, and its promise vouches for none before it.
                    if to > known.start {
                        self.accept(Accepted::Trim(p, to), Some(durable));
                    }
                }
            }
            62..68 => {
                let lowest = if p == COMPACTED { known.start.max(self.agreed.min(known.end)) } else { known.start };
                let to = self.random.random_range(lowest..=known.end);
                if let Ok((new_end, durable)) = self.allowed(log.truncate(offset(to))) {
                    let holding = known.batches.iter().find(|(base, next, _)| *base <= to && to < *next);
                    let expected = holding.map_or(to, |(base, _, _)| (*base).max(known.start));
                    assert_eq!(new_end.get(), expected, "truncation keeps whole batches");
                    // A cut at the end takes away a leadership that began there.
                    let is_idle_epoch = to == known.end && known.epochs.last().is_some_and(|last| last.1 >= known.end);
                    if expected < known.end || is_idle_epoch {
                        self.accept(Accepted::Truncate(p, expected), Some(durable));
                    }
                }
            }
            68..71 => {
                let epoch = known.epochs.last().map_or(0, |last| last.0) + self.random.random_range(0..3);
                if let Ok(durable) = self.allowed(log.start_epoch(crate::world::epoch(epoch))) {
                    self.accept(Accepted::Epoch(p, epoch), Some(durable));
                }
            }
            71..73 => {
                let below = known.start > 0 && self.random.random_bool(0.5);
                let at = if below {
                    self.random.random_range(0..known.start)
                } else {
                    known.end + self.random.random_range(1..50)
                };
                if let Ok(durable) = self.allowed(log.restart_at(offset(at))) {
                    self.accept(Accepted::Restart(p, at), Some(durable));
                }
            }
            73 => {
                if self.allowed(self.store().delete_log(partition(p))).is_ok() {
                    self.accept(Accepted::Delete(p), None);
                }
            }
            74..78 => {
                self.store().apply_retention(streambus_protocol::timestamp::Timestamp::from_millis(0));
            }
            78..80 => {
                let scrubbed = self.store().scrub_step(50_000);
                if self.world.disk.is_running() {
                    assert_eq!(scrubbed.expect("the disk is well").damaged, []);
                }
            }
            80..82 => self.store().step_idle(),
            82..84 => self.compare(&model),
            84..86 => self.clean(),
            86..89 => {
                let now = streambus_protocol::timestamp::Timestamp::from_millis(0);
                let budget_bytes = self.random.random_range(1..20_000);
                let outcome = self.store().compact_step(now, budget_bytes);
                assert!(outcome.left_alone == 0 || !self.world.disk.is_running(), "nothing is damaged");
                self.copied_bytes += outcome.copied_bytes;
            }
            _ => {
                for _ in 0..self.random.random_range(1..6) {
                    self.store().step();
                }
            }
        }
        self.collect_acks();
    }

    fn create(&mut self, p: u32) {
        let compaction = (p == COMPACTED).then_some(EAGER);
        let options = LogOptions { compaction, ..LogOptions::default() };
        let created = self.store().create_log(partition(p), options);
        if self.allowed(created).is_ok() {
            self.accept(Accepted::Create(p), None);
            if p == COMPACTED {
                self.agreed_before = self.agreed_before.max(self.agreed);
                self.agreed = 0;
            }
        }
    }

    fn clean(&mut self) {
        let Some(log) = self.store().log(partition(COMPACTED)) else { return };
        self.agreed = self.agreed.max(log.synced_end().get());
        log.set_agreed(Agreed::Below(offset(self.agreed)));
        let budget_bytes = self.random.random_range(1..40_000);
        let outcome = self.store().clean_step(streambus_protocol::timestamp::Timestamp::from_millis(0), budget_bytes);
        self.records_removed += outcome.records_removed;
    }

    fn append(&mut self, p: u32, log: &PartitionLog, known: &ModelLog) {
        self.salt += 1;
        let count = self.random.random_range(1..4_u32);
        let producer = self.random.random_bool(0.5).then(|| stamp(7, 0, self.sequence));
        // Never twice, whatever is cut: what a batch is told by is its own.
        self.sequence += i32::try_from(count).expect("small");
        let spec = Spec {
            records: usize::try_from(count).expect("small"),
            record_bytes: self.random.random_range(0..900),
            epoch: known.epochs.last().map_or(0, |last| last.0) + u32::from(self.random.random_bool(0.05)),
            producer,
            salt: self.salt,
            keys: if p == COMPACTED { (0..count).map(|_| self.random.random_range(0..9)).collect() } else { vec![] },
            ..Spec::default()
        };
        let batch = batch(log.log_end(), &spec);
        match log.append(batch.clone()) {
            Ok(appended) => {
                assert_eq!(appended.base.get(), known.end);
                self.accept(Accepted::Append(p, batch), Some(appended.durable));
            }
            Err(AppendError::Busy { .. }) => while self.store().step() {},
            Err(AppendError::ReadOnly(_)) if !self.world.disk.is_running() => {}
            Err(error) => panic!("an append failed: {error}"),
        }
    }

    /// Passes refusals that a full queue or a stopped disk explains.
    fn allowed<T>(&self, result: Result<T, StoreError>) -> Result<T, ()> {
        match result {
            Ok(value) => Ok(value),
            Err(StoreError::Append(AppendError::Busy { .. })) => {
                while self.store().step() {}
                Err(())
            }
            Err(_) if !self.world.disk.is_running() => Err(()),
            Err(error) => panic!("an operation failed: {error}"),
        }
    }

    /// Ends the process and compares what recovery finds. `keep_index` decides what the index has left.
    pub fn crash(&mut self) {
        self.collect_acks();
        drop(self.store.take());
        if self.world.disk.is_running() {
            self.world.disk.cut_power().expect("the simulated disk works");
        }
        self.reopen_after_crash();
    }

    fn reopen_after_crash(&mut self) {
        self.crashes += 1;
        self.agreed = self.agreed.max(self.agreed_before);
        // RocksDB keeps a prefix of what was not flushed: nothing or all of it here.
        if self.random.random_bool(0.5) {
            self.world.index.crash();
        }
        if self.random.random_bool(0.05) {
            self.world.index.wipe();
        }
        let store = loop {
            self.world.disk.restart();
            match self.world.try_open() {
                Ok((store, report)) if self.world.disk.is_running() => {
                    assert_eq!(report.journal.damaged, [], "a power cut is no damage");
                    break store;
                }
                Ok((store, _)) => drop(store),
                Err(_) if !self.world.disk.is_running() => {}
                Err(error) => panic!("the store does not open after a power cut: {error}"),
            }
        };
        self.store = Some(store);
        let prefixes = (self.acked..=self.accepted.len()).rev();
        let Some(count) = prefixes.clone().find(|count| self.difference(&self.after(*count)).is_none()) else {
            let differences = prefixes.map(|count| format!("{count}: {:?}", self.difference(&self.after(count))));
            panic!(
                "recovery equals no prefix of the accepted operations, of which {} are acknowledged:\n{}\n{:#?}",
                self.acked,
                differences.collect::<Vec<_>>().join("\n"),
                self.accepted.iter().map(|(accepted, _)| accepted.name()).collect::<Vec<_>>(),
            );
        };
        self.base = self.after(count);
        self.accepted.clear();
        self.acked = 0;
    }

    /// Closes in good order and opens again: nothing may be missing.
    pub fn reopen(&mut self) {
        let store = self.store.take().expect("open");
        let closed = store.close();
        drop(store);
        if closed.is_err() || !self.world.disk.is_running() {
            return self.reopen_after_crash();
        }
        self.acked = self.accepted.len();
        self.reopen_after_crash();
        self.crashes -= 1;
    }

    /// Compares everything that can be seen.
    pub fn compare(&self, model: &Model) {
        if self.world.disk.is_running()
            && let Some(difference) = self.difference(model)
        {
            let accepted: Vec<_> = self.accepted.iter().map(|(accepted, _)| accepted.name()).collect();
            panic!("{difference}\nsince the last start: {accepted:#?}");
        }
    }

    /// The first thing in which the store differs from `model`.
    fn difference(&self, model: &Model) -> Option<String> {
        let ids: Vec<_> = model.keys().map(|p| partition(*p)).collect();
        if self.store().log_ids() != ids {
            return Some(format!("the store has the logs {:?}, not {ids:?}", self.store().log_ids()));
        }
        model.iter().find_map(|(p, known)| {
            let log = self.store().log(partition(*p))?;
            difference_of(&log, known).map(|difference| format!("log {p}: {difference}"))
        })
    }
}

/// The first thing in which a compacted log's records differ from those of the model.
fn difference_by_key(log: &PartitionLog, known: &ModelLog) -> Option<String> {
    let records = |batches: &mut dyn Iterator<Item = Bytes>| {
        let mut cursor = None;
        let mut found = BTreeMap::new();
        for bytes in batches {
            let batch = PlacedBatch::verify_stored(bytes).expect("a valid batch");
            if cursor.is_some_and(|cursor| batch.base_offset() != cursor) {
                return Err(format!("a gap before {}", batch.base_offset()));
            }
            cursor = Some(batch.next_offset());
            for stored in batch.records(1 << 20).expect("expands") {
                let stored = stored.expect("a valid record");
                if stored.offset.get() >= known.start {
                    found.insert(stored.offset.get(), (stored.record.key, stored.record.value));
                }
            }
        }
        Ok(found)
    };
    let written = records(&mut known.batches.iter().map(|(_, _, bytes)| bytes.clone())).expect("as appended");
    let found = match read_all(log) {
        Ok(batches) => match records(&mut batches.into_iter()) {
            Ok(found) => found,
            Err(gap) => return Some(gap),
        },
        Err(error) => return Some(format!("unreadable: {error}")),
    };
    if let Some((at, _)) = found.iter().find(|(at, record)| written.get(at) != Some(record)) {
        return Some(format!("the record at {at} was never written"));
    }
    let newest: BTreeMap<_, _> = written.iter().map(|(at, (key, _))| (key.clone(), *at)).collect();
    newest.into_iter().find(|(_, at)| !found.contains_key(at)).map(|(key, at)| format!("{key:?} lost {at}"))
}

fn difference_of(log: &PartitionLog, known: &ModelLog) -> Option<String> {
    let differs = |what: &str, found: String, expected: String| {
        (found != expected).then(|| format!("{what}: found {found}, expected {expected}"))
    };
    let bounds = format!("{}..{}", log.log_start(), log.log_end());
    let is_compacted = log.options().compaction.is_some();
    differs("bounds", bounds, format!("{}..{}", known.start, known.end))
        .or_else(|| is_compacted.then(|| difference_by_key(log, known)).flatten())
        .or_else(|| {
            if is_compacted {
                return None;
            }
            let expected: Vec<_> = known.batches.iter().map(|(_, _, bytes)| bytes).collect();
            match read_all(log) {
                Ok(bytes) if bytes.iter().collect::<Vec<_>>() == expected => None,
                Ok(bytes) => {
                    let bases = |bytes: &[u8]| i64::from_be_bytes(*bytes.first_chunk().expect("a batch"));
                    let found: Vec<_> = bytes.iter().map(|bytes| bases(bytes)).collect();
                    let expected: Vec<_> = expected.iter().map(|bytes| bases(bytes)).collect();
                    Some(format!("batches at {found:?}, expected {expected:?}"))
                }
                Err(error) => Some(format!("unreadable: {error}")),
            }
        })
        .or_else(|| {
            let latest = log.latest_epoch().map(|latest| (latest.epoch.get(), latest.start.get()));
            differs("latest epoch", format!("{latest:?}"), format!("{:?}", known.epochs.last().copied()))
        })
        .or_else(|| {
            // Also after a cut: each of the five before it is known again.
            known.produced.iter().rev().take(5).find_map(|(sequence, count, base)| {
                let verdict = log.check_sequence(stamp(7, 0, *sequence), *count);
                let expected = SequenceVerdict::Duplicate { base: offset(*base) };
                differs("producer", format!("{verdict:?}"), format!("{expected:?}"))
            })
        })
        .or_else(|| differs("damage", format!("{:?}", log.damaged()), "[]".to_owned()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    // Catches, among much else: an index that serves truncated batches, a checkpoint that knows more or less than the
    // journal, a segment recycled while something in it lives.
    #[test]
    fn a_store_behaves_like_its_model(seed in any::<u64>(), operations in 50..400_usize) {
        let mut pair = Pair::new(seed);
        for _ in 0..operations {
            pair.operate();
            if pair.random.random_bool(0.01) {
                pair.reopen();
            }
            if pair.random.random_bool(0.01) {
                pair.crash();
            }
        }
        settle(pair.store());
        pair.compare(&pair.now());
    }
}

// Catches a read bound that is off by one: a batch above `below` would show uncommitted records.
#[test]
fn a_read_never_passes_its_bound() {
    let world = World::new(1);
    let store = world.open();
    let log = create(&store, 0);
    for i in 0..40 {
        crate::world::append(&log, &Spec { records: 3, record_bytes: 300, salt: i, ..Spec::default() });
        settle(&store);
    }
    for below in 0..=120_u64 {
        for from in [0, 1, 60, 119] {
            let limit = streambus_storage::partition_log::ReadLimit { bytes_max: 5_000, below: offset(below) };
            let (batches, next) = crate::world::read(&log, offset(from), limit).expect("in range");
            assert!(next <= offset(below.max(from)), "from {from} below {below}");
            assert_eq!(next == offset(from), batches.is_empty());
            if from / 3 * 3 + 3 <= below {
                assert!(!batches.is_empty(), "a whole batch ends below {below}");
            }
        }
    }
}
