//! The broker's settings: typed values with their defaults, and how files, environment and flags become one of them.
//!
//! One table (`config/table.rs`) declares every setting: key, range, text, where its value lives. It drives parsing,
//! environment names, flags, `docs/configuration.md` and `streambus config show`. Order: flags over environment over
//! files (in the order given) over the defaults here. Nothing in this module reads a file or a variable: texts are
//! arguments, so that a test can hold every case. All errors are reported at once.

pub mod address;
pub mod error;
pub mod live;
pub mod origin;
pub mod peers;
pub mod reference;
pub mod setting;
pub mod suggestion;
pub mod unit;

mod check;
mod layer;
mod store;
mod table;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use streambus_consensus::round_trip::RoundTrip;
use streambus_protocol::ids::BrokerId;
use streambus_protocol::limits::FRAME_BYTES_MAX;

use address::HostPort;
use error::ConfigErrors;
use origin::Origin;
use peers::Peers;
use setting::Setting;

/// Everything a broker is told from outside. `Default` is what runs when nothing is configured: one broker for this
/// machine alone, because nobody has to authenticate yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Who this broker is.
    pub broker: IdentityConfig,
    /// The listener for clients.
    pub client: ClientConfig,
    /// Other brokers.
    pub cluster: ClusterConfig,
    /// Copying records between brokers.
    pub replication: ReplicationConfig,
    /// The listener for probes, metrics and the REST API.
    pub http: HttpConfig,
    /// The data directory and what is kept in it.
    pub storage: StorageConfig,
    /// What connections may take.
    pub limits: LimitsConfig,
    /// What is written to stderr.
    pub log: LogConfig,
    /// Starting and stopping.
    pub lifecycle: LifecycleConfig,
}

/// Section `broker`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// The broker's stable number in its cluster.
    pub id: BrokerId,
    /// The failure domain it stands in; empty when none is known.
    pub rack: String,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self { id: BrokerId::new(1), rack: String::new() }
    }
}

/// Section `client`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Where to listen. Loopback by default: there is no authentication, so other machines are let in on purpose only.
    pub listen: HostPort,
    /// What clients are told to connect to; `None` = the listen address.
    pub advertise: Option<HostPort>,
}

impl ClientConfig {
    /// The address that metadata answers carry, given the port that was really bound (listening on port 0 takes any).
    /// A broker that listens everywhere and was not told its name can only be sure of this machine: `localhost`.
    pub fn advertised(&self, bound_port: u16) -> HostPort {
        match &self.advertise {
            Some(advertise) => advertise.clone(),
            None if self.listen.is_unspecified() => HostPort { host: "localhost".to_owned(), port: bound_port },
            None => HostPort { host: self.listen.host.clone(), port: bound_port },
        }
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self { listen: HostPort::loopback(9092), advertise: None }
    }
}

/// Section `cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where to listen for other brokers. Not opened without `peers`.
    pub listen: HostPort,
    /// What other brokers are told to connect to; `None` = this broker's entry in `peers`, or the listen address.
    pub advertise: Option<HostPort>,
    /// The brokers that found the cluster; empty for a broker on its own.
    pub peers: Peers,
    /// A broker that is not heard of for this long takes no part any more.
    pub session_timeout: Duration,
    /// How often this broker is heard of.
    pub heartbeat_interval: Duration,
    /// How long a message to another broker and its answer may take together.
    pub round_trip_max: Duration,
    /// Changes of the metadata between two snapshots of it.
    pub metadata_snapshot_changes: u32,
    /// Changes of the metadata kept behind a snapshot, for brokers that were away.
    pub metadata_kept_changes: u32,
}

impl ClusterConfig {
    /// What other brokers are told to connect to, given the port that was really bound.
    pub fn advertised(&self, me: BrokerId, bound_port: u16) -> HostPort {
        match self.advertise.as_ref().or_else(|| self.peers.get(me)) {
            Some(address) => address.clone(),
            None => HostPort { host: self.listen.host.clone(), port: bound_port },
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            listen: HostPort::loopback(9094),
            advertise: None,
            peers: Peers::default(),
            session_timeout: Duration::from_secs(2),
            heartbeat_interval: Duration::from_millis(250),
            round_trip_max: RoundTrip::DEFAULT,
            metadata_snapshot_changes: 10_000,
            metadata_kept_changes: 20_000,
        }
    }
}

