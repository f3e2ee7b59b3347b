//! Settings that are legal alone and wrong together.

use streambus_consensus::round_trip::RoundTrip;
use streambus_protocol::limits::BATCH_BYTES_MAX;

use super::BrokerConfig;
use super::error::{ConfigError, Problem};
use super::origin::Origin;
use super::table::SETTINGS;
use super::unit::{show_bytes, show_duration};

/// Journal segments are whole blocks of this many bytes.
const BLOCK_BYTES: u64 = 4096;
/// What a session holds: a heartbeat and its answer, what a controller's quorum said two round trips before, and as much again
/// for one that is lost.
const SESSION_ROUND_TRIPS: u32 = 5;

/// Appends one problem per contradiction, placed at the setting that is named first.
pub(super) fn conflicts(config: &BrokerConfig, origins: &[Origin], problems: &mut Vec<ConfigError>) {
    let mut conflict = |key: &'static str, message: String, help: String| {
        let origin = SETTINGS
            .iter()
            .zip(origins)
            .find(|(setting, _)| setting.key == key)
            .map_or(Origin::Default, |(_, origin)| origin.clone());
        problems.push(ConfigError::new(Some(key), Problem::Conflict { message, help }, origin));
    };
    let cluster = &config.cluster;
    if cluster.heartbeat_interval * 3 > cluster.session_timeout {
        conflict(
            "cluster.heartbeat_interval",
            format!(
                "`cluster.heartbeat_interval` ({}) is more than a third of `cluster.session_timeout` ({})",
                show_duration(cluster.heartbeat_interval),
                show_duration(cluster.session_timeout)
            ),
            "one lost heartbeat would cost the broker what it leads".to_owned(),
        );
    }
    if cluster.round_trip_max > RoundTrip::DEFAULT
        && cluster.round_trip_max * SESSION_ROUND_TRIPS > cluster.session_timeout
    {
        conflict(
            "cluster.round_trip_max",
            format!(
                "`cluster.round_trip_max` ({}) is more than a fifth of `cluster.session_timeout` ({})",
                show_duration(cluster.round_trip_max),
                show_duration(cluster.session_timeout)
            ),
            format!(
                "a broker so far away would lose what it leads: set `cluster.session_timeout` to {} or more",
                show_duration(cluster.round_trip_max * SESSION_ROUND_TRIPS)
            ),
        );
    }
    if !cluster.peers.is_empty() {
        if cluster.advertised(config.broker.id, cluster.listen.port).is_unspecified() {
            conflict(
                "cluster.listen",
                format!("`cluster.listen` is {}, where nobody can connect to", cluster.listen),
                format!(
                    "broker {} is not in `cluster.peers`: say with `cluster.advertise` where the others reach it",
                    config.broker.id
                ),
            );
        }
        for (key, listen) in [("client.listen", &config.client.listen), ("http.listen", &config.http.listen)] {
            if cluster.listen.collides_with(listen) {
                conflict(
                    "cluster.listen",
                    format!("`cluster.listen` ({}) and `{key}` ({listen}) are the same address", cluster.listen),
                    "give each listener its own port".to_owned(),
                );
            }
        }
    }
    let limits = &config.limits;
    if limits.connections_per_ip > limits.connections {
        conflict(
            "limits.connections_per_ip",
            format!(
                "`limits.connections_per_ip` ({}) is more than `limits.connections` ({})",
                limits.connections_per_ip, limits.connections
            ),
            "one address cannot have more connections than there are".to_owned(),
        );
    }
    if limits.connection_inflight_bytes > limits.inflight_bytes {
        conflict(
            "limits.connection_inflight_bytes",
            format!(
                "`limits.connection_inflight_bytes` ({}) is more than `limits.inflight_bytes` ({})",
                show_bytes(limits.connection_inflight_bytes),
                show_bytes(limits.inflight_bytes)
            ),
            "one connection cannot have more in flight than the whole broker".to_owned(),
        );
    }
    if limits.handshake_timeout > limits.idle_timeout {
        conflict(
            "limits.handshake_timeout",
            format!(
                "`limits.handshake_timeout` ({}) is longer than `limits.idle_timeout` ({})",
                show_duration(limits.handshake_timeout),
                show_duration(limits.idle_timeout)
            ),
            "a connection without its handshake would be closed as idle first".to_owned(),
        );
    }
    if config.http.header_timeout > config.http.request_timeout {
        conflict(
            "http.header_timeout",
            format!(
                "`http.header_timeout` ({}) is longer than `http.request_timeout` ({})",
                show_duration(config.http.header_timeout),
                show_duration(config.http.request_timeout)
            ),
            "the head is part of the request".to_owned(),
        );
    }
    if config.http.body_bytes_max > config.http.inflight_bytes {
        conflict(
            "http.body_bytes_max",
            format!(
                "`http.body_bytes_max` ({}) is more than `http.inflight_bytes` ({})",
                show_bytes(config.http.body_bytes_max),
                show_bytes(config.http.inflight_bytes)
            ),
            "a body of the largest size would never be let in".to_owned(),
        );
    }
    if config.client.listen.collides_with(&config.http.listen) {
        conflict(
            "http.listen",
            format!(
                "`http.listen` ({}) takes the port of `client.listen` ({})",
                config.http.listen, config.client.listen
            ),
            "give each listener its own port".to_owned(),
        );
    }
    if let Some(advertise) = &config.client.advertise
        && (advertise.is_unspecified() || advertise.port == 0)
    {
        conflict(
            "client.advertise",
            format!("`client.advertise` is {advertise}, and nobody can connect to that"),
            "name the host and port that clients reach this broker under".to_owned(),
        );
    }
    // The journal prepares a segment while the one before it fills, so half of one must take all that may be waiting.
    // It checks the exact figure when it opens; this one is a little stricter and known before anything is started.
    let largest = u64::try_from(BATCH_BYTES_MAX).unwrap_or(u64::MAX);
    let waiting = config.storage.commit_bytes.max(largest) + config.storage.commit_queue_bytes.max(largest);
    if config.storage.segment_bytes.saturating_mul(2) < waiting.saturating_mul(5) {
        conflict(
            "storage.segment_bytes",
            format!(
                "`storage.segment_bytes` ({}) is less than {}",
                show_bytes(config.storage.segment_bytes),
                show_bytes((waiting * 5).div_ceil(2 * BLOCK_BYTES) * BLOCK_BYTES)
            ),
            format!(
                "a segment is at least two and a half times what may wait for the disk: `storage.commit_bytes` ({}) \
                 and `storage.commit_queue_bytes` ({}), each at least one largest batch ({})",
                show_bytes(config.storage.commit_bytes),
                show_bytes(config.storage.commit_queue_bytes),
                show_bytes(largest)
            ),
        );
    }
    if !config.storage.segment_bytes.is_multiple_of(BLOCK_BYTES) {
        conflict(
            "storage.segment_bytes",
            format!("`storage.segment_bytes` ({}) is no multiple of 4KiB", show_bytes(config.storage.segment_bytes)),
            "segments consist of whole 4KiB blocks".to_owned(),
        );
    }
}

