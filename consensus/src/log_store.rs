//! Raft's log and vote on the metadata database.
//!
//! Positions, on the line of log indexes:
//!
//! ```text
//!   0 ......... purged | purged+1 ......... last | last+1 ...
//!   gone               | readable, no holes      | next to append
//! ```
//!
//! An append is readable when the call returns and durable when its callback is completed. A vote is durable when
//! the call returns. Both go through one write-ahead log and one flusher, so a vote is never reordered with entries.
//! Truncation and purge stay unsynced: they are in the same WAL, before whatever relies on them.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use streambus_planted::{Defect, is_planted};

use crate::database::{BeforeSync, Database, Family};
use crate::encoding::{Decoder, Encoder, Seal, seal, unseal};
use crate::flusher::Flusher;
use crate::limits::LOG_READ_BYTES_MAX;
use crate::raft_codec;
use crate::types::{Entry, LogId, Membership, TypeConfig, Vote};

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// Reads entries and the vote. Cheap to clone; used by replication and by apply at the same time.
#[derive(Clone)]
pub(crate) struct LogReader {
    database: Arc<Database>,
}

/// Writes entries and the vote. There is one.
pub(crate) struct LogStore {
    reader: LogReader,
    flusher: Flusher,
    /// Index of the last entry, or of the last purged one when none is left; none before the first.
    last: Option<u64>,
}

impl LogStore {
    /// Opens the log in `database`; refuses one with damage at either end.
    pub(crate) fn open(database: Arc<Database>, before_sync: Option<BeforeSync>) -> io::Result<Self> {
        let syncing = Arc::clone(&database);
        let flusher = match database.memory() {
            Some(memory) => Flusher::start_task(memory.clone(), move |covered| syncing.sync_first(covered)),
            None => Flusher::start(move || {
                if let Some(before_sync) = &before_sync {
                    before_sync();
                }
                syncing.sync()
            })?,
        };
        Self::with_flusher(database, flusher)
    }

    fn with_flusher(database: Arc<Database>, flusher: Flusher) -> io::Result<Self> {
        let reader = LogReader { database };
        let vote = reader.vote()?;
        let purged = reader.purged()?.map(|id| id.index);
        let last = reader.last_entry()?.map(|entry| entry.log_id.index);
        let first = purged.map_or(0, |index| index + 1);
        if last.is_some_and(|last| last >= first) {
            reader.entries(first, first + 1, usize::MAX, Gaps::Refused)?;
        }
        if let Some(vote) = vote {
            // What this disk has promised; the tests hold a broker to it.
            tracing::info!(
                term = vote.leader_id.term, voted_for = %vote.leader_id.node_id, last,
                "the metadata's log is open"
            );
        }
        Ok(Self { reader, flusher, last: last.max(purged) })
    }

    /// True when the log holds nothing that another node could rely on: no vote, no entry, nothing purged.
    pub(crate) fn is_pristine(&self) -> io::Result<bool> {
        Ok(self.last.is_none() && self.reader.vote()?.is_none())
    }

    /// Index of the last entry, or of the last purged one when none is left; zero before the first.
    pub(crate) fn last_index(&self) -> u64 {
        self.last.unwrap_or(0)
    }

    /// The Raft group's nodes as the last entry from `start` on that names them says.
    pub(crate) fn last_membership(&self, start: u64) -> io::Result<Option<Membership>> {
        let mut found = None;
        let mut next = start;
        loop {
            let piece = self.reader.entries(next, u64::MAX, LOG_READ_BYTES_MAX, Gaps::AtFront)?;
            let Some(last) = piece.last() else { return Ok(found) };
            next = last.log_id.index + 1;
            for entry in piece {
                if let EntryPayload::Membership(membership) = entry.payload {
                    found = Some(membership);
                }
            }
        }
    }

