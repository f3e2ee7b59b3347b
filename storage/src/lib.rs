//! The log-structured store of one data directory: a shared write-ahead journal that *is* the value log, a small-key
//! index over it, and the partition logs built from both.
//!
//! Layers, bottom up: [`disk`] (files of one directory, durable on return), [`journal`] (one append-only sequence of
//! segments with group commit, recovery and damage reports), the index, the partition logs, the store.
//!
//! This crate must never know Raft, requests, connections or replication. Time, randomness and the disk are
//! constructor arguments; the adapters that touch the outside are `disk::real`, `clock` and `journal::thread`.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod aligned;
pub mod clock;
pub mod compaction;
pub mod disk;
pub mod journal;
pub mod latch;

pub mod checkpoint;
pub mod cleaner;
pub mod config;
pub mod epoch_cache;
pub mod error;
pub mod identity;
pub mod index;
pub mod inspect;
pub mod metrics;
pub mod partition_log;
pub mod producer_state;
pub mod retention;
pub mod scrub;
pub mod store;
mod stored;
pub mod tail_cache;
