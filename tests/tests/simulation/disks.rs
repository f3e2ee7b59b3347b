//! What one broker keeps its data on: all of it outlives the process, and a power cut as far as it was synced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngCore};
use streambus_consensus::database::MemoryDatabase;
use streambus_storage::disk::Disk as _;
use streambus_storage::disk::faulty::{Fault, FaultyDisk};
use streambus_storage::disk::memory::MemoryDisk;
use streambus_storage::index::memory::MemoryIndex;

use crate::forgetful::ForgetfulDisk;
use crate::plant::Plant;
use crate::snapshot_files::SnapshotFiles;

/// What fails once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskError {
    Write,
    Sync,
    Allocation,
}

impl DiskError {
    pub(crate) const ALL: [Self; 3] = [Self::Write, Self::Sync, Self::Allocation];
}

/// The disks of one machine. Clones share them.
#[derive(Clone)]
pub(crate) struct Disks {
    memory: MemoryDisk,
    forgetful: ForgetfulDisk,
    pub(crate) records: FaultyDisk,
    pub(crate) index: Arc<MemoryIndex>,
    pub(crate) metadata: MemoryDatabase,
    /// The files beside it.
    pub(crate) snapshots: SnapshotFiles,
    /// The machine's own draws.
    random: Arc<Mutex<StdRng>>,
    /// The last change of the records' disk for which a power cut is planned.
    planned_until: Arc<AtomicU64>,
    /// The errors that were planned and not taken back.
    errors: Arc<Mutex<Vec<Fault>>>,
    is_full: Arc<AtomicBool>,
    /// Whether anything but a power cut was wrong with the records' disk in this life of the process.
    was_in_trouble: Arc<AtomicBool>,
    plant: Plant,
}

impl Disks {
    /// Disks with nothing on them. A sync of the metadata takes up to `commit_ms_max` milliseconds.
    pub(crate) fn empty(seed: u64, plant: Plant, random: &Arc<Mutex<StdRng>>, commit_ms_max: &Arc<AtomicU64>) -> Self {
        let (drawn, longest) = (Arc::clone(random), Arc::clone(commit_ms_max));
        let snapshots = SnapshotFiles::new(seed, plant == Plant::UnsyncedSnapshots);
        let metadata = MemoryDatabase::new(move || {
            Duration::from_millis(drawn.lock().random_range(1..=longest.load(Ordering::Relaxed)))
        });
        let metadata = metadata.with_snapshot_files(Arc::new(snapshots.clone()));
        if plant == Plant::ForgottenVotes {
            metadata.lie_about_syncs();
        }
        let memory = MemoryDisk::new();
        let forgetful = ForgetfulDisk::new(Arc::new(memory.clone()), plant == Plant::AckBeforeSync);
        Self {
            memory,
            records: FaultyDisk::new(Arc::new(forgetful.clone()), seed),
            forgetful,
            index: Arc::new(MemoryIndex::new()),
            metadata,
            snapshots,
            random: Arc::clone(random),
            planned_until: Arc::default(),
            errors: Arc::default(),
            is_full: Arc::default(),
            was_in_trouble: Arc::default(),
            plant,
        }
    }

    /// The same metadata beside records that are gone: what nobody would notice who looks at the metadata alone.
    pub(crate) fn without_records(&self) -> Self {
        let seed = self.random.lock().next_u64();
        let empty = Self::empty(seed, self.plant, &self.random, &Arc::default());
        Self { metadata: self.metadata.clone(), snapshots: self.snapshots.clone(), ..empty }
    }

    /// The process is gone: what it wrote stays, what only its memory held does not.
    pub(crate) fn lose_process(&self) {
        self.index.crash();
        self.metadata.crash(usize::MAX);
    }

    /// Power is gone: what was not synced may be lost. Says what became of a snapshot of the metadata, if one was hit.
    pub(crate) fn lose_power(&self) -> Option<String> {
        self.forgetful.lose_power().expect("a disk in memory works");
        self.records.cut_power().expect("a disk in memory works");
        self.index.crash();
        let kept = self.random.lock().random_range(0..=self.metadata.unsynced());
        self.metadata.crash(kept);
        self.snapshots.lose_power().expect("files can be changed")
    }

    /// Power is back.
    pub(crate) fn restart(&self) {
        self.records.restart();
        self.snapshots.restart();
    }

    /// Power will be lost in the middle of the `nth` change from now on.
    pub(crate) fn plan_power_cut(&self, nth: u64) {
        let at = self.records.counters().mutations + nth;
        self.planned_until.fetch_max(at, Ordering::Relaxed);
        self.records.plan(Fault::PowerCutAtMutation(at));
    }

    /// True while a planned power cut may still come.
    pub(crate) fn has_plan(&self) -> bool {
        self.records.counters().mutations < self.planned_until.load(Ordering::Relaxed)
    }

    /// Brings what is planned about now, on a machine without power: it must not come after everything is healed.
    pub(crate) fn use_up_plan(&self) {
        while self.has_plan() {
            self.records.restart();
            // It fails when the power goes, which is what it is done for.
            let _gone = self.records.sync_dir();
        }
        self.records.cut_power().expect("a disk in memory works");
    }

    /// The `nth` write, sync or reservation of space from now on fails once. With that planted, all writes are lost from now
    /// on and nobody is told.
    pub(crate) fn plan_error(&self, kind: DiskError, nth: u64) {
        let counters = self.records.counters();
        let error = match kind {
            DiskError::Write => Fault::FailWrite(counters.writes + nth),
            DiskError::Sync => Fault::FailSync(counters.syncs + nth),
            DiskError::Allocation => Fault::BreakAllocate(counters.allocations + nth),
        };
        self.was_in_trouble.store(true, Ordering::Relaxed);
        self.errors.lock().push(error.clone());
        match self.plant {
            Plant::UnnoticedWriteErrors => self.forgetful.swallow_writes(true),
            _ => self.records.plan(error),
        }
    }

    /// Takes back the errors that have not come.
    pub(crate) fn forget_errors(&self) {
        self.forgetful.swallow_writes(false);
        for error in self.errors.lock().drain(..) {
            let _has_come = !self.records.take_back(&error);
        }
    }

    /// Whether the records' disk has no room for anything more.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
        self.was_in_trouble.fetch_or(is_full, Ordering::Relaxed);
        self.memory.set_capacity(if is_full { 0 } else { u64::MAX });
    }

    /// A process starts on them.
    pub(crate) fn begin_life(&self) {
        let is_in_trouble = self.is_full.load(Ordering::Relaxed) || !self.errors.lock().is_empty();
        self.was_in_trouble.store(is_in_trouble, Ordering::Relaxed);
    }

    /// True if this life of the process has, or has had, reason to fail for the records' disk.
    pub(crate) fn excuse_failure(&self) -> bool {
        self.was_in_trouble.load(Ordering::Relaxed)
    }

    /// False once a planned power cut has come.
    pub(crate) fn is_powered(&self) -> bool {
        self.records.is_running() && self.snapshots.is_powered()
    }
}