    /// Waits until everything written so far is durable.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let (done, waiting) = TypeConfig::oneshot();
        self.flusher.submit(IOFlushed::signal(done));
        waiting.await.map_err(|_| io::Error::other("the flusher has stopped"))?
    }

    fn put_meta(&self, key: &[u8], kind: Seal, payload: &[u8]) -> io::Result<()> {
        let mut batch = self.reader.database.batch();
        batch.put(Family::Meta, key, &seal(kind, key, payload))?;
        batch.write()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let last_purged_log_id = self.reader.purged()?;
        let last_log_id = self.reader.last_entry()?.map(|entry| entry.log_id).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if is_planted(Defect::ForgottenVote) && self.reader.vote()?.is_some() {
            return Ok(());
        }
        let mut out = Encoder::new();
        raft_codec::write_vote(&mut out, vote);
        self.put_meta(VOTE, Seal::Vote, &out.finish())?;
        self.sync().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut out = Encoder::new();
        raft_codec::write_opt_log_id(&mut out, committed.as_ref());
        self.put_meta(COMMITTED, Seal::LogPosition, &out.finish())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.reader.position(COMMITTED)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = self.reader.database.batch();
        let mut last = self.last;
        for entry in entries {
            let index = entry.log_id.index;
            assert!(last.is_none_or(|last| index == last + 1), "entry {index} after {last:?} would leave a hole");
            let key = index.to_be_bytes();
            let mut out = Encoder::new();
            raft_codec::write_entry(&mut out, &entry);
            batch.put(Family::Log, &key, &seal(Seal::Entry, &key, &out.finish()))?;
            last = Some(index);
        }
        batch.write()?;
        assert!(last >= self.last, "an append only extends the log");
        self.last = last;
        self.flusher.submit(callback);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let keep = last_log_id.map(|id| id.index);
        let from = keep.map_or(0, |index| index + 1);
        let mut batch = self.reader.database.batch();
        batch.delete_range(Family::Log, &from.to_be_bytes(), &u64::MAX.to_be_bytes())?;
        batch.write()?;
        self.last = self.last.and_then(|last| if last < from { Some(last) } else { keep });
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let before = self.reader.purged()?;
        assert!(before.is_none_or(|b| b.index <= log_id.index), "the purged position only grows");
        let from = before.map_or(0, |b| b.index + 1);
        let mut out = Encoder::new();
        raft_codec::write_opt_log_id(&mut out, Some(&log_id));
        let mut batch = self.reader.database.batch();
        batch.put(Family::Meta, PURGED, &seal(Seal::LogPosition, PURGED, &out.finish()))?;
        // Starting behind the last purge keeps the range tombstones small and apart.
        batch.delete_range(Family::Log, &from.to_be_bytes(), &(log_id.index + 1).to_be_bytes())?;
        batch.write()?;
        self.last = self.last.max(Some(log_id.index));
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = half_open(&range);
        self.entries(start, end, usize::MAX, Gaps::AtFront)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.vote()
    }

    /// As many entries from `start` as fit the byte limit, at least one.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start, end, LOG_READ_BYTES_MAX, Gaps::Refused)
    }

    /// Apply's way to read: piecewise, so that a long catch-up does not hold all of it in memory.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = half_open(&range);
        let reader = self.clone();
        let pieces = stream::unfold(Some(start), move |from| {
            let piece = from.filter(|from| *from < end).map(|from| {
                let piece = reader.entries(from, end, LOG_READ_BYTES_MAX, Gaps::AtFront);
                let next = piece.as_ref().ok().and_then(|p| p.last()).map(|last| last.log_id.index + 1);
                (piece, next)
            });
            futures::future::ready(piece)
        });
        pieces
            .flat_map(|piece| match piece {
                Ok(entries) => stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()),
                Err(e) => stream::iter(vec![Err(e)]),
            })
            .boxed()
    }
}

/// What to make of a range whose first entry is not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gaps {
    /// The log may begin later (purged), or end before the range.
    AtFront,
    /// The caller knows that the first entry must be there.
    Refused,
}

impl LogReader {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    /// Reads vote, positions and every entry there must be; returns how many entries there are.
    pub(crate) fn verify(&self) -> io::Result<u64> {
        self.vote()?;
        self.position(COMMITTED)?;
        let first = self.purged()?.map_or(0, |purged| purged.index + 1);
        let end = self.last_entry()?.map_or(first, |last| first.max(last.log_id.index + 1));
        let mut next = first;
        while next < end {
            let piece = self.entries(next, end, LOG_READ_BYTES_MAX, Gaps::Refused)?;
            let read = piece.last().map_or(end, |last| last.log_id.index + 1);
            assert!(next < read && read <= end, "a piece holds at least one entry of what was asked for");
            next = read;
        }
        Ok(end - first)
    }

