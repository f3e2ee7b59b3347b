//! Benchmarks that check what they measure.
//!
//! `workload/*` drives a running cluster through the ordinary client: `streambus bench` prints what they report. Every
//! record carries a stamp when there is room for one, and everything is read back: nothing lost, nothing twice, nothing
//! out of order ([`integrity`]). `micro/*` measures single parts beside this machine's own limits in the same run; the
//! binary `streambus-micro` prints them.
//!
//! This crate must never know a server's insides beyond what `micro` measures, and never tune the cluster it measures.
//! `stopwatch`, `cpu` and `machine` are the adapters that read clocks and ask the kernel; `integrity`, `census`, `limits`,
//! `stamp`, `latency` and `report` are pure.

#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod bits;
pub mod census;
pub mod cpu;
pub mod integrity;
pub mod latency;
pub mod limits;
pub mod machine;
pub mod micro;
pub mod report;
pub mod stamp;
pub mod stopwatch;
pub mod tally;
pub mod workload;
