//! Replication: what is committed, who is in sync, and how followers copy.
//!
//! The rules are pure: `leader_state` (with `follower_progress`, `in_sync` and `watermark`), `follower_state`,
//! `fetch_session` and `throttle` take values and return values. The rest acts on them: `replica_service` answers followers,
//! `copying` and its `fetcher`s follow leaders, `store_trouble` says once what keeps this broker's store from taking copies,
//! `isr_proposer` talks to the metadata group, `own_disk` watches this disk, and `repairer` with `repair_state` and
//! `repair_service` puts back what a disk has lost.

pub mod catch_up;
pub mod copying;
pub mod due_set;
pub mod engine;
#[cfg(test)]
mod explorer;
pub mod fetch_session;
pub(crate) mod fetcher;
pub mod follower_progress;
pub mod follower_state;
pub mod in_sync;
pub mod isr_proposer;
pub mod leader_state;
pub mod metadata_authority;
pub mod own_disk;
pub mod peer_link;
#[cfg(test)]
pub(crate) mod planted;
pub mod registration;
mod repair_service;
mod repair_source;
pub mod repair_state;
pub mod repairer;
pub mod replica_service;
mod replica_session;
pub mod settings;
mod store_trouble;
pub mod throttle;
pub mod watermark;
