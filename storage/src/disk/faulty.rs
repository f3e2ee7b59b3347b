//! A disk that breaks on a schedule: wraps any other and loses power, fails, lies about space, or decays.
//!
//! Everything is decided by the seed and the planned [`Fault`]s, so a failing run is repeated by its seed. What the
//! specification leaves open when power is lost is drawn at random: which sectors of the write in flight survive, and
//! how many of the directory changes since the last [`Disk::sync_dir`].

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Disk, DiskFile, OpenHow, WriteMode, check_name, check_position};
use crate::aligned::{AlignedBuffer, BLOCK_BYTES, Blocks};

/// What a device writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// Names under which removed and replaced files wait for the directory to be synced.
const HIDDEN_PREFIX: &str = "faulty-hidden-";

/// Something that goes wrong. Counts start at 1 and run over the whole life of the disk: see [`Counters`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Power is lost during the nth change of any kind.
    PowerCutAtMutation(u64),
    /// The process is killed during the nth change: nothing is lost, but the write in flight is partial, visible, and
    /// not durable until its file is synced.
    KillAtMutation(u64),
    /// The nth write fails with an I/O error, once; later ones succeed, as after a failed sync on ext4.
    FailWrite(u64),
    /// The nth write stores only its first sectors and fails, once.
    ShortWrite {
        /// Which write.
        nth: u64,
        /// Sectors that are stored.
        sectors: usize,
    },
    /// The nth sync, of a file or of the directory, fails once.
    FailSync(u64),
    /// The nth allocation finds no space, once.
    FailAllocate(u64),
    /// The nth allocation fails with an I/O error, once.
    BreakAllocate(u64),
    /// Reads that touch these bytes of this file fail, for ever; so does reading it as a whole.
    Unreadable {
        /// The file.
        name: String,
        /// The bytes.
        bytes: Range<u64>,
    },
}

/// How often what was done, faults included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Changes of any kind: writes, allocations, creations, renames, removals, directory syncs, small files.
    pub mutations: u64,
    /// Durable writes.
    pub writes: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Syncs of files and of the directory.
    pub syncs: u64,
    /// Allocations.
    pub allocations: u64,
    /// Reads.
    pub reads: u64,
}

/// A disk that breaks on a schedule. Clones share it.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    random: StdRng,
    plan: Vec<Fault>,
    counters: Counters,
    /// Counts starts; files opened before the last one are dead.
    boot: u64,
    running: bool,
    /// Directory changes since the last sync, oldest first.
    unsynced_names: Vec<NameChange>,
    /// Old content of sectors that are visible and not durable, by file and position.
    unsynced_sectors: BTreeMap<(FileId, u64), Vec<u8>>,
    /// Which file a name stands for: open files follow it when it is renamed.
    files: BTreeMap<String, FileId>,
    next_file: u64,
    hidden: u64,
}

/// A file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileId(u64);

#[derive(Debug)]
enum NameChange {
    Created(String),
    Renamed { from: String, to: String, replaced: Option<String> },
    Removed { name: String, hidden: String },
}

/// What happens to the change that was just counted.
enum Outcome {
    Normal,
    PowerCut,
    Kill,
}

fn stopped() -> io::Error {
    io::Error::other("the machine has stopped")
}

