//! Opening a data directory: identity, checkpoint, index, journal replay, then the threads. In this order, because each
//! says whether the next may be trusted.

use std::sync::Arc;

use parking_lot::Mutex;
use streambus_protocol::ids::DirectoryId;

use super::commit_sink::CommitSink;
use super::inner::{INDEX_DAMAGED_FILE, Stepped, StoreInner};
use super::lock::DirectoryLock;
use super::maintenance::Maintenance;
use super::maintenance_thread;
use super::replay::Replay;
use super::{Drive, RecoveryReport, StoreEnv};
use crate::checkpoint::{CHECKPOINT_PREFIX, Checkpoint, CheckpointsFound};
use crate::config::StoreConfig;
use crate::disk::Disk;
use crate::error::{IndexError, OpenError};
use crate::identity::{IDENTITY_FILE, Identity, IdentityError};
use crate::index::{Index, IndexState};
use crate::journal::segment::{HeaderBlock, SEGMENT_PREFIX, SegmentHeader, segment_of_file_name};
use crate::journal::{DamageReason, Journal, Lsn, RecoverFrom};
use crate::latch::Latch;
use crate::metrics::StoreMetrics;
use crate::partition_log::state::LogLimits;
use crate::tail_cache::TailCache;

/// Opens what `env` describes.
pub(super) fn open(
    env: StoreEnv,
    config: StoreConfig,
    lock: Option<DirectoryLock>,
) -> Result<(Arc<StoreInner>, RecoveryReport), OpenError> {
    config.validate()?;
    let StoreEnv { disk, index, clock, mut random, drive } = env;
    let started = clock.monotonic();
    let identity = load_or_format(&*disk, &mut *random)?;
    let directory = identity.directory;
    let found = load_checkpoints(&*disk, directory)?;

    let index = Index::new(index);
    let sequence = found.newest.as_ref().map_or(0, |checkpoint| checkpoint.sequence);
    let rebuild = !is_index_usable(&*disk, &index, directory, sequence)?;
    if rebuild {
        index.reset(directory)?;
    }
    let replay_from = found.newest.as_ref().map_or_else(Default::default, |checkpoint| checkpoint.replay_segment);
    let durable_below = found.newest.as_ref().map_or_else(Default::default, Checkpoint::durable_below);
    let from = match &found.newest {
        Some(checkpoint) if !rebuild => {
            RecoverFrom { segment: Some(checkpoint.replay_segment), lsn: checkpoint.replay_lsn, durable_below }
        }
        _ => RecoverFrom { durable_below, ..RecoverFrom::default() },
    };

    let metrics = Arc::new(StoreMetrics::default());
    let limits = LogLimits { extent_bytes_max: config.extent_bytes_max, producers_max: config.producers_per_log_max };
    let sink = Arc::new(CommitSink::new(limits, config.extents_in_memory_max, metrics.clone()));
    let latch = Arc::new(Latch::new(clock.clone()));
    let reserve_bytes = reserve_bytes(&*disk, &config)?;
    let journal_config = config.journal(directory, reserve_bytes)?;
    let mut replay = Replay::new(&sink, &index, config.extents_in_memory_max, clock.now(), found.newest);
    let (parts, mut journal_report) =
        Journal::open(disk.clone(), journal_config, from, latch.clone(), &mut |entry| replay.apply(entry))?;
    if rebuild {
        // Segments before the checkpoint may have been recycled, in any order: a gap there is no damage.
        journal_report.damaged.retain(|range| range.reason != DamageReason::Missing || range.segment >= replay_from);
    }
    let unattributed = replay.attribute(&journal_report.damaged);
    replay.finish()?;
    let orphans = replay.orphans;
    report_damage(&journal_report.damaged, orphans);
    sink.set_durable_end(journal_report.next_lsn);
    forget_recycled(&index, parts.reader().segments().first().map_or_else(Default::default, |info| info.id))?;

    let reader = parts.reader();
    let io = |source| OpenError::Io { operation: "starting", file: "a thread".to_owned(), source };
    let (journal, committer) = match drive {
        Drive::Threads => (parts.run(sink.clone()).map_err(io)?, None),
        Drive::Stepped => {
            let (journal, committer) = parts.manual(sink.clone());
            (journal, Some(Stepped(committer)))
        }
    };
    let maintenance = Maintenance {
        replay_from,
        // An index that was just rebuilt does not know yet what lives in which segment: nothing may be recycled until
        // two checkpoints rely on it again.
        generations: if rebuild { Vec::new() } else { found.replay_segments },
        sequence: found.highest_sequence,
        forced: rebuild,
        pending: None,
    };
    let report = RecoveryReport {
        logs: sink.table.read().by_partition.len(),
        index_rebuilt: rebuild,
        orphans,
        elapsed: clock.monotonic().saturating_sub(started),
        journal: journal_report,
    };
    let inner = Arc::new(StoreInner {
        cache: Mutex::new(TailCache::new(config.tail_cache_bytes)),
        config,
        directory,
        disk,
        index,
        clock,
        latch,
        journal,
        reader,
        sink,
        metrics,
        identity: Mutex::new(identity),
        maintenance: Mutex::new(maintenance),
        scrub: Mutex::default(),
        unattributed: Mutex::new(unattributed),
        reserve_bytes,
        committer: Mutex::new(committer),
        thread: Mutex::new(None),
        _lock: lock,
    });
    if drive == Drive::Threads {
        *inner.thread.lock() = Some(maintenance_thread::start(&inner).map_err(io)?);
    }
    inner.sink.wake();
    Ok((inner, report))
}

