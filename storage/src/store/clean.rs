//! The adapter of log compaction: reads the keys of the log that was chosen, and stores anew what the cleaner changed.
//!
//! Only what the cluster has agreed on is cleaned: below the offset that the broker tells
//! ([`PartitionLog::set_agreed`]), and never the extent that may still grow, so that the last batch of a log stays. A
//! step does a budget's worth; the keys of one log are in memory meanwhile, up to the configured bytes, and what they do
//! not cover is left to the next cleaning. How far a log is clean is kept in the index: when that is lost, all of the log
//! counts as dirty again, and no more than work is lost.
//!
//! What cannot be read, or is damaged, is left alone, and with it every tombstone above: what it deletes may be in there,
//! and come back by a repair. So a cleaning begins at the first tombstone that had to stay, as long as its keys reach the
//! part that was never cleaned.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use streambus_protocol::batch::PlacedBatch;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use super::Store;
use super::inner::StoreInner;
use crate::cleaner::{Cleaner, OffsetMap, Rules, note_keys};
use crate::error::{IndexError, ReadError};
use crate::index::{Cleaned, IndexChanges};
use crate::journal::{self, LogId};
use crate::partition_log::PartitionLog;
use crate::partition_log::options::Compaction;
use crate::partition_log::rewrite::{Stretch, WholeStretch};

mod choice;

/// What cleaning remembers between its steps.
#[derive(Debug, Default)]
pub(crate) struct Cleaning {
    job: Option<Job>,
    /// When the last look at the logs found nothing to do.
    idle_since: Option<Timestamp>,
}

/// The cleaning of one log.
#[derive(Debug)]
struct Job {
    log: LogId,
    rules: Compaction,
    /// Of the log, as it was when the job began.
    generation: u32,
    lowerings: u32,
    newest: OffsetMap,
    phase: Phase,
    /// How far the log was clean before.
    before: Cleaned,
    /// The keys from where on are noted: where the log ceases to be sound, or, when there are too many, to be clean.
    from: Offset,
    /// The next offset to look at.
    cursor: Offset,
    /// Where this cleaning ends at the latest.
    bound: Offset,
    /// The first offset that had to be left alone.
    left_alone: Offset,
    records_removed: u64,
    horizon: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Noting keys.
    Keys,
    /// Dropping records.
    Records,
}

impl Job {
    /// What is at `offset` stays as it is.
    fn leave_alone(&mut self, offset: Offset) {
        self.left_alone = self.left_alone.min(offset);
    }

    /// Below it a tombstone deletes nothing that is left in the log once this job has come there.
    fn sound_end(&self) -> Offset {
        if self.from > self.before.sound { self.before.sound } else { self.left_alone.max(self.before.sound) }
    }

