//! One partition's log: append placed batches, read them back, cut, trim and move on through leader epochs.
//!
//! A log is a few hundred bytes of state and two locks; its data lies in the shared journal. Appending enqueues and
//! fixes the order; [`Durable`] is the second, slower promise. What may touch the disk says so: run it off the
//! runtime's workers.

use std::sync::Arc;

use bytes::Bytes;
use streambus_planted::{Defect, is_planted};
use streambus_protocol::batch::{PlacedBatch, ProducerStamp};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::PartitionId;
use streambus_protocol::offset::Offset;
use streambus_protocol::topic_config::Durability;
use tokio::sync::watch;

use crate::cleaner::clip_placeholder;
use crate::epoch_cache::{EpochEnd, EpochStart};
use crate::error::{AppendError, ReadError};
use crate::journal::{EntryKind, LogId, Lsn, NewEntry};
use crate::producer_state::SequenceVerdict;
use crate::store::inner::StoreInner;
use crate::tail_cache::Stay;

pub(crate) mod clean_state;
mod cut;
pub mod damage;
pub mod durable;
pub(crate) mod extents;
pub(crate) mod log_core;
pub mod options;
pub(crate) mod overlay;
pub mod read;
mod recall;
mod repair;
pub(crate) mod rewrite;
mod salvage;
pub(crate) mod state;
mod time;

use self::log_core::LogCore;
use self::state::LogState;
pub use damage::DamagedOffsets;
pub use durable::Durable;
pub use options::LogOptions;
pub use read::DiskRead;

/// A handle of one log. Cheap to clone; after the log's deletion every operation says so.
#[derive(Clone, Debug)]
pub struct PartitionLog {
    store: Arc<StoreInner>,
    core: Arc<LogCore>,
}

/// A batch that has its place.
#[derive(Debug)]
pub struct Appended {
    /// Offset of its first record.
    pub base: Offset,
    /// The offset after its last.
    pub next: Offset,
    /// Resolves when it is on stable storage; at once for a log whose durability is `async`.
    pub durable: Durable,
    /// Which of the two `durable` is: the log's setting may change before anybody asks.
    pub promise: Durability,
}

/// The ends of a log in one moment: `durable <= accepted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnds {
    /// Everything below is on stable storage.
    pub durable: Offset,
    /// The offset the next batch gets.
    pub accepted: Offset,
    /// Which of the two an acknowledgement may count on: `durable` when `sync`, `accepted` when `async`.
    pub durability: Durability,
    /// Where the oldest range begins that this disk has lost, if there is one.
    pub damage: Option<Offset>,
}

/// How much to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// Stop before this many bytes, but not before the first whole batch.
    pub bytes_max: usize,
    /// Serve only batches that end at or below this offset.
    pub below: Offset,
}

/// The answer of a read.
#[derive(Debug)]
pub enum Read {
    /// Whole batches, the first holding the asked offset, and the offset after them. Empty at the end of what may be
    /// read.
    Ready(Vec<Bytes>, Offset),
    /// Not in memory: run this where blocking is allowed.
    Disk(DiskRead),
}

/// What of a log the cluster has agreed on: no more may be compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Agreed {
    /// Not known yet: nothing.
    #[default]
    Unknown,
    /// Everything below this offset.
    Below(Offset),
    /// Everything on stable storage: no other broker has a say.
    Synced,
}

impl PartitionLog {
    pub(crate) fn new(store: Arc<StoreInner>, core: Arc<LogCore>) -> Self {
        Self { store, core }
    }

    pub(crate) fn core(&self) -> &LogCore {
        &self.core
    }

    pub(crate) fn store(&self) -> &StoreInner {
        &self.store
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.core.partition
    }

    /// Its number within the data directory.
    pub fn id(&self) -> LogId {
        self.core.id
    }

    /// Appends a batch that the caller placed at the log end, and remembers its producer and leader epoch. An empty log
    /// also takes a batch that holds its place: it starts with that batch then, for the caller to trim.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was appended then.
    pub fn append(&self, batch: PlacedBatch) -> Result<Appended, AppendError> {
        self.append_for(batch, Stay::WhileFresh)
    }

    /// Appends a batch that is copied long after it was written: memory keeps it until it is durable, and nothing that is
    /// read live makes room for it.
    ///
    /// # Errors
    /// As [`PartitionLog::append`].
    pub fn append_old(&self, batch: PlacedBatch) -> Result<Appended, AppendError> {
        self.append_for(batch, Stay::UntilDurable)
    }

