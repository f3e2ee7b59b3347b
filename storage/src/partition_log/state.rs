//! Everything one log remembers, as a plain state machine: entries are *accepted* when the journal has given them a
//! number and *committed* when they are on stable storage; recovery replays both steps.
//!
//! ```text
//!   start  <=  synced_end  <=  end
//!     |----------|---------------|
//!      readable   readable, not
//!      for ever   yet durable
//! ```
//! Only while a restart elsewhere is on its way to the disk, `synced_end` still lies in the old life, below `start`.
//!
//! The journal may report an entry as committed before the appender has returned to accept it; such entries wait in
//! `early`. So every entry is accepted first and committed second, in the journal's order.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use streambus_planted::{Defect, is_planted};
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::ids::PartitionId;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::Durability;

use crate::checkpoint::LogSnapshot;
use crate::epoch_cache::EpochCache;
use crate::error::DurabilityLost;
use crate::index::Extent;
use crate::journal::{CommittedEntry, EntryKind, LogId, Lsn};
use crate::partition_log::Agreed;
use crate::partition_log::clean_state::CleanState;
use crate::partition_log::damage::DamageMap;
use crate::partition_log::durable::Waiters;
use crate::partition_log::extents::MemoryExtents;
use crate::partition_log::options::LogOptions;
use crate::partition_log::overlay::OverlayExtents;
use crate::producer_state::ProducerTable;
use crate::producer_state::recall::Recalled;

/// Bounds that a log's state needs from the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    pub(crate) extent_bytes_max: u32,
    pub(crate) producers_max: usize,
}

/// The state of one log. Its owner puts it behind a short lock.
#[derive(Debug)]
pub(crate) struct LogState {
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    /// The start as of the last committed entry: data below it may be given away for good.
    pub(crate) durable_start: Offset,
    pub(crate) synced_end: Offset,
    /// The last entry accepted.
    accepted: Lsn,
    /// Every entry below it is committed.
    committed_end: Lsn,
    pub(crate) size_bytes: u64,
    pub(crate) options: LogOptions,
    /// Retention never goes above it.
    pub(crate) protect: Option<Offset>,
    /// Nobody answers for the log: retention and compaction by key leave it as it is.
    pub(crate) held: bool,
    /// Everything below it is committed, as the log's owner said: a lower bound that only a cut lowers.
    committed: Offset,
    /// What of it is in the journal.
    recorded: Offset,
    pub(crate) epochs: EpochCache,
    pub(crate) producers: ProducerTable,
    pub(crate) damage: DamageMap,
    pub(crate) extents: MemoryExtents,
    /// Batches stored anew; looked up before everything else.
    pub(crate) repaired: OverlayExtents,
    /// Batches that compaction stored anew and the index does not name yet; looked up after damage, before extents.
    pub(crate) rewritten: OverlayExtents,
    /// Rewritten batches accepted and not yet committed.
    rewriting: VecDeque<Anew>,
    /// Repairs accepted and not yet committed.
    repairing: VecDeque<Anew>,
    /// How many batches were stored anew, or repaired: whoever reads to do so looks whether somebody else has.
    pub(crate) rewrites: u64,
    pub(crate) clean: CleanState,
    /// What may be compacted.
    pub(crate) agreed: Agreed,
    /// Truncations accepted and not yet committed: batches committed before them count only below the new end.
    cuts: VecDeque<(Lsn, Offset)>,
    /// Batches accepted, not yet committed and not given up.
    in_flight: VecDeque<InFlight>,
    /// Grows with each truncation: a reader that saw another value reads again.
    pub(crate) generation: u32,
    pub(crate) deleted: bool,
    early: Vec<CommittedEntry>,
    pub(crate) waiters: Waiters,
}

/// A batch on its way to the disk.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    lsn: Lsn,
    next: Offset,
    bytes: u64,
}

/// A batch on its way to the disk that takes the place of others.
#[derive(Clone, Copy, Debug)]
struct Anew {
    lsn: Lsn,
    base: Offset,
    next: Offset,
}

