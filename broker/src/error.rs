//! Why a broker does not start, or does not stop cleanly.

use std::io;
use std::net::SocketAddr;

use streambus_storage::error::{OpenError, StoreError};

/// Why a broker does not start. The process should say so and end.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address, as configured.
        address: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A listener does not say where it listens.
    #[error("cannot tell the address of a listener: {0}")]
    LocalAddress(#[source] io::Error),
    /// The data directory cannot be made.
    #[error("cannot create the data directory '{path}': {source}")]
    DataDirectory {
        /// The directory.
        path: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The store refuses its directory.
    #[error("the data directory cannot be opened: {0}")]
    Store(#[from] OpenError),
    /// The store belongs to another broker or cluster.
    #[error("the data directory is not this broker's: {0}")]
    Claim(#[source] StoreError),
    /// The metadata node refuses to start.
    #[error(transparent)]
    Metadata(#[from] streambus_consensus::error::StartError),
    /// This broker could not be registered.
    #[error("this broker could not be registered: {0}")]
    Register(#[from] streambus_consensus::error::ProposeError),
    /// What the metadata places here could not be opened.
    #[error("the partitions could not be opened: {0}")]
    Reconcile(#[from] crate::partition::reconcile::ReconcileError),
    /// Starting was interrupted: a part of it panicked, or the runtime is going down.
    #[error("starting was interrupted while {0}")]
    Interrupted(&'static str),
}

/// What went wrong while a broker stopped. It is stopped nevertheless.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Requests were still in flight when the grace period ended; they were cut off.
    #[error("{connections} client connections were cut off after the grace period")]
    CutOff {
        /// Connections that were open.
        connections: usize,
    },
    /// The store could not be closed cleanly: the next start recovers.
    #[error("the store was not closed cleanly: {0}")]
    Store(#[from] StoreError),
    /// The metadata node had stopped by itself before it was told to: its disk failed, most likely.
    #[error("the metadata node had stopped by itself: {0}")]
    Metadata(String),
    /// A part of the broker ended in a panic.
    #[error("stopping was interrupted while {0}")]
    Interrupted(&'static str),
}

/// Where a broker listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For clients.
    pub client: SocketAddr,
    /// For other brokers; none for a broker on its own.
    pub cluster: Option<SocketAddr>,
    /// For probes, metrics and the REST API.
    pub http: SocketAddr,
}
