//! Commands as bytes: version, kind, fields. Golden tests below fix the format; a change takes a new version.

use streambus_protocol::epoch::BrokerEpoch;
use streambus_protocol::ids::{BrokerId, ClusterId, TopicId};
use streambus_protocol::timestamp::Timestamp;

use super::{Command, Incarnation};
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::fields::{
    read_assignments, read_config, read_endpoint, read_topic_name, write_assignments, write_config, write_endpoint,
};
use crate::limits::HOST_BYTES_MAX;

const VERSION: u8 = 1;

const FOUND_CLUSTER: u8 = 1;
const REGISTER_BROKER: u8 = 2;
const CREATE_TOPIC: u8 = 3;
const DELETE_TOPIC: u8 = 4;
const ADD_PARTITIONS: u8 = 5;
const ALTER_TOPIC_CONFIG: u8 = 6;
const ALLOCATE_PRODUCER_IDS: u8 = 7;

impl Command {
    /// The command's bytes, as the log and the peers carry them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u8(VERSION);
        match self {
            Self::FoundCluster { cluster_id } => {
                out.u8(FOUND_CLUSTER);
                out.raw(cluster_id.as_bytes());
            }
            Self::RegisterBroker { incarnation, endpoint, version } => {
                out.u8(REGISTER_BROKER);
                out.raw(incarnation.as_bytes());
                write_endpoint(&mut out, endpoint);
                out.text(version);
            }
            Self::CreateTopic { name, id, partitions, config, at } => {
                out.u8(CREATE_TOPIC);
                out.text(name.as_str());
                out.raw(id.as_bytes());
                write_assignments(&mut out, partitions);
                write_config(&mut out, config);
                out.i64(at.as_millis());
            }
            Self::DeleteTopic { id } => {
                out.u8(DELETE_TOPIC);
                out.raw(id.as_bytes());
            }
            Self::AddPartitions { id, new, expected_count } => {
                out.u8(ADD_PARTITIONS);
                out.raw(id.as_bytes());
                write_assignments(&mut out, new);
                out.u32(*expected_count);
            }
            Self::AlterTopicConfig { id, config, expected_version } => {
                out.u8(ALTER_TOPIC_CONFIG);
                out.raw(id.as_bytes());
                write_config(&mut out, config);
                out.u64(*expected_version);
            }
            Self::AllocateProducerIds { broker, broker_epoch, count } => {
                out.u8(ALLOCATE_PRODUCER_IDS);
                out.u32(broker.get());
                out.u64(broker_epoch.get());
                out.u32(*count);
            }
        }
        out.finish()
    }

    /// Reads a command; every count and length is bounded, and nothing may follow it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(bytes);
        let version = input.u8()?;
        if version > VERSION {
            return Err(DecodeError::NewerVersion { what: "command", found: version, newest: VERSION });
        }
        let command = match (version, input.u8()?) {
            (VERSION, FOUND_CLUSTER) => Self::FoundCluster { cluster_id: ClusterId::from_bytes(input.array()?) },
            (VERSION, REGISTER_BROKER) => Self::RegisterBroker {
                incarnation: Incarnation::from_bytes(input.array()?),
                endpoint: read_endpoint(&mut input)?,
                version: input.text("release version", HOST_BYTES_MAX)?.to_owned(),
            },
            (VERSION, CREATE_TOPIC) => Self::CreateTopic {
                name: read_topic_name(&mut input)?,
                id: TopicId::from_bytes(input.array()?),
                partitions: read_assignments(&mut input)?,
                config: read_config(&mut input)?,
                at: Timestamp::from_millis(input.i64()?),
            },
            (VERSION, DELETE_TOPIC) => Self::DeleteTopic { id: TopicId::from_bytes(input.array()?) },
            (VERSION, ADD_PARTITIONS) => Self::AddPartitions {
                id: TopicId::from_bytes(input.array()?),
                new: read_assignments(&mut input)?,
                expected_count: input.u32()?,
            },
            (VERSION, ALTER_TOPIC_CONFIG) => Self::AlterTopicConfig {
                id: TopicId::from_bytes(input.array()?),
                config: read_config(&mut input)?,
                expected_version: input.u64()?,
            },
            (VERSION, ALLOCATE_PRODUCER_IDS) => Self::AllocateProducerIds {
                broker: BrokerId::new(input.u32()?),
                broker_epoch: BrokerEpoch::new(input.u64()?),
                count: input.u32()?,
            },
            (version, kind) => {
                return Err(DecodeError::Invalid { what: "command", found: format!("version {version} kind {kind}") });
            }
        };
        input.finish()?;
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use streambus_protocol::api::metadata::BrokerEndpoint;
    use streambus_protocol::ids::TopicName;

    use super::*;
    use crate::command::Assignment;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn create_topic() -> Command {
        Command::CreateTopic {
            name: TopicName::new("a.b").unwrap(),
            id: TopicId::from_bytes([0x11; 16]),
            partitions: vec![Assignment { replicas: vec![BrokerId::new(1), BrokerId::new(2)] }],
            config: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            at: Timestamp::from_millis(5),
        }
    }

    fn register() -> Command {
        Command::RegisterBroker {
            incarnation: Incarnation::from_bytes([0x22; 16]),
            endpoint: BrokerEndpoint { id: BrokerId::new(3), host: "h".into(), port: 9092, rack: Some("r".into()) },
            version: "1".into(),
        }
    }

    fn samples() -> Vec<(Command, String)> {
        let id = "11".repeat(16);
        vec![
            (
                Command::FoundCluster { cluster_id: ClusterId::from_bytes([0x33; 16]) },
                format!("0101{}", "33".repeat(16)),
            ),
            (register(), format!("0102{}03000000010000006884230101000000720100000031", "22".repeat(16))),
            (
                create_topic(),
                format!(
                    "010303000000612e62{id}0100000002000000010000000200000001000000010000006b01000000760500000000000000"
                ),
            ),
            (Command::DeleteTopic { id: TopicId::from_bytes([0x11; 16]) }, format!("0104{id}")),
            (
                Command::AddPartitions { id: TopicId::from_bytes([0x11; 16]), new: vec![], expected_count: 4 },
                format!("0105{id}0000000004000000"),
            ),
            (
                Command::AlterTopicConfig {
                    id: TopicId::from_bytes([0x11; 16]),
                    config: BTreeMap::new(),
                    expected_version: 9,
                },
                format!("0106{id}000000000900000000000000"),
            ),
            (
                Command::AllocateProducerIds {
                    broker: BrokerId::new(1),
                    broker_epoch: BrokerEpoch::new(2),
                    count: 1000,
                },
                "0107010000000200000000000000e8030000".to_owned(),
            ),
        ]
    }

    /// Catches: any change of the format of a command that is already in logs.
    #[test]
    fn command_bytes_are_golden() {
        for (command, golden) in samples() {
            assert_eq!(hex(&command.encode()), golden, "{command}");
            assert_eq!(Command::decode(&command.encode()).unwrap(), command);
        }
    }

    /// Catches: a truncated or extended command that decodes as another one.
    #[test]
    fn no_prefix_and_no_extension_decodes() {
        for (command, _) in samples() {
            let bytes = command.encode();
            for cut in 0..bytes.len() {
                assert!(Command::decode(&bytes[..cut]).is_err(), "{command} cut at {cut}");
            }
            let mut longer = bytes;
            longer.push(0);
            assert_eq!(Command::decode(&longer), Err(DecodeError::Trailing { bytes: 1 }));
        }
    }

    /// Catches: guessing at a command written by a newer release.
    #[test]
    fn newer_version_is_named() {
        let mut bytes = create_topic().encode();
        bytes[0] = 2;
        assert_eq!(Command::decode(&bytes), Err(DecodeError::NewerVersion { what: "command", found: 2, newest: 1 }));
    }

    proptest! {
        /// Catches: a panic, or an allocation without bound, on hostile bytes.
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..9) {
            let mut command = vec![1, kind];
            command.extend(bytes);
            if let Ok(decoded) = Command::decode(&command) {
                prop_assert_eq!(decoded.encode(), command);
            }
        }
    }
}
