//! Real brokers under load and under faults. Each test hurts a
//! cluster, heals it, and has the whole recorded run judged; times are measured and printed.
//!
//! `STREAMBUS_SEED` draws other moments and victims, `STREAMBUS_FAULT_CYCLES` repeats each fault more often than the short
//! default; `make soak` sets both.

mod one;
