//! Opening a connection, saying what went wrong, and asking how the broker is.

use super::messages;
use crate::codec::field_struct;
use crate::epoch::LeaderEpoch;
use crate::error_code::ErrorCode;
use crate::ids::{BrokerId, ClusterId};

field_struct! {
    /// The first request of a connection; until it is answered, every other one is refused.
    pub struct HandshakeRequest {
        /// The application's own name, for logs and quotas.
        pub client_id: String,
        /// The client library's name.
        pub software_name: String,
        /// The client library's version.
        pub software_version: String,
        /// The cluster the client means to talk to; a broker of another one refuses with `WRONG_CLUSTER`.
        pub cluster_id: Option<ClusterId>,
    }
}

field_struct! {
    /// Who answered, and what it takes.
    pub struct HandshakeResponse {
        /// The broker's cluster.
        pub cluster_id: ClusterId,
        /// The broker.
        pub broker_id: BrokerId,
        /// The broker's version.
        pub software_version: String,
        /// The largest frame it takes from now on, header included.
        pub frame_bytes_max: u32,
        /// How many requests it takes on this connection before it stops reading.
        pub requests_in_flight_max: u32,
        /// The APIs it serves.
        pub apis: Vec<ApiRange>,
    }
}

field_struct! {
    /// An API and its versions, both ends included.
    #[derive(Copy)]
    pub struct ApiRange {
        /// The API's number.
        pub api: u8,
        /// The smallest version served.
        pub min: u8,
        /// The largest version served.
        pub max: u8,
    }
}

/// Why a request, or one partition of it, failed. As a frame's body it is flagged ERROR.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ErrorBody {
    /// What went wrong; says whether to retry and whether anything was changed.
    pub code: ErrorCode,
    /// For a human: the thing, the limit, the remedy. Cut to the limit of a string when it is sent.
    pub message: String,
    /// Who leads instead, if this broker knows. Travels only with codes that
    /// [`ErrorCode::names_leader`] names.
    pub leader: Option<LeaderHint>,
}

/// Where a partition's leader is, said by a broker that refuses a request for it: another broker, or itself in a later
/// leadership than the request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader.
    pub leader: BrokerId,
    /// The epoch of its leadership; a client that knows a larger one ignores the hint.
    pub leader_epoch: LeaderEpoch,
}

impl ErrorBody {
    /// Pairs a code with its explanation.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), leader: None }
    }

    /// The same with the leader to ask instead. Meant for the codes that [`ErrorCode::names_leader`] names.
    #[must_use]
    pub fn with_leader(mut self, leader: Option<LeaderHint>) -> Self {
        debug_assert!(self.code.names_leader(), "{} carries no leader", self.code);
        self.leader = leader;
        self
    }
}

field_struct! {
    /// Asks how the broker is.
    pub struct HealthRequest {}
}

field_struct! {
    /// How the broker is.
    pub struct HealthResponse {
        /// Where it is between starting and stopped, in one word.
        pub state: String,
        /// True when it serves clients.
        pub ready: bool,
        /// What is wrong with it, one sentence each.
        pub problems: Vec<String>,
    }
}

messages! {
    Handshake: HandshakeRequest => HandshakeResponse;
    Health: HealthRequest => HealthResponse;
}
