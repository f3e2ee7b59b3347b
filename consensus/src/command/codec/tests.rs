//! Commands: the bytes are fixed, every one is read back, and nothing else is read.

use std::collections::BTreeMap;

use proptest::prelude::*;
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::ids::{PartitionId, PartitionIndex, TopicName};

use super::*;
use crate::command::{Assignment, ClusterEndpoint};

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
        cluster: ClusterEndpoint { host: "c".into(), port: 9093 },
        directory: DirectoryId::from_bytes([0x44; 16]),
        intact: true,
        version: "1".into(),
    }
}

fn join(broker: BrokerId, returns: bool) -> Command {
    let directory = DirectoryId::from_bytes([0x44; 16]);
    Command::JoinNode { broker, directory, host: "h".into(), port: 9093, returns }
}

fn partition() -> PartitionId {
    PartitionId { topic: TopicId::from_bytes([0x11; 16]), partition: PartitionIndex::new(7) }
}

fn samples() -> Vec<(Command, String)> {
    let id = "11".repeat(16);
    let (broker, epoch) = (BrokerId::new(1), BrokerEpoch::new(2));
    vec![
        (Command::FoundCluster { cluster_id: ClusterId::from_bytes([0x33; 16]) }, format!("0201{}", "33".repeat(16))),
        (
            register(),
            format!(
                "0202{}030000000100000068842301010000007201000000638523{}010100000031",
                "22".repeat(16),
                "44".repeat(16)
            ),
        ),
        (
            create_topic(),
            format!(
                "020303000000612e62{id}0100000002000000010000000200000001000000010000006b01000000760500000000000000"
            ),
        ),
        (Command::DeleteTopic { id: TopicId::from_bytes([0x11; 16]) }, format!("0204{id}")),
        (
            Command::AddPartitions { id: TopicId::from_bytes([0x11; 16]), new: vec![], expected_count: 4 },
            format!("0205{id}0000000004000000"),
        ),
        (
            Command::AlterTopicConfig {
                id: TopicId::from_bytes([0x11; 16]),
                config: BTreeMap::new(),
                expected_version: 9,
            },
            format!("0206{id}000000000900000000000000"),
        ),
        (
            Command::AllocateProducerIds { broker: BrokerId::new(1), broker_epoch: BrokerEpoch::new(2), count: 1000 },
            "0207010000000200000000000000e8030000".to_owned(),
        ),
        (Command::FenceBroker { broker, epoch }, "0208010000000200000000000000".to_owned()),
        (Command::UnfenceBroker { broker, epoch }, "0209010000000200000000000000".to_owned()),
        (Command::BeginShutdown { broker, epoch }, "020a010000000200000000000000".to_owned()),
        (
            Command::AlterPartitions {
                broker,
                broker_epoch: epoch,
                proposals: vec![IsrProposal {
                    id: partition(),
                    leader_epoch: LeaderEpoch::new(3),
                    partition_epoch: PartitionEpoch::new(4),
                    isr: vec![IsrMember { broker, epoch }],
                    recovering: true,
                }],
            },
            format!(
                "020b01000000020000000000000001000000{id}0700000003000000040000000100000001000000020000000000000001"
            ),
        ),
        (
            Command::ElectLeaders {
                elections: [ElectionKind::Preferred, ElectionKind::To(broker), ElectionKind::Unclean]
                    .map(|kind| Election { id: partition(), kind })
                    .to_vec(),
            },
            format!("020c03000000{id}0700000001{id}070000000201000000{id}0700000003"),
        ),
        (
            Command::Reassign { id: partition(), replicas: vec![broker, BrokerId::new(2)], throttle: None },
            format!("020d{id}07000000020000000100000002000000"),
        ),
        (
            Command::Reassign { id: partition(), replicas: vec![broker], throttle: Some(1 << 20) },
            format!("0213{id}0700000001000000010000000000100000000000"),
        ),
        (Command::CancelReassign { id: partition() }, format!("020e{id}07000000")),
        (Command::SetDraining { broker, draining: true }, "020f0100000001".to_owned()),
        (Command::RemoveBroker { broker, epoch }, "0210010000000200000000000000".to_owned()),
        (join(broker, false), format!("021101000000{}01000000688523", "44".repeat(16))),
        (join(broker, true), format!("021401000000{}01000000688523", "44".repeat(16))),
        (Command::RemoveNode { raft_id: RaftId::new(9) }, "02120900000000000000".to_owned()),
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
    bytes[0] = 3;
    assert_eq!(Command::decode(&bytes), Err(DecodeError::NewerVersion { what: "command", found: 3, newest: 2 }));
}

proptest! {
    /// Catches: a panic, or an allocation without bound, on hostile bytes.
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..22) {
        let mut command = vec![2, kind];
        command.extend(bytes);
        if let Ok(decoded) = Command::decode(&command) {
            prop_assert_eq!(decoded.encode(), command);
        }
    }
}
