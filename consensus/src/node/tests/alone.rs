//! A node without peers: starts, proposals, restarts, refusals.

use std::fs;
use std::path::Path;

use streambus_protocol::ids::{BrokerId, ClusterId, DirectoryId, TopicName};
use tokio::time::timeout;

use super::cluster::{PATIENCE, create, endpoint};
use crate::command::Command;
use crate::config::ConsensusConfig;
use crate::error::{NotApplied, ProposeError, StartError, UnknownOutcome};
use crate::identity::{Identity, IdentityError, Phase};
use crate::node::{ConsensusEnv, MetadataNode};
use crate::outcome::RefusedReason;
use crate::types::{RaftId, TypeConfig};

fn random(seed: u8) -> impl FnMut() -> [u8; 16] + Send + 'static {
    let mut count = 0u8;
    move || {
        count += 1;
        let mut bytes = [seed; 16];
        bytes[0] = count;
        bytes
    }
}

async fn start_alone(data: &Path, seed: u8) -> Result<MetadataNode, StartError> {
    let config = ConsensusConfig::alone(data.to_path_buf(), endpoint(1));
    MetadataNode::start(config, ConsensusEnv::alone(BrokerId::new(1), random(seed))).await
}

/// Catches: a start that waits for an election timeout, forgets what it acknowledged, or founds a second cluster.
#[tokio::test]
async fn lone_node_restarts_at_once_with_everything_it_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    let identity = *node.identity();
    let epoch = node.register().await.unwrap();
    assert_eq!(node.register().await.unwrap(), epoch, "one life, one epoch");
    let unfence = |epoch| Command::UnfenceBroker { broker: BrokerId::new(1), epoch };
    node.propose(unfence(epoch)).await.unwrap();
    node.propose(create("t", 9, 1)).await.unwrap();
    let refused = node.propose(create("t", 8, 1)).await;
    assert!(matches!(refused, Err(ProposeError::Refused(RefusedReason::TopicExists { .. }))), "{refused:?}");
    let before = node.image();
    assert_eq!(before.cluster_id, identity.cluster_id);
    node.shutdown().await;
    drop(node);

    let node = start_alone(data.path(), 2).await.unwrap();
    assert_eq!(*node.identity(), identity);
    assert_eq!(node.image().topics, before.topics);
    assert!(node.status().is_leader);
    assert_eq!(node.status().leader, Some(BrokerId::new(1)));
    let again = node.register().await.unwrap();
    assert!(again > epoch, "a new life, a new epoch");
    node.propose(unfence(again)).await.unwrap();
    let partition = node.image().topic_by_name(&TopicName::new("t").unwrap()).unwrap().partitions[0].clone();
    assert_eq!((partition.leader, partition.leader_epoch.get()), (Some(BrokerId::new(1)), 2));
    node.shutdown().await;
}

/// Catches: starting on a disk that is another broker's, another cluster's, or has lost its log or its identity.
#[tokio::test]
async fn foreign_or_incomplete_directories_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    node.shutdown().await;
    drop(node);
    let start = |config| MetadataNode::start(config, ConsensusEnv::alone(BrokerId::new(1), random(5)));
    let refusal = |result: Result<MetadataNode, StartError>| match result {
        Err(StartError::Identity(error)) => error,
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("accepted"),
    };

    let other_broker = ConsensusConfig::alone(data.path().to_path_buf(), endpoint(2));
    assert!(matches!(refusal(start(other_broker).await), IdentityError::OtherBroker { .. }));
    let mut other_cluster = ConsensusConfig::alone(data.path().to_path_buf(), endpoint(1));
    other_cluster.expected_cluster = Some(ClusterId::from_bytes([9; 16]));
    assert!(matches!(refusal(start(other_cluster).await), IdentityError::OtherCluster { .. }));

    let directory = data.path().join("metadata");
    fs::rename(directory.join("db"), directory.join("kept")).unwrap();
    let lost = refusal(start_alone(data.path(), 3).await);
    assert!(lost.to_string().contains("must not vote under its old id"), "{lost}");
    fs::remove_dir_all(directory.join("db")).unwrap();
    fs::rename(directory.join("kept"), directory.join("db")).unwrap();

    fs::rename(directory.join("identity"), directory.join("aside")).unwrap();
    assert!(matches!(refusal(start_alone(data.path(), 3).await), IdentityError::FileMissing { .. }));
    fs::rename(directory.join("aside"), directory.join("identity")).unwrap();
    start_alone(data.path(), 3).await.unwrap().shutdown().await;
}

