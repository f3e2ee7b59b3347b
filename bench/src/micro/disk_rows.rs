//! The machine's disk limits: raw synced writes of the sizes that the journal commits, back to back and at a fixed rate,
//! without any of our code.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::MicroError;
use super::sampler::{Sampler, nanos};
use crate::stopwatch::Stopwatch;

/// Sizes of synced writes, and their names in rows.
pub const WRITE_SIZES: [(usize, &str); 3] = [(4 << 10, "4KiB"), (64 << 10, "64KiB"), (1 << 20, "1MiB")];
const BLOCK_BYTES: usize = 4096;
/// Bytes of the file that is written round and round.
const FILE_BYTES: u64 = 256 << 20;

/// Single synced writes of 4 KiB at a fixed rate, each timed from when it was due: what single sends at that rate are
/// held against.
pub const PACED_ROW: &str = "disk/direct+dsync 4KiB recycled, 1,000 a second";
/// Writes a second of [`PACED_ROW`].
pub const PACED_RATE: u64 = 1_000;
/// The largest synced write: the fastest that this disk takes durable bytes.
pub const LARGEST_WRITE_ROW: &str = "disk/direct+dsync 1MiB recycled";
/// The largest read.
pub const LARGEST_READ_ROW: &str = "disk/read 1MiB scattered";

/// The row that a synced write of `size` is held against.
pub fn recycled_row(size: &str) -> String {
    format!("disk/direct+dsync {size} recycled")
}

/// How files under `directory` are written: directly, or buffered where the file system refuses that.
pub fn mode(directory: &Path) -> Result<&'static str, MicroError> {
    let scratch = scratch(directory)?;
    open_direct(&scratch.path().join("mode")).map(|(_, how)| how).map_err(MicroError::io("disk"))
}

/// Measures the disk under `directory`.
pub fn measure(sampler: &mut Sampler<'_>, directory: &Path) -> Result<(), MicroError> {
    let scratch = scratch(directory)?;
    let wanted = WRITE_SIZES.iter().any(|(_, size)| {
        sampler.wants(&recycled_row(size)) || sampler.wants(&format!("disk/direct+dsync {size} fallocated"))
    });
    if !wanted && !sampler.wants(PACED_ROW) && !sampler.wants("disk/fdatasync") && !sampler.wants("disk/read") {
        return Ok(());
    }
    rows(sampler, &scratch.path().join("raw")).map_err(MicroError::io("disk"))
}

fn scratch(directory: &Path) -> Result<tempfile::TempDir, MicroError> {
    tempfile::Builder::new().prefix("streambus-micro-").tempdir_in(directory).map_err(|error| {
        let place = format!("cannot write in {}: {error}", directory.display());
        MicroError::io("disk")(io::Error::new(error.kind(), place))
    })
}

fn rows(sampler: &mut Sampler<'_>, path: &Path) -> io::Result<()> {
    let (file, _how) = open_direct(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES)?;
    let buffer = Aligned::new(1 << 20);
    let mut position = 0;
    for (bytes, size) in WRITE_SIZES {
        let name = format!("disk/direct+dsync {size} fallocated");
        let samples = write_unwritten(sampler, &name, &file, &buffer, bytes, &mut position)?;
        sampler.add(&name, bytes as u64, None, samples);
    }
    // From here on every block has been written once: what a recycled segment is.
    for at in (0..FILE_BYTES).step_by(1 << 20) {
        file.write_all_at(buffer.get(1 << 20), at)?;
    }
    for (bytes, size) in WRITE_SIZES {
        let name = recycled_row(size);
        let samples = write_again(sampler, &name, &file, &buffer, bytes)?;
        sampler.add(&name, bytes as u64, None, samples);
    }
    let samples = write_paced(sampler, &file, &buffer)?;
    sampler.add(PACED_ROW, BLOCK_BYTES as u64, Some(&recycled_row("4KiB")), samples);
    let buffered = OpenOptions::new().write(true).open(path)?;
    let mut samples = Vec::new();
    if sampler.wants("disk/fdatasync after a 4KiB overwrite") {
        for index in 0..small_writes(sampler) as u64 {
            let watch = Stopwatch::start();
            buffered.write_all_at(buffer.get(BLOCK_BYTES), index * BLOCK_BYTES as u64)?;
            buffered.sync_data()?;
            samples.push(nanos(watch.elapsed()));
        }
    }
    sampler.add("disk/fdatasync after a 4KiB overwrite", BLOCK_BYTES as u64, Some(&recycled_row("4KiB")), samples);
    read_rows(sampler, path)
}

