//! Recovery's second half: entries replayed by the journal, applied to the logs of the checkpoint.
//!
//! A checkpoint includes, log by log, entries up to some number; those are not applied again, but their extents are
//! remembered, because the index may lack them. What damage took shows as a jump in a log's offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::ids::PartitionId;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use super::commit_sink::CommitSink;
use super::maintenance::spill_extents;
use super::settle::settle_rewritten;
use crate::checkpoint::{Checkpoint, decode_partition, encode_partition};
use crate::epoch_cache::EpochStart;
use crate::error::IndexError;
use crate::index::Index;
use crate::journal::{CommittedEntry, DamagedRange, EntryKind, LogId, Lsn, ReplayDecision, ReplayedEntry};
use crate::partition_log::log_core::LogCore;
use crate::partition_log::options::LogOptions;
use crate::partition_log::state::LogState;
use crate::producer_state::recall;
use crate::stored::Fields;

/// The payload of a [`EntryKind::LogCreated`] entry: the partition, then its options.
pub(crate) fn encode_creation(partition: PartitionId, options: LogOptions) -> Bytes {
    let mut payload = Vec::with_capacity(40);
    encode_partition(partition, &mut payload);
    options.encode(&mut payload);
    payload.into()
}

/// Reads it back.
pub(crate) fn decode_creation(payload: &[u8]) -> Option<(PartitionId, LogOptions)> {
    let mut fields = Fields::new(payload);
    let creation = (decode_partition(&mut fields)?, LogOptions::decode(&mut fields)?);
    fields.is_empty().then_some(creation)
}

/// Applies replayed entries.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    sink: &'a CommitSink,
    index: &'a Index,
    extents_max: usize,
    now: Timestamp,
    /// Logs below this number that the checkpoint does not have were deleted before it.
    known_logs: LogId,
    /// Logs whose size must be counted anew: replay does not know what a cut took from the index.
    resized: BTreeSet<LogId>,
    /// The last entry that said where a log ends: trims and repairs come behind damage and do not show it.
    end_known: BTreeMap<LogId, Lsn>,
    /// Entries of logs whose creation was lost to damage.
    pub(crate) orphans: u64,
    /// Why replay was stopped, when it was the index.
    pub(crate) index_failure: Option<IndexError>,
}

impl<'a> Replay<'a> {
    /// Fills the table from `checkpoint` and gets ready for the entries behind it.
    pub(crate) fn new(
        sink: &'a CommitSink,
        index: &'a Index,
        extents_max: usize,
        now: Timestamp,
        checkpoint: Option<Checkpoint>,
    ) -> Self {
        let mut known_logs = LogId::ZERO;
        if let Some(checkpoint) = checkpoint {
            let mut table = sink.table.write();
            known_logs = checkpoint.next_log;
            table.next = checkpoint.next_log;
            for snapshot in checkpoint.logs {
                let (log, partition) = (snapshot.log, snapshot.partition);
                table.insert(Arc::new(LogCore::new(log, partition, LogState::restore(snapshot))));
            }
        }
        Self {
            sink,
            index,
            extents_max,
            now,
            known_logs,
            resized: BTreeSet::new(),
            end_known: BTreeMap::new(),
            orphans: 0,
            index_failure: None,
        }
    }

    /// Applies one entry.
    pub(crate) fn apply(&mut self, replayed: ReplayedEntry) -> ReplayDecision {
        let ReplayedEntry { entry, payload } = replayed;
        match entry.kind {
            EntryKind::LogCreated => return self.create(&entry, &payload),
            EntryKind::LogDeleted => self.delete(entry.log),
            EntryKind::Batch
            | EntryKind::Truncate
            | EntryKind::Trim
            | EntryKind::EpochStart
            | EntryKind::Checkpoint
            | EntryKind::Repair
            | EntryKind::Rewrite => {
                let core = self.sink.table.read().by_id.get(&entry.log).cloned();
                match core {
                    Some(core) => return self.apply_to(&core, &entry, payload),
                    None if entry.log >= self.known_logs && entry.log >= self.sink.table.read().next => {
                        self.orphans += 1;
                        // Its number is taken: another log under it would be given these records when the index is rebuilt.
                        let mut table = self.sink.table.write();
                        table.next = table.next.max(entry.log.next());
                    }
                    None => {}
                }
            }
        }
        ReplayDecision::Continue
    }

