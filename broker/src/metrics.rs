//! Every number that the broker shows to monitoring, declared in this one file and `metrics/scraped.rs`.
//!
//! Names start with `streambus_` and end in their base unit. Label values come from enums, so that no client can add
//! a series. There is no global registry: a process may run several brokers, and tests do.
//!
//! What happens is counted here as it happens; what is (sizes, states, the store's own counters) is asked for at the
//! scrape, from closures that the composition root attaches.

pub mod label;
pub mod process;
pub mod snapshot;

mod scraped;

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use streambus_protocol::api::ApiKey;
use streambus_protocol::error_code::ErrorCode;

use crate::lifecycle::Lifecycle;
use crate::net::admission::ConnectionRefused;
use label::{Cut, Route};
use scraped::Scraped;
use snapshot::{CatchUpSnapshot, ClientsSnapshot, ClusterSnapshot, StorageSnapshot, StraysSnapshot};

/// Upper bounds of request times, in seconds: from a cached answer to the longest long poll.
const REQUEST_SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    30.0, 60.0,
];

/// The broker's metrics. All methods are cheap and never wait.
#[derive(Debug)]
pub struct BrokerMetrics {
    registry: Registry,
    scraped: Arc<Scraped>,
    requests: IntCounterVec,
    /// By API: success is the hot path, and skips the look-up by label.
    requests_ok: Vec<(ApiKey, IntCounter, Histogram)>,
    http_requests: IntCounterVec,
    http_request_seconds: HistogramVec,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    connections: IntGauge,
    connections_accepted: IntCounter,
    connections_refused: IntCounterVec,
    connections_cut: IntCounterVec,
    produced_records: IntCounter,
    produced_bytes: IntCounter,
    fetched_bytes: IntCounter,
    fetched_near_bytes: IntCounter,
}