/// What a committed entry changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommitEffect {
    /// A new extent is held in memory.
    pub(crate) extent_added: bool,
    /// The durable start moved: extents below it may leave the index.
    pub(crate) start_moved: bool,
}

impl LogState {
    /// An empty log, created by the entry `lsn`.
    pub(crate) fn new(lsn: Lsn, options: LogOptions) -> Self {
        Self {
            start: Offset::ZERO,
            end: Offset::ZERO,
            durable_start: Offset::ZERO,
            synced_end: Offset::ZERO,
            accepted: lsn,
            committed_end: lsn,
            size_bytes: 0,
            options,
            protect: None,
            held: false,
            committed: Offset::ZERO,
            recorded: Offset::ZERO,
            epochs: EpochCache::new(),
            producers: ProducerTable::new(),
            damage: DamageMap::default(),
            extents: MemoryExtents::default(),
            repaired: OverlayExtents::default(),
            rewritten: OverlayExtents::default(),
            rewriting: VecDeque::new(),
            repairing: VecDeque::new(),
            rewrites: 0,
            clean: CleanState::default(),
            agreed: Agreed::Unknown,
            cuts: VecDeque::new(),
            in_flight: VecDeque::new(),
            generation: 0,
            deleted: false,
            early: Vec::new(),
            waiters: Waiters::default(),
        }
    }

    /// The state that a checkpoint remembers.
    pub(crate) fn restore(snapshot: LogSnapshot) -> Self {
        Self {
            start: snapshot.start,
            end: snapshot.end,
            durable_start: snapshot.start,
            synced_end: snapshot.end,
            size_bytes: snapshot.size_bytes,
            epochs: snapshot.epochs,
            producers: snapshot.producers,
            damage: DamageMap::from_ranges(snapshot.damaged),
            repaired: OverlayExtents::from_stored(snapshot.repaired),
            committed: snapshot.committed,
            recorded: snapshot.committed,
            ..Self::new(snapshot.applied, snapshot.options)
        }
    }

    /// The state for a checkpoint: everything accepted, which the caller waits to become durable.
    pub(crate) fn snapshot(&self, log: LogId, partition: PartitionId) -> LogSnapshot {
        // Replay skips what the snapshot includes, so it includes its bytes.
        let kept = self.in_flight.iter().filter(|batch| batch.next > self.start);
        let in_flight_bytes: u64 = kept.map(|batch| batch.bytes).sum();
        LogSnapshot {
            log,
            partition,
            applied: self.accepted,
            start: self.start,
            end: self.end,
            size_bytes: self.size_bytes + in_flight_bytes,
            options: self.options,
            epochs: self.epochs.clone(),
            damaged: self.damage.ranges().to_vec(),
            producers: self.producers.clone(),
            repaired: self.repaired.as_slice().to_vec(),
            committed: self.committed().max(self.start),
        }
    }

    /// The last entry this state includes.
    pub(crate) fn accepted(&self) -> Lsn {
        self.accepted
    }

    /// Where the index ends: what it holds at or above this offset is left over from a truncation or a crash and means
    /// nothing. Below it, everything durable is in the index; from it on, in memory.
    pub(crate) fn index_end(&self) -> Offset {
        self.extents.first_base().unwrap_or(self.synced_end)
    }

    /// What an acknowledgement may count on: the synced end, or the log end where the topic asks for no more.
    pub(crate) fn acked_end(&self) -> Offset {
        match self.options.durability {
            Durability::Sync => self.durable_end(),
            Durability::Async => self.end,
        }
    }

    /// The end of what is taken for being on stable storage.
    pub(crate) fn durable_end(&self) -> Offset {
        if is_planted(Defect::AckBeforeSync) { self.end } else { self.synced_end }
    }

    /// Everything below is known to be committed, and in the log.
    pub(crate) fn committed(&self) -> Offset {
        self.committed.min(self.end)
    }