/// Writes of a row of small ones: cheap enough for a tail of many samples.
fn small_writes(sampler: &Sampler<'_>) -> usize {
    4 * sampler.operations()
}

/// Direct reads of what was written, in order and scattered.
fn read_rows(sampler: &mut Sampler<'_>, path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(flags(OFlags::DIRECT)).open(path);
    let file = match file {
        Ok(file) => file,
        Err(_) => File::open(path)?,
    };
    let mut buffer = Aligned::new(1 << 20);
    for (bytes, size) in WRITE_SIZES {
        let name = format!("disk/read {size} scattered");
        if !sampler.wants(&name) {
            continue;
        }
        let places = FILE_BYTES / bytes as u64;
        let mut samples = Vec::new();
        for index in 0..sampler.operations() as u64 {
            // A stride that is prime to the number of places visits all of them out of order.
            let at = (index.wrapping_mul(7_919) % places) * bytes as u64;
            let watch = Stopwatch::start();
            file.read_exact_at(buffer.get_mut(bytes), at)?;
            samples.push(nanos(watch.elapsed()));
        }
        sampler.add(&name, bytes as u64, None, samples);
    }
    Ok(())
}

/// Writes round and round over blocks that were written before.
fn write_again(sampler: &Sampler<'_>, name: &str, file: &File, buffer: &Aligned, bytes: usize) -> io::Result<Vec<f64>> {
    let mut samples = Vec::new();
    if !sampler.wants(name) {
        return Ok(samples);
    }
    let count = if bytes < 1 << 20 { small_writes(sampler) } else { sampler.operations() };
    for index in 0..count as u64 {
        let watch = Stopwatch::start();
        file.write_all_at(buffer.get(bytes), (index * bytes as u64) % FILE_BYTES)?;
        samples.push(nanos(watch.elapsed()));
    }
    Ok(samples)
}

/// One write at a time, due at a schedule that does not wait for the disk: a write that is late because the one before
/// it was slow counts its lateness, as the paced end-to-end rows count theirs.
fn write_paced(sampler: &Sampler<'_>, file: &File, buffer: &Aligned) -> io::Result<Vec<f64>> {
    let mut samples = Vec::new();
    if !sampler.wants(PACED_ROW) {
        return Ok(samples);
    }
    let schedule = Stopwatch::start();
    for index in 0..10 * sampler.operations() as u64 {
        let due = Duration::from_nanos(index * (1_000_000_000 / PACED_RATE));
        schedule.block_until(due);
        file.write_all_at(buffer.get(BLOCK_BYTES), (index * BLOCK_BYTES as u64) % FILE_BYTES)?;
        samples.push(nanos(schedule.elapsed().saturating_sub(due)));
    }
    Ok(samples)
}

/// Writes blocks that were allocated and never written, as long as there are any.
fn write_unwritten(
    sampler: &Sampler<'_>,
    name: &str,
    file: &File,
    buffer: &Aligned,
    bytes: usize,
    position: &mut u64,
) -> io::Result<Vec<f64>> {
    let mut samples = Vec::new();
    if !sampler.wants(name) {
        return Ok(samples);
    }
    // Not more than fits: a fallocated block counts as such only the first time.
    let room = usize::try_from((FILE_BYTES - *position) / bytes as u64).unwrap_or(0);
    for _ in 0..sampler.operations().min(room).min(128 * BLOCK_BYTES * 512 / bytes) {
        let watch = Stopwatch::start();
        file.write_all_at(buffer.get(bytes), *position)?;
        samples.push(nanos(watch.elapsed()));
        *position += bytes as u64;
    }
    *position = position.next_multiple_of(1 << 20);
    Ok(samples)
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Direct and synchronous where the file system takes it, else synchronous alone.
fn open_direct(path: &Path) -> io::Result<(File, &'static str)> {
    let open = |extra: OFlags| {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags(extra)).open(path)
    };
    match open(OFlags::DIRECT | OFlags::DSYNC) {
        Ok(file) => Ok((file, "O_DIRECT|O_DSYNC")),
        Err(_) => Ok((open(OFlags::DSYNC)?, "buffered O_DSYNC (direct I/O refused)")),
    }
}

/// Memory at a block's boundary, as direct I/O demands.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(bytes: usize) -> Self {
        let memory = vec![0x5a; bytes + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        Self { memory, start }
    }

    fn get(&self, bytes: usize) -> &[u8] {
        &self.memory[self.start..self.start + bytes]
    }

    fn get_mut(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + bytes]
    }
}
