//! One StreamBus broker: listeners, request services, replication, health, configuration and metrics.
//!
//! `service/*` holds the product in domain types; the doors (`native/*`, `http/*`) only translate a wire to a service
//! call and back. `server` is the composition root: the only place that wires parts together.
//!
//! This crate must never know how the disk works inside (`streambus_storage` does) or how Raft works
//! (`streambus_consensus` does).

pub mod config;
pub mod lifecycle;
pub mod telemetry;
