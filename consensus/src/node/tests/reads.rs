//! What a node may say that it has seen everything by: of a quorum, of a lease, and never of itself alone.

use std::time::Duration;

use super::cluster::{Cluster, HOST, PATIENCE, broker, create};
use super::office::elect_another;
use crate::network::Lane;
use crate::rpc::Rpc;

/// Below a lease.
const SHORT: Duration = Duration::from_millis(100);

/// Catches: a read that claims a quorum's word and has only the controller's lease, or not even that; and a lease that does
/// not end, so that a former controller denies for ever what its successor has made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_controller_confirms_nothing_by_a_quorum_and_soon_nothing_by_its_lease() {
    let cluster = Cluster::started().await;
    cluster.host(1).await;
    let old = cluster.controller(&[1, 2, 3]).await;
    let node = &cluster.nodes[&old];
    node.lease_read_within(PATIENCE).await.unwrap();
    cluster.network.isolate(broker(old));
    // It has a lease still, which would do for the other kind of read.
    assert!(node.read_index_within(SHORT).await.is_err(), "no quorum has said so");
    let rest: Vec<u32> = cluster.running().into_iter().filter(|n| *n != old).collect();
    let new = cluster.controller(&rest).await;
    cluster.nodes[&new].propose_within(create("during", 1, HOST), PATIENCE).await.unwrap();
    // Somebody else was elected: its lease is over.
    assert!(node.lease_read_within(SHORT).await.is_err(), "it may have been succeeded, and was");
    for n in rest {
        cluster.nodes[&n].lease_read_within(PATIENCE).await.unwrap();
        assert_eq!(cluster.nodes[&n].image().topic_count(), 1, "broker {n} asked the new controller");
    }
    cluster.network.heal();
    node.lease_read_within(PATIENCE).await.unwrap();
    assert_eq!(node.image().topic_count(), 1);
    cluster.stop().await;
}

/// Catches: a new controller that answers reads before the entry that it began with is committed. Until then it does not know
/// how much of what it has its predecessors acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_controller_confirms_nothing_before_its_first_entry_is_committed() {
    let cluster = Cluster::started().await;
    // Heartbeats are answered, so that it has a lease and a quorum's word.
    let controller = elect_another(&cluster, &[(Lane::Log, Rpc::Append)]).await;
    let node = &cluster.nodes[&controller];
    let lease = cluster.tuning.election_max;
    assert!(node.read_index_within(lease).await.is_err(), "by a quorum");
    assert!(node.lease_read_within(lease).await.is_err(), "by its lease");
    cluster.network.heal();
    node.read_index_within(PATIENCE).await.unwrap();
    node.lease_read_within(PATIENCE).await.unwrap();
    cluster.stop().await;
}
