//! The broker through its native door: one process, real sockets, real disk.

#[path = "../harness/mod.rs"]
mod harness;

mod apis;
mod compaction;
mod compression;
mod hostile;
mod limits;
mod produce_fetch;
mod retention;
mod storage_faults;
mod subscribe;