/// What is legal but deserves a look.
pub(super) fn warnings(config: &BrokerConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, listen) in [("client.listen", &config.client.listen), ("http.listen", &config.http.listen)] {
        if !listen.is_loopback() {
            warnings.push(format!(
                "`{key}` is {listen}: everyone who can reach it can read, write and delete topics, there is no \
                 authentication yet"
            ));
        }
    }
    if !config.cluster.peers.is_empty() && config.cluster.peers.len().is_multiple_of(2) {
        warnings.push(format!(
            "`cluster.peers` has {} brokers: an even number survives no more failures than one broker less",
            config.cluster.peers.len()
        ));
    }
    if config.client.advertise.is_none() && config.client.listen.is_unspecified() {
        warnings.push(format!(
            "`client.listen` is {} and `client.advertise` is not set: clients are told {}, which only works on this \
             machine",
            config.client.listen,
            config.client.advertised(config.client.listen.port)
        ));
    }
    if config.storage.disk_reserve_bytes == 0 && config.storage.disk_reserve_percent == 0 {
        warnings.push(
            "`storage.disk_reserve_bytes` and `storage.disk_reserve_percent` are both 0: a full disk fails the next \
             sync, and a failed sync makes the data directory read-only"
                .to_owned(),
        );
    }
    warnings
}
