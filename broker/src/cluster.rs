//! Other brokers: the listener they connect to, and the connections this broker opens to them.
//!
//! Each pair of brokers has one connection per lane and direction (`PROTOCOL.md`, section 12). What the messages mean is
//! the metadata group's and replication's business; here they are only carried, in order and at most once.

pub mod book;
pub(crate) mod connection;
pub mod contact;
pub(crate) mod dial;
pub mod disks;
pub mod door;
pub(crate) mod heartbeat;
pub(crate) mod link;
pub mod local;
pub mod pool;
pub mod raft_transport;
pub mod replica_service;
mod session;
pub(crate) mod silence;
#[cfg(test)]
mod snapshot_tests;
mod snapshot_transfer;
pub(crate) mod still_disk;
#[cfg(test)]
mod tests;
