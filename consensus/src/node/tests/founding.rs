//! Several brokers become one cluster, in whatever order they start and whoever dies meanwhile.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::cluster::{Cluster, HOST, PATIENCE, broker, create};
use crate::config::Bootstrap;
use crate::error::StartError;
use crate::founding::{FoundingRefused, StartPhase};
use crate::types::RaftId;

use std::path::Path;
use std::time::Duration;

use futures::future::{Either, select};
use streambus_protocol::ids::{ClusterId, TopicName};
use tokio::time::{Instant, timeout};

/// Every founder votes under its founder's id, all have the same cluster, and a command reaches all of them.
async fn check_founded(cluster: &Cluster) {
    let voters = cluster.voters(1, |voters| voters.len() == 3).await;
    assert_eq!(voters, (1..=3).map(|n| (RaftId::new(u64::from(n)), n)).collect::<Vec<_>>());
    let id = cluster.nodes[&1].identity().cluster_id;
    for n in cluster.running() {
        assert_eq!(cluster.nodes[&n].identity().cluster_id, id, "broker {n}");
        cluster.register(n, n).await;
    }
    for n in cluster.running() {
        let image = cluster.image(n, |image| image.brokers.len() == 3).await;
        assert_eq!(image.cluster_id, id, "broker {n}");
    }
}

/// Catches: a founding that depends on who starts first, two cluster ids, a founder that never gets in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_brokers_found_one_cluster_whoever_starts_first() {
    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        let mut cluster = Cluster::new();
        let mut starts = tokio::task::JoinSet::new();
        for n in order {
            let start = cluster.begin(n);
            starts.spawn(async move { (n, start.await) });
            // The next one starts once this one has looked at its disk and asks around.
            cluster.phase(n, |phase| *phase != StartPhase::Opening).await;
        }
        while let Some(started) = timeout(PATIENCE, starts.join_next()).await.expect("no cluster is founded") {
            let (n, node) = started.unwrap();
            cluster.run(n, node.unwrap_or_else(|e| panic!("order {order:?}, broker {n}: {e}")));
        }
        check_founded(&cluster).await;
        cluster.stop().await;
    }
}

/// Catches: a founding that a crash at any moment makes impossible, or turns into two clusters; an id that is drawn
/// anew after a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_that_are_killed_while_founding_found_one_cluster_all_the_same() {
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::new();
        // Kill some starts at a random moment of the first second, then let everybody start again.
        let mut doomed = tokio::task::JoinSet::new();
        for n in 1..=3 {
            let start = cluster.begin(n);
            let life = Duration::from_micros(rng.random_range(0..1_000_000));
            doomed.spawn(async move {
                if let Ok(Ok(node)) = timeout(life, start).await {
                    node.shutdown().await;
                }
            });
        }
        while let Some(ended) = doomed.join_next().await {
            ended.unwrap();
        }
        cluster.start(&[3, 2, 1]).await;
        check_founded(&cluster).await;
        cluster.stop().await;
    }
}

/// Catches: a cluster that cannot be founded while one of three machines is away, or only after that one was waited for at
/// each step anew; a founder that comes late and votes under an id under which it was never known to be empty, or is never
/// let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_found_the_cluster_and_the_third_joins_it() {
    let mut cluster = Cluster::new();
    cluster.patience = Duration::from_secs(5);
    let began = Instant::now();
    cluster.start(&[1, 2]).await;
    let took = began.elapsed();
    assert!(took >= cluster.patience && took < cluster.patience * 2, "{took:?}");
    cluster.host(1).await;
    cluster.nodes[&2].propose_within(create("t", 1, HOST), PATIENCE).await.unwrap();
    cluster.start(&[3]).await;
    assert!(cluster.nodes[&3].identity().raft_id >= RaftId::JOINED_MIN);
    assert!(cluster.nodes[&3].image().topic_by_name(&TopicName::new("t").unwrap()).is_some());
    let joined = cluster.nodes[&3].identity().raft_id;
    let voters = cluster.voters(3, |voters| voters.contains(&(joined, 3))).await;
    assert_eq!(voters.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1, 2, 3]);
    cluster.stop().await;
}

