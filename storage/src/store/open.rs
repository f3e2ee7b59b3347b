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
use crate::journal::segment::{SEGMENT_PREFIX, segment_of_file_name};
use crate::journal::{DamageReason, DamagedRange, Journal, RecoverFrom, SegmentId};
use crate::latch::Latch;
use crate::metrics::StoreMetrics;
use crate::partition_log::state::LogLimits;
use crate::scrub::mark_recovered_damage;
use crate::tail_cache::TailCache;

/// Damaged ranges remembered whose log is not known.
const UNATTRIBUTED_MAX: usize = 256;

/// Opens what `env` describes, and takes the lock when that works.
///
/// An index that turns out to be damaged on the way is marked, so that the next try rebuilds it from the journal; the
/// caller tries again once, with an index that can be emptied.
pub(super) fn open(
    env: &mut StoreEnv,
    config: StoreConfig,
    lock: &mut Option<DirectoryLock>,
) -> Result<(Arc<StoreInner>, RecoveryReport), OpenError> {
    let disk = env.disk.clone();
    let opened = try_open(env, config, lock);
    if let Err(OpenError::Index(IndexError::Damaged(problem))) = &opened {
        tracing::error!(problem, "the index is damaged; it is rebuilt from the journal");
        let marked = disk.write_file_atomically(INDEX_DAMAGED_FILE, problem.as_bytes());
        marked.map_err(io("writing", INDEX_DAMAGED_FILE))?;
    }
    opened
}

fn try_open(
    env: &mut StoreEnv,
    config: StoreConfig,
    lock: &mut Option<DirectoryLock>,
) -> Result<(Arc<StoreInner>, RecoveryReport), OpenError> {
    config.validate()?;
    let StoreEnv { disk, index, clock, random, drive } = env;
    let (disk, index, clock, drive) = (disk.clone(), index.clone(), clock.clone(), *drive);
    let started = clock.monotonic();
    let identity = load_or_format(&*disk, &mut **random)?;
    let directory = identity.directory;
    let mut found = load_checkpoints(&*disk, directory)?;
    let known_damage = found.newest.as_mut().map(|newest| std::mem::take(&mut newest.unattributed)).unwrap_or_default();

    let index = Index::new(index);
    let sequence = found.newest.as_ref().map_or(0, |checkpoint| checkpoint.sequence);
    let rebuild = !is_index_usable(&*disk, &index, directory, sequence)?;
    if rebuild {
        index.reset(directory)?;
    }
    let has_checkpoint = found.newest.is_some();
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
    let replayed = Journal::open(disk.clone(), journal_config, from, latch.clone(), &mut |entry| replay.apply(entry));
    if let Some(error) = replay.index_failure.take() {
        return Err(error.into());
    }
    let (parts, mut journal_report) = replayed?;
    if rebuild {
        // Segments before the checkpoint may have been recycled, in any order: a gap there is no damage.
        journal_report.damaged.retain(|range| range.reason != DamageReason::Missing || range.segment >= replay_from);
    }
    // The first start has an index that nothing was ever put into: that none is there is no loss.
    let had_something = has_checkpoint || journal_report.entries > 0 || !journal_report.damaged.is_empty();
    let unattributed = merged_damage(known_damage, replay.attribute(&journal_report.damaged));
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
        index_rebuilt: rebuild && had_something,
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
        compaction: Mutex::default(),
        cleaning: Mutex::default(),
        unattributed: Mutex::new(unattributed),
        index_damage: Mutex::default(),
        panicked: Mutex::default(),
        reserve_bytes,
        committer: Mutex::new(committer),
        thread: Mutex::new(None),
        _lock: lock.take(),
    });
    if drive == Drive::Threads {
        *inner.thread.lock() = Some(maintenance_thread::start(&inner).map_err(io)?);
    }
    mark_recovered_damage(&inner, &report.journal.damaged);
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
    if found.newest.is_none() && !is_journal_complete(disk)? {
        let texts: Vec<_> = found.damaged.iter().map(|(name, problem)| format!("'{name}': {problem}")).collect();
        let found = if texts.is_empty() { "there is no such file".to_owned() } else { texts.join("; ") };
        return Err(OpenError::Checkpoint { found });
    }
    for (name, problem) in &found.damaged {
        tracing::error!(file = name, problem, "a checkpoint is damaged; an older one and a longer replay replace it");
        disk.rename(name, &format!("damaged-{name}")).map_err(io("moving aside", name))?;
    }
    Ok(found)
}

/// True when the journal still has everything since the directory was formatted: then no checkpoint is needed. The first
/// segment has the first number, and recycling takes it away for good.
fn is_journal_complete(disk: &dyn Disk) -> Result<bool, OpenError> {
    let names = disk.list(SEGMENT_PREFIX).map_err(io("listing", "segments"))?;
    let mut ids: Vec<_> = names.iter().filter_map(|name| segment_of_file_name(name)).collect();
    ids.sort_unstable();
    let contiguous = ids.windows(2).all(|pair| matches!(pair, [a, b] if a.next() == *b));
    Ok(contiguous && ids.first().is_none_or(|first| *first == SegmentId::ZERO.next()))
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

/// What the checkpoint knew and what was found now: replay starts behind most of the journal. One range is enough for
/// the status to say so, hence the bound loses nothing.
fn merged_damage(mut known: Vec<DamagedRange>, found: Vec<DamagedRange>) -> Vec<DamagedRange> {
    for range in found {
        if !known.iter().any(|old| (old.segment, old.position) == (range.segment, range.position)) {
            known.push(range);
        }
    }
    known.truncate(UNATTRIBUTED_MAX);
    known
}

/// Forgets what the index says about segments that are gone: a crash may have come between the two.
fn forget_recycled(index: &Index, oldest: SegmentId) -> Result<(), IndexError> {
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

fn report_damage(damaged: &[DamagedRange], orphans: u64) {
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
