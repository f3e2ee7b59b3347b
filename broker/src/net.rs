//! Sockets: who may connect, how many bytes may be in flight, and one reader and one writer per connection.
//!
//! Nothing here knows what a request means; `native` does. What is refused is refused before memory is reserved for it.

pub mod admission;
pub mod connection;
pub(crate) mod door;
pub mod kafka_door;
pub mod limits;
pub mod listener;
pub mod network;
pub mod outbound;
pub mod preface;
pub mod progress;
pub mod reader;
pub mod socket;
pub mod writer;