    /// Everything below `committed` is committed. An older word changes nothing.
    pub(crate) fn note_committed(&mut self, committed: Offset) {
        self.committed = self.committed.max(committed);
    }

    /// What is to be recorded of it: no more than is on stable storage, and only when that is news.
    pub(crate) fn unrecorded(&self) -> Option<Offset> {
        let known = self.committed.min(self.synced_end);
        (known > self.recorded && !self.deleted).then_some(known)
    }

    /// A record of what is committed has its place in the journal.
    pub(crate) fn accept_committed(&mut self, lsn: Lsn, committed: Offset) {
        self.advance(lsn);
        // Damage may have taken what it speaks of.
        let committed = committed.min(self.end);
        self.note_committed(committed);
        self.recorded = self.recorded.max(committed);
    }

    /// A batch has its place in the journal.
    pub(crate) fn accept_batch(&mut self, lsn: Lsn, batch: &PlacedBatch, now: Timestamp, limits: LogLimits) {
        assert!(batch.base_offset() >= self.end, "a log never goes back without a truncation");
        self.advance(lsn);
        self.epochs.assign(batch.leader_epoch(), batch.base_offset());
        // Control batches carry a producer and no sequence.
        if let Some(stamp) = batch.producer().filter(|stamp| stamp.base_sequence.get() >= 0) {
            self.producers.accept(stamp, sequences_of(batch), batch.base_offset(), now, limits.producers_max);
        }
        self.end = batch.next_offset();
        self.in_flight.push_back(InFlight { lsn, next: self.end, bytes: batch.size_bytes() as u64 });
    }

    /// The log was cut at `end`, a batch boundary. `index_bytes` are the batch bytes it loses from the index, and
    /// `recalled` what it has of producers below.
    pub(crate) fn accept_truncate(&mut self, lsn: Lsn, end: Offset, index_bytes: u64, recalled: &[Recalled]) {
        assert!(end >= self.start, "a truncation keeps the log start");
        self.advance(lsn);
        self.cut(end, index_bytes);
        self.producers.recall(recalled);
        self.cuts.push_back((lsn, end));
    }

    /// Nothing of the log stays, and it goes on at `at`, below its start. `index_bytes` are the batch bytes it loses from the
    /// index.
    pub(crate) fn accept_restart_below(&mut self, lsn: Lsn, at: Offset, index_bytes: u64) {
        assert!(at < self.start, "a cut within the log is a truncation");
        self.advance(lsn);
        self.cut(at, index_bytes);
        // What is trimmed from the index from now on is trimmed from the new life.
        self.durable_start = at;
        self.epochs = EpochCache::new();
        self.producers = ProducerTable::new();
        self.cuts.push_back((lsn, at));
        assert!(self.start == at && self.end == at && self.synced_end <= at, "the log is empty where it goes on");
    }

    /// Replay met a batch that starts before the log's end: the truncation between them was lost to damage.
    pub(crate) fn cut_for_replay(&mut self, end: Offset) {
        self.cut(end, 0);
    }

    /// Replay met a batch that starts after the log's end: what lay between was lost to damage.
    pub(crate) fn gap_for_replay(&mut self, next: Offset) {
        debug_assert!(next > self.end);
        self.damage.add(self.end, next);
        self.end = next;
        self.synced_end = next;
    }

    /// The log starts at `start` from now on; when that is above its end, it is empty and goes on there. `index_bytes`
    /// are the batch bytes it loses from the index.
    pub(crate) fn accept_trim(&mut self, lsn: Lsn, start: Offset, index_bytes: u64) {
        self.advance(lsn);
        self.start = self.start.max(start);
        self.size_bytes = self.size_bytes.saturating_sub(self.extents.trim(start) + index_bytes);
        self.damage.trim(self.start);
        self.repaired.trim(self.start);
        self.rewritten.trim(self.start);
        if self.start > self.end {
            // Restart elsewhere, where nothing of the old life would join what comes: none of it stays.
            // It is durable there once this entry is: a crash before brings the old life back.
            self.end = self.start;
            (self.committed, self.recorded) = (self.start, self.start);
            self.give_up_in_flight(|_| true);
            self.epochs = EpochCache::new();
            self.producers = ProducerTable::new();
            self.generation = self.generation.wrapping_add(1);
        } else {
            self.epochs.trim(self.start);
        }
        assert!(self.start <= self.end && self.synced_end <= self.end, "the ends of a log are in order");
    }

