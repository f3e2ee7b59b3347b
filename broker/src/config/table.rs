//! Every setting of the broker. The reference, the parser and `config show` follow this table and its order.

use std::time::Duration;

use streambus_consensus::round_trip::RoundTrip;
use streambus_protocol::limits::FRAME_BYTES_MAX;

use super::LogFormat;
use super::setting::{Kind, Reload, Setting};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);

/// Sections stand together: `layer::sections` relies on it.
pub(super) static SETTINGS: &[Setting] = &[
    Setting {
        key: "broker.id",
        kind: Kind::Broker { slot: |c| &mut c.broker.id },
        flag: Some("broker-id"),
        reload: Reload::Restart,
        doc: "The broker's number, unique in its cluster and the same for ever (in a StatefulSet: the ordinal).",
    },
    Setting {
        key: "broker.rack",
        kind: Kind::Text { max: 255, check: |_| Ok(()), slot: |c| &mut c.broker.rack },
        flag: Some("rack"),
        reload: Reload::Restart,
        doc: "The failure domain (rack, zone) it stands in; replicas are spread over them. Empty = not known.",
    },
    Setting {
        key: "client.listen",
        kind: Kind::Address { slot: |c| &mut c.client.listen },
        flag: Some("listen"),
        reload: Reload::Restart,
        doc: "Where clients connect. Loopback by default, because nobody has to authenticate: open it on purpose \
              (`0.0.0.0:9092` in a container) and say with `client.advertise` what clients shall connect to.",
    },
    Setting {
        key: "client.advertise",
        kind: Kind::OptionalAddress { slot: |c| &mut c.client.advertise },
        flag: Some("advertise"),
        reload: Reload::Restart,
        doc: "What clients are told to connect to. Empty = `client.listen`, or `localhost` when that is \
              `0.0.0.0` or `[::]`, which only serves clients on the same machine.",
    },
    Setting {
        key: "cluster.listen",
        kind: Kind::Address { slot: |c| &mut c.cluster.listen },
        flag: Some("cluster-listen"),
        reload: Reload::Restart,
        doc: "Where other brokers connect. Opened only with `cluster.peers`. Keep it off public networks: brokers do not \
              authenticate one another yet.",
    },
    Setting {
        key: "cluster.advertise",
        kind: Kind::OptionalAddress { slot: |c| &mut c.cluster.advertise },
        flag: Some("cluster-advertise"),
        reload: Reload::Restart,
        doc: "What other brokers are told to connect to. Empty = this broker's entry in `cluster.peers`, or else \
              `cluster.listen`.",
    },
    Setting {
        key: "cluster.peers",
        kind: Kind::Peers { slot: |c| &mut c.cluster.peers },
        flag: Some("peers"),
        reload: Reload::Restart,
        doc: "The brokers that found the cluster and where they listen for one another, the same list on every broker. A \
              broker that is not on it joins through them. It is looked at again only by a broker with an empty data \
              directory, and to find the others. Empty = a broker on its own.",
    },
    Setting {
        key: "cluster.session_timeout",
        kind: Kind::Time {
            min: Duration::from_millis(500),
            max: Duration::from_secs(600),
            slot: |c| &mut c.cluster.session_timeout,
        },
        flag: None,
        reload: Reload::Restart,
        doc: "A broker that is not heard of for this long loses what it leads. Shorter means quicker failover when a \
              machine is cut off, and more of it when one is merely slow; a process that died is noticed at once \
              either way.",
    },
    Setting {
        key: "cluster.heartbeat_interval",
        kind: Kind::Time { min: Duration::from_millis(50), max: SECOND, slot: |c| &mut c.cluster.heartbeat_interval },
        flag: None,
        reload: Reload::Restart,
        doc: "How often this broker says that it is there. At most a third of `cluster.session_timeout`.",
    },
    Setting {
        key: "cluster.round_trip_max",
        kind: Kind::Time { min: RoundTrip::MIN, max: RoundTrip::MAX, slot: |c| &mut c.cluster.round_trip_max },
        flag: None,
        reload: Reload::Restart,
        doc: "How long a message to another broker and its answer may take together, the same on every broker. Brokers \
              further apart than this keep no controller; a controller that is cut off is succeeded after three to four \
              times this. Above the default, `cluster.session_timeout` is at least five times this.",
    },
    Setting {
        key: "cluster.metadata_snapshot_changes",
        kind: Kind::Count { min: 10, max: 10_000_000, slot: |c| &mut c.cluster.metadata_snapshot_changes },
        flag: None,
        reload: Reload::Restart,
        doc: "After so many changes of the cluster's metadata (topics, leaders, replicas in sync, brokers) this broker writes \
              all of it as a snapshot, which the log of changes then need not hold. Fewer mean a smaller log and more \
              writing.",
    },
    Setting {
        key: "cluster.metadata_kept_changes",
        kind: Kind::Count { min: 0, max: 10_000_000, slot: |c| &mut c.cluster.metadata_kept_changes },
        flag: None,
        reload: Reload::Restart,
        doc: "Changes of the metadata that stay in the log although a snapshot holds them. A broker that was away for more is \
              sent the whole snapshot by the controller instead of what it missed.",
    },
    Setting {
        key: "replication.fetch_bytes",
        kind: Kind::Bytes { min: 64 * KIB, max: 4 * MIB, slot: |c| &mut c.replication.fetch_bytes },
        flag: None,
        reload: Reload::Restart,
        doc: "Record bytes of one answer to a follower, one batch apart.",
    },
    Setting {
        key: "replication.fetch_wait",
        kind: Kind::Time {
            min: Duration::from_millis(10),
            max: Duration::from_secs(60),
            slot: |c| &mut c.replication.fetch_wait,
        },
        flag: None,
        reload: Reload::Restart,
        doc: "How long a follower's fetch waits at its leader when there is nothing new.",
    },
    Setting {
        key: "replication.lag_time_max",
        kind: Kind::Time {
            min: Duration::from_millis(500),
            max: Duration::from_secs(3_600),
            slot: |c| &mut c.replication.lag_time_max,
        },
        flag: None,
        reload: Reload::Restart,
        doc: "A follower that has not had everything for this long is out of sync: acknowledgements no longer wait for \
              it.",
    },
    Setting {
        key: "replication.catch_up_rate",
        kind: Kind::Rate { min: 0, max: 10 * GIB, slot: |c| &mut c.replication.catch_up_rate },
        flag: None,
        reload: Reload::Restart,
        doc: "What this broker sends, as a leader, to replicas that are not in sync (restarted, emptied or newly assigned), \
              all together. Replicas in sync are never limited. Where more is appended than this, it yields to a quarter \
              more than that: otherwise they would never arrive. `0B/s` = no limit.",
    },
    Setting {
        key: "http.listen",
        kind: Kind::Address { slot: |c| &mut c.http.listen },
        flag: Some("http"),
        reload: Reload::Restart,
        doc: "Where probes, metrics and the REST API listen. Loopback by default, for the same reason.",
    },
    Setting {
        key: "http.connections",
        kind: Kind::Count { min: 1, max: 100_000, slot: |c| &mut c.http.connections },
        flag: None,
        reload: Reload::Restart,
        doc: "HTTP connections open at once; more are closed as soon as they are accepted.",
    },
    Setting {
        key: "http.header_timeout",
        kind: Kind::Time { min: SECOND, max: DAY, slot: |c| &mut c.http.header_timeout },
        flag: None,
        reload: Reload::Restart,
        doc: "How long a client may take to send the head of a request. An idle connection is closed after it too.",
    },
    Setting {
        key: "http.request_timeout",
        kind: Kind::Time { min: SECOND, max: DAY, slot: |c| &mut c.http.request_timeout },
        flag: None,
        reload: Reload::Restart,
        doc: "How long a request may take, reading its body included.",
    },
    Setting {
        key: "http.body_bytes_max",
        kind: Kind::Bytes { min: KIB, max: GIB, slot: |c| &mut c.http.body_bytes_max },
        flag: None,
        reload: Reload::Restart,
        doc: "The largest request body.",
    },
    Setting {
        key: "http.inflight_bytes",
        kind: Kind::Bytes { min: 4 * MIB, max: TIB, slot: |c| &mut c.http.inflight_bytes },
        flag: None,
        reload: Reload::Restart,
        doc: "Request bodies and pages of records in memory for all HTTP connections; requests above it answer 429.",
    },
    Setting {
        key: "storage.data_dir",
        kind: Kind::Path { slot: |c| &mut c.storage.data_dir },
        flag: Some("data-dir"),
        reload: Reload::Restart,
        doc: "The data directory; created when it does not exist. A relative path starts at the working directory.",
    },
    Setting {
        key: "storage.segment_bytes",
        kind: Kind::Bytes { min: 64 * KIB, max: 2 * GIB, slot: |c| &mut c.storage.segment_bytes },
        flag: None,
        reload: Reload::Restart,
        doc: "Size of one journal segment, in whole 4KiB blocks. Recovery scans the last one or two: larger segments \
              mean a longer restart.",
    },
    Setting {
        key: "storage.commit_bytes",
        kind: Kind::Bytes { min: 4 * KIB, max: GIB, slot: |c| &mut c.storage.commit_bytes },
        flag: None,
        reload: Reload::Restart,
        doc: "A group commit collects up to this much while the one before it is written. More gains little throughput \
              and costs latency.",
    },
    Setting {
        key: "storage.commit_queue_bytes",
        kind: Kind::Bytes { min: MIB, max: GIB, slot: |c| &mut c.storage.commit_queue_bytes },
        flag: None,
        reload: Reload::Restart,
        doc: "Accepted batches that may wait for the disk; beyond it, producers are told to try again. A power cut takes at \
              most this much and two commits of `storage.commit_bytes` from topics with `durability=async`, all together.",
    },
    Setting {
        key: "storage.spare_segments",
        kind: Kind::Count { min: 0, max: 1_000, slot: |c| &mut c.storage.spare_segments },
        flag: None,
        reload: Reload::Restart,
        doc: "Reclaimed journal segments kept for reuse: writing over them is faster than growing new files.",
    },
    Setting {
        key: "storage.tail_cache_bytes",
        kind: Kind::Bytes { min: 0, max: TIB, slot: |c| &mut c.storage.tail_cache_bytes },
        flag: None,
        reload: Reload::Restart,
        doc: "Recent batches kept in memory for the whole broker, so that live consumers do not touch the disk.",
    },
    Setting {
        key: "storage.extent_bytes_max",
        kind: Kind::Bytes { min: 4 * KIB, max: 16 * MIB, slot: |c| &mut c.storage.extent_bytes_max },
        flag: None,
        reload: Reload::Restart,
        doc: "The largest contiguous run of one partition's batches that one index entry covers: one cold read.",
    },
    Setting {
        key: "storage.extents_in_memory",
        kind: Kind::Count { min: 16, max: 100_000_000, slot: |c| &mut c.storage.extents_in_memory },
        flag: None,
        reload: Reload::Restart,
        doc: "Index entries kept in memory (about 50 bytes each) before they move to the index on disk.",
    },
    Setting {
        key: "storage.disk_reserve_bytes",
        kind: Kind::Bytes { min: 0, max: TIB, slot: |c| &mut c.storage.disk_reserve_bytes },
        flag: None,
        reload: Reload::Restart,
        doc: "Writes are refused when the file system has less than this left; reads, retention and recovery go on. \
              The larger of this and the percentage counts. `0B` switches it off.",
    },
    Setting {
        key: "storage.disk_reserve_percent",
        kind: Kind::Percent { max: 50, slot: |c| &mut c.storage.disk_reserve_percent },
        flag: None,
        reload: Reload::Restart,
        doc: "The same as a share of the space that is free or used by the data directory. `0%` switches it off.",
    },
    Setting {
        key: "storage.producer_expiry",
        kind: Kind::Time {
            min: SECOND,
            max: Duration::from_secs(365 * 86_400),
            slot: |c| &mut c.storage.producer_expiry,
        },
        flag: None,
        reload: Reload::Restart,
        doc: "How long an idempotent producer that is silent is remembered; a repeat sent later is not recognised.",
    },
    Setting {
        key: "storage.producers_per_partition",
        kind: Kind::Count { min: 1, max: 10_000_000, slot: |c| &mut c.storage.producers_per_partition },
        flag: None,
        reload: Reload::Restart,
        doc: "Idempotent producers remembered for one partition; the longest silent one is forgotten first.",
    },
    Setting {
        key: "storage.index_cache_bytes",
        kind: Kind::Bytes { min: MIB, max: TIB, slot: |c| &mut c.storage.index_cache_bytes },
        flag: None,
        reload: Reload::Restart,
        doc: "The index's block cache. Worth raising when consumers read far behind in many partitions.",
    },
    Setting {
        key: "storage.index_write_buffer_bytes",
        kind: Kind::Bytes { min: MIB, max: GIB, slot: |c| &mut c.storage.index_write_buffer_bytes },
        flag: None,
        reload: Reload::Restart,
        doc: "The index's write buffer.",
    },
    Setting {
        key: "storage.retention_interval",
        kind: Kind::Time { min: SECOND, max: DAY, slot: |c| &mut c.storage.retention_interval },
        flag: None,
        reload: Reload::Live,
        doc: "How often retention is applied: records may outlive their topic's retention by this much.",
    },
    Setting {
        key: "storage.scrub_rate",
        kind: Kind::Rate { min: 0, max: 10 * GIB, slot: |c| &mut c.storage.scrub_rate },
        flag: None,
        reload: Reload::Live,
        doc: "How fast the background check of stored checksums reads; `0B/s` switches it off.",
    },
    Setting {
        key: "storage.compaction_rate",
        kind: Kind::Rate { min: 0, max: 10 * GIB, slot: |c| &mut c.storage.compaction_rate },
        flag: None,
        reload: Reload::Live,
        doc: "How fast compaction goes: of topics with `cleanup.policy=compact`, and, counted by itself, of segments of \
              which little lives; `0B/s` switches both off.",
    },
    Setting {
        key: "storage.compaction_map_bytes",
        kind: Kind::Bytes { min: 64 * KIB, max: TIB, slot: |c| &mut c.storage.compaction_map_bytes },
        flag: None,
        reload: Reload::Restart,
        doc: "Memory for the keys of one partition while it is compacted, 32 bytes each. With more keys than that it is \
              compacted in several goes.",
    },
    Setting {
        key: "limits.connections",
        kind: Kind::Count { min: 1, max: 1_000_000, slot: |c| &mut c.limits.connections },
        flag: None,
        reload: Reload::Restart,
        doc: "Client connections open at once. The process needs as many file descriptors, and some.",
    },
    Setting {
        key: "limits.connections_per_ip",
        kind: Kind::Count { min: 1, max: 1_000_000, slot: |c| &mut c.limits.connections_per_ip },
        flag: None,
        reload: Reload::Restart,
        doc: "Client connections open at once from one address. Raise it when clients come through one proxy.",
    },
    Setting {
        key: "limits.connection_inflight_bytes",
        kind: Kind::Bytes {
            min: FRAME_BYTES_MAX as u64,
            max: 64 * GIB,
            slot: |c| &mut c.limits.connection_inflight_bytes,
        },
        flag: None,
        reload: Reload::Restart,
        doc: "Unanswered requests on one connection; it is not read from above this. At least one largest frame.",
    },
    Setting {
        key: "limits.inflight_bytes",
        kind: Kind::Bytes { min: FRAME_BYTES_MAX as u64, max: TIB, slot: |c| &mut c.limits.inflight_bytes },
        flag: None,
        reload: Reload::Restart,
        doc: "Requests and answers in flight on all connections together: the broker's memory for traffic.",
    },
    Setting {
        key: "limits.idle_timeout",
        kind: Kind::Time { min: SECOND, max: Duration::from_secs(7 * 86_400), slot: |c| &mut c.limits.idle_timeout },
        flag: None,
        reload: Reload::Restart,
        doc: "A client connection with nothing in flight is closed after this long.",
    },
    Setting {
        key: "limits.handshake_timeout",
        kind: Kind::Time { min: Duration::from_millis(100), max: DAY, slot: |c| &mut c.limits.handshake_timeout },
        flag: None,
        reload: Reload::Restart,
        doc: "A client connection that has not introduced itself is closed after this long.",
    },
    Setting {
        key: "limits.slow_client_rate",
        kind: Kind::Rate { min: 1, max: GIB, slot: |c| &mut c.limits.slow_client_rate },
        flag: None,
        reload: Reload::Restart,
        doc: "A client that sends or takes an open frame slower than this is disconnected after the grace time.",
    },
    Setting {
        key: "limits.slow_client_grace",
        kind: Kind::Time { min: Duration::from_millis(10), max: DAY, slot: |c| &mut c.limits.slow_client_grace },
        flag: None,
        reload: Reload::Restart,
        doc: "How long a client may stay below `limits.slow_client_rate` before it is disconnected.",
    },
    Setting {
        key: "log.format",
        kind: Kind::Choice {
            words: &["text", "json"],
            set: |c, word| c.log.format = if word == "json" { LogFormat::Json } else { LogFormat::Text },
            get: |c| match c.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
        },
        flag: Some("log-format"),
        reload: Reload::Restart,
        doc: "The shape of log lines on stderr: for people, or one JSON object a line for collectors.",
    },
    Setting {
        key: "log.level",
        kind: Kind::Text { max: 1024, check: check_level, slot: |c| &mut c.log.level },
        flag: Some("log-level"),
        reload: Reload::Live,
        doc: "Which events are logged: `error`, `warn`, `info`, `debug` or `trace`, or directives by module such as \
              `info,streambus_storage=debug`.",
    },
    Setting {
        key: "lifecycle.drain_grace",
        kind: Kind::Time { min: Duration::ZERO, max: DAY, slot: |c| &mut c.lifecycle.drain_grace },
        flag: Some("drain-grace"),
        reload: Reload::Restart,
        doc: "How long requests in flight may finish after a stop was asked for. In Kubernetes, keep it below \
              `terminationGracePeriodSeconds`.",
    },
];

fn check_level(text: &str) -> Result<(), &'static str> {
    crate::telemetry::check_level(text)
        .map_err(|_| "a level (error, warn, info, debug, trace) or directives such as \"info,streambus_storage=debug\"")
}
