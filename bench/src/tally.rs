//! How far a workload is, for whoever watches while it runs. Nothing in a result comes from here: the counts are rough,
//! because senders tell of their records some hundred at a time and the counters are not read at one moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What a workload is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Connecting and looking around.
    Preparing,
    /// Sending records.
    Sending,
    /// Reading records for the result.
    Reading,
    /// Reading everything back for the verdict.
    Checking,
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The stage.
    pub stage: Stage,
    /// Records that the stage will handle; 0 when that is not known.
    pub total: u64,
    /// Records handled, about.
    pub records: u64,
    /// Bytes of a record's value; 0 when that is not known.
    pub record_bytes: u64,
    /// Records that failed.
    pub errors: u64,
}

/// The counters; copies share them.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    stage: AtomicU8,
    total: AtomicU64,
    records: AtomicU64,
    record_bytes: AtomicU64,
    errors: AtomicU64,
}

impl Tally {
    /// Begins a stage of `total` records of `record_bytes`, each 0 when unknown.
    pub(crate) fn begin(&self, stage: Stage, total: u64, record_bytes: u64) {
        self.0.records.store(0, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
        self.0.record_bytes.store(record_bytes, Ordering::Relaxed);
        self.0.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Counts records that were handled.
    pub(crate) fn add(&self, records: u64) {
        self.0.records.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts a record that failed.
    pub(crate) fn fail(&self) {
        self.0.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// How far it is.
    pub fn now(&self) -> Count {
        let stages = [Stage::Preparing, Stage::Sending, Stage::Reading, Stage::Checking];
        let number = self.0.stage.load(Ordering::Relaxed);
        Count {
            stage: stages.into_iter().find(|stage| *stage as u8 == number).unwrap_or(Stage::Preparing),
            total: self.0.total.load(Ordering::Relaxed),
            records: self.0.records.load(Ordering::Relaxed),
            record_bytes: self.0.record_bytes.load(Ordering::Relaxed),
            errors: self.0.errors.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a stage that goes on counting where the one before ended, which would end its bar too early.
    #[test]
    fn a_stage_begins_at_zero_and_keeps_the_errors_before_it() {
        let tally = Tally::default();
        assert_eq!(tally.now().stage, Stage::Preparing);
        tally.begin(Stage::Sending, 10, 100);
        tally.clone().add(10);
        tally.fail();
        tally.begin(Stage::Checking, 9, 100);
        tally.add(3);
        let expected = Count { stage: Stage::Checking, total: 9, records: 3, record_bytes: 100, errors: 1 };
        assert_eq!(tally.now(), expected);
    }
}
