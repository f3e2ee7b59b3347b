//! Proof by use: real broker processes, recorded histories, and a checker that holds one against the other.
//!
//! `history` records what clients were told, `checker` decides whether a final read agrees with it, `process` starts
//! and kills the real binary. The checker is pure and is itself tested by planted bugs.
//!
//! This crate may know every other crate; no other crate may know it.

pub mod checker;
pub mod history;
pub mod process;
