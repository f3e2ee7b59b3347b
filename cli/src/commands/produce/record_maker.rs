//! What the format read, made into what the client sends.

use std::sync::Arc;

use streambus_client::{ConsumedRecord, Error, Record};
use streambus_protocol::ids::TopicName;
use streambus_protocol::record::Header;
use streambus_protocol::timestamp::Timestamp;

use super::ProduceArgs;
use crate::failure::Failure;
use crate::format::plan::InputRecord;

/// Turns what the format read into what the client sends.
pub(super) struct RecordMaker {
    topic: Option<(Arc<str>, TopicName)>,
    partition: Option<u32>,
    key: Option<bytes::Bytes>,
    headers: Vec<Header>,
}

impl RecordMaker {
    pub(super) fn new(args: &ProduceArgs) -> Result<Self, Failure> {
        let topic = match &args.topic {
            Some(name) => {
                let checked = TopicName::new(name).map_err(|error| Failure::usage(error.to_string()))?;
                Some((Arc::from(name.as_str()), checked))
            }
            None => None,
        };
        let header = |(name, value): &(String, String)| Header::new(name.clone(), value.clone());
        Ok(Self {
            topic,
            partition: args.partition,
            key: args.key.as_ref().map(|key| bytes::Bytes::from(key.clone())),
            headers: args.header.iter().map(header).collect(),
        })
    }

    pub(super) fn make(&self, input: InputRecord) -> Result<Record, Error> {
        let invalid = |what: String| Error::Invalid { what };
        let (topic, name) = match (&input.topic, &self.topic) {
            (Some(named), _) => {
                let name = TopicName::new(named).map_err(|error| invalid(error.to_string()))?;
                (Arc::from(named.as_str()), name)
            }
            (None, Some((topic, name))) => (topic.clone(), name.clone()),
            (None, None) => return Err(invalid("the record names no topic".to_owned())),
        };
        let mut headers = self.headers.clone();
        headers.extend(input.headers.into_iter().map(|(key, value)| Header { key: key.into(), value }));
        // A consumed record can be built with any combination of absent parts, and turns into one to send.
        let record = ConsumedRecord {
            topic: name,
            partition: 0,
            offset: 0,
            timestamp: input.timestamp.map_or(Timestamp::NONE, Timestamp::from_millis),
            key: input.key.or_else(|| self.key.clone()),
            value: input.value,
            headers,
        }
        .into_record(topic);
        Ok(match self.partition.or(input.partition) {
            Some(partition) => record.partition(partition),
            None => record,
        })
    }
}
