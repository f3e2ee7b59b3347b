//! Proof by use: real broker processes, recorded histories, and a checker that holds one against the other.
//!
//! `process` starts and kills the one real binary, `cluster` several of them, the network between them and, with
//! `loop_disk` and `shim`, the disks and clocks under them. `load` drives them with real clients and records in
//! `recorder` what each `event` was; `checker` decides whether the run kept its promises, `run` puts these together. The
//! checker is pure and is itself tested by planted histories.
//!
//! This crate may know every other crate; no other crate may know it.

pub mod bit_flip;
pub mod checker;
pub mod clock;
pub mod cluster;
pub mod damage;
pub mod dump;
pub mod event;
pub mod evidence;
pub mod footprint;
pub mod history;
pub mod ledger;
pub mod load;
pub mod loop_disk;
pub mod measure;
pub mod patience;
pub mod process;
pub mod raw_caller;
pub mod recorder;
pub mod run;
pub mod setting;
pub mod shim;
