//! A disk of its own for a broker: an ext4 file system in a file, mounted through a loop device. Its power can be cut, so
//! that everything unsynced is gone, and it can be full. Needs root, `mkfs.ext4` and `mount`.
//!
//! Every cut proves itself: beside the broker's data lie a file that was written without a sync and one that was synced.
//! After the cut the first must be gone or empty and the second whole, or the cut was none and the test fails.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::patience::wait_for;
use crate::shim;

/// Bytes of the two files that prove a cut.
const PROOF_BYTES: usize = 64 * 1024;
const UNSYNCED: &str = "unsynced";
const SYNCED: &str = "synced";
/// What takes the space of a full disk.
const BALLAST: &str = "ballast";
const CRUMBS: &str = "crumbs";
/// How long a file system may stay busy after its last process ended.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(20);

/// Why disks of their own cannot be had on this machine; `None` when they can. Found out by making one.
pub fn missing() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    FOUND.get_or_init(try_one).as_deref()
}

/// False, said loudly, when this machine cannot give brokers disks of their own: then the caller's test proves nothing.
/// With `STREAMBUS_SKIPS=refuse` the test fails instead.
pub fn available(test: &str) -> bool {
    let Some(why) = missing() else { return true };
    assert!(
        std::env::var_os("STREAMBUS_SKIPS").is_none_or(|how| how != "refuse"),
        "{test}: cannot run, and STREAMBUS_SKIPS=refuse: {why}"
    );
    eprintln!("SKIPPED: {test}: needs root and loop-mounted file systems, which this machine refuses: {why}");
    false
}

fn try_one() -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    LoopDisk::try_new(folder.path(), "probe", 16 << 20, &[]).err()
}

/// One mounted file system. Unmounted when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    mounted_at: PathBuf,
    is_mounted: bool,
}

impl LoopDisk {
    /// Makes and mounts a file system of `bytes` in `folder`. Panics when this machine refuses: ask [`missing`] first.
    pub fn new(folder: &Path, name: &str, bytes: u64) -> Self {
        Self::try_new(folder, name, bytes, &[]).unwrap_or_else(|why| panic!("a disk of its own: {why}"))
    }

    /// The same without extents, so that no file can reserve space ahead: once it is full, nothing grows any more.
    pub fn without_reservations(folder: &Path, name: &str, bytes: u64) -> Self {
        let features = ["-O", "^extent,^64bit"];
        Self::try_new(folder, name, bytes, &features).unwrap_or_else(|why| panic!("a disk of its own: {why}"))
    }

