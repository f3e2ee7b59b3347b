//! Where the next segment's file comes from: a recycled one first, else a new one with its space reserved.
//!
//! Writing to blocks that were written before needs no file-system journal commit, hence the small pool. A new file's are
//! written ahead of the commits (`zero_ahead`).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::config::JournalConfig;
use super::segment::{SEGMENT_HEADER_BYTES, SPARE_PREFIX, spare_file_name, spare_number};
use super::zero_ahead::ZeroAhead;
use crate::disk::{Disk, DiskFile, OpenHow, WriteMode};

/// A file of the full segment size that is not part of the journal. Its content means nothing.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    /// False when it was only reserved: the first write to its blocks costs more.
    was_written: bool,
}

impl Spare {
    /// What of it has to be zeroed once it is a segment. A page cache makes no difference between first and later writes.
    pub(crate) fn zero_ahead(&self) -> ZeroAhead {
        if self.was_written || self.file.write_mode() != WriteMode::Direct {
            return ZeroAhead::none();
        }
        ZeroAhead::starting(SEGMENT_HEADER_BYTES)
    }
}

/// Why no spare file was made.
#[derive(Debug)]
pub(crate) enum CreateError {
    /// There is no space for it, or none that may be used: this passes.
    NoSpace(String),
    /// The disk refused: it must not be relied upon any more.
    Refused {
        /// The file.
        file: String,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// The spare files of one journal.
#[derive(Debug)]
pub(crate) struct Supply {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    spares_max: usize,
    total_bytes_max: Option<u64>,
    reserve_bytes: u64,
    spares: VecDeque<Spare>,
    next_number: u64,
}

impl Supply {
    /// Takes over the spare files of an earlier process; files of another size are removed.
    pub(crate) fn open(disk: Arc<dyn Disk>, config: &JournalConfig) -> io::Result<Self> {
        let mut supply = Self {
            segment_bytes: u64::from(config.segment_bytes),
            spares_max: usize::try_from(config.spares_max).unwrap_or(usize::MAX),
            total_bytes_max: config.total_bytes_max,
            reserve_bytes: config.reserve_bytes,
            spares: VecDeque::new(),
            next_number: 0,
            disk,
        };
        for name in supply.disk.list(SPARE_PREFIX)? {
            let Some(number) = spare_number(&name) else { continue };
            supply.next_number = supply.next_number.max(number + 1);
            supply.adopt(name)?;
        }
        Ok(supply)
    }

    /// Files at hand.
    pub(crate) fn count(&self) -> usize {
        self.spares.len()
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.spares.len() as u64 * self.segment_bytes
    }

    /// The next file to use.
    pub(crate) fn take(&mut self) -> Option<Spare> {
        self.spares.pop_front()
    }

    /// The name a file gets that leaves the journal.
    pub(crate) fn next_name(&mut self) -> String {
        let name = spare_file_name(self.next_number);
        self.next_number += 1;
        name
    }

    /// Keeps the spare file `name` when it has the right size and the pool has room, else removes it.
    pub(crate) fn adopt(&mut self, name: String) -> io::Result<()> {
        let file = self.disk.open(&name, OpenHow::Existing)?;
        if file.len()? == self.segment_bytes && self.spares.len() < self.spares_max.max(1) {
            // Recycled, or of an earlier process: it may have been.
            self.spares.push_back(Spare { name, file, was_written: true });
            return Ok(());
        }
        drop(file);
        self.disk.remove(&name)
    }

    /// Makes a new spare file with its space reserved. `in_use_bytes` are those of the journal's segments.
    ///
    /// A failure leaves nothing behind, and nothing acknowledged depends on the file.
    pub(crate) fn create(&mut self, in_use_bytes: u64) -> Result<(), CreateError> {
        let wanted = self.segment_bytes;
        let total = in_use_bytes + self.bytes() + wanted;
        if let Some(max) = self.total_bytes_max.filter(|max| total > *max) {
            return Err(CreateError::NoSpace(format!("segments would take {total} bytes, the limit is {max}")));
        }
        let refused = |source| CreateError::Refused { file: ".".to_owned(), source };
        let free = self.disk.free_bytes().map_err(refused)?;
        if free < wanted.saturating_add(self.reserve_bytes) {
            let reserve = self.reserve_bytes;
            let problem = format!("{free} bytes are free, {wanted} are needed and {reserve} must stay free");
            return Err(CreateError::NoSpace(problem));
        }
        let name = self.next_name();
        let made = self.disk.open(&name, OpenHow::CreateNew).and_then(|file| {
            file.allocate(wanted)?;
            Ok(file)
        });
        match made {
            Ok(file) => {
                self.spares.push_back(Spare { name, file, was_written: false });
                Ok(())
            }
            Err(error) => {
                // Best effort: a leftover is found, and removed for its size, at the next start.
                if let Err(leftover) = self.disk.remove(&name) {
                    tracing::warn!(file = name, error = %leftover, "an incomplete spare segment could not be removed");
                }
                Err(match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        CreateError::NoSpace(format!("reserving {wanted} bytes failed: {error}"))
                    }
                    _ => CreateError::Refused { file: name, source: error },
                })
            }
        }
    }
}
