//! Three brokers in one process, over loopback: founding, one view of the cluster, moving work, stopping one.

#[path = "../harness/mod.rs"]
mod harness;

mod founders;

mod founding;
mod moving;
mod reading;
mod refusals;
mod repairing;
mod stopping;
