//! Where each log's batches lie in the journal: small keys in an ordered store, rebuilt from the journal when lost.
//!
//! [`IndexStore`] is the specification of that ordered store; [`conformance`] checks it and both implementations run
//! it: [`rocks`] and [`memory`]. [`Index`] speaks in extents on top of either. Nothing here is needed for an
//! acknowledgement: writes skip RocksDB's own log, a flush before each checkpoint makes them durable, and replaying the
//! journal from the checkpoint writes again whatever was lost in between.

use std::ops::ControlFlow;
use std::sync::Arc;

use streambus_protocol::ids::DirectoryId;
use streambus_protocol::offset::Offset;

use crate::error::IndexError;
use crate::journal::{LogId, SegmentId};

pub mod conformance;
pub mod memory;
pub mod rocks;
pub mod schema;

pub use schema::{Cleaned, Extent, SegmentShare};
use schema::{Fact, INDEX_FORMAT, Key};

/// One change to the ordered store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Removes every key in `from..to` (half-open).
    DeleteRange {
        /// First key removed.
        from: Vec<u8>,
        /// First key that stays.
        to: Vec<u8>,
    },
}

/// A stored key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// Called for each key and value of a scan, in key order; `Break` ends it.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// An ordered map of small keys to small values.
///
/// 1. [`IndexStore::write`] applies all changes in their order, or none; readers see them when it returns.
/// 2. After a crash the content is that of some prefix of the writes, never shorter than at the last [`IndexStore::flush`].
/// 3. A value that was damaged on disk is an error, never a wrong value.
pub trait IndexStore: Send + Sync + std::fmt::Debug + 'static {
    /// Applies changes.
    fn write(&self, changes: &[Change]) -> Result<(), IndexError>;

    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;

    /// The greatest key at or below `key` that is not below `lowest`, with its value.
    fn floor(&self, key: &[u8], lowest: &[u8]) -> Result<Option<KeyValue>, IndexError>;

    /// Visits the keys in `from..to` in order.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), IndexError>;

    /// Makes every write so far durable.
    fn flush(&self) -> Result<(), IndexError>;

    /// Reads everything and checks every checksum the implementation keeps.
    fn verify(&self) -> Result<(), IndexError>;
}

/// The index in the terms of this crate. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Index {
    store: Arc<dyn IndexStore>,
}

/// Changes to be written together.
#[derive(Debug, Default)]
pub struct IndexChanges(Vec<Change>);

impl IndexChanges {
    /// Adds or replaces the extent of `log` that begins at its base.
    pub fn put_extent(&mut self, log: LogId, extent: &Extent) {
        self.0.push(Change::Put { key: Key::Extent(log, extent.base).encode(), value: extent.encode() });
    }

    /// Removes the extents of `log` whose base is in `from..to`; `None` is the end of the log.
    pub fn remove_extents(&mut self, log: LogId, from: Offset, to: Option<Offset>) {
        let (from, to) = Key::extents(log, from, to);
        self.0.push(Change::DeleteRange { from, to });
    }

    /// Records what `log` has in `segment`.
    pub fn put_share(&mut self, segment: SegmentId, log: LogId, share: &SegmentShare) {
        self.0.push(Change::Put { key: Key::Share(segment, log).encode(), value: share.encode() });
    }

    /// Forgets a segment that was recycled.
    pub fn remove_shares(&mut self, segment: SegmentId) {
        let (from, to) = Key::shares_of(segment);
        self.0.push(Change::DeleteRange { from, to });
    }

    /// Records how far `log` was compacted.
    pub fn put_cleaned(&mut self, log: LogId, cleaned: Cleaned) {
        self.0.push(Change::Put { key: Key::Clean(log).encode(), value: cleaned.encode() });
    }

    /// Forgets how far `log` was compacted.
    pub fn remove_cleaned(&mut self, log: LogId) {
        let (from, to) = Key::clean_of(log);
        self.0.push(Change::DeleteRange { from, to });
    }

    /// Changes collected.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether the content can be relied upon together with a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// It holds everything up to the checkpoint.
    Usable,
    /// It is empty, older than the checkpoint or of another directory or layout: rebuild it from the journal.
    Stale,
}

impl Index {
    /// Wraps an ordered store.
    pub fn new(store: Arc<dyn IndexStore>) -> Self {
        Self { store }
    }

    /// Whether the content belongs to `directory` and is not older than checkpoint `sequence`.
    pub fn state(&self, directory: DirectoryId, sequence: u64) -> Result<IndexState, IndexError> {
        let is = |fact, expected: &[u8]| {
            Ok::<_, IndexError>(self.store.get(&Key::Fact(fact).encode())?.as_deref() == Some(expected))
        };
        if !is(Fact::Format, &INDEX_FORMAT.to_le_bytes())? || !is(Fact::Directory, directory.as_bytes())? {
            return Ok(IndexState::Stale);
        }
        let checkpoint = self.store.get(&Key::Fact(Fact::Checkpoint).encode())?;
        let newest = checkpoint.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        Ok(if newest.is_some_and(|newest| newest >= sequence) { IndexState::Usable } else { IndexState::Stale })
    }

