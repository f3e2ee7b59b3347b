//! The machine's disk limits: raw synced writes of the sizes that the journal commits, without any of our code.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::MicroError;
use super::sampler::{Sampler, nanos};
use crate::stopwatch::Stopwatch;

/// Sizes of synced writes, and their names in rows.
pub const WRITE_SIZES: [(usize, &str); 3] = [(4 << 10, "4KiB"), (64 << 10, "64KiB"), (1 << 20, "1MiB")];
const BLOCK_BYTES: usize = 4096;
/// Bytes of the file that is written round and round.
const FILE_BYTES: u64 = 256 << 20;

/// The row that a synced write of `size` is held against.
pub fn recycled_row(size: &str) -> String {
    format!("disk/direct+dsync {size} recycled")
}

/// Measures the disk under `directory`; returns how it was opened.
pub fn measure(sampler: &mut Sampler<'_>, directory: &Path) -> Result<String, MicroError> {
    let error = MicroError::io("disk");
    let Ok(scratch) = tempfile::Builder::new().prefix("streambus-micro-").tempdir_in(directory) else {
        return Err(error(io::Error::other(format!("cannot write in {}", directory.display()))));
    };
    let wanted = WRITE_SIZES.iter().any(|(_, size)| {
        sampler.wants(&recycled_row(size)) || sampler.wants(&format!("disk/direct+dsync {size} fallocated"))
    });
    if !wanted && !sampler.wants("disk/fdatasync") && !sampler.wants("disk/read") {
        return Ok("not measured".to_owned());
    }
    let path = scratch.path().join("raw");
    rows(sampler, &path).map_err(error)
}

fn rows(sampler: &mut Sampler<'_>, path: &Path) -> io::Result<String> {
    let (file, how) = open_direct(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES)?;
    let buffer = Aligned::new(1 << 20);
    let mut position = 0;
    for (bytes, size) in WRITE_SIZES {
        let name = format!("disk/direct+dsync {size} fallocated");
        let samples = write_round(sampler, &name, &file, &buffer, bytes, &mut position)?;
        sampler.add(&name, bytes as u64, None, samples);
    }
    // From here on every block has been written once: what a recycled segment is.
    for at in (0..FILE_BYTES).step_by(1 << 20) {
        file.write_all_at(buffer.get(1 << 20), at)?;
    }
    position = 0;
    for (bytes, size) in WRITE_SIZES {
        let name = recycled_row(size);
        let samples = write_round(sampler, &name, &file, &buffer, bytes, &mut position)?;
        sampler.add(&name, bytes as u64, None, samples);
    }
    let buffered = OpenOptions::new().write(true).open(path)?;
    let mut samples = Vec::new();
    if sampler.wants("disk/fdatasync after a 4KiB overwrite") {
        for index in 0..sampler.operations() as u64 {
            let watch = Stopwatch::start();
            buffered.write_all_at(buffer.get(BLOCK_BYTES), index * BLOCK_BYTES as u64)?;
            buffered.sync_data()?;
            samples.push(nanos(watch.elapsed()));
        }
    }
    sampler.add("disk/fdatasync after a 4KiB overwrite", BLOCK_BYTES as u64, Some(&recycled_row("4KiB")), samples);
    read_rows(sampler, path)?;
    Ok(how.to_owned())
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
        for index in 0..sampler.operations() as u64 / 2 {
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

fn write_round(
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