    /// The id of every entry there is, and the checksum of what is stored of it.
    pub(crate) fn stored(&self) -> io::Result<Vec<(LogId, u32)>> {
        let first = self.purged()?.map_or(0, |purged| purged.index + 1);
        let pairs = self.database.scan(Family::Log, &first.to_be_bytes())?;
        pairs
            .map(|pair| {
                let (key, sealed) = pair?;
                Ok((decode_entry(&key, &sealed)?.log_id, crc32c::crc32c(&sealed)))
            })
            .collect()
    }

    fn entries(&self, start: u64, end: u64, bytes_max: usize, gaps: Gaps) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        if start >= end {
            return Ok(entries);
        }
        // Nothing below the purged position is looked at: tombstones are thick there.
        let start = self.purged()?.map_or(start, |purged| start.max(purged.index + 1));
        let mut bytes = 0;
        let mut expected = None;
        for pair in self.database.scan(Family::Log, &start.to_be_bytes())? {
            let (key, value) = pair?;
            let entry = decode_entry(&key, &value)?;
            let index = entry.log_id.index;
            if index >= end || (bytes > 0 && bytes + value.len() > bytes_max) {
                break;
            }
            if expected.is_some_and(|expected| expected != index) {
                return Err(hole(expected.unwrap_or(start), index));
            }
            bytes += value.len();
            expected = Some(index + 1);
            entries.push(entry);
        }
        let first = entries.first().map(|entry| entry.log_id.index);
        if gaps == Gaps::Refused && start < end && first != Some(start) {
            return Err(hole(start, first.unwrap_or(end)));
        }
        Ok(entries)
    }

    fn vote(&self) -> io::Result<Option<Vote>> {
        let Some(sealed) = self.database.get(Family::Meta, VOTE)? else {
            return Ok(None);
        };
        let read = || {
            let mut input = Decoder::new(unseal(Seal::Vote, VOTE, &sealed)?);
            let vote = raft_codec::read_vote(&mut input)?;
            input.finish().map(|()| vote)
        };
        read().map(Some).map_err(|e| damaged("the vote", &e))
    }

    fn position(&self, key: &[u8]) -> io::Result<Option<LogId>> {
        let Some(sealed) = self.database.get(Family::Meta, key)? else {
            return Ok(None);
        };
        let read = || {
            let mut input = Decoder::new(unseal(Seal::LogPosition, key, &sealed)?);
            let position = raft_codec::read_opt_log_id(&mut input)?;
            input.finish().map(|()| position)
        };
        read().map_err(|e| damaged(&format!("the {} position", String::from_utf8_lossy(key)), &e))
    }

    fn purged(&self) -> io::Result<Option<LogId>> {
        self.position(PURGED)
    }

    fn last_entry(&self) -> io::Result<Option<Entry>> {
        match self.database.last(Family::Log)? {
            Some((key, value)) => decode_entry(&key, &value).map(Some),
            None => Ok(None),
        }
    }
}

fn decode_entry(key: &[u8], sealed: &[u8]) -> io::Result<Entry> {
    let read = || {
        let mut input = Decoder::new(unseal(Seal::Entry, key, sealed)?);
        let entry = raft_codec::read_entry(&mut input)?;
        input.finish().map(|()| entry)
    };
    let entry = read().map_err(|e| damaged(&format!("log entry {key:02x?}"), &e))?;
    assert_eq!(key, entry.log_id.index.to_be_bytes(), "the checksum covers the key");
    Ok(entry)
}

fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn hole(expected: u64, found: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the metadata log has a hole: entry {expected} is missing, the next one is {found}"),
    )
}

fn damaged(what: &str, error: &crate::encoding::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the metadata log is damaged: {what}: {error}"))
}

#[cfg(test)]
mod tests;