/// Catches: founding by a minority, or before the patience is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_founds_nothing() {
    let mut cluster = Cluster::new();
    cluster.patience = Duration::ZERO;
    let mut start = Box::pin(cluster.begin(1));
    let waiting = |phase: &StartPhase| *phase == StartPhase::WaitingForFounders { missing: vec![broker(2), broker(3)] };
    match select(&mut start, Box::pin(cluster.phase(1, waiting))).await {
        Either::Left((ended, _)) => panic!("started alone: {:?}", ended.map(|_| ())),
        Either::Right(((), _)) => {}
    }
    drop(start);
    assert!(!cluster.directory(1).join("metadata").join("identity").exists(), "nothing is promised yet");
}

/// Catches: brokers that were told different peers and found a cluster all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn different_peers_found_nothing_and_are_told_apart() {
    let mut cluster = Cluster::new();
    let mut other = cluster.config(2);
    if let Bootstrap::Peers { peers, .. } = &mut other.bootstrap {
        peers.remove(&broker(3));
    }
    let mut starts = tokio::task::JoinSet::new();
    let (one, two) = (cluster.begin(1), cluster.begin_with(2, other));
    starts.spawn(one);
    starts.spawn(two);
    for n in [1, 2] {
        cluster.phase(n, |phase| *phase != StartPhase::Opening).await;
    }
    let hello = crate::hello::Hello {
        from: broker(2),
        to: broker(1),
        founders: [broker(1), broker(2)].into(),
        disk: None,
        wish: crate::hello::Wish::Nothing,
    };
    let answer = cluster.doors[&1].handle_hello(&crate::rpc::encode(&hello)).await.unwrap();
    let refused = crate::rpc::decode::<crate::hello::HelloAnswer>(&answer).unwrap().unwrap_err();
    assert!(refused.contains("the configured peers differ"), "{refused}");
    starts.shutdown().await;
    for n in [1, 2] {
        assert!(!cluster.directory(n).join("metadata").join("identity").exists(), "broker {n}");
    }
}

/// Catches: a disk of another cluster that is taken in, or keeps its start waiting without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_of_another_cluster_is_refused() {
    let mut elsewhere = Cluster::started().await;
    let mut here = Cluster::started().await;
    let foreign = elsewhere.nodes[&3].identity().cluster_id;
    elsewhere.kill(3).await;
    here.kill(3).await;
    let mut config = here.config(3);
    config.data_dir = elsewhere.directory(3);
    let start = here.begin_with(3, config.clone());
    match timeout(PATIENCE, start).await.expect("it must not wait").map(|_| ()) {
        Err(StartError::OtherCluster { directory, replicated }) => {
            assert_eq!((directory, replicated), (foreign, here.nodes[&1].identity().cluster_id));
        }
        other => panic!("{other:?}"),
    }
    config.expected_cluster = Some(ClusterId::from_bytes([9; 16]));
    let refused = timeout(PATIENCE, here.begin_with(3, config)).await.unwrap().map(|_| ());
    assert!(matches!(refused, Err(StartError::Identity(_))), "{refused:?}");
    elsewhere.stop().await;
    here.stop().await;
}

/// A disk that was a cluster of one, under broker 1 of `cluster`, and that cluster's id.
async fn lone_disk(cluster: &mut Cluster, data: &Path) -> ClusterId {
    let mut config = cluster.config(1);
    config.data_dir = data.to_path_buf();
    config.bootstrap = Bootstrap::Alone;
    let node = cluster.begin_with(1, config).await.unwrap();
    let id = node.identity().cluster_id;
    node.shutdown().await;
    cluster.network.detach(broker(1));
    id
}

