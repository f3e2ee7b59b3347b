//! Disks that come later: emptied ones, new brokers, and old ones whose place was taken.

use std::time::Duration;

use openraft::raft::VoteRequest;
use streambus_protocol::ids::{DirectoryId, TopicName};
use tokio::time::timeout;

use super::cluster::{Cluster, HOST, PATIENCE, broker, create};
use crate::command::Command;
use crate::error::StartError;
use crate::founding::StartPhase;
use crate::hello::{Hello, HelloAnswer, Joined, Wish};
use crate::peer_service::PeerError;
use crate::rpc::{Route, Rpc, decode, encode, encode_request};
use crate::types::{RaftId, TypeConfig, Vote};

/// A vote request of `from`, in a term far ahead, as it reaches broker `to`.
async fn ask_for_vote(cluster: &Cluster, from: RaftId, to: u32) -> Result<Vec<u8>, PeerError> {
    let me = *cluster.nodes[&to].identity();
    let request = VoteRequest::<TypeConfig>::new(Vote::new(999, from), None);
    let route = Route { cluster: me.cluster_id, from, to: me.raft_id };
    cluster.doors[&to].call(Rpc::Vote, &encode_request(route, &request)).await
}

/// Catches: an emptied disk that votes again as its old self, that needs an operator, or leaves its old voter behind;
/// a removed node that is still heard, or that starts again as if nothing had happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptied_disk_joins_under_a_new_id_and_the_old_one_never_votes_again() {
    let mut cluster = Cluster::started().await;
    cluster.host(1).await;
    for wiped in [3, 1] {
        let before = *cluster.nodes[&wiped].identity();
        cluster.kill(wiped).await;
        // What the disk was before, as a backup may bring it back.
        let backup = tempfile::tempdir().unwrap();
        let metadata = cluster.directory(wiped).join("metadata");
        copy(&metadata, &backup.path().join("metadata"));
        cluster.wipe(wiped);
        let rest: Vec<u32> = cluster.running();
        cluster.controller(&rest).await;
        let name = format!("while-{wiped}-was-away");
        cluster.nodes[&2].propose_within(create(&name, u128::from(wiped), HOST), PATIENCE).await.unwrap();

        cluster.start(&[wiped]).await;
        let after = *cluster.nodes[&wiped].identity();
        assert!(after.raft_id >= RaftId::JOINED_MIN, "{after:?}");
        assert_ne!(after.directory_id, before.directory_id);
        assert_eq!(after.cluster_id, before.cluster_id);
        assert!(cluster.nodes[&wiped].image().topic_by_name(&TopicName::new(&name).unwrap()).is_some());
        for n in cluster.running() {
            let voters = cluster.voters(n, |voters| voters.contains(&(after.raft_id, wiped))).await;
            assert_eq!(voters.len(), 3, "{voters:?}");
            assert!(voters.iter().all(|(id, _)| *id != before.raft_id), "{voters:?}");
            let term = cluster.nodes[&n].status().term;
            let answer = ask_for_vote(&cluster, before.raft_id, n).await;
            assert!(matches!(answer, Err(PeerError::SenderRemoved { from }) if from == before.raft_id), "{answer:?}");
            assert!(cluster.nodes[&n].status().term < 999 && term < 999);
        }

        cluster.kill(wiped).await;
        let mut config = cluster.config(wiped);
        config.data_dir = backup.path().to_path_buf();
        let old = timeout(PATIENCE, cluster.begin_with(wiped, config)).await.expect("it must not wait").map(|_| ());
        assert!(matches!(old, Err(StartError::Removed { raft, .. }) if raft == before.raft_id), "{old:?}");
        cluster.start(&[wiped]).await;
    }
    cluster.stop().await;
}

/// Catches: a node that is removed while it is cut off, and waits for a controller for ever, or takes itself for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_node_that_was_removed_ends_and_says_so() {
    let mut cluster = Cluster::new();
    cluster.tuning.session = Duration::from_secs(1);
    cluster.start(&[1, 2, 3]).await;
    let gone = cluster.controller(&[1, 2, 3]).await;
    let epoch = cluster.register(gone, gone).await;
    let rest: Vec<u32> = (1..=3).filter(|n| *n != gone).collect();
    cluster.network.isolate(broker(gone));
    cluster.controller(&rest).await;
    let via = &cluster.nodes[&rest[0]];
    via.propose_within(Command::RemoveBroker { broker: broker(gone), epoch }, PATIENCE).await.unwrap();
    cluster.voters(rest[0], |voters| voters.len() == 2).await;
    let cut_off = cluster.nodes[&gone].clone();
    assert!(cut_off.status().is_leader, "it does not know");
    cluster.network.heal();
    let reason = timeout(PATIENCE, cut_off.stopped()).await.expect("it must not wait for ever");
    assert!(reason.contains("removed from the cluster"), "{reason}");
    // Those that are members go on.
    for n in rest {
        assert!(timeout(Duration::ZERO, cluster.nodes[&n].stopped()).await.is_err(), "broker {n}");
    }
    cluster.stop().await;
}

