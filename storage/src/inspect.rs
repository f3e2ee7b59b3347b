//! Looking at a data directory from outside, whether or not a broker runs on it: nothing is ever written, and neither write
//! permission nor free space is needed.
//!
//! [`verify_dir`] proves the files that storage keeps: identity, checkpoints, every journal segment, the index's manifest
//! and tables and its agreement with the journal. It does not look at the cluster's metadata, which is another crate's.
//! [`dump_dir`] prints one line per journal entry. On a directory in use both see it as it was a moment ago; the last commit
//! may then look cut, which is not counted as damage unless a checkpoint knows it to be durable.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use streambus_protocol::ids::DirectoryId;
use streambus_protocol::offset::Offset;
use streambus_rocksfiles::{FileDamage, damaged_logs, damaged_tables};

use crate::checkpoint::Checkpoint;
use crate::disk::real::RealDisk;
use crate::disk::{Disk, OpenHow};
use crate::error::{IndexError, OpenError};
use crate::identity::{IDENTITY_FILE, Identity};
use crate::index::rocks::{RocksIndex, RocksSizes};
use crate::index::{Index, IndexStore};
use crate::journal::{LogId, Lsn};
use crate::store::INDEX_DIRECTORY;

mod cross_check;
mod dump;
mod segments;
mod stored_anew;

use self::stored_anew::{Likeness, StoredAnew};
pub use dump::DumpError;

/// Memory RocksDB may use while it is read.
const SIZES: RocksSizes = RocksSizes { cache_bytes: 4 << 20, write_buffer_bytes: 1 << 20 };
/// Damage listed in a report; more is only counted.
const DAMAGE_LISTED_MAX: usize = 1_000;

/// What a verification found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct VerifyReport {
    /// True when nothing is damaged, or all of it was stored anew.
    pub ok: bool,
    /// The directory's identity, as text; empty when it cannot be read.
    pub directory: String,
    /// Journal segments read.
    pub segments: u64,
    /// Commits that prove, empty ones included.
    pub commits: u64,
    /// Entries that prove.
    pub entries: u64,
    /// Batches among them.
    pub batches: u64,
    /// Logs that exist.
    pub logs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes of a commit that was in flight when the last process ended: dropped at the next start, no damage.
    pub torn_tail_bytes: u64,
    /// Index entries compared with the journal.
    pub extents: u64,
    /// Damaged batches that another replica's copy replaced: it lies elsewhere in the journal and is what is served. Their
    /// bytes stay damaged until their segment goes, and they are not listed.
    pub repaired: u64,
    /// Damaged things, in the order of their files.
    pub damaged: Vec<Damage>,
    /// Damaged things beyond those listed.
    pub damaged_unlisted: u64,
}

/// One damaged thing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The file, relative to the data directory.
    pub file: String,
    /// First damaged byte, where one is known.
    pub position: Option<u64>,
    /// Damaged bytes, where known.
    pub length: Option<u64>,
    /// What is wrong, and what it means for the broker.
    pub what: String,
    /// The partition it belongs to (topic id, slash, index), or its log's number; absent when not known.
    pub log: Option<String>,
    /// The batch it is, when its header can be read.
    #[serde(skip)]
    batch: Option<BatchPlace>,
    /// The batches that lie whole behind damaged headers.
    #[serde(skip)]
    hidden: Vec<Likeness>,
}

/// Which offsets of which log a batch has: the first, and the last inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BatchPlace {
    log: LogId,
    base: Offset,
    last: Offset,
}