    fn create(&mut self, entry: &CommittedEntry, payload: &[u8]) -> ReplayDecision {
        let Some((partition, options)) = decode_creation(payload) else {
            return ReplayDecision::Stop(format!(
                "the creation of log {} does not decode; a newer version may have written it",
                entry.log
            ));
        };
        let mut table = self.sink.table.write();
        if entry.log < self.known_logs || table.by_id.contains_key(&entry.log) {
            return ReplayDecision::Continue;
        }
        // Its deletion was lost to damage; a partition has one log.
        if let Some(old) = table.by_partition.remove(&partition) {
            table.by_id.remove(&old.id);
            self.sink.doom(old.id);
        }
        table.insert(Arc::new(LogCore::new(entry.log, partition, LogState::new(entry.lsn, options))));
        ReplayDecision::Continue
    }

    fn delete(&mut self, log: LogId) {
        let mut table = self.sink.table.write();
        if let Some(core) = table.by_id.remove(&log) {
            table.by_partition.remove(&core.partition);
            core.state.lock().deleted = true;
            self.sink.doom(log);
        }
    }

    fn apply_to(&mut self, core: &LogCore, entry: &CommittedEntry, payload: Bytes) -> ReplayDecision {
        let mut state = core.state.lock();
        if entry.lsn <= state.accepted() {
            self.rebuild(core, &mut state, entry);
            drop(state);
            return self.spill();
        }
        // The checkpoint knows the end even where the truncation that made it is lost to damage.
        let end = state.end;
        state.extents.cut_to(end);
        // A trim above the end may have begun the log anew there, or the batches that it cut into were lost to damage.
        let says_end = matches!(entry.kind, EntryKind::Batch | EntryKind::Truncate | EntryKind::EpochStart);
        let known = if says_end { entry.lsn } else { state.accepted() };
        let last = self.end_known.entry(core.id).or_insert(known);
        if says_end {
            *last = entry.lsn;
        }
        match entry.kind {
            EntryKind::Batch => {
                let Ok(batch) = PlacedBatch::verify_stored(payload) else {
                    return ReplayDecision::Stop(format!(
                        "a batch of {} at offset {} is no record batch this version knows",
                        core.partition, entry.base
                    ));
                };
                if batch.base_offset() > state.end {
                    self.lost(core, &mut state, batch.base_offset());
                } else if batch.base_offset() < state.end {
                    // The truncation before it was lost to damage.
                    state.cut_for_replay(batch.base_offset());
                    self.resized.insert(core.id);
                }
                state.accept_batch(entry.lsn, &batch, self.now, self.sink.limits);
            }
            EntryKind::Truncate => {
                // Below the start nothing stays.
                let Some(recalled) = recall::decode(&payload) else {
                    return ReplayDecision::Stop(format!(
                        "what a truncation of {} at offset {} says of producers is nothing this version knows",
                        core.partition, entry.base
                    ));
                };
                if entry.base > state.end {
                    // Nothing is cut above the end: what lay up to there was lost to damage.
                    self.lost(core, &mut state, entry.base);
                }
                match entry.base < state.start {
                    true => state.accept_restart_below(entry.lsn, entry.base, 0),
                    false => state.accept_truncate(entry.lsn, entry.base, 0, &recalled),
                }
                self.resized.insert(core.id);
            }
            EntryKind::Trim => {
                state.accept_trim(entry.lsn, entry.base, 0);
                self.resized.insert(core.id);
            }
            EntryKind::EpochStart => {
                if entry.base > state.end {
                    self.lost(core, &mut state, entry.base);
                }
                state.accept_epoch(entry.lsn, EpochStart { epoch: entry.epoch, start: entry.base });
            }
            EntryKind::Repair => {
                let next = entry.last.next().unwrap_or(Offset::MAX);
                state.accept_repair(entry.lsn, entry.base, next);
            }
            EntryKind::Rewrite => {
                state.replay_rewrite(entry.lsn, entry.last.next().unwrap_or(Offset::MAX));
                // It may be smaller than what the index still names.
                self.resized.insert(core.id);
            }
            EntryKind::Checkpoint => state.accept_committed(entry.lsn, entry.base),
            EntryKind::LogCreated | EntryKind::LogDeleted => {}
        }
        self.sink.commit(core, &mut state, entry);
        drop(state);
        self.spill()
    }

