//! A record's position in its partition.

use std::fmt;

/// The position of one record in one partition, counted from zero.
///
/// Offsets are signed 64-bit on the wire (Kafka's record batch), so the largest legal value is `i64::MAX`; a value
/// of this type is always in range. It has no arithmetic operators on purpose: adding an offset to a byte position
/// must not compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);
    /// The largest offset the wire can carry.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// Wraps `value`, or `None` when it is above [`Offset::MAX`].
    pub const fn new(value: u64) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// Reads the wire's signed form, or `None` when it is negative.
    pub const fn from_wire(value: i64) -> Option<Self> {
        if value >= 0 { Some(Self(value as u64)) } else { None }
    }

    /// The wire's signed form; never negative.
    pub const fn to_wire(self) -> i64 {
        self.0 as i64
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset after this one, or `None` at [`Offset::MAX`].
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// The offset `count` records later, or `None` past [`Offset::MAX`].
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(value) => Self::new(value),
            None => None,
        }
    }

    /// Records between this offset (inclusive) and `later` (exclusive), or `None` when `later` is smaller.
    pub const fn distance_to(self, later: Self) -> Option<u64> {
        later.0.checked_sub(self.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
