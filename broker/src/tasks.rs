//! What a broker does in the background. Each task is one loop that ends when it is told to; the composition root
//! spawns and owns them.

pub mod compaction;
pub mod follow_metadata;
pub mod follow_peers;
mod pace;
pub mod record_watermarks;
pub mod retention;
pub mod scrub;
pub mod watch_metadata;
pub mod watch_replicas;
pub mod watch_storage;
pub mod watch_strays;
