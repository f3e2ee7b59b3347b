//! A disk that lies: it confirms what it has only cached, or what it does not write at all. Planted faults that a run must
//! notice; else it only hands on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use streambus_storage::aligned::{AlignedBuffer, Blocks};
use streambus_storage::disk::{Disk, DiskFile, OpenHow, WriteMode};

/// Writes that are lost with the power at most; older ones have reached the platter.
const CACHED_MAX: usize = 24;

/// What a write replaced.
#[derive(Debug)]
struct Cached {
    file: Arc<dyn DiskFile>,
    position: u64,
    before: Vec<u8>,
}

/// The disk. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ForgetfulDisk {
    inner: Arc<dyn Disk>,
    cached: Arc<Mutex<Vec<Cached>>>,
    forgets: bool,
    /// Says that writes are done and does none.
    swallows: Arc<AtomicBool>,
}

impl ForgetfulDisk {
    pub(crate) fn new(inner: Arc<dyn Disk>, forgets: bool) -> Self {
        Self { inner, cached: Arc::default(), forgets, swallows: Arc::default() }
    }

    /// Whether it says of every write that it is done, and does none.
    pub(crate) fn swallow_writes(&self, swallows: bool) {
        self.swallows.store(swallows, Ordering::Relaxed);
    }

    /// Undoes what was only cached, newest first.
    pub(crate) fn lose_power(&self) -> io::Result<()> {
        for lost in std::mem::take(&mut *self.cached.lock()).into_iter().rev() {
            let mut blocks = AlignedBuffer::zeroed(lost.before.len());
            blocks.as_mut_slice().copy_from_slice(&lost.before);
            lost.file.write_at_durably(lost.position, blocks.blocks(lost.before.len()))?;
        }
        Ok(())
    }
}

impl Disk for ForgetfulDisk {
    fn open(&self, name: &str, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(ForgetfulFile { inner: self.inner.open(name, how)?, disk: self.clone() }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.inner.exists(name)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        self.inner.list(prefix)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.inner.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }

    fn read_file(&self, name: &str) -> io::Result<Vec<u8>> {
        self.inner.read_file(name)
    }

    fn write_file_atomically(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_file_atomically(name, bytes)
    }

    fn write_mode(&self) -> WriteMode {
        self.inner.write_mode()
    }
}

#[derive(Debug)]
struct ForgetfulFile {
    inner: Arc<dyn DiskFile>,
    disk: ForgetfulDisk,
}

impl DiskFile for ForgetfulFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(position, buffer)
    }

    fn write_at_durably(&self, position: u64, blocks: Blocks<'_>) -> io::Result<()> {
        if self.disk.swallows.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !self.disk.forgets {
            return self.inner.write_at_durably(position, blocks);
        }
        let mut before = vec![0; blocks.len()];
        if position + blocks.len() as u64 <= self.inner.len()? {
            self.inner.read_at(position, &mut before)?;
        }
        self.inner.write_at_durably(position, blocks)?;
        let mut cached = self.disk.cached.lock();
        cached.push(Cached { file: Arc::clone(&self.inner), position, before });
        if cached.len() > CACHED_MAX {
            cached.remove(0);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.inner.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn write_mode(&self) -> WriteMode {
        self.inner.write_mode()
    }
}
