//! Files in memory, deterministic: for tests and simulation. Everything is durable at once; wrap it in a
//! [`FaultyDisk`](super::faulty::FaultyDisk) to lose what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile, OpenHow, WriteMode, check_name, check_position};
use crate::aligned::Blocks;

/// A directory in memory. Clones share it, so a test can reopen what another component wrote.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    files: BTreeMap<String, Arc<Content>>,
    capacity_bytes: u64,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Mutex<Vec<u8>>,
}

impl MemoryDisk {
    /// An empty directory that never fills up.
    pub fn new() -> Self {
        Self::with_capacity(u64::MAX)
    }

    /// An empty directory whose files hold at most `bytes` together.
    pub fn with_capacity(bytes: u64) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { files: BTreeMap::new(), capacity_bytes: bytes })) }
    }

    /// Changes the room for all files together. Files that are larger already stay.
    pub fn set_capacity(&self, bytes: u64) {
        self.inner.lock().capacity_bytes = bytes;
    }

    /// A copy that shares nothing with this one.
    pub fn snapshot(&self) -> Self {
        let inner = self.inner.lock();
        let copy = |content: &Arc<Content>| Arc::new(Content { bytes: Mutex::new(content.bytes.lock().clone()) });
        let files = inner.files.iter().map(|(name, content)| (name.clone(), copy(content))).collect();
        Self { inner: Arc::new(Mutex::new(Inner { files, capacity_bytes: inner.capacity_bytes })) }
    }

    /// Flips bit `bit` (0 to 7) of byte `position` of `name`, as a decaying medium does.
    ///
    /// # Errors
    /// `NotFound` and `UnexpectedEof`.
    pub fn flip_bit(&self, name: &str, position: u64, bit: u8) -> io::Result<()> {
        let content = self.inner.lock().content(name)?;
        let mut bytes = content.bytes.lock();
        let at = usize::try_from(position).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let byte = bytes.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)?;
        *byte ^= 1 << (bit % 8);
        Ok(())
    }

    /// Replaces the whole content of `name`, creating it: what an operator with an editor could do.
    pub fn set_content(&self, name: &str, bytes: Vec<u8>) {
        self.inner.lock().files.insert(name.to_owned(), Arc::new(Content { bytes: Mutex::new(bytes) }));
    }
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn content(&self, name: &str) -> io::Result<Arc<Content>> {
        check_name(name)?;
        self.files.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(|content| content.bytes.lock().len() as u64).sum()
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        check_name(name)?;
        let mut inner = self.inner.lock();
        let content = match how {
            OpenHow::CreateNew => {
                if inner.files.contains_key(name) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                let content = Arc::new(Content::default());
                inner.files.insert(name.to_owned(), content.clone());
                content
            }
            OpenHow::Existing | OpenHow::ReadOnly | OpenHow::Scan => inner.content(name)?,
        };
        let writes = matches!(how, OpenHow::CreateNew | OpenHow::Existing);
        Ok(Arc::new(MemoryFile { content, disk: self.clone(), writes }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        check_name(name)?;
        Ok(self.inner.lock().files.contains_key(name))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        Ok(self.inner.lock().files.keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(to)?;
        let mut inner = self.inner.lock();
        let content = inner.content(from)?;
        inner.files.remove(from);
        inner.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.inner.lock().files.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let inner = self.inner.lock();
        Ok(inner.capacity_bytes.saturating_sub(inner.used_bytes()))
    }

    fn read_file(&self, name: &str) -> io::Result<Vec<u8>> {
        let content = self.inner.lock().content(name)?;
        let bytes = content.bytes.lock().clone();
        Ok(bytes)
    }

    fn write_file_atomically(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        check_name(name)?;
        self.set_content(name, bytes.to_vec());
        Ok(())
    }

    fn write_mode(&self) -> WriteMode {
        WriteMode::Direct
    }
}

#[derive(Debug)]
struct MemoryFile {
    content: Arc<Content>,
    disk: MemoryDisk,
    writes: bool,
}

impl MemoryFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writes { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }

    fn grow(&self, bytes: u64) -> io::Result<()> {
        let inner = self.disk.inner.lock();
        let length = self.content.bytes.lock().len() as u64;
        if bytes <= length {
            return Ok(());
        }
        if inner.used_bytes().saturating_add(bytes - length) > inner.capacity_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let target = usize::try_from(bytes).map_err(|_| io::ErrorKind::StorageFull)?;
        self.content.bytes.lock().resize(target, 0);
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = self.content.bytes.lock();
        let from = usize::try_from(position).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let source = bytes.get(from..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at_durably(&self, position: u64, blocks: Blocks<'_>) -> io::Result<()> {
        self.check_writable()?;
        check_position(position)?;
        let end = position.checked_add(blocks.len() as u64).ok_or(io::ErrorKind::StorageFull)?;
        self.grow(end)?;
        let mut bytes = self.content.bytes.lock();
        let from = usize::try_from(position).map_err(|_| io::ErrorKind::StorageFull)?;
        let target = bytes.get_mut(from..).and_then(|rest| rest.get_mut(..blocks.len()));
        target.ok_or(io::ErrorKind::StorageFull)?.copy_from_slice(blocks.as_bytes());
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.bytes.lock().len() as u64)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.check_writable()?;
        self.grow(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_mode(&self) -> WriteMode {
        WriteMode::Direct
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::conformance;

    #[test]
    fn memory_conforms() {
        conformance::check(&mut || Arc::new(MemoryDisk::new()));
    }

    /// Catches a capacity that allocation ignores.
    #[test]
    fn a_full_memory_disk_says_so() {
        let disk = MemoryDisk::with_capacity(10_000);
        let file = disk.open("a", OpenHow::CreateNew).expect("creates");
        file.allocate(8192).expect("fits");
        assert_eq!(file.allocate(12_288).expect_err("is full").kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.free_bytes().expect("known"), 10_000 - 8192);
    }
}
