//! Label values, each from a closed set.

use streambus_protocol::error_code::ErrorCode;

use crate::net::admission::ConnectionRefused;

/// Why the broker ended a client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The handshake did not complete in time.
    Handshake,
    /// Nothing was in flight for too long.
    Idle,
    /// The peer sent or took bytes too slowly.
    Slow,
    /// Requests in flight left no room for the rest of a frame.
    Overload,
    /// The peer broke the protocol.
    Protocol,
}

impl Cut {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Handshake, Self::Idle, Self::Slow, Self::Overload, Self::Protocol];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Overload => "overload",
            Self::Protocol => "protocol",
        }
    }
}

/// What an HTTP request asked for; the path's own names never become a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Health and its aliases.
    Probe,
    /// The metrics themselves.
    Metrics,
    /// What this binary is.
    Build,
    /// The cluster and its brokers.
    Cluster,
    /// Listing and creating topics.
    Topics,
    /// One topic.
    Topic,
    /// Appending records.
    Produce,
    /// Reading records.
    Consume,
    /// None of them.
    Unknown,
}

impl Route {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Metrics => "metrics",
            Self::Build => "build",
            Self::Cluster => "cluster",
            Self::Topics => "topics",
            Self::Topic => "topic",
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Unknown => "unknown",
        }
    }
}

/// Every limit that can refuse a connection.
pub(super) const REFUSALS: [ConnectionRefused; 2] = [ConnectionRefused::Total, ConnectionRefused::PerAddress];

pub(super) const fn refusal(reason: ConnectionRefused) -> &'static str {
    match reason {
        ConnectionRefused::Total => "total",
        ConnectionRefused::PerAddress => "per_address",
    }
}

/// The code's stable text, as the REST API and the client print it.
pub(super) const fn code(code: ErrorCode) -> &'static str {
    code.as_str()
}

pub(super) const fn status_class(status: u16) -> &'static str {
    match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