    fn append_for(&self, batch: PlacedBatch, stay: Stay) -> Result<Appended, AppendError> {
        self.try_append(batch, stay).inspect_err(|_| self.store.metrics.appends_refused.increment())
    }

    fn try_append(&self, batch: PlacedBatch, stay: Stay) -> Result<Appended, AppendError> {
        let (base, next) = (batch.base_offset(), batch.next_offset());
        assert!(base < next, "a batch has at least one offset");
        self.store.check_index_keeps_up()?;
        let _order = self.core.order.lock();
        {
            let mut state = self.core.state.lock();
            check_exists(&state)?;
            if state.start == state.end && base < state.end && state.end < next {
                // As replay does when it meets the batch.
                state.cut_for_replay(base);
            }
            if state.end != base {
                return Err(AppendError::OutOfOrder { expected: state.end, found: base });
            }
            if let Some(latest) = state.epochs.latest()
                && latest.epoch > batch.leader_epoch()
            {
                return Err(AppendError::StaleEpoch { current: latest.epoch, found: batch.leader_epoch() });
            }
        }
        let lsn = self.store.journal.append(NewEntry {
            log: self.core.id,
            kind: EntryKind::Batch,
            base,
            last: batch.last_offset(),
            epoch: batch.leader_epoch(),
            max_timestamp: batch.max_timestamp(),
            payload: batch.as_bytes().clone(),
        })?;
        self.store.metrics.batches_appended.increment();
        self.store.metrics.bytes_appended.add(batch.size_bytes() as u64);
        let now = self.store.clock.now();
        // Cached before the end moves: whoever sees the new end finds the batch.
        self.store.cache.lock().insert(self.core.id, lsn, batch.clone(), stay, self.store.sink.durable_end());
        let mut state = self.core.state.lock();
        state.accept_batch(lsn, &batch, now, self.store.sink.limits);
        assert!(state.end == next, "the log ends behind the accepted batch");
        let promise = state.options.durability;
        let durable = match promise {
            Durability::Sync if is_planted(Defect::AckBeforeSync) => Durable::at_once(),
            Durability::Sync => self.promise(&mut state, lsn),
            Durability::Async => Durable::at_once(),
        };
        self.settle(&mut state);
        Ok(Appended { base, next, durable, promise })
    }

    /// The first offset that can be read.
    pub fn log_start(&self) -> Offset {
        self.core.state.lock().start
    }

    /// The offset the next batch gets.
    pub fn log_end(&self) -> Offset {
        self.core.state.lock().end
    }

    /// What an acknowledgement may count on: everything below is on stable storage, or, for a log whose durability is
    /// `async`, accepted.
    pub fn durable_end(&self) -> Offset {
        self.core.state.lock().acked_end()
    }

    /// The ends of this moment.
    pub fn ends(&self) -> LogEnds {
        let state = self.core.state.lock();
        LogEnds {
            durable: state.durable_end(),
            accepted: state.end,
            durability: state.options.durability,
            damage: state.damage.ranges().first().map(|range| range.base),
        }
    }

    /// Everything below is on stable storage, whatever the log's durability.
    pub fn synced_end(&self) -> Offset {
        self.core.state.lock().synced_end
    }

    /// Everything below is given up on stable storage too: a crash does not bring it back.
    pub fn synced_start(&self) -> Offset {
        self.core.state.lock().durable_start
    }

    /// Follows [`Self::durable_end`]. It goes back only when the log is truncated, at once.
    pub fn watch_durable_end(&self) -> watch::Receiver<Offset> {
        self.core.watch()
    }

    /// Bytes of the durable batches from the log start on; a batch that is partly trimmed counts whole.
    pub fn size_bytes(&self) -> u64 {
        self.core.state.lock().size_bytes
    }

    /// True when this disk has lost a part of the log.
    pub fn has_damage(&self) -> bool {
        !self.core.state.lock().damage.ranges().is_empty()
    }

    /// Ranges that this disk has lost, oldest first.
    pub fn damaged(&self) -> Vec<DamagedOffsets> {
        self.core.state.lock().damage.ranges().to_vec()
    }

    /// The settings in force.
    pub fn options(&self) -> LogOptions {
        self.core.state.lock().options
    }

    /// Everything below is committed, as this log's owner has said or an earlier life has recorded: a lower bound. Only a
    /// cut lowers it.
    pub fn committed(&self) -> Offset {
        let state = self.core.state.lock();
        state.committed().max(state.start)
    }