    /// A leadership began at the log end.
    pub(crate) fn accept_epoch(&mut self, lsn: Lsn, start: crate::epoch_cache::EpochStart) {
        self.advance(lsn);
        self.epochs.assign(start.epoch, start.start);
        if is_planted(Defect::DedupeLostOnFailover) {
            self.producers = ProducerTable::new();
        }
    }

    /// A batch stored anew has its place in the journal. A cleaning under way ends, or it could drop a tombstone whose
    /// record this brings back.
    pub(crate) fn accept_repair(&mut self, lsn: Lsn, base: Offset, next: Offset) {
        self.advance(lsn);
        self.clean.lower(base.max(self.start));
        self.rewrites += 1;
        self.repairing.push_back(Anew { lsn, base, next });
    }

    /// The offsets of repairs on their way to the disk, which a snapshot does not know of.
    pub(crate) fn repairing(&self) -> Vec<Range<Offset>> {
        self.repairing.iter().map(|batch| batch.base..batch.next).collect()
    }

    /// A batch that compaction stores anew has its place in the journal.
    pub(crate) fn accept_rewrite(&mut self, lsn: Lsn, base: Offset, next: Offset) {
        assert!(base < next && next <= self.synced_end, "only what is durable is stored anew");
        self.advance(lsn);
        self.rewriting.push_back(Anew { lsn, base, next });
        self.rewrites += 1;
    }

    /// A batch that compaction stored anew has its place in the journal, says replay.
    pub(crate) fn replay_rewrite(&mut self, lsn: Lsn, next: Offset) {
        self.advance(lsn);
        self.clean.replayed(next);
    }

    /// True while rewritten batches are on their way to the disk.
    pub(crate) fn is_rewriting(&self) -> bool {
        !self.rewriting.is_empty()
    }

    /// True while some of `base..next` is on its way to the disk.
    pub(crate) fn is_rewriting_within(&self, base: Offset, next: Offset) -> bool {
        self.rewriting.iter().any(|batch| batch.base < next && base < batch.next)
    }

    /// The offsets of the rewritten batches on their way to the disk. A cut within one of them would leave a different log
    /// than replay, which cannot look into it. One that an earlier cut took is no part of the log any more, whatever has its
    /// offsets now.
    pub(crate) fn rewriting_batches(&self) -> Vec<Range<Offset>> {
        let is_gone = |batch: &Anew| self.cuts.iter().any(|(lsn, end)| *lsn > batch.lsn && *end < batch.next);
        self.rewriting.iter().filter(|batch| !is_gone(batch)).map(|batch| batch.base..batch.next).collect()
    }

    /// Where the index ends for whoever gives space away: a truncation that is not durable yet may be undone by a crash,
    /// so that everything in the index may still be needed.
    pub(crate) fn settled_end(&self) -> Offset {
        if self.cuts.is_empty() { self.index_end() } else { Offset::MAX }
    }

    /// The deletion has its place in the journal.
    pub(crate) fn accept_deletion(&mut self, lsn: Lsn) {
        self.advance(lsn);
        self.deleted = true;
    }