/// Catches: a first start that was interrupted and can never be completed.
#[tokio::test]
async fn interrupted_formatting_is_completed() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("metadata");
    fs::create_dir_all(&directory).unwrap();
    let identity = Identity {
        cluster_id: ClusterId::from_bytes([4; 16]),
        broker_id: BrokerId::new(1),
        raft_id: RaftId::FOUNDER,
        directory_id: DirectoryId::from_bytes([5; 16]),
    };
    identity.write(&directory, Phase::Formatting).unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    assert_eq!(*node.identity(), identity);
    node.shutdown().await;
}

/// Catches: a proposal to a stopped node that is reported as failed, and a stop nobody hears of.
#[tokio::test]
async fn stopped_node_says_so_and_outcomes_are_unknown() {
    let data = tempfile::tempdir().unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    node.shutdown().await;
    assert_eq!(timeout(PATIENCE, node.stopped()).await.unwrap(), "raft stopped");
    let outcome = node.propose(create("t", 1, 1)).await;
    assert!(matches!(outcome, Err(ProposeError::Unknown(UnknownOutcome::Stopped(_)))), "{outcome:?}");
}

/// Catches: a command in the log that no node could read back.
#[tokio::test]
async fn unreadable_command_never_enters_the_log() {
    let data = tempfile::tempdir().unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    let index = node.status().index;
    let mut command = create("t", 1, 1);
    if let Command::CreateTopic { config, .. } = &mut command {
        config.insert("k".to_owned(), "v".repeat(70_000));
    }
    let outcome = node.propose(command).await;
    assert!(matches!(outcome, Err(ProposeError::NotApplied(NotApplied::Malformed(_)))), "{outcome:?}");
    assert_eq!(node.status().index, index);
    node.shutdown().await;
}

/// Catches: a request that reaches another node or cluster than it was meant for and is answered all the same.
#[tokio::test]
async fn request_for_another_node_is_refused() {
    use crate::peer_service::PeerError;
    use crate::rpc::{Route, Rpc, encode_request};
    use crate::types::Vote;

    let data = tempfile::tempdir().unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    let me = *node.identity();
    let vote = openraft::raft::VoteRequest::<TypeConfig>::new(Vote::new(99, RaftId::new(2)), None);
    let from = RaftId::new(2);
    for (cluster, to) in [(me.cluster_id, RaftId::new(3)), (ClusterId::from_bytes([1; 16]), me.raft_id)] {
        let request = encode_request(Route { cluster, from, to }, &vote);
        let answer = node.inner.peers.call(Rpc::Vote, &request).await;
        assert!(matches!(answer, Err(PeerError::NotMe { .. })), "{answer:?}");
    }
    assert!(node.status().term < 99);
    node.shutdown().await;
}

/// Catches: a snapshot that is damaged, or another than the announced one, and is handed to Raft: this node takes its sender
/// for the controller, takes back its own log, and ends.
#[tokio::test]
async fn damaged_snapshot_changes_nothing_and_its_sender_is_told() {
    use crate::cluster_state::ClusterState;
    use crate::peer_service::PeerError;
    use crate::rpc::{Route, SnapshotHeader, encode_request};
    use crate::snapshot;
    use crate::types::{LeaderId, LogId, SnapshotMeta, Vote};

    let data = tempfile::tempdir().unwrap();
    let node = start_alone(data.path(), 1).await.unwrap();
    let before = node.status();
    // Nobody that this node knows of, and none that it has removed.
    let from = RaftId::new(RaftId::JOINED_MIN.get() + 1_000);
    let leader_id = LeaderId { term: 99, node_id: from };
    let meta = SnapshotMeta { last_log_id: Some(LogId { leader_id, index: 1_000 }), ..SnapshotMeta::default() };
    let route = Route { cluster: node.identity().cluster_id, from, to: node.identity().raft_id };
    let header = SnapshotHeader { vote: Vote { leader_id, committed: true }, meta: meta.clone() };
    let header = encode_request(route, &header);
    let sound = snapshot::encode(&meta, &ClusterState::default());
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    let cut = sound[..sound.len() - 1].to_vec();
    let another = snapshot::encode(&SnapshotMeta::default(), &ClusterState::default());
    for (times, bytes) in (1..).zip([flipped, cut, Vec::new(), another]) {
        let mut sink = node.inner.peers.receive_snapshot().unwrap();
        sink.write(&bytes).unwrap();
        let answer = node.inner.peers.install_snapshot(&header, sink.finish().unwrap()).await;
        let Err(error @ PeerError::SnapshotRefused { .. }) = answer else { panic!("{times}: {answer:?}") };
        assert!(error.to_string().contains(&from.to_string()), "{error}");
        assert_eq!(node.status().snapshots.refused, times);
    }
    let after = node.status();
    assert_eq!((after.term, after.index, after.is_leader), (before.term, before.index, true));
    node.register().await.unwrap();
    node.shutdown().await;
}