    /// Empties the index and marks it as that of `directory`, complete up to checkpoint 0.
    pub fn reset(&self, directory: DirectoryId) -> Result<(), IndexError> {
        let (from, to) = Key::everything();
        let fact = |fact, value: &[u8]| Change::Put { key: Key::Fact(fact).encode(), value: value.to_vec() };
        self.store.write(&[
            Change::DeleteRange { from, to },
            fact(Fact::Format, &INDEX_FORMAT.to_le_bytes()),
            fact(Fact::Directory, directory.as_bytes()),
        ])?;
        self.store.flush()
    }

    /// Makes everything written so far durable and good for checkpoint `sequence`.
    pub fn flush_for(&self, sequence: u64) -> Result<(), IndexError> {
        let key = Key::Fact(Fact::Checkpoint).encode();
        self.store.write(&[Change::Put { key, value: sequence.to_le_bytes().to_vec() }])?;
        self.store.flush()
    }

    /// Writes collected changes.
    pub fn write(&self, changes: &IndexChanges) -> Result<(), IndexError> {
        if changes.is_empty() { Ok(()) } else { self.store.write(&changes.0) }
    }

    /// The last extent of `log` whose base is at or below `offset`.
    pub fn floor(&self, log: LogId, offset: Offset) -> Result<Option<Extent>, IndexError> {
        let key = Key::Extent(log, offset).encode();
        match self.store.floor(&key, &Key::Extent(log, Offset::ZERO).encode())? {
            Some((key, value)) => Ok(Some(decode_extent(&key, &value)?.1)),
            None => Ok(None),
        }
    }

    /// Visits the extents of `log` with a base at or above `from`, in order.
    pub fn extents(
        &self,
        log: LogId,
        from: Offset,
        mut visit: impl FnMut(Extent) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let (from, to) = Key::extents(log, from, None);
        self.scan_extents(&from, &to, |_, extent| visit(extent))
    }

    /// Visits every extent of every log.
    pub fn all_extents(&self, visit: impl FnMut(LogId, Extent) -> ControlFlow<()>) -> Result<(), IndexError> {
        let (from, to) = Key::all_extents();
        self.scan_extents(&from, &to, visit)
    }

    /// Visits what each log has in `segment`.
    pub fn shares(
        &self,
        segment: SegmentId,
        mut visit: impl FnMut(LogId, SegmentShare) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let (from, to) = Key::shares_of(segment);
        let mut failure = None;
        self.store.scan(&from, &to, &mut |key, value| match (Key::decode(key), SegmentShare::decode(value)) {
            (Ok(Key::Share(_, log)), Ok(share)) => visit(log, share),
            (Err(error), _) | (_, Err(error)) => stop_with(&mut failure, error),
            (Ok(_), Ok(_)) => ControlFlow::Continue(()),
        })?;
        failure.map_or(Ok(()), Err)
    }

    /// What `log` has in `segment`, if anything.
    pub fn share(&self, segment: SegmentId, log: LogId) -> Result<Option<SegmentShare>, IndexError> {
        let stored = self.store.get(&Key::Share(segment, log).encode())?;
        stored.map(|value| SegmentShare::decode(&value)).transpose()
    }

    /// How far `log` was compacted, if it was.
    pub fn cleaned(&self, log: LogId) -> Result<Option<Cleaned>, IndexError> {
        let stored = self.store.get(&Key::Clean(log).encode())?;
        stored.map(|value| Cleaned::decode(&value)).transpose()
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.store.flush()
    }

    /// The segments below `below` that the index has shares of, in order.
    pub fn segments_below(&self, below: SegmentId) -> Result<Vec<SegmentId>, IndexError> {
        let mut found = Vec::new();
        let (mut from, end) = Key::all_shares();
        loop {
            // One seek per segment, however many logs it has.
            let mut next = None;
            let mut failure = None;
            self.store.scan(&from, &end, &mut |key, _| {
                match Key::decode(key) {
                    Ok(Key::Share(segment, _)) => next = Some(segment),
                    Ok(_) => {}
                    Err(error) => failure = Some(error),
                }
                ControlFlow::Break(())
            })?;
            if let Some(error) = failure {
                return Err(error);
            }
            match next {
                Some(segment) if segment < below => {
                    found.push(segment);
                    from = Key::shares_of(segment).1;
                }
                _ => return Ok(found),
            }
        }
    }

    /// Checks every checksum.
    pub fn verify(&self) -> Result<(), IndexError> {
        self.store.verify()
    }

    fn scan_extents(
        &self,
        from: &[u8],
        to: &[u8],
        mut visit: impl FnMut(LogId, Extent) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let mut failure = None;
        self.store.scan(from, to, &mut |key, value| match decode_extent(key, value) {
            Ok((log, extent)) => visit(log, extent),
            Err(error) => stop_with(&mut failure, error),
        })?;
        failure.map_or(Ok(()), Err)
    }
}

fn decode_extent(key: &[u8], value: &[u8]) -> Result<(LogId, Extent), IndexError> {
    match Key::decode(key)? {
        Key::Extent(log, base) => Ok((log, Extent::decode(base, value)?)),
        other => Err(IndexError::Damaged(format!("{other:?} where an extent was expected"))),
    }
}

fn stop_with(slot: &mut Option<IndexError>, error: IndexError) -> ControlFlow<()> {
    *slot = Some(error);
    ControlFlow::Break(())
}
