//! Settings of a client: every field states unit and default. Built by chained setters, or read from a file with
//! serde, where durations are written with their unit (`"10s"`, `"250ms"`) and sizes too (`"32MiB"`).

pub(crate) mod units;

use std::time::Duration;

use serde::Deserialize;
use streambus_protocol::limits::{FRAME_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX};

use crate::error::Error;

/// How to reach a cluster and how patient to be.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Addresses `host:port`; any one that answers suffices, the rest of the cluster is learnt from it.
    pub brokers: Vec<String>,
    /// Who this is, in the broker's logs and metrics. Default `streambus-rust`.
    pub client_id: String,
    /// Time for one connection to open and shake hands. Default 5 s.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// Time for one operation, its retries included, unless the call says otherwise. Default 10 s.
    #[serde(with = "units::duration")]
    pub request_timeout: Duration,
    /// Time for a record from enqueue to acknowledgement, retries included. Default 120 s.
    #[serde(with = "units::duration")]
    pub delivery_timeout: Duration,
    /// The first pause before a retry; it doubles, with jitter, up to `retry_backoff_max`. Default 20 ms.
    #[serde(with = "units::duration")]
    pub retry_backoff: Duration,
    /// The longest pause between retries. Default 2 s.
    #[serde(with = "units::duration")]
    pub retry_backoff_max: Duration,
    /// Failed connection attempts in a row after which a broker is left alone for a while. Default 5.
    pub circuit_failures: u32,
    /// How long a broker is left alone at first; it doubles, with jitter, up to 16 times this. Default 500 ms.
    #[serde(with = "units::duration")]
    pub circuit_pause: Duration,
    /// A connection that was silent this long is asked for a sign of life. Default 2 s.
    #[serde(with = "units::duration")]
    pub ping_interval: Duration,
    /// A broker that does not answer the question within this time is given up. Default 3 s.
    #[serde(with = "units::duration")]
    pub ping_timeout: Duration,
    /// Age at which the picture of the cluster is fetched anew, and new partitions are noticed. Default 1 min.
    #[serde(with = "units::duration")]
    pub metadata_max_age: Duration,
    /// Where this client stands (rack, zone): consumers then read from a replica in sync that stands there too, if there is
    /// one, and from the leader otherwise. Default: not known, which reads from leaders.
    pub rack: Option<String>,
    /// Requests in flight on one connection; the broker's own limit applies too. Default 64.
    pub requests_in_flight_max: usize,
    /// The largest frame accepted from a broker, bytes. Default 16 MiB.
    #[serde(with = "units::bytes")]
    pub frame_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            brokers: vec!["127.0.0.1:9092".to_owned()],
            client_id: "streambus-rust".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            delivery_timeout: Duration::from_secs(120),
            retry_backoff: Duration::from_millis(20),
            retry_backoff_max: Duration::from_secs(2),
            circuit_failures: 5,
            circuit_pause: Duration::from_millis(500),
            ping_interval: Duration::from_secs(2),
            ping_timeout: Duration::from_secs(3),
            metadata_max_age: Duration::from_secs(60),
            rack: None,
            requests_in_flight_max: REQUESTS_IN_FLIGHT_MAX,
            frame_bytes_max: FRAME_BYTES_MAX,
        }
    }
}

impl Config {
    /// Settings for a cluster that can be reached at any of `brokers` (`host:port`).
    pub fn new<I>(brokers: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self { brokers: brokers.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Sets [`Config::client_id`].
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = id.into();
        self
    }

    /// Sets [`Config::connect_timeout`].
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`Config::request_timeout`].
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Sets [`Config::delivery_timeout`].
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    /// Sets [`Config::retry_backoff`] and [`Config::retry_backoff_max`].
    pub fn retry_backoff(mut self, first: Duration, max: Duration) -> Self {
        self.retry_backoff = first;
        self.retry_backoff_max = max;
        self
    }

    /// Sets [`Config::ping_interval`] and [`Config::ping_timeout`].
    pub fn ping(mut self, interval: Duration, timeout: Duration) -> Self {
        self.ping_interval = interval;
        self.ping_timeout = timeout;
        self
    }

    /// Sets [`Config::metadata_max_age`].
    pub fn metadata_max_age(mut self, age: Duration) -> Self {
        self.metadata_max_age = age;
        self
    }

    /// Sets [`Config::rack`].
    pub fn rack(mut self, rack: impl Into<String>) -> Self {
        self.rack = Some(rack.into());
        self
    }

    /// Checks every setting; names the first that is out of range.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::Invalid { what: what.to_owned() });
        if self.brokers.is_empty() {
            return refuse("`brokers` is empty: name at least one `host:port`");
        }
        if let Some(bad) = self.brokers.iter().find(|b| !is_host_and_port(b)) {
            return refuse(&format!("`brokers`: '{bad}' is not `host:port`"));
        }
        let positive = [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("delivery_timeout", self.delivery_timeout),
            ("retry_backoff", self.retry_backoff),
            ("circuit_pause", self.circuit_pause),
            ("ping_interval", self.ping_interval),
            ("ping_timeout", self.ping_timeout),
            ("metadata_max_age", self.metadata_max_age),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| value.is_zero()) {
            return refuse(&format!("`{name}` must be longer than zero"));
        }
        if self.retry_backoff_max < self.retry_backoff {
            return refuse("`retry_backoff_max` must not be shorter than `retry_backoff`");
        }
        if self.requests_in_flight_max < 2 {
            return refuse("`requests_in_flight_max` must be at least 2: one may be a long poll");
        }
        if self.frame_bytes_max < 64 * 1024 {
            return refuse("`frame_bytes_max` must be at least 64 KiB");
        }
        Ok(())
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units_and_refuses_unknown_keys_and_bare_numbers() {
        let config: Config =
            serde_json::from_str(r#"{"brokers":["b1:9092"],"request_timeout":"250ms","frame_bytes_max":"1MiB"}"#)
                .expect("valid");
        assert_eq!(config.request_timeout, Duration::from_millis(250));
        assert_eq!(config.frame_bytes_max, 1024 * 1024);
        assert_eq!(config.delivery_timeout, Duration::from_secs(120), "what is not named keeps its default");
        assert!(serde_json::from_str::<Config>(r#"{"request_timeuot":"1s"}"#).is_err());
        assert!(serde_json::from_str::<Config>(r#"{"request_timeout":10}"#).is_err(), "10 of what?");
    }

    #[test]
    fn defaults_are_in_range_and_bad_addresses_are_named() {
        Config::default().check().expect("defaults");
        for bad in ["", "host", "host:", ":9092", "host:port", "host:70000"] {
            let error = Config::new([bad]).check().expect_err(bad);
            assert!(error.to_string().contains(bad), "{error}");
        }
        assert!(Config::new(Vec::<String>::new()).check().is_err());
        Config::new(["[::1]:9092"]).check().expect("IPv6");
    }
}
