//! Defects that can be planted in a real broker, each a mistake that some system has shipped: a checker that does not
//! find them proves nothing about the faults that nobody knows.
//!
//! The crates of the broker ask [`is_planted`] where the mistake would be made. Without the feature `armed` the answer
//! is a constant `false`: the branch is not in the binary, nor is any name of this crate. Only `streambus-planted`, which
//! is never shipped, is built with it.
//!
//! This crate knows no other crate, and reads no environment: whoever plants a defect says so.

#![cfg_attr(not(test), deny(clippy::unwrap_used))]

#[cfg(feature = "armed")]
mod armed;

#[cfg(feature = "armed")]
pub use armed::{UnknownDefect, VARIABLE, is_planted, named, plant, planted};

/// One defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Defect {
    /// What a replica has accepted counts as if it were on stable storage, which it reaches a moment later.
    AckBeforeSync,
    /// A follower of a new leadership first cuts its log at its own high watermark (before KIP-101).
    TruncateToWatermark,
    /// A disk keeps its first vote and forgets every later one.
    ForgottenVote,
    /// A new leader knows no idempotent producer.
    DedupeLostOnFailover,
    /// Damage in the journal is taken for its end: what lies behind is dropped, and nobody is told.
    CorruptionAsEnd,
    /// Records are accepted and committed although fewer replicas are in sync than the topic demands.
    WatermarkBelowMinIsr,
    /// A batch counts as committed once the watermark passes its offsets, whichever leadership's records lie there.
    StaleEpochCommit,
}

impl Defect {
    /// Every defect.
    pub const ALL: &[Self] = &[
        Self::AckBeforeSync,
        Self::TruncateToWatermark,
        Self::ForgottenVote,
        Self::DedupeLostOnFailover,
        Self::CorruptionAsEnd,
        Self::WatermarkBelowMinIsr,
        Self::StaleEpochCommit,
    ];

    /// The name by which it is asked for.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::TruncateToWatermark => "truncate-to-watermark",
            Self::ForgottenVote => "forgotten-vote",
            Self::DedupeLostOnFailover => "dedupe-lost-on-failover",
            Self::CorruptionAsEnd => "corruption-as-end",
            Self::WatermarkBelowMinIsr => "watermark-below-min-isr",
            Self::StaleEpochCommit => "stale-epoch-commit",
        }
    }
}

/// Whether this process makes the mistake. Never, in a build without the feature.
#[cfg(not(feature = "armed"))]
#[inline(always)]
pub const fn is_planted(_defect: Defect) -> bool {
    false
}
