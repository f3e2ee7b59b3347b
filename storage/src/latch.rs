//! The one-way switch of a data directory: set by the first write or sync that failed, never reset in this process.
//!
//! After a failed sync the kernel may mark the lost pages clean, so that the next sync succeeds with the data gone
//! (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020). Hence nothing is ever retried: the
//! directory stays readable, takes no more writes, and says why.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use streambus_protocol::timestamp::Timestamp;

use crate::clock::Clock;

/// What was being done when durability was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatchedOperation {
    /// A write of committed bytes.
    Write,
    /// A sync of a file.
    Sync,
    /// Bringing the next journal segment into place.
    Roll,
    /// A write to the index or to another small durable fact.
    Index,
}

impl fmt::Display for LatchedOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Roll => "segment roll",
            Self::Index => "index write",
        })
    }
}

/// Why the data directory takes no more writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatchReason {
    /// What failed.
    pub operation: LatchedOperation,
    /// The file, relative to the data directory.
    pub file: String,
    /// The operating system's answer.
    pub error: String,
    /// When.
    pub at: Timestamp,
}

impl fmt::Display for LatchReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of '{}' failed ({}); the data directory is read-only until the process restarts on a healthy disk",
            self.operation, self.file, self.error
        )
    }
}

/// The switch itself. Shared by everything that writes to one data directory.
#[derive(Debug)]
pub struct Latch {
    clock: Arc<dyn Clock>,
    reason: OnceLock<Arc<LatchReason>>,
}

impl Latch {
    /// An open latch.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, reason: OnceLock::new() }
    }

    /// True once durability was lost.
    pub fn is_set(&self) -> bool {
        self.reason.get().is_some()
    }

    /// Why, once it is set.
    pub fn reason(&self) -> Option<&Arc<LatchReason>> {
        self.reason.get()
    }

    /// Sets the latch. Only the first call counts; the reason in force is returned.
    pub fn trip(&self, operation: LatchedOperation, file: &str, error: &io::Error) -> &Arc<LatchReason> {
        self.reason.get_or_init(|| {
            Arc::new(LatchReason { operation, file: file.to_owned(), error: error.to_string(), at: self.clock.now() })
        })
    }

    /// The clock that dates failures.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    /// Catches a latch whose reason a later failure overwrites.
    #[test]
    fn the_first_reason_stays() {
        let latch = Latch::new(Arc::new(ManualClock::new(Timestamp::from_millis(7))));
        assert!(!latch.is_set());
        latch.trip(LatchedOperation::Sync, "a", &io::Error::other("first"));
        let reason = latch.trip(LatchedOperation::Write, "b", &io::Error::other("second"));
        assert_eq!((reason.file.as_str(), reason.error.as_str(), reason.at.as_millis()), ("a", "first", 7));
        assert!(latch.is_set());
    }
}