    /// Goes over to dropping records, from `start` up to `bound`.
    fn begin_records(&mut self, bound: Offset, start: Offset) {
        (self.phase, self.bound, self.cursor) = (Phase::Records, bound, start);
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanOutcome {
    /// Bytes of batches read.
    pub read_bytes: u64,
    /// Bytes of batches stored anew.
    pub written_bytes: u64,
    /// Records dropped.
    pub records_removed: u64,
    /// Logs whose cleaning ended.
    pub logs_cleaned: u64,
    /// There is nothing to do until more is written, or a tombstone's time has come.
    pub is_idle: bool,
}

/// Why a step ended early. Nothing is lost: the next step goes on.
enum Stop {
    Index(IndexError),
    Journal(journal::AppendError),
    Read(ReadError),
    /// What is next is on its way to the disk.
    Moving,
}

impl From<IndexError> for Stop {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl Store {
    /// Reads and stores anew up to about `budget_bytes` of logs that are compacted, as of `now`. Blocking: reads the index
    /// and the disk. Does nothing once durability was lost.
    ///
    /// A panic in it is noted in the status; the next step begins with another look at the logs.
    pub fn clean_step(&self, now: Timestamp, budget_bytes: u64) -> CleanOutcome {
        let mut outcome = CleanOutcome::default();
        let store = &self.inner;
        if store.latch.is_set() {
            return outcome;
        }
        let mut cleaning = store.cleaning.lock();
        let stepped =
            catch_unwind(AssertUnwindSafe(|| store.clean(&mut cleaning, now, budget_bytes.max(1), &mut outcome)));
        match stepped {
            Ok(Ok(())) => {}
            Ok(Err(Stop::Moving)) => {}
            Ok(Err(Stop::Index(error))) => store.index_failed(&error),
            Ok(Err(Stop::Journal(error))) => tracing::debug!(%error, "log compaction waits"),
            Ok(Err(Stop::Read(error))) => {
                // What was noted may go on being true, but the log that cannot be read must not keep others waiting.
                cleaning.job = None;
                tracing::warn!(%error, "a log could not be read for compaction");
            }
            Err(_) => {
                *cleaning = Cleaning::default();
                store.task_panicked("log compaction");
            }
        }
        store.metrics.cleaned_bytes.add(outcome.written_bytes);
        store.metrics.records_cleaned.add(outcome.records_removed);
        outcome
    }
}

impl StoreInner {
    fn clean(
        self: &Arc<Self>,
        cleaning: &mut Cleaning,
        now: Timestamp,
        budget_bytes: u64,
        outcome: &mut CleanOutcome,
    ) -> Result<(), Stop> {
        while outcome.read_bytes < budget_bytes {
            if cleaning.job.is_none() {
                cleaning.job = self.next_job(cleaning, now)?;
            }
            let Some(job) = cleaning.job.as_mut() else {
                outcome.is_idle = true;
                return Ok(());
            };
            let core = self.sink.table.read().by_id.get(&job.log).cloned();
            let log = core.map(|core| PartitionLog::new(self.clone(), core));
            let Some(log) = log.filter(|log| {
                let state = log.core().state.lock();
                !state.held && (state.generation, state.clean.lowerings) == (job.generation, job.lowerings)
            }) else {
                // Deleted, cut or repaired: what was noted does not hold any more. Or nobody answers for the log any more.
                cleaning.job = None;
                continue;
            };
            let is_done = match job.phase {
                Phase::Keys => {
                    self.note_some(&log, job, outcome)?;
                    if job.phase == Phase::Records {
                        // Tombstones are met from now on. Should this cleaning not end, somebody has to look at them.
                        self.tell_index(&log, job, job.before.with_unknown_horizon())?;
                    }
                    false
                }
                Phase::Records => self.drop_some(&log, job, now, outcome)?,
            };
            if is_done {
                // How far a log is clean must not be known before what was dropped is: a tombstone that goes later would
                // bring back what it deleted.
                if log.core().state.lock().is_rewriting() {
                    return Ok(());
                }
                self.end_job(&log, job)?;
                outcome.logs_cleaned += 1;
                cleaning.job = None;
            }
        }
        Ok(())
    }

    /// Notes the keys of the next extent.
    fn note_some(&self, log: &PartitionLog, job: &mut Job, outcome: &mut CleanOutcome) -> Result<(), Stop> {
        let start = log.core().state.lock().durable_start;
        if job.cursor >= job.bound {
            job.begin_records(job.bound, start);
            return Ok(());
        }
        let (stretch, next) = match read_next(log, job.cursor, job.bound)? {
            Next::Whole(stretch, next) => (stretch, next),
            Next::Skip(next) => {
                job.cursor = next;
                return Ok(());
            }
            Next::Damaged(next) => {
                job.leave_alone(job.cursor);
                job.cursor = next;
                return Ok(());
            }
        };
        outcome.read_bytes += stretch.bytes();
        for bytes in &stretch.batches {
            let Ok(batch) = PlacedBatch::verify_stored(bytes.clone()) else {
                job.leave_alone(stretch.base);
                continue;
            };
            if note_keys(&batch, &mut job.newest) {
                continue;
            }
            if batch.base_offset() > job.before.end {
                job.begin_records(batch.base_offset(), start);
            } else if job.from < job.before.end {
                // Too many keys lie before what is dirty: the tombstones among them have to stay.
                job.newest = OffsetMap::new(self.config.clean_map_bytes);
                (job.from, job.cursor) = (job.before.end, job.before.end);
            } else {
                // One batch fills the map by itself: some older records of its keys stay.
                job.leave_alone(batch.base_offset());
                job.begin_records(batch.next_offset(), start);
            }
            return Ok(());
        }
        job.cursor = next;
        Ok(())
    }

    /// Cleans the next extent; true when there is none.
    fn drop_some(
        &self,
        log: &PartitionLog,
        job: &mut Job,
        now: Timestamp,
        outcome: &mut CleanOutcome,
    ) -> Result<bool, Stop> {
        if job.cursor >= job.bound {
            return Ok(true);
        }
        let (stretch, next) = match read_next(log, job.cursor, job.bound)? {
            Next::Whole(stretch, next) => self.with_neighbours(log, stretch, next, job.bound)?,
            Next::Skip(next) => {
                job.cursor = next;
                return Ok(false);
            }
            Next::Damaged(next) => {
                job.leave_alone(job.cursor);
                job.cursor = next;
                return Ok(false);
            }
        };
        outcome.read_bytes += stretch.bytes();
        let named: HashSet<Offset> = log.core().state.lock().producers.named_batches().collect();
        let names_producer = |base: Offset| named.contains(&base);
        let mut cleaner = Cleaner::new(Rules {
            newest: &job.newest,
            now,
            delete_retention_ms: job.rules.delete_retention_ms,
            names_producer: &names_producer,
            always_sound_below: job.before.sound,
            sound_below: job.sound_end(),
        });
        for bytes in &stretch.batches {
            match PlacedBatch::verify_stored(bytes.clone()) {
                Ok(batch) => cleaner.push(batch),
                // The entry's checksum covers it, so this version does not know it: the whole stretch stays.
                Err(_) => {
                    job.leave_alone(stretch.base);
                    job.cursor = next;
                    return Ok(false);
                }
            }
        }
        let cleaned = cleaner.finish();
        if cleaned.is_changed {
            let bytes = cleaned.batches.iter().map(|batch| batch.size_bytes() as u64).sum::<u64>();
            match log.store_anew(&stretch, cleaned.batches) {
                Ok(true) => outcome.written_bytes += bytes,
                // It has changed since: the next look says what it is now.
                Ok(false) => return Ok(false),
                Err(journal::AppendError::TooLarge { .. }) => {
                    job.leave_alone(stretch.base);
                    job.cursor = next;
                    return Ok(false);
                }
                Err(error) => return Err(Stop::Journal(error)),
            }
        }
        if let Some(offset) = cleaned.left_alone {
            job.leave_alone(offset);
        }
        job.records_removed += cleaned.records_removed;
        outcome.records_removed += cleaned.records_removed;
        job.horizon = [job.horizon, cleaned.horizon].into_iter().flatten().min();
        job.cursor = next;
        Ok(false)
    }

    /// Adds the small extents behind `stretch`, so that what is left of them joins; `next` is the offset after it.
    fn with_neighbours(
        &self,
        log: &PartitionLog,
        mut stretch: WholeStretch,
        mut next: Offset,
        bound: Offset,
    ) -> Result<(WholeStretch, Offset), Stop> {
        let most = u64::from(self.config.extent_bytes_max.min(self.config.queue_bytes_max / 2));
        while next < bound {
            let (behind, end) = match read_next(log, next, bound) {
                Ok(Next::Whole(behind, end)) => (behind, end),
                Ok(Next::Skip(_) | Next::Damaged(_)) | Err(Stop::Moving) => break,
                Err(stop) => return Err(stop),
            };
            match stretch.join(behind, most) {
                Ok(joined) => (stretch, next) = (joined, end),
                Err(alone) => return Ok((alone, next)),
            }
        }
        Ok((stretch, next))
    }

    fn end_job(&self, log: &PartitionLog, job: &Job) -> Result<(), Stop> {
        // One that only looked for tombstones may end below what was clean.
        let end = job.bound.max(job.before.end);
        let cleaned = Cleaned { end, sound: job.sound_end().min(end), horizon: job.horizon };
        self.tell_index(log, job, cleaned)?;
        {
            let mut state = log.core().state.lock();
            if (state.generation, state.clean.lowerings) != (job.generation, job.lowerings) {
                // It has changed meanwhile, and before a checkpoint knows that the index is told.
                return Ok(());
            }
            state.clean.finish(cleaned);
        }
        tracing::debug!(
            log = %log.partition(), %end, records = job.records_removed, keys = job.newest.len(), "a log was compacted"
        );
        Ok(())
    }

    /// Tells the index how far the log is clean, unless that has changed since the job began.
    fn tell_index(&self, log: &PartitionLog, job: &Job, cleaned: Cleaned) -> Result<(), IndexError> {
        // Checkpoints tell it of logs that have gone back: what one has told is not overruled, and one that comes later has
        // the last word.
        let _checkpoint = self.maintenance.lock();
        {
            let state = log.core().state.lock();
            if state.deleted || (state.generation, state.clean.lowerings) != (job.generation, job.lowerings) {
                return Ok(());
            }
        }
        let mut changes = IndexChanges::default();
        changes.put_cleaned(job.log, cleaned);
        self.index.write(&changes)
    }
}

/// The next extent of a log to read.
enum Next {
    /// It, and the offset after it.
    Whole(WholeStretch, Offset),
    /// The log has given up what lies below this offset.
    Skip(Offset),
    /// A part of what lies below this offset is damaged. Its keys are not known, so nothing gives way to them.
    Damaged(Offset),
}

/// Reads the extent that holds `from`, as far as it lies below `bound`.
fn read_next(log: &PartitionLog, from: Offset, bound: Offset) -> Result<Next, Stop> {
    let end = match log.extent_end(from) {
        Ok(end) => end.min(bound),
        Err(ReadError::Index(error)) => return Err(error.into()),
        // Trimmed meanwhile.
        Err(ReadError::OutOfRange { start, .. }) if start > from => return Ok(Next::Skip(start.min(bound))),
        Err(error) => return Err(Stop::Read(error)),
    };
    match log.read_stretch(from, end) {
        Ok(Stretch::Whole(stretch)) => {
            let next = stretch.next;
            Ok(Next::Whole(stretch, next))
        }
        Ok(Stretch::Gone) => Ok(Next::Skip(end)),
        Ok(Stretch::Damaged) => Ok(Next::Damaged(end)),
        Ok(Stretch::Moving) => Err(Stop::Moving),
        Err(ReadError::Index(error)) => Err(error.into()),
        Err(error) => Err(Stop::Read(error)),
    }
}
