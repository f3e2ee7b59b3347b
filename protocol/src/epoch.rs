//! Epochs: counters that fence what is out of date. They are never compared with one another.

use std::fmt;

macro_rules! epoch {
    ($(#[$meta:meta])* $name:ident, $repr:ty) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($repr);

        impl $name {
            /// The first epoch.
            pub const ZERO: Self = Self(0);

            /// Wraps a plain number.
            pub const fn new(value: $repr) -> Self {
                Self(value)
            }

            /// The plain number.
            pub const fn get(self) -> $repr {
                self.0
            }

            /// The epoch that follows, or `None` when the counter is exhausted.
            pub const fn next(self) -> Option<Self> {
                match self.0.checked_add(1) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

epoch! {
    /// Grows each time a partition's leadership changes (KIP-101, KIP-320). Fits the batch header's signed 32 bits:
    /// values above `i32::MAX` are refused where they enter.
    LeaderEpoch, u32
}
epoch! {
    /// Grows on every change of a partition's state in the cluster metadata, ISR changes included (KIP-497).
    PartitionEpoch, u32
}
epoch! {
    /// Grows each time a broker registers; equals the metadata log index of the registration (KIP-903).
    BrokerEpoch, u64
}

impl LeaderEpoch {
    /// "Not known" on the wire: a client that has no metadata yet, or a batch no leader has placed (Kafka's -1).
    pub const UNKNOWN: Self = Self(u32::MAX);
}
