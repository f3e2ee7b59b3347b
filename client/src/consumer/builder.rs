//! Says what to read and from where, and starts it.

use std::sync::Arc;

use streambus_protocol::api::offsets::OffsetQuery;
use streambus_protocol::ids::TopicName;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::consumer::Consumer;
use crate::consumer::source::{Mode, Plan, Source};
use crate::consumer::start::{OutOfRange, Start, ask, resolve};
use crate::engine::Effect;
use crate::error::{Error, TopicPartition};
use crate::op::{Op, Scope};

/// Bytes that may be buffered for the application by default.
const BUFFER_BYTES_DEFAULT: usize = 16 * 1024 * 1024;

/// A consumer to be started.
#[derive(Clone, Debug)]
#[must_use = "nothing is read before `.start()`"]
pub struct ConsumerBuilder {
    client: Client,
    topics: Vec<String>,
    partitions: Option<Vec<u32>>,
    from: Start,
    until_end: bool,
    out_of_range: OutOfRange,
    buffer_bytes: usize,
    expanded_bytes_max: usize,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, topics: Vec<String>) -> Self {
        Self {
            client,
            topics,
            partitions: None,
            from: Start::default(),
            until_end: false,
            out_of_range: OutOfRange::default(),
            buffer_bytes: BUFFER_BYTES_DEFAULT,
            expanded_bytes_max: 64 * 1024 * 1024,
        }
    }

    /// Begins there in every partition. Default [`Start::Latest`].
    pub fn from(mut self, start: Start) -> Self {
        self.from = start;
        self
    }

    /// Reads these partitions of every topic only. Default all of them; those that are added later are read from their
    /// first record on, unless the read ends.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Ends, with `None`, at what is the end of each partition when the consumer starts.
    pub fn until_end(mut self) -> Self {
        self.until_end = true;
        self
    }

    /// What to do when an offset is not in the log any more. Default [`OutOfRange::Fail`].
    pub fn on_out_of_range(mut self, what: OutOfRange) -> Self {
        self.out_of_range = what;
        self
    }

    /// Buffers about so many bytes ahead of the application. Default 16 MiB. One batch may exceed it.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// Refuses compressed batches that expand to more. Default 64 MiB.
    pub fn expanded_bytes_max(mut self, bytes: usize) -> Self {
        self.expanded_bytes_max = bytes;
        self
    }

    /// Finds the partitions and where to begin, and starts reading.
    ///
    /// Dropped before it is done, it leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    pub fn start(self) -> Op<'static, Consumer> {
        let (ctx, timeout) = (self.client.context().clone(), self.client.engine().config.request_timeout);
        Op::new("start consumer", &ctx, Some(timeout), move |scope| async move { self.begin(&scope).await })
    }

    async fn begin(self, scope: &Scope) -> Result<Consumer, Error> {
        let partitions = self.find_partitions(scope).await?;
        let engine = Arc::clone(self.client.engine());
        let ends =
            if self.until_end { Some(ask(&engine, scope, OffsetQuery::Latest, &partitions).await?) } else { None };
        let by_offset = matches!(self.from, Start::Offset(_));
        let starts = resolve(&engine, scope, self.from, &partitions).await?;
        let start: Vec<_> = partitions.into_iter().zip(starts).collect();
        // A read without an end hears this from the broker; one that ends would end at once and hide the mistake.
        for ((at, from), end) in start.iter().zip(ends.iter().flatten()) {
            // Other starts are found after the end, so one behind it is only younger than it.
            if by_offset && from > end {
                let earliest = ask(&engine, scope, OffsetQuery::Earliest, std::slice::from_ref(at)).await?;
                let earliest = earliest.first().map_or(0, |offset| offset.get());
                let (offset, latest) = (from.get(), end.get());
                return Err(Error::OffsetOutOfRange { at: at.clone(), offset, earliest, latest });
            }
        }

        let (commands, command_receiver) = mpsc::unbounded_channel();
        let (output, delivered) = mpsc::unbounded_channel();
        let mode = if self.until_end { Mode::Fetch } else { Mode::Subscribe };
        let plan = Plan {
            mode,
            credit_bytes: self.buffer_bytes,
            start: start.clone(),
            grows: self.partitions.is_none() && !self.until_end,
            out_of_range: self.out_of_range,
        };
        let source = Source::new(Arc::clone(&engine), plan, command_receiver, output);
        let consumer = Consumer::new(self.client.clone(), start, ends, commands, delivered, self.expanded_bytes_max);
        // After the consumer has stopped what is at its end already, so that nothing of it is asked for.
        engine.tasks.spawn(source.run());
        Ok(consumer)
    }

    async fn find_partitions(&self, scope: &Scope) -> Result<Vec<TopicPartition>, Error> {
        let refuse = |what: &str| Err(Error::Invalid { what: what.to_owned() });
        if self.topics.is_empty() {
            return refuse("a consumer needs at least one topic");
        }
        let engine = self.client.engine();
        let mut found = Vec::new();
        for name in &self.topics {
            let topic = TopicName::new(name).map_err(|error| Error::Invalid { what: error.to_string() })?;
            let view = engine.retry(scope, Effect::Read, || engine.metadata.topic(&topic)).await?;
            let all: Vec<u32> = (0u32..).zip(&view.partitions).map(|(number, _)| number).collect();
            for partition in self.partitions.as_ref().unwrap_or(&all) {
                view.partition(*partition)?;
                let at = TopicPartition { topic: topic.clone(), partition: *partition };
                if !found.contains(&at) {
                    found.push(at);
                }
            }
        }
        if found.is_empty() {
            return refuse("a consumer needs at least one partition");
        }
        Ok(found)
    }
}
