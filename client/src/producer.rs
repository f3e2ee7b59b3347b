//! Sending records.
//!
//! A record is encoded straight into its partition's open batch by whoever enqueues it. The connection's writer takes
//! batches at the moment it can write, so that records collect while it is busy and leave at once when it is not; the
//! connection's reader settles a whole batch with one result. No task and no channel is used per record.

pub(crate) mod batch;
pub(crate) mod completion;
pub(crate) mod config;
mod driver;
mod murmur2;
mod partition;
mod partition_state;
mod registry;
mod ring;
mod shared;
mod sink;
mod topic;

use std::fmt;
use std::sync::Arc;

use futures::future::join_all;
use streambus_protocol::record::Header;
use streambus_protocol::timestamp::Timestamp;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::context::Ctx;
use crate::error::{Error, TrySendError};
use crate::op::{Op, Scope};
use crate::producer::driver::Driver;
use crate::producer::registry::Registry;
use crate::producer::shared::{Event, Shared};
use crate::record::{Position, RECORD_OVERHEAD_BYTES, Record};

pub use completion::Delivery;
pub use config::{Partitioner, ProducerConfig};

/// The call that [`Producer::send`] returns.
pub type Send<'a> = Op<'a, Position>;
/// The call that [`Producer::send_all`] returns.
pub type SendAll<'a> = Op<'a, Vec<Result<Position, Error>>>;

/// Sends records. Cheap to clone: clones share buffer, batches and identity.
///
/// When the last clone is dropped without [`Producer::close`], what is enqueued is still sent in the background while the
/// runtime lives, until it is acknowledged or its delivery timeout is over; nobody learns how that went.
#[derive(Clone)]
pub struct Producer {
    registry: Arc<Registry>,
    /// Says "close" when the last clone goes.
    _last: Arc<CloseOnDrop>,
    client: Client,
}

