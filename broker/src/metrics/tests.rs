//! The rendered text: that it is what Prometheus reads, and that no client can make it grow.

use std::collections::{BTreeMap, BTreeSet};

use super::snapshot::Buckets;
use super::*;
use crate::lifecycle::{Component, Problem, State};

/// A strict reader of the text format: families in one block each, declared before their samples.
struct Parsed {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed { kinds: BTreeMap::new(), samples: BTreeMap::new() };
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(help.ends_with('.'), "{name}: help is a sentence");
            family = name.to_owned();
            assert!(!parsed.kinds.contains_key(name), "{name} stands in two blocks");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, family);
            parsed.kinds.insert(name.to_owned(), kind.to_owned());
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            let name = series.split('{').next().unwrap_or_default();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            assert!(name == family || base == family, "{name} stands in the block of {family}");
            let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect("a number") };
            assert!(parsed.samples.insert(series.to_owned(), value).is_none(), "{series} twice");
        }
    }
    parsed
}

fn full() -> BrokerMetrics {
    let metrics = BrokerMetrics::new();
    let lifecycle = Lifecycle::new();
    lifecycle.report(Problem { component: Component::Storage, message: "full".to_owned(), blocks_ready: false });
    metrics.attach_lifecycle(lifecycle);
    metrics.attach_clients(|| ClientsSnapshot { inflight_bytes: 5, inflight_bytes_max: 10 });
    metrics.attach_storage(|| StorageSnapshot {
        used_bytes: 1 << 40,
        appends_refused: 11,
        damaged_reads: 12,
        repaired_batches: 21,
        repaired_bytes: 22,
        maintenance_failures: 13,
        segments_recycled: 14,
        commit_seconds: Buckets { buckets: vec![(0.001, 3), (0.01, 2)], beyond: 1, sum_seconds: 1.5 },
        ..StorageSnapshot::default()
    });
    metrics.attach_catch_up(|| CatchUpSnapshot { behind_bytes: 7, sent_bytes: 8, ..CatchUpSnapshot::default() });
    metrics.attach_strays(|| StraysSnapshot { logs: 9, bytes: 10 });
    metrics.attach_cluster(|| ClusterSnapshot { topics: 2, is_controller: true, ..ClusterSnapshot::default() });
    metrics
}

#[test]
fn everything_renders_as_families_with_our_names_and_units() {
    let metrics = full();
    metrics.request(ApiKey::Produce, Ok(()), Duration::from_millis(3));
    metrics.request(ApiKey::Produce, Err(ErrorCode::NotLeader), Duration::from_millis(3));
    metrics.http_request(Route::Probe, 503, Duration::ZERO);
    metrics.fetched(10, 0);
    metrics.fetched(20, 4);
    let parsed = parse(&metrics.render().expect("renders"));
    for (name, kind) in &parsed.kinds {
        assert!(name.starts_with("streambus_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(!["_ms", "_micros", "_kib", "_mb"].iter().any(|unit| name.contains(unit)), "{name}: not a base unit");
    }
    for (series, value) in [
        ("streambus_requests_total{api=\"produce\",outcome=\"ok\"}", 1.0),
        ("streambus_requests_total{api=\"produce\",outcome=\"NOT_LEADER\"}", 1.0),
        ("streambus_request_seconds_count{api=\"produce\"}", 2.0),
        ("streambus_request_seconds_bucket{api=\"produce\",le=\"0.0025\"}", 0.0),
        ("streambus_request_seconds_bucket{api=\"produce\",le=\"0.005\"}", 2.0),
        ("streambus_http_requests_total{route=\"probe\",status=\"5xx\"}", 1.0),
        ("streambus_fetched_bytes_total", 30.0),
        ("streambus_fetched_near_bytes_total", 4.0),
        ("streambus_catch_up_behind_bytes", 7.0),
        ("streambus_catch_up_sent_bytes_total", 8.0),
        ("streambus_storage_stray_logs", 9.0),
        ("streambus_storage_stray_bytes", 10.0),
        ("streambus_state{state=\"starting\"}", 1.0),
        ("streambus_state{state=\"ready\"}", 0.0),
        ("streambus_problem{component=\"storage\"}", 1.0),
        ("streambus_ready", 0.0),
        ("streambus_inflight_bytes", 5.0),
        ("streambus_storage_used_bytes", 1_099_511_627_776.0),
        ("streambus_storage_commit_seconds_bucket{le=\"0.001\"}", 3.0),
        ("streambus_storage_commit_seconds_bucket{le=\"0.01\"}", 5.0),
        ("streambus_storage_commit_seconds_bucket{le=\"+Inf\"}", 6.0),
        ("streambus_storage_appends_refused_total", 11.0),
        ("streambus_storage_damaged_reads_total", 12.0),
        ("streambus_storage_repaired_batches_total", 21.0),
        ("streambus_storage_repaired_bytes_total", 22.0),
        ("streambus_storage_maintenance_failures_total", 13.0),
        ("streambus_storage_segments_recycled_total", 14.0),
        ("streambus_storage_commit_seconds_sum", 1.5),
        ("streambus_topics", 2.0),
        ("streambus_controller", 1.0),
    ] {
        assert_eq!(parsed.samples.get(series), Some(&value), "{series}");
    }
}

/// What an attacker or a busy day can do to the number of series: every API with every code, every route and status.
#[test]
fn the_number_of_series_has_a_ceiling() {
    let metrics = full();
    for _ in 0..2 {
        for api in ApiKey::ALL {
            for code in ErrorCode::ALL {
                metrics.request(*api, Err(*code), Duration::ZERO);
            }
        }
        for status in 100..600 {
            metrics.http_request(Route::Unknown, status, Duration::ZERO);
        }
    }
    let parsed = parse(&metrics.render().expect("renders"));
    let series: BTreeSet<&String> = parsed.samples.keys().collect();
    let requests = ApiKey::ALL.len() * (ErrorCode::ALL.len() + 1);
    let histograms = (ApiKey::ALL.len() + 1) * (REQUEST_SECONDS.len() + 3);
    assert!(series.len() <= requests + histograms + 100, "{} series", series.len());
}

#[test]
fn a_broker_that_is_starting_shows_what_it_has() {
    let parsed = parse(&BrokerMetrics::new().render().expect("renders"));
    let version = format!("streambus_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(parsed.samples.get(&version), Some(&1.0));
    assert_eq!(parsed.samples.get("streambus_connections_refused_total{reason=\"total\"}"), Some(&0.0));
    assert!(!parsed.kinds.contains_key("streambus_storage_used_bytes"), "nobody has attached a store");
}

#[test]
fn the_state_follows_the_lifecycle() {
    let metrics = BrokerMetrics::new();
    let lifecycle = Lifecycle::new();
    metrics.attach_lifecycle(lifecycle.clone());
    lifecycle.set(State::Recovering).expect("legal");
    lifecycle.set(State::Ready).expect("legal");
    let parsed = parse(&metrics.render().expect("renders"));
    assert_eq!(parsed.samples.get("streambus_ready"), Some(&1.0));
    assert_eq!(parsed.samples.get("streambus_state{state=\"ready\"}"), Some(&1.0));
}

#[test]
fn two_brokers_in_one_process_do_not_share_numbers() {
    let (one, other) = (BrokerMetrics::new(), BrokerMetrics::new());
    one.bytes_in(7);
    one.connection_opened();
    assert_eq!(parse(&one.render().expect("renders")).samples.get("streambus_received_bytes_total"), Some(&7.0));
    assert_eq!(parse(&other.render().expect("renders")).samples.get("streambus_received_bytes_total"), Some(&0.0));
}
