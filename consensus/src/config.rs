//! What a metadata node is told. Nothing here reloads while it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::ids::{BrokerId, ClusterId};

use crate::command::ClusterEndpoint;
use crate::round_trip::RoundTrip;

/// The folder of the metadata in a data directory.
pub(crate) const METADATA_DIRECTORY: &str = "metadata";
/// The folder of its database, within.
pub(crate) const DATABASE_DIRECTORY: &str = "db";
/// The folder of its snapshots, within.
pub(crate) const SNAPSHOT_DIRECTORY: &str = "snapshots";
/// Entries of the log that go together at most, once a snapshot holds them.
const PURGED_TOGETHER_MAX: u64 = 256;

/// A metadata node's configuration.
#[derive(Clone, Debug)]
pub struct ConsensusConfig {
    /// This broker's stable id.
    pub broker_id: BrokerId,
    /// The broker's data directory; everything here goes into `metadata` below it.
    pub data_dir: PathBuf,
    /// Where clients reach this broker, for its registration.
    pub advertised: BrokerEndpoint,
    /// The release this broker runs, for its registration. At most 255 bytes.
    pub version: String,
    /// The cluster this directory must belong to. Default: whatever its identity file says.
    pub expected_cluster: Option<ClusterId>,
    /// Whether it has peers.
    pub bootstrap: Bootstrap,
    /// Timings and sizes.
    pub tuning: Tuning,
}

/// Whether a node has peers, and what it does with an empty directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// Founds a cluster of its own, as its only voter.
    Alone,
    /// Has peers: founds a cluster with them, or joins the one they have. The founders are the same on every broker.
    Peers {
        /// The brokers that found the cluster together, and where their cluster listeners are reached.
        peers: BTreeMap<BrokerId, (String, u16)>,
        /// This broker; one that is not among `peers` joins them.
        me: BrokerId,
        /// Where peers reach this broker's cluster listener.
        advertised: (String, u16),
        /// How long a majority of the founders, once it is there, waits for the rest before it founds without them. Default
        /// 10 s.
        founding_patience: Duration,
    },
}

/// Default of [`Bootstrap::Peers::founding_patience`].
pub const FOUNDING_PATIENCE: Duration = Duration::from_secs(10);

/// Timings and sizes of a metadata node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Between heartbeats of a leader, if they are answered as soon. Default 100 ms.
    pub heartbeat: Duration,
    /// How far apart the nodes may be: other waits follow from it. Default 400 ms.
    pub round_trip: RoundTrip,
    /// How long a heartbeat may be under way, there and back; the next one goes out when it is answered, or then. Default
    /// 420 ms, by `round_trip`: nodes that are further apart keep no leader. Below `election_min`.
    pub answer: Duration,
    /// The shortest time without a leader before a node campaigns, and how long a vote may take, there, onto a disk and
    /// back. Default 450 ms, by `round_trip`.
    pub election_min: Duration,
    /// The longest, and the length of a leader's lease. Default 800 ms, by `round_trip`: two answers' time, since the one
    /// that counts was asked for before the one that is on its way. Failover takes this plus one draw of the range, except
    /// when the leader's machine says that its process is gone: then it takes a round of votes.
    pub election_max: Duration,
    /// How long a follower may take to install a snapshot. Default 10 s.
    pub install_snapshot: Duration,
    /// Entries between snapshots. Default 10,000.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot for followers that lag. Default 20,000.
    pub kept_entries: u64,
    /// How long a broker may be silent before it is fenced. Default 3 s.
    pub session: Duration,
    /// How long a proposal waits for its outcome. Default 5 s.
    pub propose: Duration,
    /// How long a start waits for the cluster's state. Default 30 s.
    pub recovery: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self::within(RoundTrip::default())
    }
}

