//! Three real brokers under load and under faults: kill, pause, isolation, restarts, lost disks. Each test hurts a
//! cluster, heals it, and has the whole recorded run judged; times are measured and printed.
//!
//! `STREAMBUS_SEED` draws other moments and victims, `STREAMBUS_FAULT_CYCLES` repeats each fault more often than the short
//! default; `make soak` sets both. `STREAMBUS_NETWORK=namespaces` cuts links packet by packet, as root; tests of lost packets
//! do so wherever they can and say when they cannot.

mod bit_flips;
mod disjoint;
mod disk_errors;
mod disk_full;
mod kill;
mod last_sync;
mod membership;
mod metadata_full;
mod metadata_snapshot;
mod moves;
mod near;
mod network;
mod one;
mod operator;
mod pause;
mod power;
mod progress;
mod refusals;
mod restart;
mod stale;
mod still_disk;
mod storm;
mod strays;
mod unclean;
mod wall_clock;
mod weather;
