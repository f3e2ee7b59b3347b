//! Defects to plant in tests, each a mistake that some system has shipped: an explorer that does not find them proves
//! nothing.

/// One defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PlantedBug {
    /// What a replica has accepted counts as if it were on stable storage.
    AckBeforeSync,
    /// A follower cuts its log at its high watermark when the leader changes (before KIP-101).
    TruncateToWatermark,
    /// A new leader forgets what idempotent producers have written.
    DedupeLostOnFailover,
    /// The watermark moves although fewer replicas are in sync than the topic demands.
    WatermarkBelowMinIsr,
    /// A leader counts fetches of another leadership.
    StaleEpochCommit,
    /// The watermark waits for the committed in-sync set only, not for members on their way in or out (before KIP-497).
    CommittedIsrOnly,
    /// A follower takes the watermark of an answer that tells it to truncate (KAFKA-14704).
    WatermarkBeforeTruncation,
    /// A follower joins the in-sync set before it has what the leadership began with (KAFKA-7128).
    GrowthWithoutEpochStart,
    /// A follower's earlier life speaks for its present one (before KIP-903).
    BrokerEpochIgnored,
    /// A follower does not hear from the metadata that records were given up, and waits for an operator.
    UncleanElectionUnknown,
}

impl PlantedBug {
    /// Every defect.
    pub(crate) const ALL: &[Self] = &[
        Self::AckBeforeSync,
        Self::TruncateToWatermark,
        Self::DedupeLostOnFailover,
        Self::WatermarkBelowMinIsr,
        Self::StaleEpochCommit,
        Self::CommittedIsrOnly,
        Self::WatermarkBeforeTruncation,
        Self::GrowthWithoutEpochStart,
        Self::BrokerEpochIgnored,
        Self::UncleanElectionUnknown,
    ];
}