/// Section `replication`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationConfig {
    /// Record bytes of one answer to a follower.
    pub fetch_bytes: u64,
    /// How long a follower's fetch waits for news.
    pub fetch_wait: Duration,
    /// A follower that is behind for this long is out of sync.
    pub lag_time_max: Duration,
    /// Bytes per second to replicas that are catching up; zero for no limit.
    pub catch_up_rate: u64,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self {
            fetch_bytes: 2 * MIB,
            fetch_wait: Duration::from_millis(500),
            lag_time_max: Duration::from_secs(10),
            catch_up_rate: 32 * MIB,
        }
    }
}

/// Section `http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where to listen.
    pub listen: HostPort,
    /// Connections open at once; more are closed as soon as they are accepted.
    pub connections: u32,
    /// How long a client may take to send a request's head; also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// How long one request may take, its body included.
    pub request_timeout: Duration,
    /// The largest request body, in bytes.
    pub body_bytes_max: u64,
    /// Bytes of bodies and pages in memory, for all connections; requests above it are refused.
    pub inflight_bytes: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: HostPort::loopback(8080),
            connections: 256,
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            body_bytes_max: 8 * MIB,
            inflight_bytes: 32 * MIB,
        }
    }
}

/// Section `storage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// The data directory; created when it does not exist.
    pub data_dir: PathBuf,
    /// Bytes of one journal segment.
    pub segment_bytes: u64,
    /// A group commit collects up to this many bytes.
    pub commit_bytes: u64,
    /// Bytes of accepted batches that may wait for the disk.
    pub commit_queue_bytes: u64,
    /// Recycled segment files kept for reuse.
    pub spare_segments: u32,
    /// Bytes of recent batches kept in memory, for the whole broker.
    pub tail_cache_bytes: u64,
    /// The largest contiguous run of one partition's batches that one index entry describes, in bytes.
    pub extent_bytes_max: u64,
    /// Index entries kept in memory before they move to the index.
    pub extents_in_memory: u32,
    /// Writes are refused when the file system has less than this left, in bytes.
    pub disk_reserve_bytes: u64,
    /// Writes are refused when the file system has less than this left, in percent of its size.
    pub disk_reserve_percent: u8,
    /// How long a silent idempotent producer is remembered.
    pub producer_expiry: Duration,
    /// Idempotent producers remembered for one partition.
    pub producers_per_partition: u32,
    /// The index's block cache, in bytes.
    pub index_cache_bytes: u64,
    /// The index's write buffer, in bytes.
    pub index_write_buffer_bytes: u64,
    /// How often retention is applied.
    pub retention_interval: Duration,
    /// How fast the background check of stored checksums reads, in bytes per second; 0 turns it off.
    pub scrub_rate: u64,
    /// How fast compaction reads and writes, of keys and of segments each, in bytes per second; 0 turns it off.
    pub compaction_rate: u64,
    /// Bytes that the keys of one partition may take while it is compacted.
    pub compaction_map_bytes: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            segment_bytes: 256 * MIB,
            commit_bytes: MIB,
            commit_queue_bytes: 16 * MIB,
            spare_segments: 4,
            tail_cache_bytes: 32 * MIB,
            extent_bytes_max: 256 * KIB,
            extents_in_memory: 100_000,
            disk_reserve_bytes: 2048 * MIB,
            disk_reserve_percent: 5,
            producer_expiry: Duration::from_secs(24 * 60 * 60),
            producers_per_partition: 10_000,
            index_cache_bytes: 8 * MIB,
            index_write_buffer_bytes: 4 * MIB,
            retention_interval: Duration::from_secs(30),
            scrub_rate: 4 * MIB,
            compaction_rate: 16 * MIB,
            compaction_map_bytes: 8 * MIB,
        }
    }
}

