//! One StreamBus broker: listeners, request services, replication, health, configuration and metrics.
//!
//! `service/*` holds the product in domain types; the doors (`native/*`, `http/*`) only translate a wire to a service
//! call and back. `server` is the composition root: the only place that wires parts together.
//!
//! This crate must never know how the disk works inside (`streambus_storage` does) or how Raft works
//! (`streambus_consensus` does).

#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod clock;
pub mod cluster;
pub mod config;
pub mod error;
pub mod http;
pub mod lifecycle;
pub mod metrics;
pub mod native;
pub mod net;
pub mod partition;
pub mod random;
pub mod replication;
pub mod server;
pub mod service;
pub mod tasks;
pub mod telemetry;
