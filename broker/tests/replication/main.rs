//! Three partitions with their stores in one process: real logs and the real replication tasks, a link and a controller
//! made by the test.

mod acknowledging;
mod catching_up;
mod compacting;
mod converging;
mod repairing;
mod world;