/// Reads the identity, or formats an empty directory.
fn load_or_format(disk: &dyn Disk, random: &mut dyn FnMut() -> u128) -> Result<Identity, OpenError> {
    match disk.read_file(IDENTITY_FILE) {
        Ok(bytes) => Ok(Identity::decode(&bytes)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            for prefix in [SEGMENT_PREFIX, CHECKPOINT_PREFIX] {
                if let Some(found) = disk.list(prefix).map_err(io("listing", "files"))?.into_iter().next() {
                    return Err(IdentityError::Foreign { found }.into());
                }
            }
            let identity = Identity::new(DirectoryId::from_bytes(random().to_le_bytes()));
            disk.write_file_atomically(IDENTITY_FILE, &identity.encode()).map_err(io("writing", IDENTITY_FILE))?;
            Ok(identity)
        }
        Err(source) => Err(io("reading", IDENTITY_FILE)(source)),
    }
}

/// Reads the checkpoints. Damaged ones are moved aside, so that they do not count as a generation.
fn load_checkpoints(disk: &dyn Disk, directory: DirectoryId) -> Result<CheckpointsFound, OpenError> {
    let found = Checkpoint::load_all(disk, directory).map_err(io("reading", "checkpoints"))?;
    if found.newest.is_none() && !found.damaged.is_empty() && !is_journal_complete(disk) {
        let texts: Vec<_> = found.damaged.iter().map(|(name, problem)| format!("'{name}': {problem}")).collect();
        return Err(OpenError::Checkpoint { found: texts.join("; ") });
    }
    for (name, problem) in &found.damaged {
        tracing::error!(file = name, problem, "a checkpoint is damaged; an older one and a longer replay replace it");
        disk.rename(name, &format!("damaged-{name}")).map_err(io("moving aside", name))?;
    }
    Ok(found)
}

/// True when the journal still has everything since the directory was formatted: then no checkpoint is needed.
fn is_journal_complete(disk: &dyn Disk) -> bool {
    let Ok(names) = disk.list(SEGMENT_PREFIX) else { return false };
    let mut ids: Vec<_> = names.iter().filter_map(|name| segment_of_file_name(name)).collect();
    ids.sort_unstable();
    let contiguous = ids.windows(2).all(|pair| matches!(pair, [a, b] if a.next() == *b));
    let first = ids.first().map(|id| crate::journal::segment::segment_file_name(*id));
    let header = first.and_then(|name| {
        let file = disk.open(&name, crate::disk::OpenHow::ReadOnly).ok()?;
        let mut block = crate::aligned::AlignedBuffer::zeroed(crate::aligned::BLOCK_BYTES);
        file.read_at(0, block.as_mut_slice()).ok()?;
        Some(SegmentHeader::decode(block.as_slice()))
    });
    contiguous && matches!(header, Some(HeaderBlock::Valid(header)) if header.base_lsn == Lsn::ZERO)
}

fn is_index_usable(disk: &dyn Disk, index: &Index, directory: DirectoryId, sequence: u64) -> Result<bool, OpenError> {
    if disk.exists(INDEX_DAMAGED_FILE).map_err(io("looking for", INDEX_DAMAGED_FILE))? {
        tracing::warn!("the index was found damaged; it is rebuilt from the journal");
        index.reset(directory)?;
        disk.remove(INDEX_DAMAGED_FILE).map_err(io("removing", INDEX_DAMAGED_FILE))?;
        return Ok(false);
    }
    match index.state(directory, sequence) {
        Ok(IndexState::Usable) => Ok(true),
        Ok(IndexState::Stale) | Err(IndexError::Damaged(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Forgets what the index says about segments that are gone: a crash may have come between the two.
fn forget_recycled(index: &Index, oldest: crate::journal::SegmentId) -> Result<(), IndexError> {
    for segment in index.segments_below(oldest)? {
        let mut changes = crate::index::IndexChanges::default();
        changes.remove_shares(segment);
        index.write(&changes)?;
    }
    Ok(())
}

fn reserve_bytes(disk: &dyn Disk, config: &StoreConfig) -> Result<u64, OpenError> {
    let free = disk.free_bytes().map_err(io("measuring", "free space"))?;
    let segments = disk.list(SEGMENT_PREFIX).map_err(io("listing", "segments"))?.len() as u64;
    let total = free.saturating_add(segments.saturating_mul(config.segment_bytes));
    // Within 2^53 bytes exact, and a share beyond that needs no exactness.
    let share = (total as f64 * config.disk_reserve_ratio) as u64;
    Ok(if config.disk_reserve_bytes == 0 { share } else { config.disk_reserve_bytes.max(share) })
}

fn report_damage(damaged: &[crate::journal::DamagedRange], orphans: u64) {
    for range in damaged {
        tracing::error!(
            segment = %range.segment, position = range.position, length = range.length, reason = ?range.reason,
            "the journal is damaged; what it held there is not served"
        );
    }
    if orphans > 0 {
        tracing::error!(orphans, "entries of logs whose creation was lost to damage cannot be served");
    }
}

fn io<'a>(operation: &'static str, file: &'a str) -> impl Fn(std::io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { operation, file: file.to_owned(), source }
}
