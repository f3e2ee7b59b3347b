//! The files of one machine's metadata snapshots: real ones, of which a power cut leaves what a disk may leave. Bytes that
//! were not synced are whole, cut short or gone; of the changes of names behind the last sync of their directory a beginning
//! survives.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_consensus::snapshot::{FileStep, FileSteps};

/// Steps of one snapshot.
const STEPS: u64 = 5;

/// The files. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFiles(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Draws for these files alone.
    random: StdRng,
    /// Files whose bytes may be lost.
    unsynced: BTreeSet<PathBuf>,
    /// Changes of names that may be lost, oldest first.
    renaming: Vec<NameChange>,
    /// After how many steps the power goes.
    planned: Option<u64>,
    is_powered: bool,
    /// Syncs are confirmed and not done: a planted fault.
    lies: bool,
}

#[derive(Debug)]
enum NameChange {
    Created(PathBuf),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf, Vec<u8>),
}

impl SnapshotFiles {
    pub(crate) fn new(seed: u64, lies: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: StdRng::seed_from_u64(!seed),
            unsynced: BTreeSet::new(),
            renaming: Vec::new(),
            planned: None,
            is_powered: true,
            lies,
        })))
    }

    /// The power will go while the next snapshot is written.
    pub(crate) fn plan_power_cut(&self) {
        let mut state = self.0.lock();
        let steps = state.random.random_range(1..=STEPS);
        state.planned = Some(steps);
    }

    /// No power cut is planned any more.
    pub(crate) fn forget_plan(&self) {
        self.0.lock().planned = None;
    }

    /// False once a planned power cut has come.
    pub(crate) fn is_powered(&self) -> bool {
        self.0.lock().is_powered
    }

    /// Power is back.
    pub(crate) fn restart(&self) {
        self.0.lock().is_powered = true;
    }

    /// Power is gone: leaves the files as a disk may. Says what became of a snapshot that was not durable, if one suffered.
    pub(crate) fn lose_power(&self) -> io::Result<Option<String>> {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        state.is_powered = false;
        let mut damage = Vec::new();
        let survivors = state.random.random_range(0..=state.renaming.len());
        for change in state.renaming.split_off(survivors).into_iter().rev() {
            damage.extend(undo(change)?);
        }
        state.renaming.clear();
        for path in std::mem::take(&mut state.unsynced) {
            damage.extend(tear(&path, &mut state.random)?);
        }
        Ok((!damage.is_empty()).then(|| damage.join(", ")))
    }
}

impl FileSteps for SnapshotFiles {
    fn done(&self, step: FileStep<'_>) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.is_powered {
            return Err(io::Error::other("this machine has no power"));
        }
        match step {
            FileStep::Written(path) => {
                state.unsynced.insert(path.to_owned());
                state.renaming.push(NameChange::Created(path.to_owned()));
            }
            FileStep::Synced(_) | FileStep::NamesSynced if state.lies => {}
            FileStep::Synced(path) => {
                state.unsynced.remove(path);
            }
            FileStep::NamesSynced => state.renaming.clear(),
            FileStep::Renamed { from, to } => {
                if state.unsynced.remove(from) {
                    state.unsynced.insert(to.to_owned());
                }
                state.renaming.push(NameChange::Renamed(from.to_owned(), to.to_owned()));
            }
            FileStep::Removed(path, file) => {
                let bytes = file.read_chunk(0, usize::MAX)?;
                state.unsynced.remove(path);
                state.renaming.push(NameChange::Removed(path.to_owned(), bytes));
            }
        }
        state.planned = state.planned.map(|left| left - 1);
        if state.planned == Some(0) {
            state.planned = None;
            state.is_powered = false;
            return Err(io::Error::other("the power of this machine went"));
        }
        Ok(())
    }
}

/// Takes a change of names back, and says what that did to a snapshot that was not durable.
fn undo(change: NameChange) -> io::Result<Option<String>> {
    match change {
        NameChange::Created(path) => {
            // A start of the broker may have removed it already.
            let was_there = path.exists();
            if was_there {
                fs::remove_file(&path)?;
            }
            Ok(was_there.then(|| format!("{} is gone", name(&path))))
        }
        NameChange::Renamed(from, to) => {
            let was_there = to.exists();
            if was_there {
                fs::rename(&to, &from)?;
            }
            Ok(was_there.then(|| format!("{} is {} again", name(&to), name(&from))))
        }
        NameChange::Removed(path, bytes) => {
            // Durable long since: it only stays longer.
            fs::write(path, bytes)?;
            Ok(None)
        }
    }
}

