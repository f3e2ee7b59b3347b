//! The database in memory, for simulations: it knows what was synced, and a crash takes the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Change, Family, Pair, Pairs};
use crate::snapshot::FileSteps;

type Map = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

/// A metadata database without files. Clones share it; it outlives the node that has it open.
#[derive(Clone)]
pub struct MemoryDatabase {
    state: Arc<Mutex<State>>,
    sync_takes: Arc<dyn Fn() -> Duration + Send + Sync>,
    snapshot_files: Option<Arc<dyn FileSteps>>,
}

#[derive(Debug, Default)]
struct State {
    /// What reads see. Shared with the scans that run.
    current: Arc<Map>,
    /// What is synced, and the batches behind it, oldest first: a crash keeps a beginning of them.
    synced: Map,
    unsynced: Vec<Vec<Change>>,
    /// Batches ever written.
    written: u64,
    /// Counts openings and crashes; a handle of an earlier life is dead.
    life: u64,
    /// What syncs do.
    syncs: Syncs,
}

/// What syncs do with the batches that they cover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Syncs {
    /// They keep them.
    #[default]
    Work,
    /// The next one fails.
    FailNext,
    /// One failed: nothing, and they say that they did, until a crash.
    Forget,
    /// Nothing, and they say that they did.
    Lie,
}

impl MemoryDatabase {
    /// An empty one. A sync takes as long as `sync_takes` says each time.
    pub fn new(sync_takes: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { state: Arc::default(), sync_takes: Arc::new(sync_takes), snapshot_files: None }
    }

    /// The same; `steps` is told what becomes of the files of the snapshots beside it, so that they may be lost with it.
    pub fn with_snapshot_files(self, steps: Arc<dyn FileSteps>) -> Self {
        Self { snapshot_files: Some(steps), ..self }
    }

    /// Who is told what becomes of the snapshots beside it.
    pub(super) fn snapshot_files(&self) -> Option<Arc<dyn FileSteps>> {
        self.snapshot_files.clone()
    }

    /// Batches that a crash may take.
    pub fn unsynced(&self) -> usize {
        self.state.lock().unsynced.len()
    }

    /// Ends the life of whoever has it open: of the batches that are not synced, the first `kept` survive.
    pub fn crash(&self, kept: usize) {
        let mut state = self.state.lock();
        state.life += 1;
        state.unsynced.truncate(kept);
        for batch in std::mem::take(&mut state.unsynced) {
            apply(&mut state.synced, &batch);
        }
        state.current = Arc::new(state.synced.clone());
        if state.syncs == Syncs::Forget {
            state.syncs = Syncs::Work;
        }
    }

    /// From now on its syncs do nothing, as on a drive that confirms what is in its cache. A planted fault: a simulation
    /// must notice.
    pub fn lie_about_syncs(&self) {
        self.state.lock().syncs = Syncs::Lie;
    }

    /// Its next sync fails, and until a crash later ones do nothing and succeed, as on a system that forgets what it could
    /// not write. A planted fault: whoever has it open must not believe the later ones.
    pub fn fail_next_sync(&self) {
        self.state.lock().syncs = Syncs::FailNext;
    }

    pub(super) fn open(&self) -> MemoryHandle {
        let mut state = self.state.lock();
        state.life += 1;
        MemoryHandle { database: self.clone(), life: state.life }
    }
}

impl fmt::Debug for MemoryDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryDatabase")
    }
}

fn apply(map: &mut Map, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put { family, key, value } => {
                map.insert((*family, key.clone()), value.clone());
            }
            Change::Delete { family, key } => {
                map.remove(&(*family, key.clone()));
            }
            Change::DeleteRange { family, from, until } => {
                let range = (*family, from.clone())..(*family, until.clone());
                let doomed: Vec<_> = map.range(range).map(|(place, _)| place.clone()).collect();
                for place in doomed {
                    map.remove(&place);
                }
            }
        }
    }
}

/// The database as one life of a node has it open.
#[derive(Clone)]
pub(crate) struct MemoryHandle {
    database: MemoryDatabase,
    life: u64,
}

impl MemoryHandle {
    /// How long the sync that begins now takes.
    pub(crate) fn sync_takes(&self) -> Duration {
        (self.database.sync_takes)()
    }

    /// Batches written so far: what a sync that begins now covers.
    pub(crate) fn written(&self) -> u64 {
        self.database.state.lock().written
    }

    /// Makes the first `covered` batches ever written durable.
    pub(super) fn sync(&self, covered: u64) -> io::Result<()> {
        self.with(|state| {
            let left = usize::try_from(state.written.saturating_sub(covered)).unwrap_or(usize::MAX);
            match state.syncs {
                Syncs::Work => {}
                Syncs::FailNext => {
                    state.syncs = Syncs::Forget;
                    return Err(io::Error::other("the disk has refused a sync"));
                }
                Syncs::Forget | Syncs::Lie => return Ok(()),
            }
            let behind = state.unsynced.split_off(state.unsynced.len().saturating_sub(left));
            for batch in std::mem::replace(&mut state.unsynced, behind) {
                apply(&mut state.synced, &batch);
            }
            Ok(())
        })?
    }

    pub(super) fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.with(|state| state.current.get(&(family, key.to_vec())).cloned())
    }

    pub(super) fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        let is_backwards = |change: &Change| matches!(change, Change::DeleteRange { from, until, .. } if from > until);
        if changes.iter().any(is_backwards) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a range ends before it begins"));
        }
        self.with(|state| {
            apply(Arc::make_mut(&mut state.current), &changes);
            state.unsynced.push(changes);
            state.written += 1;
        })
    }

    pub(super) fn scan(&self, family: Family, from: &[u8]) -> io::Result<Pairs<'_>> {
        let map = self.with(|state| Arc::clone(&state.current))?;
        let mut next = Bound::Included((family, from.to_vec()));
        Ok(Box::new(std::iter::from_fn(move || {
            let (place, value) = map.range((next.clone(), Bound::Unbounded)).next()?;
            next = Bound::Excluded(place.clone());
            (place.0 == family).then(|| Ok(pair(&place.1, value)))
        })))
    }

    pub(super) fn last(&self, family: Family) -> io::Result<Option<Pair>> {
        self.with(|state| {
            let mut pairs = state.current.iter().rev().filter(|((of, _), _)| *of == family);
            pairs.next().map(|((_, key), value)| pair(key, value))
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> io::Result<T> {
        let mut state = self.database.state.lock();
        if state.life != self.life {
            return Err(io::Error::other("the machine of this database has stopped"));
        }
        Ok(act(&mut state))
    }
}

fn pair(key: &[u8], value: &[u8]) -> Pair {
    (key.into(), value.into())
}