/// `EIO`, as the kernel reports it.
fn device_error() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl FaultyDisk {
    /// Wraps `inner`, with nothing planned.
    pub fn new(inner: Arc<dyn Disk>, seed: u64) -> Self {
        let state = State {
            random: StdRng::seed_from_u64(seed),
            plan: Vec::new(),
            counters: Counters::default(),
            boot: 0,
            running: true,
            unsynced_names: Vec::new(),
            unsynced_sectors: BTreeMap::new(),
            files: BTreeMap::new(),
            next_file: 0,
            hidden: 0,
        };
        Self { inner, state: Arc::new(Mutex::new(state)) }
    }

    /// Adds a fault.
    pub fn plan(&self, fault: Fault) {
        self.state.lock().plan.push(fault);
    }

    /// Takes `fault` back, if it was planned and has not come. False otherwise.
    pub fn take_back(&self, fault: &Fault) -> bool {
        self.state.lock().take(fault)
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.state.lock().counters
    }

    /// False after a power cut or kill, until [`FaultyDisk::restart`].
    pub fn is_running(&self) -> bool {
        self.state.lock().running
    }

    /// Loses power now: everything that was not made durable may be lost.
    ///
    /// # Errors
    /// When the wrapped disk fails.
    pub fn cut_power(&self) -> io::Result<()> {
        self.state.lock().lose(&*self.inner)
    }

    /// Starts again after a power cut or kill. Files opened before stay dead.
    pub fn restart(&self) {
        let mut state = self.state.lock();
        state.running = true;
        state.boot += 1;
    }

    /// Flips bit `bit` (0 to 7) of byte `position` of `name`, as a decaying medium does.
    ///
    /// # Errors
    /// When the wrapped disk fails, or has no such byte.
    pub fn flip_bit(&self, name: &str, position: u64, bit: u8) -> io::Result<()> {
        let file = self.inner.open(name, OpenHow::Existing)?;
        let start = position - position % BLOCK_BYTES as u64;
        let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
        file.read_at(start, block.as_mut_slice())?;
        let within = usize::try_from(position - start).unwrap_or(0);
        if let Some(byte) = block.as_mut_slice().get_mut(within) {
            *byte ^= 1 << (bit % 8);
        }
        file.write_at_durably(start, block.blocks(BLOCK_BYTES))
    }

    /// Counts one change and says what happens to it.
    fn begin(&self, boot: Option<u64>) -> io::Result<Outcome> {
        let mut state = self.state.lock();
        state.check(boot)?;
        state.counters.mutations += 1;
        let nth = state.counters.mutations;
        if state.take(&Fault::PowerCutAtMutation(nth)) {
            return Ok(Outcome::PowerCut);
        }
        if state.take(&Fault::KillAtMutation(nth)) {
            return Ok(Outcome::Kill);
        }
        Ok(Outcome::Normal)
    }

    /// Ends the machine's or the process's life in the middle of a change.
    fn end(&self, outcome: &Outcome) -> io::Error {
        let mut state = self.state.lock();
        if matches!(outcome, Outcome::PowerCut)
            && let Err(error) = state.lose(&*self.inner)
        {
            return error;
        }
        state.running = false;
        stopped()
    }

    /// A change of names: happens, or ends everything before or after it happened.
    fn change(&self, apply: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        let outcome = self.begin(None)?;
        if matches!(outcome, Outcome::Normal) {
            return apply(&mut self.state.lock());
        }
        let done = self.state.lock().random.random_bool(0.5);
        if done {
            apply(&mut self.state.lock())?;
        }
        Err(self.end(&outcome))
    }
}

impl State {
    fn check(&self, boot: Option<u64>) -> io::Result<()> {
        if self.running && boot.is_none_or(|boot| boot == self.boot) { Ok(()) } else { Err(stopped()) }
    }

    fn take(&mut self, fault: &Fault) -> bool {
        let found = self.plan.iter().position(|planned| planned == fault);
        found.map(|at| self.plan.swap_remove(at)).is_some()
    }

    /// The file that `name` stands for now.
    fn file_named(&mut self, name: &str) -> FileId {
        let next = FileId(self.next_file);
        let id = *self.files.entry(name.to_owned()).or_insert(next);
        self.next_file += u64::from(id == next);
        id
    }

    fn name_of(&self, id: FileId) -> Option<&String> {
        self.files.iter().find_map(|(name, file)| (*file == id).then_some(name))
    }

    /// Renames for good or for ill: nobody is told.
    fn move_file(&mut self, disk: &dyn Disk, from: &str, to: &str) -> io::Result<()> {
        disk.rename(from, to)?;
        if let Some(id) = self.files.remove(from) {
            self.files.insert(to.to_owned(), id);
        }
        Ok(())
    }

    fn remove_file(&mut self, disk: &dyn Disk, name: &str) -> io::Result<()> {
        disk.remove(name)?;
        if let Some(id) = self.files.remove(name) {
            self.unsynced_sectors.retain(|(file, _), _| *file != id);
        }
        Ok(())
    }

    fn hide(&mut self, disk: &dyn Disk, name: &str) -> io::Result<String> {
        self.hidden += 1;
        let hidden = format!("{HIDDEN_PREFIX}{}", self.hidden);
        self.move_file(disk, name, &hidden)?;
        Ok(hidden)
    }

    /// The directory was synced: removed files are really gone.
    fn names_are_durable(&mut self, disk: &dyn Disk) -> io::Result<()> {
        for change in std::mem::take(&mut self.unsynced_names) {
            let hidden = match change {
                NameChange::Renamed { replaced: Some(hidden), .. } | NameChange::Removed { hidden, .. } => hidden,
                NameChange::Created(_) | NameChange::Renamed { replaced: None, .. } => continue,
            };
            self.remove_file(disk, &hidden)?;
        }
        Ok(())
    }

