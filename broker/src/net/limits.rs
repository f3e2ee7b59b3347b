//! The limits of the client listener.

use std::time::Duration;

use streambus_protocol::limits::{FRAME_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX};

/// What one listener and its connections may use. All limits are checked before memory is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetLimits {
    /// Connections open at once.
    pub connections_max: usize,
    /// Connections open at once from one IP address.
    pub connections_per_ip_max: usize,
    /// From accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// A connection with no frame open and no request in flight is closed after this long.
    pub idle_timeout: Duration,
    /// How long an open frame, or a write in progress, may stay below the minimum rate.
    pub progress_grace: Duration,
    /// The minimum rate while a frame is open or a write is in progress; 0 switches it off.
    pub progress_bytes_per_second: u64,
    /// Requests in flight on one connection; the next one is not read before one is answered.
    pub requests_in_flight_max: usize,
    /// Request bytes in flight on one connection; at least one frame of the largest size.
    pub connection_request_bytes_max: usize,
    /// Request bytes in flight on all connections; one frame that is being received may come on top.
    pub request_bytes_max: usize,
    /// The largest frame, header included.
    pub frame_bytes_max: usize,
    /// The deadline of a request that names none; a frame that has arrived in part waits as long for budget for more.
    pub request_timeout: Duration,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_ip_max: 200,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            progress_grace: Duration::from_secs(10),
            progress_bytes_per_second: 1024,
            requests_in_flight_max: REQUESTS_IN_FLIGHT_MAX,
            connection_request_bytes_max: FRAME_BYTES_MAX,
            request_bytes_max: 4 * FRAME_BYTES_MAX,
            frame_bytes_max: FRAME_BYTES_MAX,
            request_timeout: Duration::from_secs(30),
        }
    }
}