/// Section `limits`: the client listener's admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Client connections open at once.
    pub connections: u32,
    /// Client connections open at once from one address.
    pub connections_per_ip: u32,
    /// Bytes of unanswered requests on one connection; at least one frame of the largest size.
    pub connection_inflight_bytes: u64,
    /// Bytes of unanswered requests and unsent answers on all connections.
    pub inflight_bytes: u64,
    /// A connection with nothing in flight is closed after this long.
    pub idle_timeout: Duration,
    /// A connection that has not completed its handshake is closed after this long.
    pub handshake_timeout: Duration,
    /// A peer that sends or takes an open frame slower than this is cut, in bytes per second.
    pub slow_client_rate: u64,
    /// How long such a peer is borne with before it is cut.
    pub slow_client_grace: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_ip: 1_000,
            connection_inflight_bytes: FRAME_BYTES_MAX as u64,
            inflight_bytes: 64 * MIB,
            idle_timeout: Duration::from_secs(600),
            handshake_timeout: Duration::from_secs(10),
            slow_client_rate: KIB,
            slow_client_grace: Duration::from_secs(10),
        }
    }
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The shape of a line.
    pub format: LogFormat,
    /// Which events are written: a level, or directives such as `info,streambus_storage=debug`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info,openraft=error".to_owned() }
    }
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Section `lifecycle`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifecycleConfig {
    /// How long requests in flight may finish after a stop was asked for.
    pub drain_grace: Duration,
}

impl Default for LifecycleConfig {
    fn default() -> Self {
        Self { drain_grace: Duration::from_secs(30) }
    }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What `load` works on. Nothing is read from the outside.
#[derive(Clone, Debug, Default)]
pub struct LoadRequest {
    /// Configuration files, path (for messages) and text, weakest first.
    pub files: Vec<(PathBuf, String)>,
    /// Environment variables; names that do not start with `STREAMBUS__` are ignored.
    pub env: Vec<(String, String)>,
    /// Flags by name without dashes: a setting's short flag (`data-dir`) or its whole key (`limits.connections`).
    pub flags: Vec<(String, String)>,
}

/// The settings in force, and where each came from.
#[derive(Clone, Debug)]
pub struct Effective {
    config: BrokerConfig,
    origins: Vec<Origin>,
}

/// One line of `config show --effective`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The setting's key path.
    pub key: &'static str,
    /// The value in force, as the file would spell it.
    pub value: String,
    /// The default, spelt the same way.
    pub default: String,
    /// Where the value comes from: `default`, `file PATH:LINE:COLUMN`, `env NAME` or `flag --NAME`.
    pub origin: Origin,
}

impl Effective {
    /// The typed settings.
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// The typed settings, taken out.
    pub fn into_config(self) -> BrokerConfig {
        self.config
    }

    /// Every setting in the table's order.
    pub fn rows(&self) -> Vec<Row> {
        let defaults = BrokerConfig::default();
        table::SETTINGS
            .iter()
            .zip(&self.origins)
            .map(|(setting, origin)| Row {
                key: setting.key,
                value: setting.kind.show(&self.config),
                default: setting.kind.show(&defaults),
                origin: origin.clone(),
            })
            .collect()
    }

    /// What is legal but deserves a look, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        check::warnings(&self.config)
    }
}

/// Merges defaults, files, environment and flags, weakest first, and checks the result.
///
/// # Errors
/// Every problem of every source, not the first: unknown names, values that do not parse or are out of range (also
/// those a stronger source overrides), and fields that contradict each other.
pub fn load(request: LoadRequest) -> Result<Effective, ConfigErrors> {
    let mut problems = Vec::new();
    let mut assignments = Vec::new();
    for (path, text) in &request.files {
        layer::from_file(path, text, &mut assignments, &mut problems);
    }
    layer::from_env(&request.env, &mut assignments, &mut problems);
    layer::from_flags(&request.flags, &mut assignments, &mut problems);

    let mut config = BrokerConfig::default();
    let mut origins = vec![Origin::Default; table::SETTINGS.len()];
    for assignment in assignments {
        let setting: &Setting = assignment.setting;
        match setting.kind.assign(&assignment.raw, &mut config) {
            Ok(()) => {
                for (known, origin) in table::SETTINGS.iter().zip(origins.iter_mut()) {
                    if known.key == setting.key {
                        *origin = assignment.origin.clone();
                    }
                }
            }
            Err(problem) => problems.push(error::ConfigError::new(Some(setting.key), problem, assignment.origin)),
        }
    }
    check::conflicts(&config, &origins, &mut problems);
    if problems.is_empty() { Ok(Effective { config, origins }) } else { Err(ConfigErrors::new(problems)) }
}

/// Every setting there is, in the order of the reference.
pub fn settings() -> &'static [Setting] {
    table::SETTINGS
}