    /// Power is lost: undoes a random part of what was not durable.
    fn lose(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.running = false;
        for ((id, position), old) in std::mem::take(&mut self.unsynced_sectors) {
            let lost = self.random.random_bool(0.5);
            if let Some(name) = self.name_of(id).filter(|_| lost) {
                let file = disk.open(name, OpenHow::Existing)?;
                write_sectors(&*file, position, &old, |_| true)?;
            }
        }
        let keep = self.random.random_range(0..=self.unsynced_names.len());
        for change in self.unsynced_names.split_off(keep).into_iter().rev() {
            match change {
                NameChange::Created(name) => self.remove_file(disk, &name)?,
                NameChange::Renamed { from, to, replaced } => {
                    self.move_file(disk, &to, &from)?;
                    if let Some(hidden) = replaced {
                        self.move_file(disk, &hidden, &to)?;
                    }
                }
                NameChange::Removed { name, hidden } => self.move_file(disk, &hidden, &name)?,
            }
        }
        self.names_are_durable(disk)
    }

    /// Which of `count` sectors of a broken write are stored: none, all, a prefix, or any subset, in units of a sector
    /// or of a block.
    fn surviving_sectors(&mut self, count: usize) -> Vec<bool> {
        let unit = if self.random.random_bool(0.5) { 1 } else { BLOCK_BYTES / SECTOR_BYTES };
        let units = count.div_ceil(unit);
        let by_unit: Vec<bool> = match self.random.random_range(0..8) {
            0 => vec![false; units],
            1 => vec![true; units],
            2..=4 => {
                let prefix = self.random.random_range(0..=units);
                (0..units).map(|at| at < prefix).collect()
            }
            _ => (0..units).map(|_| self.random.random_bool(0.5)).collect(),
        };
        (0..count).map(|sector| by_unit.get(sector / unit).copied().unwrap_or(false)).collect()
    }
}

/// Writes those sectors of `bytes` at `position` (on a sector) that `survives` names by number.
fn write_sectors(file: &dyn DiskFile, position: u64, bytes: &[u8], survives: impl Fn(usize) -> bool) -> io::Result<()> {
    let start = position - position % BLOCK_BYTES as u64;
    let offset = usize::try_from(position - start).map_err(io::Error::other)?;
    let mut merged = AlignedBuffer::zeroed(offset + bytes.len());
    let known = usize::try_from(file.len()?.saturating_sub(start)).map_err(io::Error::other)?.min(merged.capacity());
    if let Some(old) = merged.as_mut_slice().get_mut(..known) {
        file.read_at(start, old)?;
    }
    let targets = merged.as_mut_slice().get_mut(offset..).unwrap_or_default().chunks_mut(SECTOR_BYTES);
    for (number, (target, source)) in targets.zip(bytes.chunks(SECTOR_BYTES)).enumerate() {
        if survives(number)
            && let Some(target) = target.get_mut(..source.len())
        {
            target.copy_from_slice(source);
        }
    }
    file.write_at_durably(start, merged.blocks(merged.capacity()))
}