/// Leaves some of the bytes of `path`, or all of them.
fn tear(path: &Path, random: &mut StdRng) -> io::Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    let file = OpenOptions::new().write(true).open(path)?;
    let bytes = file.metadata()?.len();
    let left = random.random_range(0..=bytes + bytes / 4).min(bytes);
    file.set_len(left)?;
    Ok((left < bytes).then(|| format!("{} has {left} of {bytes} bytes", name(path))))
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of a first snapshot, which is durable, and a second one, after whose first `steps` steps the power went.
    fn left_of(seed: u64, steps: usize, lies: bool) -> (Vec<(String, u64)>, Option<String>) {
        let directory = tempfile::tempdir().expect("a directory");
        let (old, new, partial) = ["old", "new", "1.partial"].map(|name| directory.path().join(name)).into();
        let files = SnapshotFiles::new(seed, lies);
        fs::write(&old, [7; 10]).expect("written");
        let act = |step: usize| match step {
            0 => {
                fs::write(&partial, [8; 20]).expect("written");
                files.done(FileStep::Written(&partial))
            }
            1 => files.done(FileStep::Synced(&partial)),
            2 => {
                fs::rename(&partial, &new).expect("renamed");
                files.done(FileStep::Renamed { from: &partial, to: &new })
            }
            _ => files.done(FileStep::NamesSynced),
        };
        (0..steps).for_each(|step| act(step).expect("there is power"));
        let damage = files.lose_power().expect("files can be changed");
        assert!(files.done(FileStep::NamesSynced).is_err(), "there is no power");
        let entries = fs::read_dir(directory.path()).expect("a directory").map(|entry| entry.expect("an entry"));
        let found = |entry: fs::DirEntry| (name(&entry.path()), entry.metadata().expect("a file").len());
        let mut left: Vec<_> = entries.map(found).collect();
        left.sort();
        (left, damage)
    }

    /// Catches: a simulated power cut that leaves everything as it is, or takes what was synced.
    #[test]
    fn what_is_not_durable_may_be_gone_cut_short_or_without_its_name() {
        let old = ("old".to_owned(), 10);
        let (mut is_gone, mut is_short, mut is_unnamed, mut is_whole) = (false, false, false, false);
        for (seed, steps) in (0..200).flat_map(|seed| [1, 2, 3].map(|steps| (seed, steps))) {
            let (left, damage) = left_of(seed, steps, false);
            assert_eq!(left.last(), Some(&old), "what was there before");
            match left.first().filter(|first| **first != old) {
                None => is_gone = true,
                Some((name, bytes)) => {
                    assert!(name != "new" || *bytes == 20, "a name that is durable before the bytes");
                    is_short |= *bytes < 20;
                    is_unnamed |= steps == 3 && name == "1.partial";
                    is_whole |= *bytes == 20;
                }
            }
            let is_as_written = left.first() == Some(&(if steps == 3 { "new" } else { "1.partial" }.to_owned(), 20));
            assert_eq!(damage.is_none(), is_as_written, "{left:?} {damage:?}");
        }
        assert!(is_gone && is_short && is_unnamed && is_whole);
        assert_eq!(left_of(1, 4, false), (vec![("new".to_owned(), 20), old], None), "it is durable");
    }

    /// Catches: a planted lie that does no harm.
    #[test]
    fn a_disk_that_lies_about_syncs_may_leave_half_a_snapshot_under_its_name() {
        let is_half = |seed| left_of(seed, 4, true).0.iter().any(|(name, bytes)| name == "new" && *bytes < 20);
        assert!((0..50).any(is_half));
    }

    /// Catches: a plan that never comes, or comes twice.
    #[test]
    fn a_planned_power_cut_comes_within_one_snapshot_and_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("1.partial");
        let files = SnapshotFiles::new(3, false);
        files.plan_power_cut();
        let step = || files.done(FileStep::Written(&path));
        assert!((0..STEPS).any(|_| step().is_err()) && !files.is_powered());
        assert!(step().is_err(), "it is without power until it is restarted");
        files.restart();
        assert!((0..2 * STEPS).all(|_| step().is_ok()));
    }
}
