//! How replication behaves, with the reasons for the defaults.

use std::time::Duration;

use crate::config::ReplicationConfig;

/// The settings of replication. Each has the unit in its name or type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicationSettings {
    /// A follower that has not had everything for this long leaves the in-sync set (`replication.lag_time_max`). A dead one
    /// is fenced long before; this is for one that lives and does not keep up.
    pub lag_limit: Duration,
    /// How long a leader keeps a fetch without news. Only a lost connection nobody noticed waits that long.
    pub fetch_wait: Duration,
    /// Record bytes in one answer, one batch apart; with the largest batch on top it still fits the largest frame.
    pub fetch_bytes_max: u32,
    /// Record bytes of one partition in one answer, so that a busy one does not starve the others.
    pub partition_bytes_max: u32,
    /// Bytes per second that a broker sends to replicas that no commit waits for, all together; zero for no limit. See
    /// [`throttle`](super::throttle) for when it yields.
    pub catch_up_rate: u64,
    /// How long a watermark that moved waits for records to travel with: nobody but a reader of followers waits for it,
    /// and an answer for each move costs half as many fetches again (KAFKA-9731).
    pub watermark_linger: Duration,
    /// Before a follower tries again what failed; doubles up to `retry_max`.
    pub retry_min: Duration,
    /// The longest such wait.
    pub retry_max: Duration,
    /// How often damage is looked for that another replica could repair, and the first pause after one could not.
    pub repair_interval: Duration,
}

impl ReplicationSettings {
    /// A follower that has not heard its leader for so long answers no reader. A leader ends a fetch without news after
    /// `fetch_wait`; a few of those may be late.
    pub fn silence_max(&self) -> Duration {
        self.fetch_wait.saturating_mul(4).max(Duration::from_secs(2))
    }
}

impl Default for ReplicationSettings {
    fn default() -> Self {
        Self {
            lag_limit: Duration::from_secs(10),
            fetch_wait: Duration::from_millis(500),
            fetch_bytes_max: 2 * 1024 * 1024,
            partition_bytes_max: 1024 * 1024,
            catch_up_rate: 32 * 1024 * 1024,
            watermark_linger: Duration::from_millis(5),
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_secs(1),
            repair_interval: Duration::from_millis(500),
        }
    }
}

impl From<&ReplicationConfig> for ReplicationSettings {
    fn from(config: &ReplicationConfig) -> Self {
        Self {
            lag_limit: config.lag_time_max,
            fetch_wait: config.fetch_wait,
            fetch_bytes_max: u32::try_from(config.fetch_bytes).unwrap_or(u32::MAX),
            catch_up_rate: config.catch_up_rate,
            ..Self::default()
        }
    }
}
