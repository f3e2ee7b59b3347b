//! Records as they are sent and as they are read, and where one was stored.

use std::sync::Arc;

use bytes::Bytes;
use streambus_protocol::api::produce::Receipt;
use streambus_protocol::ids::TopicName;
use streambus_protocol::record::{Header, Record as WireRecord};
use streambus_protocol::timestamp::Timestamp;

/// A record to be sent: a topic, a value, and what else is known.
///
/// A loop that sends many records to one topic makes an `Arc<str>` of its name once and clones that.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: Option<u32>,
    pub(crate) wire: WireRecord,
}

impl Record {
    /// A record with a value and no key. Its timestamp is taken when it is enqueued.
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self::build(topic.into(), Some(value.into()))
    }

    /// A record without a value: for a compacted topic, the end of its key.
    pub fn tombstone(topic: impl Into<Arc<str>>, key: impl Into<Bytes>) -> Self {
        Self::build(topic.into(), None).key(key)
    }

    fn build(topic: Arc<str>, value: Option<Bytes>) -> Self {
        let wire = WireRecord { key: None, value, headers: Vec::new(), timestamp: Timestamp::NONE };
        Self { topic, partition: None, wire }
    }

    /// Sets the key: records of one key go to one partition, in order.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.wire.key = Some(key.into());
        self
    }

    /// Adds a header. Keys may repeat; order is kept.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.wire.headers.push(Header { key: Bytes::from(key.into()), value: Some(value.into()) });
        self
    }

    /// Chooses the partition, whatever the partitioner would say.
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the record's time instead of the time it is enqueued.
    pub fn timestamp(mut self, at: Timestamp) -> Self {
        self.wire.timestamp = at;
        self
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The key, if there is one.
    pub fn key_bytes(&self) -> Option<&Bytes> {
        self.wire.key.as_ref()
    }

    /// The value; none for a tombstone.
    pub fn value(&self) -> Option<&Bytes> {
        self.wire.value.as_ref()
    }

    /// Bytes of key, value and headers: what counts against the producer's buffer, with [`RECORD_OVERHEAD_BYTES`].
    pub(crate) fn payload_bytes(&self) -> usize {
        let optional = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize =
            self.wire.headers.iter().map(|h| h.key.len() + optional(&h.value) + RECORD_HEADER_OVERHEAD_BYTES).sum();
        optional(&self.wire.key) + optional(&self.wire.value) + headers
    }
}

/// The most that one record adds to a batch besides its key, value and headers: six varints and the attributes.
pub(crate) const RECORD_OVERHEAD_BYTES: usize = 36;
/// The most that one header adds besides its key and value: two varints of five bytes.
pub(crate) const RECORD_HEADER_OVERHEAD_BYTES: usize = 10;

/// Where a record was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The topic's name.
    pub topic: TopicName,
    /// The partition's number.
    pub partition: u32,
    /// The record's offset in the partition; [`Position::OFFSET_UNKNOWN`] when `acks` is none, because no broker
    /// answered.
    pub offset: u64,
    /// The record's time: the broker's append time for topics that use it, else the producer's.
    pub timestamp: Timestamp,
    /// How many replicas held the record, and how many had it on disk, when it was acknowledged.
    pub receipt: Receipt,
}

impl Position {
    /// Stands where an offset would, when no broker was asked to answer (`acks` none).
    pub const OFFSET_UNKNOWN: u64 = u64::MAX;
}

/// A record as it was read. Owned: its bytes are a slice of the batch they came in, which lives as long as they do.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumedRecord {
    /// The topic's name.
    pub topic: TopicName,
    /// The partition's number.
    pub partition: u32,
    /// The record's offset in the partition.
    pub offset: u64,
    /// The record's time.
    pub timestamp: Timestamp,
    /// The key, if there is one.
    pub key: Option<Bytes>,
    /// The value; none for a tombstone.
    pub value: Option<Bytes>,
    /// The headers, in the order they were added.
    pub headers: Vec<Header>,
}

impl ConsumedRecord {
    /// The value of the first header named `key`.
    pub fn header(&self, key: &str) -> Option<&Bytes> {
        self.headers.iter().find(|h| h.key == key.as_bytes()).and_then(|h| h.value.as_ref())
    }

    /// The same key, value, headers and time as a record for another topic.
    pub fn into_record(self, topic: impl Into<Arc<str>>) -> Record {
        let wire = WireRecord { key: self.key, value: self.value, headers: self.headers, timestamp: self.timestamp };
        Record { topic: topic.into(), partition: None, wire }
    }
}
