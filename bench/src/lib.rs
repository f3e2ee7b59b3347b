//! Benchmarks that check what they measure.
//!
//! `workload/*` drives a running cluster through the ordinary client: `streambus bench` prints what they report. Every
//! record carries a stamp when there is room for one, and everything is read back: nothing lost, nothing twice, nothing
//! out of order ([`integrity`]). `micro/*` measures single parts beside this machine's own limits in the same run; the
//! binary `streambus-micro` prints them.
//!
//! This crate must never know a server's insides beyond what `micro` measures, and never tune the cluster it measures.
//! `stopwatch` and `cpu` are the adapters that read clocks; `integrity`, `stamp`, `latency` and `report` are pure.

pub mod cpu;
pub mod integrity;
pub mod latency;
pub mod micro;
pub mod report;
pub mod stamp;
pub mod stopwatch;
pub mod workload;
