//! The fields that commands and stored rows have in common, as bytes.

use std::collections::BTreeMap;

use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::ids::{BrokerId, PartitionId, PartitionIndex, TopicId, TopicName};
use streambus_protocol::limits::{PARTITIONS_PER_TOPIC_MAX, TOPIC_NAME_BYTES_MAX};

use crate::command::{Assignment, ClusterEndpoint};
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::limits::{CONFIG_ENTRIES_MAX, CONFIG_KEY_BYTES_MAX, CONFIG_VALUE_BYTES_MAX, HOST_BYTES_MAX, REPLICAS_MAX};

pub(crate) fn write_endpoint(out: &mut Encoder, endpoint: &BrokerEndpoint) {
    out.u32(endpoint.id.get());
    out.text(&endpoint.host);
    out.u16(endpoint.port);
    out.option(endpoint.rack.as_deref(), Encoder::text);
}

pub(crate) fn read_endpoint(input: &mut Decoder<'_>) -> Result<BrokerEndpoint, DecodeError> {
    Ok(BrokerEndpoint {
        id: BrokerId::new(input.u32()?),
        host: input.text("host", HOST_BYTES_MAX)?.to_owned(),
        port: input.u16()?,
        rack: input.option(|input| Ok(input.text("rack", HOST_BYTES_MAX)?.to_owned()))?,
    })
}

pub(crate) fn write_cluster_endpoint(out: &mut Encoder, endpoint: &ClusterEndpoint) {
    out.text(&endpoint.host);
    out.u16(endpoint.port);
}

pub(crate) fn read_cluster_endpoint(input: &mut Decoder<'_>) -> Result<ClusterEndpoint, DecodeError> {
    Ok(ClusterEndpoint { host: input.text("cluster host", HOST_BYTES_MAX)?.to_owned(), port: input.u16()? })
}

pub(crate) fn write_partition_id(out: &mut Encoder, id: PartitionId) {
    out.raw(id.topic.as_bytes());
    out.u32(id.partition.get());
}

pub(crate) fn read_partition_id(input: &mut Decoder<'_>) -> Result<PartitionId, DecodeError> {
    Ok(PartitionId { topic: TopicId::from_bytes(input.array()?), partition: PartitionIndex::new(input.u32()?) })
}

pub(crate) fn read_topic_name(input: &mut Decoder<'_>) -> Result<TopicName, DecodeError> {
    let name = input.text("topic name", TOPIC_NAME_BYTES_MAX)?;
    TopicName::new(name).map_err(|e| DecodeError::Invalid { what: "topic name", found: e.to_string() })
}

pub(crate) fn write_brokers(out: &mut Encoder, brokers: &[BrokerId]) {
    out.count(brokers.len());
    for broker in brokers {
        out.u32(broker.get());
    }
}

pub(crate) fn read_brokers(input: &mut Decoder<'_>) -> Result<Vec<BrokerId>, DecodeError> {
    let count = input.count("replicas", 4, REPLICAS_MAX)?;
    (0..count).map(|_| Ok(BrokerId::new(input.u32()?))).collect()
}

pub(crate) fn write_config(out: &mut Encoder, config: &BTreeMap<String, String>) {
    out.count(config.len());
    for (key, value) in config {
        out.text(key);
        out.text(value);
    }
}

pub(crate) fn read_config(input: &mut Decoder<'_>) -> Result<BTreeMap<String, String>, DecodeError> {
    let mut config = BTreeMap::new();
    for _ in 0..input.count("configuration entries", 8, CONFIG_ENTRIES_MAX)? {
        let key = input.text("configuration key", CONFIG_KEY_BYTES_MAX)?.to_owned();
        let value = input.text("configuration value", CONFIG_VALUE_BYTES_MAX)?.to_owned();
        // One encoding per value: sorted and without repetition, else equal states could differ in bytes.
        if config.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(DecodeError::Invalid { what: "order of configuration keys", found: key });
        }
        config.insert(key, value);
    }
    Ok(config)
}

pub(crate) fn write_assignments(out: &mut Encoder, assignments: &[Assignment]) {
    out.count(assignments.len());
    for assignment in assignments {
        write_brokers(out, &assignment.replicas);
    }
}

pub(crate) fn read_assignments(input: &mut Decoder<'_>) -> Result<Vec<Assignment>, DecodeError> {
    let max = usize::try_from(PARTITIONS_PER_TOPIC_MAX).unwrap_or(usize::MAX);
    let count = input.count("partitions", 4, max)?;
    (0..count).map(|_| Ok(Assignment { replicas: read_brokers(input)? })).collect()
}