/// Catches: a removed broker that is told to empty its disk, does, and is told the same again for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_broker_comes_back_with_an_emptied_disk() {
    let mut cluster = Cluster::started().await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let gone = controller % 3 + 1;
    let epoch = cluster.register(controller, gone).await;
    cluster.kill(gone).await;
    let remove = Command::RemoveBroker { broker: broker(gone), epoch };
    cluster.nodes[&controller].propose_within(remove, PATIENCE).await.unwrap();
    cluster.voters(controller, |voters| voters.len() == 2).await;
    let old = timeout(PATIENCE, cluster.begin(gone)).await.expect("it must not wait").map(|_| ());
    assert!(matches!(old, Err(StartError::Removed { .. })), "{old:?}");

    cluster.wipe(gone);
    cluster.start(&[gone]).await;
    let id = cluster.nodes[&gone].identity().raft_id;
    assert!(id >= RaftId::JOINED_MIN);
    cluster.image(gone, |image| image.removed_brokers.is_empty() && image.nodes.contains_key(&id)).await;
    // As any broker that joins, it takes the place of a voter that is missing once it serves.
    let directory = DirectoryId::from_bytes([0x77; 16]);
    let epoch = cluster.nodes[&gone].register_disk(directory, true).await.unwrap();
    let unfence = Command::UnfenceBroker { broker: broker(gone), epoch };
    cluster.nodes[&gone].propose_within(unfence, PATIENCE).await.unwrap();
    cluster.voters(gone, |voters| voters.len() == 3 && voters.contains(&(id, gone))).await;
    cluster.stop().await;
}

/// Catches: a second process under a living broker's id that waits for ever, and one that takes its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_process_under_a_living_broker_id_gives_up_and_says_whose_it_is() {
    let mut cluster = Cluster::started().await;
    // In service, and with sessions that never end here.
    cluster.serve(1, 2).await;
    let holder = cluster.nodes[&1].image().brokers[&broker(2)].clone();
    let before = cluster.nodes[&1].status().nodes;
    let data = tempfile::tempdir().unwrap();
    let mut config = cluster.config(2);
    config.data_dir = data.path().to_path_buf();
    config.tuning.session = Duration::from_millis(200);
    let second = timeout(PATIENCE, cluster.begin_with(2, config)).await.expect("it must not wait for ever");
    let error = second.map(|_| ()).expect_err("the id is taken");
    assert!(
        matches!(&error, StartError::BrokerIdTaken { broker: id, directory, .. }
        if *id == broker(2) && *directory == holder.directory),
        "{error:?}"
    );
    let said = error.to_string();
    assert!(said.contains(&format!("{}:{}", holder.cluster.host, holder.cluster.port)), "{said}");
    assert!(said.contains("broker id 2") && said.contains("broker.id"), "{said}");
    assert_eq!(cluster.nodes[&1].status().nodes.len(), before.len());
    cluster.stop().await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Catches: a disk that was restored from an old copy and is let in: Raft stops the controller when it hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_that_lost_confirmed_entries_is_refused() {
    let mut cluster = Cluster::started().await;
    cluster.host(1).await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let old = if controller == 3 { 2 } else { 3 };
    cluster.kill(old).await;
    let backup = tempfile::tempdir().unwrap();
    let metadata = cluster.directory(old).join("metadata");
    copy(&metadata, backup.path());
    cluster.start(&[old]).await;
    for n in 1..=20 {
        cluster.nodes[&old].propose_within(create(&format!("t{n}"), n, HOST), PATIENCE).await.unwrap();
    }
    // Everything is confirmed, also by this disk.
    let raft_id = cluster.nodes[&old].identity().raft_id;
    let confirmed = |m: &openraft::RaftMetrics<TypeConfig>| {
        let matched = m.replication.as_ref().and_then(|nodes| nodes.get(&raft_id).copied().flatten());
        matched.map(|matched| matched.index) == m.last_log_index
    };
    let raft = &cluster.nodes[&controller].inner.raft;
    raft.wait(Some(PATIENCE)).metrics(confirmed, "confirmed").await.unwrap();
    cluster.kill(old).await;
    cluster.wipe(old);
    copy(backup.path(), &metadata);
    let refused = timeout(PATIENCE, cluster.begin(old)).await.expect("it must not wait").map(|_| ());
    assert!(matches!(refused, Err(StartError::LogLost { raft, .. }) if raft == raft_id), "{refused:?}");
    cluster.nodes[&controller].propose(create("on", 99, HOST)).await.unwrap();
    // Emptied, as the message says, it is welcome.
    cluster.wipe(old);
    cluster.start(&[old]).await;
    assert_eq!(cluster.nodes[&old].image().topic_count(), 21);
    cluster.stop().await;
}

