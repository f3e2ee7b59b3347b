//! The operating system's files: direct synchronous writes into reserved space, or, where the file system refuses
//! direct I/O, a write to the page cache followed by a data sync.
//!
//! Which of the two is probed once, when the directory is opened, with a real write: some file systems accept the open
//! flag and refuse the write. Reads go through a second, buffered descriptor. Linux keeps the two coherent: a direct
//! write invalidates the cached pages it covers before and after it. A [`OpenHow::Scan`] file reads directly into
//! aligned memory.
//!
//! A directory may also be opened for reading only: then nothing of it is touched, not even to find out how it writes.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::{Disk, DiskFile, OpenHow, WriteMode, check_name, check_position};
use crate::aligned::{AlignedBuffer, BLOCK_BYTES, Blocks, is_block_aligned};

/// Name of the file that the probe writes and removes.
const PROBE_NAME: &str = "probe.tmp";
/// What the name of a half-written small file ends with.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// One directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    mode: WriteMode,
    access: Access,
}

/// What may be done with a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    ReadWrite,
    ReadOnly,
}

impl RealDisk {
    /// Opens the existing directory `path` and finds out how it makes writes durable. A directory that refuses direct
    /// I/O is announced with one warning.
    ///
    /// # Errors
    /// When the directory does not exist or refuses buffered synced writes too.
    pub fn open(path: &Path) -> io::Result<Self> {
        let direct = Self { path: path.to_owned(), mode: WriteMode::Direct, access: Access::ReadWrite };
        match direct.probe() {
            Ok(()) => Ok(direct),
            Err(error) => {
                let buffered = Self::open_buffered(path)?;
                tracing::warn!(
                    directory = %path.display(),
                    %error,
                    "the file system refuses direct I/O; using buffered writes and data syncs, slower and as durable"
                );
                Ok(buffered)
            }
        }
    }

    /// Opens the existing directory `path` without direct I/O.
    ///
    /// # Errors
    /// When the directory does not exist or refuses synced writes.
    pub fn open_buffered(path: &Path) -> io::Result<Self> {
        let mode = WriteMode::BufferedThenSync;
        let buffered = Self { path: path.to_owned(), mode, access: Access::ReadWrite };
        buffered.probe()?;
        Ok(buffered)
    }

    /// Opens the existing directory `path` to read it. Nothing is probed and nothing written: every operation that would
    /// change the directory fails with `PermissionDenied`. Neither write permission nor free space is needed.
    ///
    /// # Errors
    /// When the directory does not exist or cannot be listed.
    pub fn open_read_only(path: &Path) -> io::Result<Self> {
        std::fs::read_dir(path)?;
        Ok(Self { path: path.to_owned(), mode: WriteMode::BufferedThenSync, access: Access::ReadOnly })
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    fn probe(&self) -> io::Result<()> {
        match std::fs::remove_file(self.path.join(PROBE_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = self.open(PROBE_NAME, OpenHow::CreateNew).and_then(|file| {
            let mut block = AlignedBuffer::zeroed(BLOCK_BYTES);
            block.as_mut_slice().fill(0xa5);
            file.allocate(2 * BLOCK_BYTES as u64)?;
            file.write_at_durably(BLOCK_BYTES as u64, block.blocks(BLOCK_BYTES))?;
            let mut back = AlignedBuffer::zeroed(BLOCK_BYTES);
            file.read_at(BLOCK_BYTES as u64, back.as_mut_slice())?;
            if back.as_slice() == block.as_slice() {
                Ok(())
            } else {
                Err(io::Error::other("the probe read back wrong"))
            }
        });
        let removed = std::fs::remove_file(self.path.join(PROBE_NAME));
        written.and(removed)
    }

    fn path_of(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.path.join(name))
    }

    /// `O_DIRECT` and `O_DSYNC` as the standard library wants them.
    fn flags(flags: OFlags) -> i32 {
        i32::try_from(flags.bits()).expect("open flags fit the C type they come from")
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str, how: OpenHow) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path_of(name)?;
        let writes = matches!(how, OpenHow::CreateNew | OpenHow::Existing);
        if writes {
            self.check_writable()?;
        }
        let buffered = OpenOptions::new().read(true).write(writes).create_new(how == OpenHow::CreateNew).open(&path)?;
        if self.mode == WriteMode::BufferedThenSync && how == OpenHow::Scan {
            // After a failed sync the page cache may show what never reached the device.
            rustix::fs::fadvise(&buffered, 0, None, Advice::DontNeed)?;
        }
        let direct = match (self.mode, how) {
            (WriteMode::BufferedThenSync, _) | (_, OpenHow::ReadOnly) => None,
            (WriteMode::Direct, OpenHow::Scan) => {
                Some(OpenOptions::new().read(true).custom_flags(Self::flags(OFlags::DIRECT)).open(&path)?)
            }
            (WriteMode::Direct, OpenHow::CreateNew | OpenHow::Existing) => {
                let flags = Self::flags(OFlags::DIRECT | OFlags::DSYNC);
                Some(OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path)?)
            }
        };
        Ok(Arc::new(RealFile { buffered, direct, writes, scans: how == OpenHow::Scan, mode: self.mode }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.path_of(name)?.try_exists()
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            // A name that is not text is not ours.
            if let Some(name) = OsStr::to_str(&name).filter(|name| name.starts_with(prefix)) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path_of(from)?, self.path_of(to)?);
        self.check_writable()?;
        std::fs::rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path_of(name)?;
        self.check_writable()?;
        std::fs::remove_file(path)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.check_writable()?;
        File::open(&self.path)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let figures = rustix::fs::statvfs(&self.path)?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }

    fn read_file(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.path_of(name)?)
    }