    /// An entry is on stable storage. `None` when it has not been accepted yet: it waits for [`Self::take_early`].
    pub(crate) fn commit(&mut self, entry: &CommittedEntry, limits: LogLimits) -> Option<CommitEffect> {
        if entry.lsn > self.accepted {
            self.early.push(*entry);
            return None;
        }
        assert!(entry.lsn >= self.committed_end, "the journal reports each entry once and in order");
        self.committed_end = entry.lsn.next();
        let mut effect = CommitEffect::default();
        match entry.kind {
            EntryKind::Batch => effect.extent_added = self.commit_batch(entry, limits),
            EntryKind::Trim => {
                self.durable_start = self.durable_start.max(entry.base).min(self.start);
                self.synced_end = self.synced_end.max(self.durable_start);
                effect.start_moved = true;
            }
            // Batches before it were committed after the cut was accepted: none behind it may join their extent.
            EntryKind::Truncate => self.extents.seal(),
            EntryKind::Repair => self.commit_repair(entry, limits),
            EntryKind::Rewrite => effect.extent_added = self.commit_rewrite(entry, limits),
            EntryKind::EpochStart | EntryKind::LogCreated | EntryKind::LogDeleted | EntryKind::Checkpoint => {}
        }
        while self.cuts.front().is_some_and(|(lsn, _)| *lsn <= entry.lsn) {
            self.cuts.pop_front();
        }
        if self.cuts.is_empty() {
            self.cuts = VecDeque::new();
        }
        while self.in_flight.front().is_some_and(|batch| batch.lsn <= entry.lsn) {
            self.in_flight.pop_front();
        }
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        for anew in [&mut self.rewriting, &mut self.repairing] {
            while anew.front().is_some_and(|batch| batch.lsn <= entry.lsn) {
                anew.pop_front();
            }
            if anew.is_empty() {
                *anew = VecDeque::new();
            }
        }
        self.waiters.committed(entry.lsn);
        assert!(self.synced_end <= self.end, "nothing is durable behind the log end");
        Some(effect)
    }

    /// The entries that were committed before they were accepted, in order.
    pub(crate) fn take_early(&mut self) -> Vec<CommittedEntry> {
        std::mem::take(&mut self.early)
    }

    /// Remembers where a batch lies that the state has included already: replay fills the index again.
    pub(crate) fn rebuild_extent(&mut self, entry: &CommittedEntry, limits: LogLimits) -> bool {
        // A truncation before it may be lost to damage.
        self.extents.cut_to(entry.base);
        self.rewritten.truncate(entry.base);
        match entry.last.next() {
            Some(next) if next > self.start => self.extents.push(entry, next, limits.extent_bytes_max),
            _ => false,
        }
    }

    /// Replay met the truncation to `end` that the state has included already.
    pub(crate) fn rebuild_truncation(&mut self, end: Offset) {
        self.extents.truncate(end);
        self.rewritten.truncate(end);
    }

    /// Replay met the trim to `start` that the state has included already.
    pub(crate) fn rebuild_trim(&mut self, start: Offset) {
        self.extents.trim(start);
        self.rewritten.trim(start);
    }

    /// Forgets silent producers; returns how many.
    pub(crate) fn expire_producers(&mut self, now: Timestamp, expiry: Duration) -> usize {
        self.producers.expire(now, expiry)
    }