/// Catches: a join that was interrupted and draws a second id, so that the first stays in the membership for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_join_goes_on_under_the_same_id() {
    let mut cluster = Cluster::started().await;
    cluster.kill(3).await;
    cluster.wipe(3);
    // The cluster gives ids, but the answers do not arrive.
    for n in [1, 2] {
        cluster.network.cut(broker(n), broker(3));
    }
    let mut joining = Box::pin(cluster.begin(3));
    assert!(futures::poll!(&mut joining).is_pending());
    drop(joining);
    cluster.network.heal();
    cluster.controller(&[1, 2]).await;
    let mut joining = Box::pin(cluster.begin(3));
    let asks = |phase: &StartPhase| matches!(phase, StartPhase::Joining { .. });
    tokio::select! {
        _ = &mut joining => panic!("the phase comes first"),
        () = cluster.phase(3, asks) => {}
    }
    let asked = |n: u32| {
        let cluster = &cluster;
        async move { cluster.image(n, |image| !image.nodes.is_empty()).await.nodes.clone() }
    };
    tokio::select! {
        _ = &mut joining => {}
        _ = asked(1) => {}
    }
    drop(joining);
    cluster.start(&[3]).await;
    let id = cluster.nodes[&3].identity().raft_id;
    cluster.voters(3, |voters| voters.contains(&(id, 3)) && voters.len() == 3).await;
    assert_eq!(cluster.nodes[&3].image().nodes.keys().collect::<Vec<_>>(), [&id], "one disk, one id");
    cluster.stop().await;
}

/// Catches: a second process under a broker id that is alive, which takes its voter away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_broker_id_is_refused() {
    let cluster = Cluster::started().await;
    cluster.serve(1, 3).await;
    let hello = Hello {
        from: broker(3),
        to: broker(1),
        founders: (1..=3).map(broker).collect(),
        disk: None,
        wish: Wish::Join {
            cluster: cluster.nodes[&1].identity().cluster_id,
            directory: streambus_protocol::ids::DirectoryId::from_bytes([77; 16]),
            host: "elsewhere".to_owned(),
            port: 1,
        },
    };
    let answer = cluster.doors[&1].handle_hello(&encode(&hello)).await.unwrap();
    let introduction = decode::<HelloAnswer>(&answer).unwrap().unwrap();
    match introduction.joined {
        Some(Joined::Taken(holder)) => {
            let registered = cluster.nodes[&1].image().brokers[&broker(3)].clone();
            assert_eq!((holder.epoch, holder.directory), (registered.epoch, registered.directory));
            assert_eq!((holder.host, holder.port), (registered.cluster.host, registered.cluster.port));
        }
        other => panic!("{other:?}"),
    }
    let hello = Hello { to: broker(3), wish: Wish::Nothing, ..hello };
    let answer = cluster.doors[&3].handle_hello(&encode(&hello)).await.unwrap();
    let reason = decode::<HelloAnswer>(&answer).unwrap().unwrap_err();
    assert!(reason.contains("another process uses the same broker id"), "{reason}");
    cluster.voters(1, |voters| voters.len() == 3).await;
    cluster.stop().await;
}

