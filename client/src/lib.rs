//! The StreamBus client: durable by default, idempotent by default, no two-step construction, no macros.
//!
//! ```no_run
//! use streambus_client::{Client, Record, Start, Topic};
//!
//! # async fn example() -> Result<(), streambus_client::Error> {
//! let bus = Client::connect("127.0.0.1:9092").await?;
//! bus.admin().create_topic("orders", Topic::partitions(3)).await?;
//!
//! let producer = bus.producer();
//! let position = producer.send(Record::new("orders", "two espressos").key("table-7")).await?;
//! println!("on disk at {}/{}", position.partition, position.offset);
//!
//! let mut consumer = bus.consumer(["orders"]).from(Start::Earliest).start().await?;
//! while let Some(record) = consumer.next().await? {
//!     println!("{:?}", record.value);
//! }
//! # Ok(()) }
//! ```
//!
//! Every call is a future with a deadline: `.await` alone obeys [`Config`], `.timeout(..)` and `.ctx(..)` narrow one call,
//! [`Client::with`] narrows every call made through a handle:
//!
//! ```no_run
//! use std::time::Duration;
//! use streambus_client::{Client, Ctx, Record};
//!
//! # async fn example(bus: Client) -> Result<(), streambus_client::Error> {
//! let (ctx, cancel) = Ctx::with_timeout(Duration::from_secs(5)).cancellable();
//! let producer = bus.with(&ctx).producer();
//! producer.send(Record::new("orders", "tea")).timeout(Duration::from_millis(200)).await?;
//! cancel.cancel();
//! # Ok(()) }
//! ```
//!
//! Throughput comes from enqueuing without waiting for each record:
//!
//! ```no_run
//! use std::sync::Arc;
//! use streambus_client::{Client, Record};
//!
//! # async fn example(bus: Client) -> Result<(), streambus_client::Error> {
//! let (producer, topic): (_, Arc<str>) = (bus.producer(), "orders".into());
//! let mut deliveries = Vec::new();
//! for i in 0..1_000_000 {
//!     deliveries.push(producer.enqueue(Record::new(Arc::clone(&topic), format!("order {i}"))).await?);
//! }
//! for delivery in deliveries {
//!     delivery.await?;
//! }
//! producer.close().await
//! # }
//! ```
//!
//! [`blocking`] has the same names without `async`.
//!
//! This crate must never know any crate of the server; it depends on `streambus-protocol` alone. Monotonic time is
//! tokio's, which a simulation can pause; wall-clock time, randomness and the network are in [`environment`].

#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod admin;
mod backoff;
pub mod blocking;
mod client;
mod config;
mod connection;
mod consumer;
mod context;
mod engine;
pub mod environment;
mod error;
mod metadata;
mod op;
mod producer;
mod record;
mod tasks;

pub use admin::{Admin, Topic};
pub use client::Client;
pub use config::Config;
pub use connection::connector;
pub use consumer::{Consumer, ConsumerBuilder, ConsumerHandle, OutOfRange, PartitionProgress, Seek, Start};
pub use context::{Cancel, Ctx};
pub use error::{Error, TopicPartition, TrySendError};
pub use op::Op;
pub use producer::{Delivery, Partitioner, Producer, ProducerConfig, Send, SendAll};
pub use record::{ConsumedRecord, Position, Record};

/// What the wire and this client share: ids, codes, and the answers of [`Admin`].
pub use streambus_protocol as protocol;
pub use streambus_protocol::api::cluster::LeaderChoice;
pub use streambus_protocol::api::offsets::OffsetQuery;
pub use streambus_protocol::api::produce::{Acks, Receipt};
pub use streambus_protocol::compression::Compression;
pub use streambus_protocol::error_code::{Applied, ErrorCode};
pub use streambus_protocol::ids::TopicName;
pub use streambus_protocol::record::Header;
pub use streambus_protocol::timestamp::Timestamp;