    fn try_new(folder: &Path, name: &str, bytes: u64, features: &[&str]) -> Result<Self, String> {
        let (image, mounted_at) = (folder.join(format!("{name}.image")), folder.join(name));
        let file = File::create_new(&image).map_err(|error| format!("{}: {error}", image.display()))?;
        file.set_len(bytes).map_err(|error| format!("{}: {error}", image.display()))?;
        // Nothing is reserved for root, which the brokers of a test are.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).args(features).arg(&image))?;
        fs::create_dir(&mounted_at).map_err(|error| format!("{}: {error}", mounted_at.display()))?;
        let mut disk = Self { image, mounted_at, is_mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        // The kernel shall not write by itself what nobody synced, neither after seconds nor when a file is replaced: that
        // would hide a sync that is missing.
        let options = ["-t", "ext4", "-o", "loop,commit=300,noauto_da_alloc"];
        run(Command::new("mount").args(options).arg(&self.image).arg(&self.mounted_at))?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) {
        let unmounted = wait_for(UNMOUNT_PATIENCE, || run(Command::new("umount").arg(&self.mounted_at)).ok());
        assert!(unmounted.is_some(), "{} stays busy", self.mounted_at.display());
        self.is_mounted = false;
    }

    /// Where the broker's data lies, one folder below the file system's root.
    pub fn data(&self) -> PathBuf {
        self.mounted_at.join("data")
    }

    /// Takes all but `left` bytes, so that the disk is full for everybody else.
    pub fn fill(&self, left: u64) {
        let free = free_bytes(&self.mounted_at);
        let ballast = self.mounted_at.join(BALLAST);
        let taken = free.saturating_sub(left).to_string();
        run(Command::new("fallocate").args(["-l", &taken]).arg(&ballast)).expect("the disk can be filled");
    }

    /// Takes every byte that is left. May be called again when somebody has given up some.
    pub fn fill_up(&self) {
        // Where the large file would need another block to find its blocks, the small one takes the last ones.
        for name in [BALLAST, CRUMBS] {
            let path = self.mounted_at.join(name);
            grow_as_far_as_possible(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// Gives back what [`Self::fill`] or [`Self::fill_up`] took.
    pub fn empty(&self) {
        fs::remove_file(self.mounted_at.join(BALLAST)).expect("the disk was filled");
        // Only a disk that was filled up has them.
        let _removed = fs::remove_file(self.mounted_at.join(CRUMBS));
    }

    /// Writes the two files that [`Self::restore`] looks at.
    fn write_proof(&self) {
        let bytes = vec![0x5a; PROOF_BYTES];
        let write = |name: &str| {
            let path = self.mounted_at.join(name);
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path).expect("a proof");
            file.write_all(&bytes).expect("a proof can be written");
            file
        };
        write(SYNCED).sync_all().expect("a proof can be synced");
        drop(write(UNSYNCED));
    }

    /// Power is back: mounts the file system again, its process being gone, and looks at what the cut left.
    pub fn restore(&mut self) {
        self.unmount();
        self.mount().unwrap_or_else(|why| panic!("after a cut: {why}"));
        let length = |name: &str| fs::metadata(self.mounted_at.join(name)).map_or(0, |found| found.len());
        assert_eq!(length(SYNCED), PROOF_BYTES as u64, "a synced file survives a power cut");
        assert!(length(UNSYNCED) < PROOF_BYTES as u64, "the cut lost nothing, so it was none");
        for name in [SYNCED, UNSYNCED] {
            // It may be gone.
            let _removed = fs::remove_file(self.mounted_at.join(name));
        }
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if self.is_mounted {
            // A test that fails may leave it busy; lazily, it goes with its last user.
            let _unmounted = Command::new("umount").arg("--lazy").arg(&self.mounted_at).status();
        }
    }
}

/// Cuts the power of all `disks` within microseconds. `tools` is where the program for it is kept, compiled once.
pub fn cut_power(tools: &Path, disks: &[&LoopDisk]) {
    let program = tools.join("power_cut");
    if !program.exists() {
        shim::compile("power_cut.c", &program, &[]);
    }
    disks.iter().for_each(|disk| disk.write_proof());
    let directories = disks.iter().map(|disk| &disk.mounted_at);
    run(Command::new(&program).args(directories)).unwrap_or_else(|why| panic!("the power could not be cut: {why}"));
}

/// Appends zeros until the file system has room for none, also once it has written down what it was given.
fn grow_as_far_as_possible(path: &Path) -> std::io::Result<()> {
    let zeros = [0; 64 * 1024];
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    loop {
        let (mut grown, mut portion) = (0, zeros.len());
        while portion > 0 {
            match file.write(&zeros[..portion]) {
                Ok(written) => grown += written,
                Err(error) if error.kind() == ErrorKind::StorageFull => portion /= 2,
                Err(error) => return Err(error),
            }
        }
        file.sync_all()?;
        if grown == 0 {
            return Ok(());
        }
    }
}

fn free_bytes(path: &Path) -> u64 {
    let output = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(path).output().expect("stat runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_whitespace().map(|word| word.parse::<u64>().expect("stat prints numbers"));
    let (blocks, bytes) = (numbers.next().expect("free blocks"), numbers.next().expect("their size"));
    blocks * bytes
}

/// Runs a command; what it said when it failed.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said.trim())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_loses_what_was_not_synced_and_nothing_else() {
        if !available("a cut loses what was not synced") {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut disks: Vec<_> =
            ["one", "two"].into_iter().map(|name| LoopDisk::new(folder.path(), name, 32 << 20)).collect();
        for disk in &disks {
            fs::create_dir(disk.data()).expect("a folder");
            File::create(disk.data().join("kept")).and_then(|file| file.sync_all()).expect("a synced file");
            File::open(disk.data()).and_then(|folder| folder.sync_all()).expect("a synced folder");
        }
        for _ in 0..3 {
            for disk in &disks {
                fs::write(disk.data().join("lost"), b"never synced").expect("an unsynced file");
            }
            cut_power(folder.path(), &disks.iter().collect::<Vec<_>>());
            fs::write(disks[1].data().join("after"), b"x").expect_err("nothing is written after a cut");
            for disk in &mut disks {
                disk.restore();
                assert!(disk.data().join("kept").exists());
                assert!(fs::read(disk.data().join("lost")).unwrap_or_default().is_empty());
            }
        }
    }

    #[test]
    fn a_full_disk_is_full() {
        if !available("a full disk is full") {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let disk = LoopDisk::new(folder.path(), "one", 32 << 20);
        fs::create_dir(disk.data()).expect("a folder");
        disk.fill(1 << 20);
        assert!(fs::write(disk.data().join("big"), vec![0; 4 << 20]).is_err(), "there is no room for it");
        fs::remove_file(disk.data().join("big")).expect("a part of it");
        disk.empty();
        fs::write(disk.data().join("big"), vec![0; 4 << 20]).expect("there is room again");
    }

    #[test]
    fn a_disk_that_is_filled_up_takes_not_a_byte() {
        if !available("a disk that is filled up") {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let disk = LoopDisk::without_reservations(folder.path(), "one", 16 << 20);
        fs::create_dir(disk.data()).expect("a folder");
        fs::write(disk.data().join("kept"), vec![0; 1 << 20]).expect("there is room");
        disk.fill_up();
        assert!(fs::write(disk.data().join("small"), b"x").is_err(), "there is no room for it");
        fs::remove_file(disk.data().join("kept")).expect("it is there");
        disk.fill_up();
        assert!(fs::write(disk.data().join("small"), b"x").is_err(), "what was given up is taken too");
        disk.empty();
        fs::write(disk.data().join("small"), b"x").expect("there is room again");
    }
}