impl Producer {
    /// Starts a producer; `config` has been checked.
    pub(crate) fn start(client: &Client, config: ProducerConfig) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let engine = Arc::clone(client.engine());
        let shared = Arc::new(Shared::new(Arc::clone(&engine), config, sender));
        let registry = Arc::new(Registry::new(shared));
        let driver = Driver::new(Arc::clone(&registry), receiver);
        let alive = client.keep_alive();
        engine.tasks.spawn(async move {
            driver.run().await;
            drop(alive);
        });
        Self { _last: Arc::new(CloseOnDrop(Arc::clone(&registry))), registry, client: client.clone() }
    }

    /// The same producer, every call of which obeys `ctx` too.
    pub fn with(&self, ctx: &Ctx) -> Self {
        Self { client: self.client.with(ctx), ..self.clone() }
    }

    /// Sends one record; done when it is acknowledged, which by default means: on the disk of every in-sync replica.
    ///
    /// Without `.timeout()` or `.ctx()`, the configuration's `delivery_timeout` counts. Dropped or timed out after its
    /// first poll, the record may still be sent.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] names the attempts and the last cause, and says when the outcome is unknown;
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`], [`Error::RecordTooLarge`] when it can never be stored.
    pub fn send(&self, record: impl Into<Record>) -> Send<'_> {
        let record = record.into();
        Op::new("send", self.client.context(), None, move |scope| async move {
            let delivery = self.admit(&scope, record).await?;
            scope.follow(delivery.batch());
            delivery.await
        })
    }

    /// Sends many records; done when every one has its outcome, returned in order. One failure does not keep the others
    /// from being sent. The call itself fails only when its own time is over or it is cancelled.
    ///
    /// Dropped after its first poll, the records enqueued so far are still sent.
    pub fn send_all(&self, records: impl IntoIterator<Item = Record>) -> SendAll<'_> {
        let records: Vec<Record> = records.into_iter().collect();
        Op::new("send_all", self.client.context(), None, move |scope| async move {
            let mut deliveries = Vec::with_capacity(records.len());
            for record in records {
                let admitted = self.admit(&scope, record).await;
                if let Ok(delivery) = &admitted {
                    scope.follow(delivery.batch());
                }
                deliveries.push(admitted);
            }
            Ok(join_all(deliveries.into_iter().map(|admitted| async { admitted?.await })).await)
        })
    }

    /// Hands a record to its batch, waiting while the buffer is full; the [`Delivery`] tells what became of it.
    ///
    /// Dropped before it returns, nothing was enqueued.
    ///
    /// # Errors
    ///
    /// As [`Producer::send`], but only what is known before sending.
    pub async fn enqueue(&self, record: Record) -> Result<Delivery, Error> {
        let ctx = self.client.context();
        match self.admit_now(record) {
            Ok(delivery) => Ok(delivery),
            Err(TrySendError::Full(record) | TrySendError::NotReady(record)) => {
                Op::new("enqueue", ctx, None, move |scope| async move { self.admit(&scope, record).await }).await
            }
            Err(TrySendError::Closed(_)) => Err(Error::Closed),
            Err(TrySendError::Refused(_, error)) => Err(*error),
        }
    }

    /// Hands a record to its batch if that is possible at once, else hands the record back.
    ///
    /// The first record for a topic is handed back as [`TrySendError::NotReady`] while the topic's partitions are found
    /// out in the background.
    #[expect(clippy::result_large_err, reason = "handing the record back is the point")]
    pub fn try_enqueue(&self, record: Record) -> Result<Delivery, TrySendError> {
        let outcome = self.admit_now(record);
        if let Err(TrySendError::NotReady(record)) = &outcome {
            let (registry, topic) = (Arc::clone(&self.registry), Arc::clone(&record.topic));
            let timeout = self.client.engine().config.request_timeout;
            self.client.engine().tasks.spawn(async move {
                let scope = Scope::background("find topic", timeout);
                if let Err(error) = registry.topic(&scope, &topic).await {
                    // Whoever enqueues next is told.
                    tracing::debug!(%error, topic = &*topic, "topic not found out");
                }
            });
        }
        outcome
    }

    /// Sends everything that was enqueued before, lingering or not, and waits for the outcomes.
    ///
    /// Dropped, it leaves nothing behind but that the records no longer linger.
    ///
    /// # Errors
    ///
    /// The first failure among those records; their deliveries tell which.
    pub async fn flush(&self) -> Result<(), Error> {
        Op::new("flush", self.client.context(), None, |_scope| async {
            let pending: Vec<_> = self.registry.partitions().iter().flat_map(|partition| partition.flush()).collect();
            let mut first = Ok(());
            for batch in pending {
                if let Err(error) = batch.settled().await
                    && first.is_ok()
                {
                    first = Err(error.clone());
                }
            }
            first
        })
        .await
    }

    /// Takes no more records, from any clone, sends what was enqueued, and ends. Dropped, it goes on in the background.
    ///
    /// # Errors
    ///
    /// As [`Producer::flush`].
    pub async fn close(self) -> Result<(), Error> {
        self.registry.close();
        let flushed = self.flush().await;
        self.registry.shared.send(Event::Close);
        flushed
    }

    /// Bytes of the buffer that are free.
    pub fn buffer_free_bytes(&self) -> usize {
        self.registry.shared.free_bytes()
    }

    /// Enqueues, waiting for what it takes: the topic's layout, a producer identity, buffer space.
    async fn admit(&self, scope: &Scope, mut record: Record) -> Result<Delivery, Error> {
        if let Some(trace) = scope.trace()
            && !record.wire.headers.iter().any(|h| h.key == TRACE_HEADER.as_bytes())
        {
            record.wire.headers.push(Header::new(TRACE_HEADER, trace.to_owned()));
        }
        if self.registry.is_closed() {
            return Err(Error::Closed);
        }
        let limit = self.client.engine().config.delivery_timeout;
        let found = match self.registry.known(&record.topic) {
            Some(topic) => Ok(topic),
            None => {
                let patience = scope.within(limit);
                match tokio::time::timeout(limit, self.registry.topic(&patience, &record.topic)).await {
                    Ok(found) => found,
                    Err(_elapsed) => Err(patience.timed_out()),
                }
            }
        };
        let topic = found?;
        let bytes = record.payload_bytes() + RECORD_OVERHEAD_BYTES;
        self.registry.shared.reserve(bytes).await?;
        self.place(&topic, &mut record, bytes)
    }

    /// Enqueues without waiting.
    #[expect(clippy::result_large_err, reason = "handing the record back is the point")]
    fn admit_now(&self, mut record: Record) -> Result<Delivery, TrySendError> {
        if self.registry.is_closed() {
            return Err(TrySendError::Closed(record));
        }
        if self.client.context().trace().is_some() {
            // The slow way adds the header.
            return Err(TrySendError::NotReady(record));
        }
        let Some(topic) = self.registry.known(&record.topic) else { return Err(TrySendError::NotReady(record)) };
        let bytes = record.payload_bytes() + RECORD_OVERHEAD_BYTES;
        match self.registry.shared.try_reserve(bytes) {
            Ok(()) => {}
            Err(Error::BufferFull) => return Err(TrySendError::Full(record)),
            Err(Error::Closed) => return Err(TrySendError::Closed(record)),
            Err(error) => return Err(TrySendError::Refused(record, Box::new(error))),
        }
        match self.place(&topic, &mut record, bytes) {
            Ok(delivery) => Ok(delivery),
            Err(error) => Err(TrySendError::Refused(record, Box::new(error))),
        }
    }

    /// Puts a record, whose `bytes` are reserved, into its partition's batch.
    fn place(&self, topic: &topic::Topic, record: &mut Record, bytes: usize) -> Result<Delivery, Error> {
        if record.wire.timestamp == Timestamp::NONE {
            record.wire.timestamp = self.client.engine().environment.clock.now();
        }
        let placed = topic.choose(record).and_then(|partition| partition.push(&record.wire, bytes));
        if placed.is_err() {
            self.registry.shared.release(bytes);
        }
        placed
    }
}

/// The W3C trace context's header.
const TRACE_HEADER: &str = "traceparent";

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Producer({} bytes of buffer free)", self.buffer_free_bytes())
    }
}

struct CloseOnDrop(Arc<Registry>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
        self.0.shared.send(Event::Close);
    }
}