/// Catches: a former cluster of one that is its own controller and serves beside the cluster it was given as peers;
/// a refusal that leaves marks on its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lone_disk_with_peers_of_another_cluster_is_refused_and_left_alone() {
    let mut here = Cluster::started().await;
    here.kill(1).await;
    let data = tempfile::tempdir().unwrap();
    let mut elsewhere = Cluster::new();
    let foreign = lone_disk(&mut elsewhere, data.path()).await;
    let mut config = here.config(1);
    config.data_dir = data.path().to_path_buf();
    let refused = timeout(PATIENCE, here.begin_with(1, config)).await.expect("it must not wait").map(|_| ());
    let told = match refused {
        Err(error @ StartError::OtherCluster { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    for id in [foreign, here.nodes[&2].identity().cluster_id] {
        assert!(told.contains(&id.to_string()), "{told}");
    }
    // Without peers it is what it was.
    assert_eq!(lone_disk(&mut elsewhere, data.path()).await, foreign);
    here.start(&[1]).await;
    here.stop().await;
}

/// Catches: a former cluster of one that serves because nobody was there to object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lone_disk_whose_peers_are_silent_is_refused() {
    let mut cluster = Cluster::new();
    cluster.patience = Duration::from_millis(300);
    let data = cluster.directory(1);
    let lone = lone_disk(&mut cluster, &data).await;
    match timeout(PATIENCE, cluster.begin(1)).await.expect("it must not wait for ever").map(|_| ()) {
        Err(StartError::PeersSilent { directory, silent, .. }) => {
            assert_eq!((directory, silent), (lone, vec![broker(2), broker(3)]));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(lone_disk(&mut cluster, &data).await, lone);
}

/// Catches: a cluster of one that cannot grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_peers_join_what_was_a_cluster_of_one() {
    let mut cluster = Cluster::new();
    let data = cluster.directory(1);
    let lone = lone_disk(&mut cluster, &data).await;
    let mut starts = tokio::task::JoinSet::new();
    for n in 1..=3 {
        let start = cluster.begin(n);
        starts.spawn(async move { (n, start.await) });
    }
    // The controller lets the others in as soon as it runs, and lets them vote once they are in service.
    while let Some(started) = timeout(PATIENCE, starts.join_next()).await.expect("the brokers do not start") {
        let (n, node) = started.unwrap();
        cluster.run(n, node.unwrap_or_else(|e| panic!("broker {n}: {e}")));
    }
    for n in 1..=3 {
        cluster.serve(1, n).await;
    }
    for n in 1..=3 {
        assert_eq!(cluster.nodes[&n].identity().cluster_id, lone, "broker {n}");
        cluster.voters(n, |voters| voters.len() == 3).await;
    }
    // Grown, it starts like any other.
    cluster.kill(1).await;
    cluster.start(&[1]).await;
    cluster.stop().await;
}

/// Catches: peers of two clusters taken for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_disk_between_two_clusters_is_refused() {
    let mut one = Cluster::started().await;
    let two = Cluster::started().await;
    one.kill(2).await;
    one.kill(3).await;
    one.wipe(3);
    one.network.attach(two.doors[&2].clone());
    let refused = timeout(PATIENCE, one.begin(3)).await.expect("it must not wait").map(|_| ());
    assert!(matches!(refused, Err(StartError::Peers(FoundingRefused::TwoClusters { .. }))), "{refused:?}");
    one.stop().await;
    two.stop().await;
}

/// Catches: a restart of everybody that loses what was acknowledged, or never finds a controller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_restart_with_everything_acknowledged() {
    let mut cluster = Cluster::started().await;
    cluster.host(2).await;
    for n in 0..10 {
        let via = cluster.running()[n % 3];
        cluster.nodes[&via].propose_within(create(&format!("t{n}"), n as u128 + 1, HOST), PATIENCE).await.unwrap();
    }
    let identities: Vec<_> = cluster.nodes.values().map(|node| *node.identity()).collect();
    for n in 1..=3 {
        cluster.kill(n).await;
    }
    cluster.start(&[1, 2, 3]).await;
    assert_eq!(cluster.nodes.values().map(|node| *node.identity()).collect::<Vec<_>>(), identities);
    for n in 1..=3 {
        assert_eq!(cluster.nodes[&n].image().topic_count(), 10, "broker {n} had shown them");
    }
    cluster.stop().await;
}