/// Why a directory could not be looked at. Damage is no error: it is in the report.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no such directory, or it cannot be read.
    #[error("'{path}' cannot be read: {source}")]
    Unreadable {
        /// The directory.
        path: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// It is no data directory.
    #[error("'{path}' is no StreamBus data directory: it has no '{IDENTITY_FILE}' and no journal")]
    NotADataDirectory {
        /// The directory.
        path: String,
    },
    /// Another program's or a newer version's.
    #[error(transparent)]
    Refused(#[from] OpenError),
}

impl VerifyReport {
    fn add(&mut self, damage: Damage) {
        if self.damaged.len() < DAMAGE_LISTED_MAX {
            self.damaged.push(damage);
        } else {
            self.damaged_unlisted += 1;
        }
    }

    /// Adds what is wrong with files of the index.
    fn add_index_files(&mut self, damaged: Vec<FileDamage>) {
        for damage in damaged {
            let name = damage.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            self.add(Damage {
                file: format!("{INDEX_DIRECTORY}/{name}"),
                position: Some(damage.position),
                length: None,
                what: format!("{}; the index is rebuilt from the journal", damage.what),
                log: None,
                batch: None,
                hidden: Vec::new(),
            });
        }
    }

    fn add_file(&mut self, file: &str, what: String) {
        self.add(Damage {
            file: file.to_owned(),
            position: None,
            length: None,
            what,
            log: None,
            batch: None,
            hidden: Vec::new(),
        });
    }

    /// Takes damaged batches off the list that were stored anew.
    fn forgive(&mut self, stored_anew: &mut StoredAnew) {
        // Those first of which the place is known: what is left of the copies may be others'.
        let mut is_forgiven = |place: &BatchPlace| {
            let is_anew = stored_anew.has(place);
            stored_anew.claim(place);
            is_anew
        };
        let listed = self.damaged.len();
        self.damaged.retain(|damage| !damage.batch.as_ref().is_some_and(&mut is_forgiven));
        self.repaired += (listed - self.damaged.len()) as u64;
        let mut repaired = 0;
        self.damaged.retain(|damage| {
            let is_anew = stored_anew.claim_alike(&damage.hidden);
            repaired += if is_anew { damage.hidden.len() as u64 } else { 0 };
            !is_anew
        });
        self.repaired += repaired;
    }
}

/// Verifies every file of the data directory `path`, without changing one.
///
/// # Errors
/// [`InspectError`] when there is nothing that could be verified.
pub fn verify_dir(path: &Path) -> Result<VerifyReport, InspectError> {
    let disk = open_disk(path)?;
    let found = open_index(&path.join(INDEX_DIRECTORY))?;
    let mut report = verify(&disk, found.index)?;
    report.add_index_files(found.damaged);
    report.ok = report.damaged.is_empty() && report.damaged_unlisted == 0;
    Ok(report)
}

/// Writes one line per entry of every journal segment to `sink`.
///
/// # Errors
/// [`DumpError`]; damage is a line of its own and no error.
pub fn dump_dir(path: &Path, sink: &mut dyn io::Write) -> Result<(), DumpError> {
    let disk = open_disk(path)?;
    dump::dump(&disk, sink)
}

/// What there is of an index.
struct IndexFound {
    /// As [`verify`] takes it; a store that is not to be read when files of it are damaged.
    index: IndexToVerify,
    damaged: Vec<FileDamage>,
}

/// The index's files, proven before its content is read.
fn open_index(directory: &Path) -> Result<IndexFound, InspectError> {
    let refused = |error: streambus_rocksfiles::Unreadable| InspectError::Unreadable {
        path: error.path.display().to_string(),
        source: error.source,
    };
    if !directory.is_dir() {
        return Ok(IndexFound { index: IndexToVerify::Missing, damaged: Vec::new() });
    }
    let damaged = damaged_logs(directory).map_err(refused)?;
    if !damaged.is_empty() {
        return Ok(IndexFound { index: IndexToVerify::FilesDamaged, damaged });
    }
    let mut damaged = damaged_tables(directory).map_err(refused)?;
    let opened = RocksIndex::open_read_only(directory, SIZES).and_then(|index| Ok((index.tables()?, index)));
    let (tables, index) = match opened {
        Ok(opened) => opened,
        Err(_) if !damaged.is_empty() => return Ok(IndexFound { index: IndexToVerify::FilesDamaged, damaged }),
        Err(error) => return Ok(IndexFound { index: IndexToVerify::Refused(error), damaged }),
    };
    // A crash leaves tables that the index does not have.
    damaged.retain(|damage| damage.is_of(&tables));
    let index = if damaged.is_empty() { IndexToVerify::Open(Arc::new(index)) } else { IndexToVerify::FilesDamaged };
    Ok(IndexFound { index, damaged })
}

fn open_disk(path: &Path) -> Result<RealDisk, InspectError> {
    let unreadable = |source| InspectError::Unreadable { path: path.display().to_string(), source };
    let disk = RealDisk::open_read_only(path).map_err(unreadable)?;
    let known =
        disk.exists(IDENTITY_FILE).map_err(unreadable)? || !segments::list(&disk).map_err(unreadable)?.is_empty();
    if known { Ok(disk) } else { Err(InspectError::NotADataDirectory { path: path.display().to_string() }) }
}

/// The index of a directory that is verified.
pub(crate) enum IndexToVerify {
    /// There is none.
    Missing,
    /// Its content can be read.
    Open(Arc<dyn IndexStore>),
    /// It does not open.
    Refused(IndexError),
    /// Files of it are damaged, which is reported by itself: its content is not read.
    FilesDamaged,
}

/// Verifies what `disk` and `index` hold.
pub(crate) fn verify(disk: &dyn Disk, index: IndexToVerify) -> Result<VerifyReport, InspectError> {
    let mut report = VerifyReport::default();
    let directory = verify_identity(disk, &mut report)?;
    let mut logs = BTreeMap::new();
    let mut replay_from = None;
    let mut durable_below = Lsn::ZERO;
    if let Some(directory) = directory {
        report.directory = directory.to_string();
        let found = Checkpoint::load_all(disk, directory);
        match found {
            Ok(found) => {
                for (file, what) in found.damaged {
                    report.add_file(&file, format!("the checkpoint is damaged: {what}"));
                }
                if let Some(newest) = found.newest {
                    replay_from = Some(newest.replay_segment);
                    durable_below = newest.durable_below();
                    logs.extend(newest.logs.into_iter().map(|log| (log.log, log)));
                }
            }
            Err(error) => report.add_file("checkpoint", format!("the checkpoints cannot be read: {error}")),
        }
    }
    let Some(directory) = directory.or_else(|| segments::directory_of(disk)) else { return Ok(report) };
    let names = logs.iter().map(|(id, log)| (*id, log.partition.to_string())).collect::<BTreeMap<LogId, String>>();
    let walked = segments::walk(disk, directory, (replay_from, durable_below), names, &mut report)?;
    report.logs = walked.live_logs.len() as u64;
    match index {
        IndexToVerify::Open(store) => {
            let index = Index::new(store);
            match index.verify() {
                Ok(()) => cross_check::cross_check(disk, directory, &index, &walked, &logs, &mut report),
                Err(error) => report.add_file(INDEX_DIRECTORY, error.to_string()),
            }
        }
        IndexToVerify::Refused(error) => report.add_file(INDEX_DIRECTORY, error.to_string()),
        IndexToVerify::Missing if replay_from.is_some() => {
            report.add_file(INDEX_DIRECTORY, "the index is missing; it is rebuilt from the journal".to_owned());
        }
        IndexToVerify::Missing | IndexToVerify::FilesDamaged => {}
    }
    Ok(report)
}

/// The directory's identity; `None`, and a finding, when it is damaged or missing.
fn verify_identity(disk: &dyn Disk, report: &mut VerifyReport) -> Result<Option<DirectoryId>, InspectError> {
    match disk.read_file(IDENTITY_FILE) {
        Ok(bytes) => match Identity::decode(&bytes) {
            Ok(identity) => return Ok(Some(identity.directory)),
            Err(newer @ crate::identity::IdentityError::NewerFormat { .. }) => {
                return Err(OpenError::from(newer).into());
            }
            Err(error) => report.add_file(IDENTITY_FILE, error.to_string()),
        },
        Err(error) => report.add_file(IDENTITY_FILE, format!("the identity cannot be read: {error}")),
    }
    Ok(None)
}

/// Opens `name` for one sequential read.
fn open_scan(disk: &dyn Disk, name: &str) -> io::Result<Arc<dyn crate::disk::DiskFile>> {
    disk.open(name, OpenHow::Scan)
}

#[cfg(test)]
mod tests;
