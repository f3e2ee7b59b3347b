//! Where the Kafka protocol attaches to the client listener. Until it does, a Kafka client is told nothing it could
//! misread: its connection is closed, and the log says why.

use std::net::SocketAddr;

/// Turns away a connection whose first bytes look like a Kafka request of `request_bytes`.
pub(crate) fn refuse(peer: SocketAddr, request_bytes: usize) {
    tracing::info!(
        %peer,
        request_bytes,
        "closed a connection that looks like a Kafka client's: this version speaks the native protocol only"
    );
}