    /// Says that everything below `committed` is committed, as far as it is in the log; retention and compaction by key go no
    /// further. It is on stable storage after the next
    /// [`Store::record_committed`](crate::store::Store::record_committed).
    pub fn set_committed(&self, committed: Offset) {
        let mut state = self.core.state.lock();
        state.protect = Some(committed);
        state.agreed = Agreed::Below(committed);
        state.note_committed(committed);
    }

    /// Keeps retention from going above `offset` (what followers or sinks still need); `None` lifts it. Not stored.
    pub fn set_protect(&self, offset: Option<Offset>) {
        self.core.state.lock().protect = offset;
    }

    /// Keeps retention and compaction by key from the whole log, whatever was said before: nobody answers for it. Not
    /// stored; [`Store::create_log`](crate::store::Store::create_log) ends it.
    pub fn hold(&self) {
        let mut state = self.core.state.lock();
        state.held = true;
        state.agreed = Agreed::Unknown;
    }

    /// Says what the cluster has agreed on, for compaction. Not stored.
    pub fn set_agreed(&self, agreed: Agreed) {
        self.core.state.lock().agreed = agreed;
    }

    /// Bytes this log keeps in memory besides cached batches, estimated.
    pub fn resident_bytes(&self) -> usize {
        self.core.resident_bytes()
    }

    /// Judges a batch that a client sent to the leader (KIP-98). Call it and append under one lock of your own.
    pub fn check_sequence(&self, stamp: ProducerStamp, record_count: u32) -> SequenceVerdict {
        self.core.state.lock().producers.check(stamp, record_count)
    }

    /// Where `epoch` ended (KIP-101).
    pub fn end_offset_for(&self, epoch: LeaderEpoch) -> EpochEnd {
        let state = self.core.state.lock();
        state.epochs.end_offset_for(epoch, state.end)
    }

    /// The newest leader epoch in the log.
    pub fn latest_epoch(&self) -> Option<EpochStart> {
        self.core.state.lock().epochs.latest()
    }

    /// The leader epoch of the record at `offset`, if known.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.core.state.lock().epochs.epoch_at(offset)
    }

    /// Batches from the one that holds `from`, whole, at least one when `limit.below` allows it. Never touches the disk:
    /// what is not in memory comes back as [`Read::Disk`].
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`], [`ReadError::Deleted`].
    pub fn read(&self, from: Offset, limit: ReadLimit) -> Result<Read, ReadError> {
        let below = {
            let state = self.core.state.lock();
            if state.deleted {
                return Err(ReadError::Deleted);
            }
            if from < state.start || from > state.end {
                return Err(ReadError::OutOfRange { start: state.start, end: state.end });
            }
            limit.below.min(state.end)
        };
        if from >= below {
            return Ok(Read::Ready(Vec::new(), from));
        }
        if let Some((batches, next)) = self.store.cache.lock().read(self.core.id, from, below, limit.bytes_max) {
            self.store.metrics.tail_cache_hits.increment();
            return Ok(Read::Ready(clipped(batches, from), next));
        }
        self.store.metrics.tail_cache_misses.increment();
        Ok(Read::Disk(DiskRead::new(self.clone(), from, limit)))
    }

    /// Opens the promise of the entry `lsn`, which the state has accepted.
    fn promise(&self, state: &mut LogState, lsn: Lsn) -> Durable {
        let durable = state.waiters.wait_for(lsn);
        // Durability may have been lost between the journal's answer and now; the sink has passed this log then.
        if let Some(lost) = self.store.sink.failure() {
            state.waiters.fail(&lost);
        }
        durable
    }

    /// After an acceptance: applies what was committed before it, and tells watchers.
    fn settle(&self, state: &mut LogState) {
        for entry in state.take_early() {
            self.store.sink.commit(&self.core, state, &entry);
        }
        self.core.publish(state);
    }
}

/// Batches from `from` on: what the first has before it goes, where that is nothing but offsets.
fn clipped(mut batches: Vec<Bytes>, from: Offset) -> Vec<Bytes> {
    if let Some(first) = batches.first_mut() {
        *first = clip_placeholder(std::mem::take(first), from);
    }
    batches
}

pub(crate) fn check_exists(state: &LogState) -> Result<(), AppendError> {
    if state.deleted { Err(AppendError::Deleted) } else { Ok(()) }
}