impl Disk for FaultyDisk {
    fn open(&self, name: &str, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        check_name(name)?;
        let mut opened = None;
        if how == OpenHow::CreateNew {
            self.change(|state| {
                opened = Some(self.inner.open(name, how)?);
                state.unsynced_names.push(NameChange::Created(name.to_owned()));
                Ok(())
            })?;
        } else {
            self.state.lock().check(None)?;
            opened = Some(self.inner.open(name, how)?);
        }
        let inner = opened.ok_or_else(stopped)?;
        let mut state = self.state.lock();
        let (id, boot) = (state.file_named(name), state.boot);
        Ok(Arc::new(FaultyFile { inner, disk: self.clone(), id, boot }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.state.lock().check(None)?;
        self.inner.exists(name)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        self.state.lock().check(None)?;
        let mut names = self.inner.list(prefix)?;
        names.retain(|name| !name.starts_with(HIDDEN_PREFIX));
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        self.change(|state| {
            if !self.inner.exists(from)? {
                return Err(io::ErrorKind::NotFound.into());
            }
            let replaced = if self.inner.exists(to)? { Some(state.hide(&*self.inner, to)?) } else { None };
            state.move_file(&*self.inner, from, to)?;
            state.unsynced_names.push(NameChange::Renamed { from: from.to_owned(), to: to.to_owned(), replaced });
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.change(|state| {
            let hidden = state.hide(&*self.inner, name)?;
            state.unsynced_names.push(NameChange::Removed { name: name.to_owned(), hidden });
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.change(|state| {
            state.counters.syncs += 1;
            if state.take(&Fault::FailSync(state.counters.syncs)) {
                return Err(device_error());
            }
            self.inner.sync_dir()?;
            state.names_are_durable(&*self.inner)
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.state.lock().check(None)?;
        self.inner.free_bytes()
    }

    fn read_file(&self, name: &str) -> io::Result<Vec<u8>> {
        {
            let state = self.state.lock();
            state.check(None)?;
            let bad = |fault: &Fault| matches!(fault, Fault::Unreadable { name: unreadable, .. } if unreadable == name);
            if state.plan.iter().any(bad) {
                return Err(device_error());
            }
        }
        self.inner.read_file(name)
    }

    fn write_file_atomically(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        check_name(name)?;
        self.change(|state| {
            // Ends with a sync of the directory, which makes every earlier change of names durable too.
            state.names_are_durable(&*self.inner)?;
            self.inner.write_file_atomically(name, bytes)
        })
    }

    fn write_mode(&self) -> WriteMode {
        self.inner.write_mode()
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Arc<dyn DiskFile>,
    disk: FaultyDisk,
    id: FileId,
    boot: u64,
}

impl FaultyFile {
    /// Stores a random part of `blocks`; a process's end keeps the old bytes for the power cut that may follow.
    fn write_partly(&self, position: u64, blocks: Blocks<'_>, outcome: &Outcome) -> io::Result<()> {
        let sectors = blocks.len() / SECTOR_BYTES;
        let survives = self.disk.state.lock().surviving_sectors(sectors);
        if matches!(outcome, Outcome::Kill) {
            let length = self.inner.len()?;
            let mut state = self.disk.state.lock();
            for number in 0..sectors {
                let at = position + (number * SECTOR_BYTES) as u64;
                let mut old = vec![0; SECTOR_BYTES];
                if at + SECTOR_BYTES as u64 <= length {
                    self.inner.read_at(at, &mut old)?;
                }
                state.unsynced_sectors.entry((self.id, at)).or_insert(old);
            }
        }
        write_sectors(&*self.inner, position, blocks.as_bytes(), |number| {
            survives.get(number).copied().unwrap_or(false)
        })
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        {
            let mut state = self.disk.state.lock();
            state.check(Some(self.boot))?;
            state.counters.reads += 1;
            let end = position.saturating_add(buffer.len() as u64);
            let bad = |fault: &Fault| match fault {
                Fault::Unreadable { name, bytes } => {
                    state.files.get(name) == Some(&self.id) && bytes.start < end && position < bytes.end
                }
                _ => false,
            };
            if state.plan.iter().any(bad) {
                return Err(device_error());
            }
        }
        self.inner.read_at(position, buffer)
    }

    fn write_at_durably(&self, position: u64, blocks: Blocks<'_>) -> io::Result<()> {
        check_position(position)?;
        let outcome = self.disk.begin(Some(self.boot))?;
        let (fails, short) = {
            let mut state = self.disk.state.lock();
            state.counters.writes += 1;
            state.counters.written_bytes += blocks.len() as u64;
            let nth = state.counters.writes;
            let fails = state.take(&Fault::FailWrite(nth));
            let short = state.plan.iter().find_map(|fault| match fault {
                Fault::ShortWrite { nth: planned, sectors } if *planned == nth => Some(*sectors),
                _ => None,
            });
            (fails, short)
        };
        if !matches!(outcome, Outcome::Normal) {
            self.write_partly(position, blocks, &outcome)?;
            return Err(self.disk.end(&outcome));
        }
        if fails {
            self.write_partly(position, blocks, &outcome)?;
            return Err(device_error());
        }
        if let Some(sectors) = short {
            write_sectors(&*self.inner, position, blocks.as_bytes(), |number| number < sectors)?;
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.inner.write_at_durably(position, blocks)?;
        let end = position + blocks.len() as u64;
        let mut state = self.disk.state.lock();
        state.unsynced_sectors.retain(|(file, at), _| *file != self.id || *at < position || *at >= end);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.state.lock().check(Some(self.boot))?;
        self.inner.len()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let outcome = self.disk.begin(Some(self.boot))?;
        let (is_full, is_broken) = {
            let mut state = self.disk.state.lock();
            state.counters.allocations += 1;
            let nth = state.counters.allocations;
            (state.take(&Fault::FailAllocate(nth)), state.take(&Fault::BreakAllocate(nth)))
        };
        if !matches!(outcome, Outcome::Normal) {
            return Err(self.disk.end(&outcome));
        }
        if is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if is_broken {
            return Err(device_error());
        }
        self.inner.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.check(Some(self.boot))?;
        state.counters.syncs += 1;
        let nth = state.counters.syncs;
        if state.take(&Fault::FailSync(nth)) {
            return Err(device_error());
        }
        self.inner.sync()?;
        state.unsynced_sectors.retain(|(file, _), _| *file != self.id);
        Ok(())
    }

    fn write_mode(&self) -> WriteMode {
        self.inner.write_mode()
    }
}

#[cfg(test)]
mod tests;