    fn write_file_atomically(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path_of(name)?;
        self.check_writable()?;
        let temporary = self.path_of(&format!("{name}{TEMPORARY_SUFFIX}"))?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        self.sync_dir()
    }

    fn write_mode(&self) -> WriteMode {
        self.mode
    }
}

#[derive(Debug)]
struct RealFile {
    buffered: File,
    /// With `O_DIRECT`, and with `O_DSYNC` when the file is open for writing.
    direct: Option<File>,
    writes: bool,
    scans: bool,
    mode: WriteMode,
}

impl RealFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writes { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &self.direct {
            // Files open for writing are read where they were just written, through the page cache: a reader may ask
            // for the same bytes again.
            Some(direct) if self.scans && is_block_aligned(position, buffer) => direct.read_exact_at(buffer, position),
            _ => self.buffered.read_exact_at(buffer, position),
        }
    }

    fn write_at_durably(&self, position: u64, blocks: Blocks<'_>) -> io::Result<()> {
        self.check_writable()?;
        check_position(position)?;
        match &self.direct {
            Some(direct) => direct.write_all_at(blocks.as_bytes(), position),
            None => {
                self.buffered.write_all_at(blocks.as_bytes(), position)?;
                self.buffered.sync_data()
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.buffered.metadata()?.len())
    }

    fn written_from(&self, position: u64) -> io::Result<u64> {
        // lseek(2): reserved space is a hole, unless the page cache has something for it. No read uses the file's offset.
        match rustix::fs::seek(&self.buffered, SeekFrom::Data(position)) {
            Ok(written) => Ok(written),
            Err(Errno::NXIO) => Ok(self.len()?.max(position)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(position),
            Err(error) => Err(error.into()),
        }
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.check_writable()?;
        let length = self.len()?;
        if length >= bytes {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.buffered, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            // No way to reserve: write the zeros.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let zeros = vec![0; 1 << 20];
                let mut at = length;
                while at < bytes {
                    let part = zeros.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
                    self.buffered.write_all_at(zeros.get(..part).unwrap_or(&zeros), at)?;
                    at += part as u64;
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.buffered.sync_all()
    }

    fn sync(&self) -> io::Result<()> {
        self.buffered.sync_all()
    }

    fn write_mode(&self) -> WriteMode {
        self.mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::conformance;

    /// Both ways of writing meet the specification, whichever this machine's file system prefers.
    #[test]
    fn real_directories_conform() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        conformance::check(&mut || {
            let path = directory.path().join("probed");
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir(&path).expect("creates");
            Arc::new(RealDisk::open(&path).expect("opens"))
        });
        conformance::check(&mut || {
            let path = directory.path().join("buffered");
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir(&path).expect("creates");
            let disk = RealDisk::open_buffered(&path).expect("opens");
            assert_eq!(disk.write_mode(), WriteMode::BufferedThenSync);
            Arc::new(disk)
        });
    }

    /// Catches a directory opened for reading only that is written to, by its opening or by any operation.
    #[test]
    fn a_directory_opened_for_reading_only_conforms_and_is_never_changed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let writer = RealDisk::open_buffered(directory.path()).expect("opens");
        conformance::check_read_only(&writer, &|| {
            Arc::new(RealDisk::open_read_only(directory.path()).expect("opens for reading"))
        });
        let missing = RealDisk::open_read_only(&directory.path().join("missing")).expect_err("there is none");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    /// True when `path` has its first block in the page cache; `None` when the file system cannot say.
    fn is_cached(path: &Path) -> Option<bool> {
        let file = File::open(path).expect("opens");
        let mut block = [0; BLOCK_BYTES];
        let mut buffers = [io::IoSliceMut::new(&mut block)];
        match rustix::io::preadv2(&file, &mut buffers, 0, rustix::io::ReadWriteFlags::NOWAIT) {
            Ok(_) => Some(true),
            Err(Errno::AGAIN) => Some(false),
            Err(_) => None,
        }
    }

    /// Catches a recovery that reads back what a failed sync has left in memory only.
    #[test]
    fn a_scan_without_direct_reads_asks_the_device() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = RealDisk::open_buffered(directory.path()).expect("opens");
        let write = |name: &str| {
            let file = disk.open(name, OpenHow::CreateNew).expect("creates");
            file.write_at_durably(0, AlignedBuffer::zeroed(BLOCK_BYTES).blocks(BLOCK_BYTES)).expect("writes");
            assert_ne!(is_cached(&directory.path().join(name)), Some(false), "a buffered write is cached");
        };
        write("control");
        let control = File::open(directory.path().join("control")).expect("opens");
        rustix::fs::fadvise(&control, 0, None, Advice::DontNeed).expect("advises");
        if is_cached(&directory.path().join("control")) != Some(false) {
            // The file system is memory itself, or does not say.
            return;
        }
        write("scanned");
        drop(disk.open("scanned", OpenHow::ReadOnly).expect("opens"));
        assert_eq!(is_cached(&directory.path().join("scanned")), Some(true), "an ordinary reader uses the cache");
        drop(disk.open("scanned", OpenHow::Scan).expect("opens"));
        assert_eq!(is_cached(&directory.path().join("scanned")), Some(false));
    }

    /// Catches a probe that leaves its file behind or takes a missing directory for one without direct I/O.
    #[test]
    fn the_probe_leaves_nothing_and_wants_a_directory() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = RealDisk::open(directory.path()).expect("opens");
        assert_eq!(disk.list("").expect("lists"), Vec::<String>::new());
        let missing = RealDisk::open(&directory.path().join("missing")).expect_err("there is none");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
