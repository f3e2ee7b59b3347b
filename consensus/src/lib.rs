//! The cluster's metadata, agreed upon with Raft: brokers, topics, partitions and who leads them.
//!
//! A [`node::MetadataNode`] keeps the replicated log and state on its disk, proposes [`command::Command`]s, and
//! publishes every applied state as an immutable [`image::ClusterImage`]. Decisions ([`placement`], [`election`],
//! [`cluster_state`]) are pure functions. This is the only crate that names openraft.
//!
//! This crate must never know record batches, client connections, sockets, or how a partition's log is stored.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod blocking;
pub mod cluster_state;
pub mod command;
pub mod config;
pub mod controller;
pub mod database;
mod deleted_topics;
pub mod delta;
pub mod election;
pub mod encoding;
pub mod error;
pub mod explore;
mod fields;
mod flusher;
mod forward;
pub mod founding;
pub mod heartbeat;
mod hello;
pub mod identity;
pub mod image;
pub mod in_process;
pub mod inspect;
mod last_heard;
pub mod limits;
mod log_store;
pub mod network;
pub mod node;
pub mod outcome;
mod outcome_board;
pub mod peer_door;
pub mod peer_service;
pub mod placement;
mod raft_codec;
pub mod round_trip;
mod rows;
pub mod rpc;
pub mod snapshot;
pub mod state_machine;
pub mod types;
