//! The StreamBus wire: ids, positions, error codes, limits, the record batch, and the native frames and messages.
//!
//! `PROTOCOL.md` beside this crate's manifest is the specification; this crate is its reference implementation.
//! Everything here is sans-I/O: bytes in, values out.
//!
//! This crate must never know sockets, tokio, clocks, files or any other crate of this workspace.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod api;
pub mod batch;
pub mod codec;
pub mod compression;
pub mod epoch;
pub mod error_code;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod offset;
pub mod payload;
pub mod preface;
pub mod record;
pub mod timestamp;
pub mod topic_config;
mod varint;
