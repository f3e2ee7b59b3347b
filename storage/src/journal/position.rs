//! Positions of the journal. Each is its own type; none has arithmetic, only named steps.

use std::fmt;

macro_rules! number {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The first one.
            pub const ZERO: Self = Self(0);

            /// Wraps a plain number.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The plain number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this.
            ///
            /// # Panics
            /// After 2^64 - 1, which a journal that counts one a nanosecond reaches in 584 years.
            #[must_use]
            pub const fn next(self) -> Self {
                self.steps(1)
            }

            /// The one `count` steps after this.
            ///
            /// # Panics
            /// Past 2^64 - 1.
            #[must_use]
            pub const fn steps(self, count: u64) -> Self {
                match self.0.checked_add(count) {
                    Some(value) => Self(value),
                    None => panic!("a journal position overflowed"),
                }
            }

            /// The one `count` steps after this; `None` past 2^64 - 1. For numbers read from a disk.
            pub const fn checked_steps(self, count: u64) -> Option<Self> {
                match self.0.checked_add(count) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }

            /// Steps from this (inclusive) to `later` (exclusive); `None` when `later` is smaller.
            pub const fn distance_to(self, later: Self) -> Option<u64> {
                later.0.checked_sub(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// One partition's log within a data directory: a small number that the store gives out and never reuses.
    LogId
}
number! {
    /// An entry's log sequence number: its place in the order of the whole journal. Grows by one an entry.
    Lsn
}
number! {
    /// A segment's generation. Grows by one each time a file, new or recycled, becomes part of the journal.
    SegmentId
}
number! {
    /// A commit's place in the order of the whole journal. Grows by one a commit, empty ones included.
    CommitSequence
}
number! {
    /// How often this journal was opened for writing.
    Incarnation
}

/// Where one entry lies: header and payload, `length` bytes from `position` in `segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The segment.
    pub segment: SegmentId,
    /// Byte position of the entry's header in the segment file; a multiple of 8.
    pub position: u32,
    /// Bytes of header and payload, without the zeros that align the next entry.
    pub length: u32,
}

impl Location {
    /// The byte position behind the entry, where the next one may start (a multiple of 8).
    pub const fn end(self) -> u64 {
        (self.position as u64 + self.length as u64).next_multiple_of(super::entry::ENTRY_ALIGN_BYTES as u64)
    }
}