impl BrokerMetrics {
    /// A registry with every family, all zero.
    #[expect(clippy::new_without_default, reason = "metrics are created once a broker, by the composition root")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let requests = counters(
            &registry,
            "streambus_requests_total",
            "Native requests answered, by API and outcome (`ok` or the error code).",
            &["api", "outcome"],
        );
        let seconds = histograms(
            &registry,
            "streambus_request_seconds",
            "Time from a native request's last byte to its answer, waiting for data included.",
            "api",
        );
        let requests_ok = ApiKey::ALL
            .iter()
            .map(|api| {
                let ok = requests.with_label_values(&[api.as_str(), "ok"]);
                (*api, ok, seconds.with_label_values(&[api.as_str()]))
            })
            .collect();
        let connections_refused = counters(
            &registry,
            "streambus_connections_refused_total",
            "Client connections closed right after accepting, by limit.",
            &["reason"],
        );
        for reason in label::REFUSALS {
            connections_refused.with_label_values(&[label::refusal(reason)]);
        }
        let connections_cut = counters(
            &registry,
            "streambus_connections_cut_total",
            "Client connections that the broker closed against the client's will, by reason.",
            &["reason"],
        );
        for cut in Cut::ALL {
            connections_cut.with_label_values(&[cut.as_str()]);
        }
        let http_requests = counters(
            &registry,
            "streambus_http_requests_total",
            "HTTP requests answered, by route and class of status.",
            &["route", "status"],
        );
        let http_request_seconds =
            histograms(&registry, "streambus_http_request_seconds", "Time to answer an HTTP request.", "route");
        let scraped = Arc::new(Scraped::default());
        must(registry.register(Box::new(scraped::Collected(Arc::clone(&scraped)))));
        let counter = |name: &str, help: &str| {
            let counter = must(IntCounter::new(name, help));
            must(registry.register(Box::new(counter.clone())));
            counter
        };
        let connections = must(IntGauge::new("streambus_connections", "Client connections open now."));
        must(registry.register(Box::new(connections.clone())));
        Self {
            received_bytes: counter("streambus_received_bytes_total", "Bytes read from clients."),
            sent_bytes: counter("streambus_sent_bytes_total", "Bytes written to clients."),
            connections,
            connections_accepted: counter("streambus_connections_accepted_total", "Client connections accepted."),
            produced_records: counter("streambus_produced_records_total", "Records appended for clients."),
            produced_bytes: counter("streambus_produced_bytes_total", "Bytes of record batches appended for clients."),
            fetched_bytes: counter("streambus_fetched_bytes_total", "Bytes of record batches handed to clients."),
            fetched_near_bytes: counter(
                "streambus_fetched_near_bytes_total",
                "Those of them that this broker handed out as a follower, to consumers that read near by.",
            ),
            registry,
            scraped,
            requests,
            requests_ok,
            http_requests,
            http_request_seconds,
            connections_refused,
            connections_cut,
        }
    }

    /// A native request was answered after `took`; `outcome` is the whole request's, not a partition's.
    pub fn request(&self, api: ApiKey, outcome: Result<(), ErrorCode>, took: Duration) {
        if let Some((_, ok, seconds)) = self.requests_ok.iter().find(|(known, _, _)| *known == api) {
            seconds.observe(took.as_secs_f64());
            match outcome {
                Ok(()) => ok.inc(),
                Err(code) => self.requests.with_label_values(&[api.as_str(), label::code(code)]).inc(),
            }
        }
    }

    /// An HTTP request was answered with `status` after `took`.
    pub fn http_request(&self, route: Route, status: u16, took: Duration) {
        self.http_requests.with_label_values(&[route.as_str(), label::status_class(status)]).inc();
        self.http_request_seconds.with_label_values(&[route.as_str()]).observe(took.as_secs_f64());
    }

    /// Bytes came from clients.
    pub fn bytes_in(&self, bytes: usize) {
        self.received_bytes.inc_by(count(bytes));
    }

    /// Bytes went to clients.
    pub fn bytes_out(&self, bytes: usize) {
        self.sent_bytes.inc_by(count(bytes));
    }

    /// A client connection was admitted. Pair it with [`Self::connection_closed`].
    pub fn connection_opened(&self) {
        self.connections_accepted.inc();
        self.connections.inc();
    }

    /// An admitted client connection has ended, whoever ended it.
    pub fn connection_closed(&self) {
        self.connections.dec();
    }

    /// A client connection was refused by a limit.
    pub fn connection_refused(&self, reason: ConnectionRefused) {
        self.connections_refused.with_label_values(&[label::refusal(reason)]).inc();
    }

    /// The broker ended a client connection for `cut`.
    pub fn connection_cut(&self, cut: Cut) {
        self.connections_cut.with_label_values(&[cut.as_str()]).inc();
    }

    /// A batch of `records` in `bytes` was appended for a client.
    pub fn produced(&self, records: u32, bytes: usize) {
        self.produced_records.inc_by(records.into());
        self.produced_bytes.inc_by(count(bytes));
    }

    /// Batches of `bytes` were handed to a client, `near` of them of partitions that this broker follows.
    pub fn fetched(&self, bytes: usize, near: usize) {
        debug_assert!(near <= bytes);
        self.fetched_bytes.inc_by(count(bytes));
        self.fetched_near_bytes.inc_by(count(near));
    }

    /// From now on, scrapes show this lifecycle's state and problems.
    pub fn attach_lifecycle(&self, lifecycle: Lifecycle) {
        *self.scraped.lifecycle.write() = Some(lifecycle);
    }

    /// From now on, scrapes ask `read` about the client listener's memory.
    pub fn attach_clients(&self, read: impl Fn() -> ClientsSnapshot + Send + Sync + 'static) {
        *self.scraped.clients.write() = Some(Box::new(read));
    }

    /// From now on, scrapes ask `read` about the data directory. It must not touch the disk.
    pub fn attach_storage(&self, read: impl Fn() -> StorageSnapshot + Send + Sync + 'static) {
        *self.scraped.storage.write() = Some(Box::new(read));
    }

    /// From now on, scrapes ask `read` about the cluster as this broker sees it.
    pub fn attach_cluster(&self, read: impl Fn() -> ClusterSnapshot + Send + Sync + 'static) {
        *self.scraped.cluster.write() = Some(Box::new(read));
    }

    /// From now on, scrapes ask `read` about the replicas that are catching up.
    pub fn attach_catch_up(&self, read: impl Fn() -> CatchUpSnapshot + Send + Sync + 'static) {
        *self.scraped.catch_up.write() = Some(Box::new(read));
    }

    /// From now on, scrapes ask `read` about the logs in quarantine.
    pub fn attach_strays(&self, read: impl Fn() -> StraysSnapshot + Send + Sync + 'static) {
        *self.scraped.strays.write() = Some(Box::new(read));
    }

    /// Everything as Prometheus text (format 0.0.4).
    ///
    /// # Errors
    /// A family that cannot be written: a defect here, caught by a test.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let family = must(IntCounterVec::new(Opts::new(name, help), labels));
    must(registry.register(Box::new(family.clone())));
    family
}

fn histograms(registry: &Registry, name: &str, help: &str, label: &str) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(REQUEST_SECONDS.to_vec());
    let family = must(HistogramVec::new(options, &[label]));
    must(registry.register(Box::new(family.clone())));
    family
}

/// Names, help texts and buckets are constants of this module: a refusal is a defect that every test would meet.
fn must<T>(outcome: Result<T, prometheus::Error>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("a metric family is declared wrongly: {error}"),
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
