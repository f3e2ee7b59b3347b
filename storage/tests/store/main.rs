//! The store as a whole: against a model, through power cuts, damage, full disks and restarts.

#![allow(missing_docs, unreachable_pub, reason = "a test binary has no public interface")]

mod cleaning;
mod committed;
mod compaction;
mod damage;
mod directory;
mod footprint;
mod full;
mod held;
mod hooked_index;
mod index_trouble;
mod logs;
mod lost_tail;
mod model;
mod power;
mod repair;
mod retention;
mod tombstones;
mod truncation;
mod world;