/// Makes the controller hold all it has applied as a snapshot only; returns the index of the last entry in it.
pub(super) async fn let_log_go(cluster: &Cluster, controller: u32) -> u64 {
    let raft = &cluster.nodes[&controller].inner.raft;
    let index = cluster.nodes[&controller].image().applied;
    raft.trigger().snapshot().await.unwrap();
    raft.wait(Some(PATIENCE)).metrics(|m| m.snapshot.is_some_and(|s| s.index >= index), "snapshot").await.unwrap();
    raft.trigger().purge_log(index).await.unwrap();
    raft.wait(Some(PATIENCE)).metrics(|m| m.purged.is_some_and(|p| p.index >= index), "purged").await.unwrap();
    index
}

/// Catches: a new broker that never catches up behind a purged log, becomes a voter unasked, or cannot propose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_broker_learns_from_a_snapshot_and_proposes_through_the_controller() {
    let mut cluster = Cluster::started().await;
    cluster.host(1).await;
    for n in 1..=20 {
        cluster.nodes[&1].propose_within(create(&format!("t{n}"), n, HOST), PATIENCE).await.unwrap();
    }
    let controller = cluster.controller(&[1, 2, 3]).await;
    let_log_go(&cluster, controller).await;

    cluster.start(&[4]).await;
    let image = cluster.nodes[&4].image();
    assert_eq!(image.topic_count(), 20);
    assert!(cluster.nodes[&4].identity().raft_id >= RaftId::JOINED_MIN);
    cluster.nodes[&4].propose_within(create("from-4", 99, HOST), PATIENCE).await.unwrap();
    let name = TopicName::new("from-4").unwrap();
    assert!(cluster.nodes[&4].image().topic_by_name(&name).is_some(), "a proposer sees what it proposed");
    let voters = cluster.voters(4, |voters| voters.len() == 3).await;
    assert!(voters.iter().all(|(_, n)| *n != 4), "{voters:?}");
    cluster.stop().await;
}

/// Catches: a follower that was away beyond the purged log and never catches up, or catches up to another state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_broker_catches_up_by_snapshot() {
    let mut cluster = Cluster::started().await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let away = if controller == 3 { 2 } else { 3 };
    cluster.kill(away).await;
    cluster.host(controller).await;
    for n in 1..=20 {
        cluster.nodes[&controller].propose_within(create(&format!("t{n}"), n, HOST), PATIENCE).await.unwrap();
    }
    let index = let_log_go(&cluster, controller).await;
    cluster.start(&[away]).await;
    let caught_up = cluster.reached(away, index).await;
    assert_eq!(caught_up.topics, cluster.nodes[&controller].image().topics);
    assert_eq!(caught_up.topic_count(), 20);
    cluster.stop().await;
}

/// Catches: a disk that is refused as one whose log went back, although it has all it had confirmed: a snapshot that it
/// took is on the disk before that is said, and a power cut then takes the change of the log behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_with_a_snapshot_ahead_of_its_log_is_let_in() {
    let mut cluster = Cluster::started().await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let away = if controller == 3 { 2 } else { 3 };
    cluster.kill(away).await;
    let database = cluster.directory(away).join("metadata").join("db");
    let backup = tempfile::tempdir().unwrap();
    copy(&database, backup.path());
    cluster.host(controller).await;
    for n in 1..=20 {
        cluster.nodes[&controller].propose_within(create(&format!("t{n}"), n, HOST), PATIENCE).await.unwrap();
    }
    let index = let_log_go(&cluster, controller).await;
    cluster.start(&[away]).await;
    cluster.reached(away, index).await;
    let status = cluster.nodes[&away].status();
    assert_eq!(status.snapshots.installed, 1, "{status:?}");
    let raft_id = cluster.nodes[&away].identity().raft_id;
    let confirmed = |m: &openraft::RaftMetrics<TypeConfig>| {
        let matched = m.replication.as_ref().and_then(|nodes| nodes.get(&raft_id).copied().flatten());
        matched.is_some_and(|matched| matched.index >= index)
    };
    let raft = &cluster.nodes[&controller].inner.raft;
    raft.wait(Some(PATIENCE)).metrics(confirmed, "confirmed").await.unwrap();
    cluster.kill(away).await;
    // The power cut: the database as it was synced last, the snapshot as it was taken.
    std::fs::remove_dir_all(&database).unwrap();
    copy(backup.path(), &database);

    cluster.start(&[away]).await;
    assert_eq!(cluster.reached(away, index).await.topic_count(), 20);
    cluster.nodes[&away].propose_within(create("after", 99, HOST), PATIENCE).await.unwrap();
    cluster.stop().await;
}