    /// Bytes on the heap, estimated.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.extents.heap_bytes()
            + self.producers.heap_bytes()
            + self.in_flight.capacity() * size_of::<InFlight>()
            + self.waiters.heap_bytes()
            + size_of_val(self.epochs.starts())
            + size_of_val(self.damage.ranges())
            + size_of_val(self.repaired.as_slice())
            + size_of_val(self.rewritten.as_slice())
            + (self.rewriting.capacity() + self.repairing.capacity()) * size_of::<Anew>()
    }

    fn cut(&mut self, end: Offset, index_bytes: u64) {
        self.end = self.end.min(end);
        self.synced_end = self.synced_end.min(end);
        self.start = self.start.min(end);
        (self.committed, self.recorded) = (self.committed.min(end), self.recorded.min(end));
        self.size_bytes = self.size_bytes.saturating_sub(self.extents.truncate(end) + index_bytes);
        self.epochs.truncate(end);
        self.producers.truncate(end);
        self.damage.truncate(end);
        self.repaired.truncate(end);
        self.rewritten.truncate(end);
        self.clean.lower(end);
        self.give_up_in_flight(|batch| batch.next > end);
        self.generation = self.generation.wrapping_add(1);
    }

    /// Nobody is told that these batches are durable: what the disk has of them is no part of the log any more.
    fn give_up_in_flight(&mut self, given_up: impl Fn(&InFlight) -> bool) {
        let waiters = &mut self.waiters;
        self.in_flight.retain(|batch| {
            let given_up = given_up(batch);
            if given_up {
                waiters.fail_one(batch.lsn, &DurabilityLost::Truncated);
            }
            !given_up
        });
    }

    fn commit_batch(&mut self, entry: &CommittedEntry, limits: LogLimits) -> bool {
        let Some(next) = entry.last.next() else { return false };
        // A cut lies on a batch boundary, or at a log start within a batch, which then goes as a whole.
        let cut = self.cuts.iter().any(|(lsn, end)| *lsn > entry.lsn && *end < next);
        if cut || next > self.end {
            // Given up while it was on its way to the disk.
            return false;
        }
        if next <= self.start {
            // Trimmed while it was on its way: on the disk, and not to be found there.
            self.synced_end = self.synced_end.max(next);
            return false;
        }
        self.synced_end = next;
        self.size_bytes += u64::from(entry.payload_bytes());
        self.extents.push(entry, next, limits.extent_bytes_max)
    }

    fn commit_repair(&mut self, entry: &CommittedEntry, limits: LogLimits) {
        let Some(extent) = self.stored_anew(entry) else { return };
        self.repaired.insert(extent, limits.extent_bytes_max);
        self.damage.remove(extent.base, extent.next);
        self.clean.lower(extent.base);
        self.epochs.learn(entry.epoch, entry.base.max(self.start));
    }

    fn commit_rewrite(&mut self, entry: &CommittedEntry, limits: LogLimits) -> bool {
        if let Some(extent) = self.stored_anew(entry) {
            // It was proven when it was copied, whatever has become of the places that it was copied from.
            self.repaired.forget(extent.base, extent.next);
            self.damage.remove(extent.base, extent.next);
        }
        self.rebuild_rewrite(entry, limits)
    }

    /// Remembers where a rewritten batch lies; true when that is a new extent.
    pub(crate) fn rebuild_rewrite(&mut self, entry: &CommittedEntry, limits: LogLimits) -> bool {
        let Some(extent) = self.stored_anew(entry) else { return false };
        let held = self.rewritten.as_slice().len();
        self.rewritten.insert(extent, limits.extent_bytes_max);
        self.rewritten.as_slice().len() > held
    }

    /// The extent of a batch that was stored anew; `None` when the log has given its offsets up meanwhile.
    fn stored_anew(&mut self, entry: &CommittedEntry) -> Option<Extent> {
        // An extent that grew over it would hold two batches of the same offsets.
        self.extents.seal();
        let next = entry.last.next()?;
        let cut = self.cuts.iter().any(|(lsn, end)| *lsn > entry.lsn && *end < next);
        if cut || next > self.end || next <= self.start {
            return None;
        }
        Some(Extent {
            base: entry.base,
            next,
            segment: entry.location.segment,
            position: u64::from(entry.location.position),
            length: entry.location.length,
            batch_bytes: entry.payload_bytes(),
            max_timestamp: entry.max_timestamp,
        })
    }

    fn advance(&mut self, lsn: Lsn) {
        assert!(lsn > self.accepted, "entries of one log are accepted in the journal's order");
        self.accepted = lsn;
    }
}

/// The sequence numbers that a batch takes, also of records that compaction has taken from it.
pub(crate) fn sequences_of(batch: &PlacedBatch) -> u32 {
    let offsets = batch.base_offset().distance_to(batch.next_offset()).and_then(|count| u32::try_from(count).ok());
    offsets.unwrap_or_else(|| batch.record_count()).max(1)
}

#[cfg(test)]
mod tests;
