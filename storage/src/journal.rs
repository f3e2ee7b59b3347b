//! The journal: one append-only sequence of fixed-size segments that holds every record of a data directory.
//!
//! # On disk
//! ```text
//! journal-<segment id, 16 hex digits>.seg
//! | header block | commit | commit | ... | unused |          every commit is whole 4 KiB blocks
//!                 commit = | commit header 64 | entry | entry | ... | zeros to the block |
//!                 entry  = | entry header 64 | payload | zeros to 8 bytes |
//! ```
//! Integers are little-endian. All header checksums are CRC-32C, seeded with that of the directory id, so that another
//! directory's bytes are no valid headers here. A commit carries its segment's id (a generation: recycled files get a
//! new one, so their old bytes are recognised), a sequence number that grows by one for each commit of the journal,
//! and the incarnation: how often the journal was opened. See [`segment`], [`commit`] and [`entry`] for the fields.
//!
//! # Promises
//! 1. Entries become durable in the order of their [`Lsn`]: [`JournalObserver::committed`] names an entry only when it
//!    and all before it are on stable storage.
//! 2. One commit is in flight; the next collects meanwhile. Acknowledged blocks are never written again.
//! 3. The first failed write or sync sets the [`Latch`]: everything later is refused. Nothing is retried.
//! 4. Recovery replays each reported entry once and in order, and nothing else but a whole prefix of what was in
//!    flight. Bytes that must be valid and are not become [`DamagedRange`]s; replay goes on behind them.
//! 5. A commit is dropped as a torn tail only when nothing behind it proves that it was once synced. An idle journal
//!    writes one empty commit as such proof.
//!
//! # Pieces
//! [`Journal`] is the handle: append, read, recycle. [`JournalParts`] is a recovered journal that does not run yet.
//! [`Committer`] is the commit loop as a plain state machine that a test steps; `thread` runs it on its one thread.

pub mod commit;
pub mod committer;
pub mod config;
pub mod entry;
pub mod error;
mod fields;
mod group;
pub mod handle;
pub mod position;
pub mod reader;
pub mod recovery;
pub mod report;
pub(crate) mod scan;
pub mod segment;
mod state;
mod supply;
mod thread;
mod zero_ahead;

pub use committer::{Committer, Step};
pub use config::JournalConfig;
pub use entry::{CommittedEntry, EntryKind, NewEntry, ReplayDecision, ReplayedEntry};
pub use error::{AppendError, OpenError, ReadError, RecycleError};
pub use handle::{CommitStats, Journal, JournalObserver, JournalParts};
pub use position::{Location, LogId, Lsn, SegmentId};
pub use reader::{JournalReader, ScannedPart, SegmentInfo};
pub use recovery::RecoverFrom;
pub use report::{DamageReason, DamagedEntry, DamagedRange, RecoveryReport};

#[cfg(doc)]
use crate::latch::Latch;

#[cfg(test)]
mod tests;
