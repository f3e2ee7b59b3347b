//! Changes of names and their directory sync, which the kernel answers with an error only once.

use std::io;

use parking_lot::Mutex;

use super::model::*;
use super::*;
use crate::disk::{DiskFile, OpenHow, WriteMode};
use crate::latch::LatchedOperation;

type Hook = Mutex<Option<Box<dyn FnMut() + Send>>>;

/// A disk in memory that calls a hook in every directory sync, and one behind every durable write.
#[derive(Clone)]
struct Hooked {
    inner: MemoryDisk,
    syncs: Arc<Hook>,
    writes: Arc<Hook>,
}

impl Hooked {
    fn new() -> Self {
        Self { inner: disk(), syncs: Arc::default(), writes: Arc::default() }
    }
}

fn run(hook: &Hook) {
    if let Some(hook) = hook.lock().as_mut() {
        hook();
    }
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl Disk for Hooked {
    fn open(&self, name: &str, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(HookedFile { inner: self.inner.open(name, how)?, writes: self.writes.clone() }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.inner.exists(name)
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        self.inner.list(prefix)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        run(&self.syncs);
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        run(&self.syncs);
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

struct HookedFile {
    inner: Arc<dyn DiskFile>,
    writes: Arc<Hook>,
}

impl std::fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HookedFile")
    }
}

impl DiskFile for HookedFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(position, buffer)
    }

    fn write_at_durably(&self, position: u64, blocks: crate::aligned::Blocks<'_>) -> io::Result<()> {
        self.inner.write_at_durably(position, blocks)?;
        run(&self.writes);
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

/// Catches a commit that is reported although somebody was told, while it was written, that the directory is not durable.
#[test]
fn a_commit_that_ends_after_the_latch_is_not_reported() {
    let hooked = Hooked::new();
    let mut bench = Bench::open(Arc::new(hooked.clone()), small_config());
    bench.append(1, 100);
    bench.step_until_idle();
    let latch = bench.latch.clone();
    *hooked.writes.lock() = Some(Box::new(move || {
        latch.trip(LatchedOperation::Sync, ".", &io::Error::other("a sync that another caller made"));
    }));
    bench.append(1, 100);
    assert_eq!(bench.committer.step(), Step::Stopped);
    assert_eq!((bench.observer.entries().len(), bench.observer.failures()), (1, 1));
}

/// Catches a directory sync outside the order: a roll's would succeed because a recycling's took its error.
#[test]
fn names_change_one_at_a_time_from_the_rename_to_the_sync() {
    let hooked = Hooked::new();
    let mut bench = Bench::open(Arc::new(hooked.clone()), small_config());
    let (shared, seen) = (bench.committer.shared().clone(), Arc::new(Mutex::new(0)));
    let count = seen.clone();
    *hooked.syncs.lock() = Some(Box::new(move || {
        assert!(shared.names.is_locked(), "a change of names that holds nobody off");
        *count.lock() += 1;
    }));
    while bench.journal.segments().len() < 3 {
        bench.append(1, 7000);
        bench.step_until_idle();
    }
    let rolls = *seen.lock();
    assert!(rolls >= 4, "a rename and a sync for each roll");
    bench.journal.recycle(SegmentId::new(1)).expect("recycles");
    assert_eq!(*seen.lock(), rolls + 2);
    assert_eq!(bench.observer.failures(), 0);
}
