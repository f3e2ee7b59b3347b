//! Which log is cleaned next: the one with the largest dirty share above its topic's threshold, or one with a tombstone
//! whose time has come.

use std::ops::ControlFlow;
use std::sync::Arc;

use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use super::super::settle::settle_rewritten;
use super::{Cleaning, Job, Phase, Stop};
use crate::cleaner::OffsetMap;
use crate::error::IndexError;
use crate::index::{Cleaned, Extent};
use crate::partition_log::Agreed;
use crate::partition_log::log_core::LogCore;
use crate::partition_log::options::Compaction;
use crate::store::inner::StoreInner;

/// What could be cleaned of one log.
#[derive(Clone, Copy, Debug, Default)]
struct Survey {
    clean_bytes: u64,
    dirty_bytes: u64,
    /// The end of the dirty part that may be cleaned now.
    bound: Offset,
}

impl StoreInner {
    /// Chooses, unless nothing was found to do a short while ago.
    pub(super) fn next_job(&self, cleaning: &mut Cleaning, now: Timestamp) -> Result<Option<Job>, Stop> {
        let pause_ms = i64::try_from(self.config.clean_pause.as_millis()).unwrap_or(i64::MAX);
        let since = cleaning.idle_since.map(|since| now.as_millis().saturating_sub(since.as_millis()));
        if since.is_some_and(|elapsed| (0..pause_ms).contains(&elapsed)) {
            return Ok(None);
        }
        let mut logs: Vec<(Arc<LogCore>, Compaction)> = Vec::new();
        let mut is_waiting = false;
        for core in self.sink.table.read().by_id.values() {
            let state = core.state.lock();
            match state.options.compaction {
                _ if state.held => {}
                // Soon after a start: nobody has said yet what was agreed on.
                Some(_) if state.agreed == Agreed::Unknown => is_waiting = true,
                Some(rules) => logs.push((core.clone(), rules)),
                None => {}
            }
        }
        // Of two that are as dirty the older one is first, in a simulation as in any other run.
        logs.sort_unstable_by_key(|(core, _)| core.id);
        if !logs.is_empty() {
            // Sizes are those of what the index names.
            let _checkpoint = self.maintenance.lock();
            settle_rewritten(&self.sink, &self.index)?;
        }
        let mut best: Option<(u64, Job)> = None;
        for (core, rules) in logs {
            if let Some((share, job)) = self.consider(&core, rules, now)?
                && best.as_ref().is_none_or(|(most, _)| share > *most)
            {
                best = Some((share, job));
            }
        }
        cleaning.idle_since = (best.is_none() && !is_waiting).then_some(now);
        Ok(best.map(|(_, job)| job))
    }

    /// A job for the log, when it is worth while, with its dirty share in millionths.
    fn consider(&self, core: &LogCore, rules: Compaction, now: Timestamp) -> Result<Option<(u64, Job)>, IndexError> {
        let stored = match core.state.lock().clean.known() {
            Some(known) => known,
            None => self.index.cleaned(core.id)?.unwrap_or_default(),
        };
        let (before, generation, lowerings) = {
            let mut state = core.state.lock();
            // What was cleaned is not settled yet: the extents it would be measured by are old.
            if state.deleted || state.is_rewriting() {
                return Ok(None);
            }
            let (start, end) = (state.durable_start, state.end);
            let known = state.clean.learn(stored).lowered(end);
            // What a repair may put there need not have been compacted: the tombstones above stay as long.
            let damaged = state.damage.ranges().first().map_or(Offset::MAX, |range| range.base);
            let sound = known.sound.min(damaged);
            let before = Cleaned { end: known.end.max(start), sound: sound.max(start), ..known };
            (before, state.generation, state.clean.lowerings)
        };
        let survey = self.survey_log(core, before.end, rules, now)?;
        let share = survey.dirty_bytes.saturating_mul(1_000_000) / (survey.clean_bytes + survey.dirty_bytes).max(1);
        let is_dirty = survey.dirty_bytes > 0 && share >= u64::from(rules.min_dirty_millionths);
        let is_over = before.horizon.is_some_and(|horizon| horizon <= now);
        let job = Job {
            log: core.id,
            rules,
            generation,
            lowerings,
            newest: OffsetMap::new(self.config.clean_map_bytes),
            phase: Phase::Keys,
            before,
            from: before.sound,
            cursor: before.sound,
            bound: survey.bound,
            left_alone: Offset::MAX,
            records_removed: 0,
            horizon: None,
        };
        Ok((is_dirty || is_over).then_some((share, job)))
    }

    /// Measures the clean and the dirty part of a log, which begins at `dirty_from`.
    fn survey_log(
        &self,
        core: &LogCore,
        dirty_from: Offset,
        rules: Compaction,
        now: Timestamp,
    ) -> Result<Survey, IndexError> {
        let mut survey = Survey { bound: dirty_from, ..Survey::default() };
        let (start, index_end, in_memory, agreed_end) = {
            let state = core.state.lock();
            let agreed_end = match state.agreed {
                Agreed::Unknown => return Ok(survey),
                Agreed::Below(offset) => offset.min(state.synced_end),
                Agreed::Synced => state.synced_end,
            };
            (state.durable_start, state.index_end(), state.extents.as_slice().to_vec(), agreed_end)
        };
        let lag_ms = i64::try_from(rules.min_lag_ms).unwrap_or(i64::MAX);
        let mut last: Option<Extent> = None;
        let mut is_open = true;
        // One behind, so that the last extent is never counted: it may grow, and it holds the log's last batch.
        let mut count = |extent: Extent| {
            let Some(extent) = last.replace(extent) else { return };
            if extent.next <= dirty_from {
                survey.clean_bytes += u64::from(extent.batch_bytes);
                return;
            }
            // Without a lag a record is never too young, not even one whose producer's clock is ahead.
            let is_young = lag_ms > 0 && now.as_millis().saturating_sub(extent.max_timestamp.as_millis()) < lag_ms;
            is_open &= extent.next <= agreed_end && !is_young;
            if is_open {
                survey.dirty_bytes += u64::from(extent.batch_bytes);
                survey.bound = extent.next;
            }
        };
        let first = self.index.floor(core.id, start)?.map_or(start, |extent| extent.base);
        self.index.extents(core.id, first, |extent| {
            if extent.base >= index_end {
                return ControlFlow::Break(());
            }
            count(Extent { next: extent.next.min(index_end), ..extent });
            ControlFlow::Continue(())
        })?;
        in_memory.into_iter().for_each(&mut count);
        Ok(survey)
    }
}
