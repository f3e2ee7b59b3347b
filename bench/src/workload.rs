//! End-to-end workloads: a running cluster, the ordinary client, and a check of everything that was written.
//!
//! A workload takes a topic that exists; it creates, tunes and deletes nothing. Runs may share a topic: each knows its
//! own records by its run number.

pub mod consume;
pub mod e2e;
pub mod error;
mod judge;
pub mod produce;
pub mod setup;
pub mod tail;
pub mod verify;
