//! A disk that is far behind the log that is left: it learns from a snapshot, and nobody counts on it.

use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinSet;

use super::cluster::{Cluster, HOST, PATIENCE, broker, create};
use super::joining::let_log_go;
use crate::command::Command;
use crate::config::Tuning;
use crate::error::ProposeError;
use crate::network::Lane;
use crate::node::membership::{NodeRole, NodeStatus};
use crate::rpc::Rpc;

/// Entries that the new disk lacks.
const ENTRIES: usize = 10_500;
/// Proposals at once, fewer than Raft's queue takes.
const TOGETHER: usize = 250;

/// Waits until broker `n`'s log begins far behind its beginning.
async fn beginning_gone(cluster: &Cluster, n: u32) {
    let raft = &cluster.nodes[&n].inner.raft;
    raft.wait(Some(PATIENCE)).metrics(|m| m.purged.is_some_and(|id| id.index > 2_000), "purged").await.unwrap();
}

/// Waits until snapshots were sent to broker `n` so often.
async fn sent_snapshots(cluster: &Cluster, n: u32, times: usize) {
    let sent = async {
        let mut glances = tokio::time::interval(Duration::from_millis(20));
        while cluster.network.calls(broker(n), Lane::Snapshot, Rpc::Snapshot) < times {
            glances.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, sent).await.expect("it is sent no snapshot");
}

/// The new broker's node, as the controller has it.
fn new_node(cluster: &Cluster, controller: u32) -> NodeStatus {
    let nodes = cluster.nodes[&controller].status().nodes;
    nodes.into_iter().find(|node| node.broker == broker(4)).expect("it is a member")
}

/// Catches: a learner that is sent a log of which the beginning is gone, for ever; one whose confirmations count towards a
/// quorum; one that becomes a voter before it has caught up; and a controller that a learner keeps from deciding.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learner_ten_thousand_entries_behind_takes_a_snapshot_and_never_counts() {
    let mut cluster = Cluster::new();
    cluster.tuning = Tuning { snapshot_entries: 2_000, kept_entries: 100, ..cluster.tuning };
    cluster.start(&[1, 2, 3]).await;
    cluster.host(1).await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let broker_epoch = cluster.nodes[&controller].image().brokers[&broker(HOST)].epoch;
    let allocate = || Command::AllocateProducerIds { broker: broker(HOST), broker_epoch, count: 1 };
    for _ in 0..ENTRIES / TOGETHER {
        let node = &cluster.nodes[&controller];
        let proposed = join_all((0..TOGETHER).map(|_| node.propose_within(allocate(), PATIENCE))).await;
        assert!(proposed.iter().all(Result::is_ok), "{:?}", proposed.into_iter().find(Result::is_err));
    }
    let status = cluster.nodes[&controller].status();
    assert!(status.is_leader && status.index > 10_000, "{status:?}");
    beginning_gone(&cluster, controller).await;
    assert!(cluster.nodes[&controller].status().snapshots.built > 0);

    // No snapshot arrives: it stays behind for as long as that.
    cluster.network.lose(Lane::Snapshot, Rpc::Snapshot);
    let mut joining = JoinSet::new();
    joining.spawn(cluster.begin(4));
    sent_snapshots(&cluster, 4, 1).await;
    let newcomer = new_node(&cluster, controller);
    assert_eq!(newcomer.role, NodeRole::Learner, "it has nothing yet");
    assert!(newcomer.lag.is_none_or(|lag| lag > 10_000), "{newcomer:?}");
    // Two of three voters are a majority, whatever a learner lacks.
    let gone = if controller == 3 { 2 } else { 3 };
    cluster.network.isolate(broker(gone));
    cluster.nodes[&controller].propose(create("without-a-voter", 1, HOST)).await.unwrap();
    cluster.network.heal();

    let joined = tokio::time::timeout(PATIENCE, joining.join_next()).await.expect("it never has everything");
    let learner = joined.expect("one task").unwrap().unwrap();
    cluster.run(4, learner);
    let applied = cluster.nodes[&controller].image().applied;
    cluster.reached(4, applied).await;
    beginning_gone(&cluster, 4).await;
    let status = cluster.nodes[&4].status();
    assert!(status.snapshots.installed > 0, "{status:?}");

    // Now it has everything and confirms what it is sent. Three voters are enough, so it stays what it is.
    let controller = cluster.controller(&[1, 2, 3]).await;
    for voter in (1..=3).filter(|voter| *voter != controller) {
        cluster.network.isolate(broker(voter));
    }
    let before = cluster.nodes[&controller].status();
    let short = Duration::from_millis(200);
    let alone = cluster.nodes[&controller].propose_within(create("with-a-learner", 2, HOST), short).await;
    assert!(matches!(alone, Err(ProposeError::Unknown(_))), "a controller and a learner are no majority: {alone:?}");
    for n in [controller, 4] {
        assert!(cluster.nodes[&n].image().applied <= before.last_index, "broker {n} applied what nobody decided");
    }
    assert_eq!(new_node(&cluster, controller).role, NodeRole::Learner);
    cluster.network.heal();
    cluster.nodes[&4].propose_within(create("healed", 3, HOST), PATIENCE).await.unwrap();
    cluster.stop().await;
}

/// Catches: a broker that ends because a snapshot arrived damaged, or installs it; and a sender that gives up after one was
/// refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_snapshot_is_refused_until_a_sound_one_comes() {
    let mut cluster = Cluster::started().await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let away = if controller == 3 { 2 } else { 3 };
    cluster.kill(away).await;
    cluster.host(controller).await;
    cluster.nodes[&controller].propose_within(create("missed", 1, HOST), PATIENCE).await.unwrap();
    let index = let_log_go(&cluster, controller).await;

    cluster.network.damage_snapshots();
    let mut returning = JoinSet::new();
    returning.spawn(cluster.begin(away));
    // One follows another: when the third is on its way, two were refused.
    sent_snapshots(&cluster, away, 3).await;
    cluster.network.heal();
    let returned = tokio::time::timeout(PATIENCE, returning.join_next()).await.expect("it never has everything");
    cluster.run(away, returned.expect("one task").unwrap().unwrap());
    assert_eq!(cluster.reached(away, index).await.topics, cluster.nodes[&controller].image().topics);
    let status = cluster.nodes[&away].status();
    assert!(status.snapshots.refused >= 2 && status.snapshots.installed >= 1, "{status:?}");
    cluster.nodes[&away].propose_within(create("after", 2, HOST), PATIENCE).await.unwrap();
    cluster.stop().await;
}