    /// The state includes the entry; the index may not.
    fn rebuild(&mut self, core: &LogCore, state: &mut LogState, entry: &CommittedEntry) {
        match entry.kind {
            EntryKind::Batch => {
                if state.rebuild_extent(entry, self.sink.limits) {
                    self.sink.extent_added();
                }
            }
            EntryKind::Truncate => state.rebuild_truncation(entry.base),
            EntryKind::Trim => state.rebuild_trim(entry.base),
            EntryKind::Repair => state.extents.seal(),
            EntryKind::Rewrite => {
                state.clean.replayed(entry.last.next().unwrap_or(Offset::MAX));
                if state.rebuild_rewrite(entry, self.sink.limits) {
                    self.sink.extent_added();
                }
                self.resized.insert(core.id);
            }
            EntryKind::EpochStart | EntryKind::LogCreated | EntryKind::LogDeleted | EntryKind::Checkpoint => {}
        }
    }

    fn lost(&self, core: &LogCore, state: &mut LogState, next: Offset) {
        tracing::error!(
            log = %core.partition, base = %state.end, next = %next,
            "recovery found a hole: these offsets are damaged on this disk"
        );
        self.sink.metrics.damage_found.increment();
        state.gap_for_replay(next);
    }

    fn spill(&mut self) -> ReplayDecision {
        match spill_extents(self.sink, self.index, self.extents_max) {
            Ok(()) => ReplayDecision::Continue,
            Err(error) => {
                let problem = error.to_string();
                self.index_failure = Some(error);
                ReplayDecision::Stop(problem)
            }
        }
    }

    /// Uses what the journal knows of damage: a log whose last batch is damaged does not end before it. Returns the
    /// damage that could be any log's.
    pub(crate) fn attribute(&self, damaged: &[DamagedRange]) -> Vec<DamagedRange> {
        let mut unattributed = Vec::new();
        for range in damaged {
            let Some(entry) = range.entry else {
                if range.next_lsn != Some(range.base_lsn) {
                    unattributed.push(range.clone());
                }
                continue;
            };
            let Some(core) = self.sink.table.read().by_id.get(&entry.log).cloned() else { continue };
            let mut state = core.state.lock();
            let Some(next) = entry.last.next() else { continue };
            // Entries of the log that came later have shown the hole already.
            let end_known = self.end_known.get(&entry.log).copied().unwrap_or_else(|| state.accepted());
            if entry.kind == EntryKind::Batch && range.base_lsn > end_known && next > state.end {
                self.lost(&core, &mut state, next);
                core.publish(&state);
            }
        }
        unattributed
    }

    /// Counts the size of logs that were cut or trimmed, and tells how many extents are in memory.
    pub(crate) fn finish(&self) -> Result<(), IndexError> {
        // Sizes are those of what the index names.
        settle_rewritten(self.sink, self.index)?;
        let mut extents = 0;
        for core in self.sink.table.read().by_id.values() {
            let mut state = core.state.lock();
            let end = state.end;
            state.extents.cut_to(end);
            extents += state.extents.len() + state.rewritten.as_slice().len();
            if !self.resized.contains(&core.id) {
                continue;
            }
            let mut bytes: u64 = state.extents.as_slice().iter().map(|extent| u64::from(extent.batch_bytes)).sum();
            let (start, index_end) = (state.start, state.index_end());
            self.index.extents(core.id, Offset::ZERO, |extent| {
                if extent.base >= index_end {
                    return ControlFlow::Break(());
                }
                if extent.next > start {
                    bytes += u64::from(extent.batch_bytes);
                }
                ControlFlow::Continue(())
            })?;
            state.size_bytes = bytes;
        }
        self.sink.set_extents(extents);
        Ok(())
    }
}