impl Tuning {
    /// The defaults of nodes that are so far apart.
    pub fn within(round_trip: RoundTrip) -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            round_trip,
            answer: round_trip.answer(),
            election_min: round_trip.election_min(),
            election_max: round_trip.election_max(),
            install_snapshot: Duration::from_secs(10),
            snapshot_entries: 10_000,
            kept_entries: 20_000,
            session: Duration::from_secs(3),
            propose: Duration::from_secs(5),
            recovery: Duration::from_secs(30),
        }
    }
}

impl ConsensusConfig {
    /// A broker that founds, or is, a cluster of its own.
    pub fn alone(data_dir: PathBuf, advertised: BrokerEndpoint) -> Self {
        Self {
            broker_id: advertised.id,
            data_dir,
            advertised,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            expected_cluster: None,
            bootstrap: Bootstrap::Alone,
            tuning: Tuning::default(),
        }
    }

    /// Where the configured peers are.
    pub(crate) fn peer_addresses(&self) -> BTreeMap<BrokerId, (String, u16)> {
        match &self.bootstrap {
            Bootstrap::Alone => BTreeMap::new(),
            Bootstrap::Peers { peers, .. } => peers.clone(),
        }
    }

    /// Where brokers reach this one. A broker without peers listens for none, which port 0 says.
    pub(crate) fn cluster_endpoint(&self) -> ClusterEndpoint {
        let (host, port) = match &self.bootstrap {
            Bootstrap::Alone => (self.advertised.host.clone(), 0),
            Bootstrap::Peers { advertised, .. } => advertised.clone(),
        };
        ClusterEndpoint { host, port }
    }

    /// The directory of everything this crate stores.
    pub fn directory(&self) -> PathBuf {
        self.data_dir.join(METADATA_DIRECTORY)
    }
}

impl Tuning {
    pub(crate) fn raft_config(&self) -> Result<Config, ConfigError> {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let config = Config {
            cluster_name: "streambus".to_owned(),
            // openraft bounds a heartbeat by this, and sends one so often by itself; the control loop asks for more.
            heartbeat_interval: millis(self.answer),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: millis(self.install_snapshot),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.kept_entries,
            // A lag above this is cured by a snapshot; below the snapshot interval that would never end.
            replication_lag_threshold: self.kept_entries.max(self.snapshot_entries.saturating_mul(2)),
            // Whole batches are let go; one larger than a snapshot's entries would keep many more than it was told.
            purge_batch_size: self.snapshot_entries.clamp(1, PURGED_TOGETHER_MAX),
            // Reads are also limited by bytes; this bounds the entries of one request.
            max_payload_entries: 256,
            // Lets a better connected majority elect while this leader cannot reach a quorum.
            quorum_loss_probe_interval: Some(millis(self.election_max).saturating_mul(2)),
            // A node that cannot win must not raise the term, neither after a partition nor after a restart.
            enable_pre_vote: Some(true),
            // A restarted leader may have a state older than one it has shown; an election makes it recover first.
            enable_leader_restore: Some(false),
            // Rules out a voter whose log went back: such a disk must join as a new node.
            allow_log_reversion: Some(false),
            // Queues of a few hundred are plenty for metadata, and their memory is ours.
            api_channel_size: Some(1024),
            notification_channel_size: Some(4096),
            state_machine_channel_size: Some(256),
            api_batch_capacity: 256,
            ..Config::default()
        };
        config.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: defaults that openraft refuses, or safety switches that were flipped.
    #[test]
    fn defaults_are_valid_and_safe() {
        let config = Tuning::default().raft_config().unwrap();
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.allow_log_reversion, Some(false));
        assert!(config.replication_lag_threshold > 10_000);
        assert!(config.install_snapshot_timeout >= 10_000);
    }

    /// Catches: a log that stays far longer than an operator asked for, because it only goes in large pieces.
    #[test]
    fn few_entries_between_snapshots_are_let_go_a_few_at_a_time() {
        let purged_together = |snapshot_entries| {
            let tuning = Tuning { snapshot_entries, ..Tuning::default() };
            tuning.raft_config().unwrap().purge_batch_size
        };
        assert_eq!([0, 10, 10_000].map(purged_together), [1, 10, PURGED_TOGETHER_MAX]);
    }
}
