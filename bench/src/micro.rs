//! Micro rows: single parts of StreamBus beside the limits of the machine, measured in the same run.
//!
//! Absolute numbers of two runs are not comparable on a shared machine; the ratio column is what lasts. Rows that wait
//! for a disk measure each operation; rows that only compute measure many at a time.

pub mod disk_rows;
pub mod journal_rows;
pub mod machine_rows;
pub mod sampler;
pub mod store_rows;
pub mod wire_rows;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::sampler::{Row, Sampler};
use crate::machine::Machine;

/// What to measure and how long.
#[derive(Clone, Debug)]
pub struct MicroOptions {
    /// Only rows whose name contains one of these; all when empty.
    pub filters: Vec<String>,
    /// A tenth of the samples: for a smoke test, not for a comparison.
    pub quick: bool,
    /// The directory whose disk is measured.
    pub directory: PathBuf,
}

/// Why a row could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum MicroError {
    /// The disk or the network refused.
    #[error("{row}: {source}")]
    Io {
        /// The row.
        row: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A part of StreamBus refused what the row asked of it: the row is wrong, or the part is.
    #[error("{row}: {problem}")]
    Refused {
        /// The row.
        row: String,
        /// What it said.
        problem: String,
    },
}

impl MicroError {
    pub(crate) fn io(row: &str) -> impl FnOnce(std::io::Error) -> Self + use<'_> {
        move |source| Self::Io { row: row.to_owned(), source }
    }

    pub(crate) fn refused(row: &str, problem: impl std::fmt::Display) -> Self {
        Self::Refused { row: row.to_owned(), problem: problem.to_string() }
    }
}

/// All rows of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MicroReport {
    /// On what, and when.
    pub machine: Machine,
    /// How the disk was written: direct or buffered.
    pub disk: String,
    /// True when `--quick` shortened the run.
    pub quick: bool,
    /// The rows, in the order measured.
    pub rows: Vec<Row>,
}

/// Measures every row that the options ask for; `progress` hears of each as it is done. `disk` is what
/// [`disk_rows::mode`] said.
pub fn run(
    options: &MicroOptions,
    machine: Machine,
    disk: &str,
    progress: &mut dyn FnMut(&Row),
) -> Result<MicroReport, MicroError> {
    let mut sampler = Sampler::new(options, progress);
    // The machine's limits come first: the other rows are divided by them.
    machine_rows::measure(&mut sampler)?;
    disk_rows::measure(&mut sampler, &options.directory)?;
    wire_rows::measure(&mut sampler)?;
    journal_rows::measure(&mut sampler, &options.directory)?;
    store_rows::measure(&mut sampler, &options.directory)?;
    Ok(MicroReport { machine, disk: disk.to_owned(), quick: options.quick, rows: sampler.into_rows() })
}
