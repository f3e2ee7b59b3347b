//! One record: what a producer hands in and what a consumer gets back.

use std::str::Utf8Error;

use bytes::Bytes;

use crate::offset::Offset;
use crate::timestamp::Timestamp;

/// A key, a value, headers and a time. Absent and empty are different for key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What places the record in a partition and what compaction keeps one of; may be absent.
    pub key: Option<Bytes>,
    /// The content; absent it deletes its key on a compacted topic.
    pub value: Option<Bytes>,
    /// Named values beside the content, in order; names may repeat.
    pub headers: Vec<Header>,
    /// When it happened, by the producer's clock, or by the leader's on a topic with append times.
    pub timestamp: Timestamp,
}

impl Record {
    /// A record with a value and a time, and nothing else.
    pub fn new(value: impl Into<Bytes>, timestamp: Timestamp) -> Self {
        Self { key: None, value: Some(value.into()), headers: Vec::new(), timestamp }
    }
}

/// A named value of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name: UTF-8 by the format's rule, but not checked where records only pass through.
    pub key: Bytes,
    /// The value; may be absent.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header from a name and a value.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: Some(value.into()) }
    }

    /// The name as text. Fails when some producer wrote a name that is not UTF-8.
    pub fn key_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.key)
    }
}

/// A record with its place in the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its offset.
    pub offset: Offset,
    /// The record.
    pub record: Record,
}
