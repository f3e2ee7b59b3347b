//! The controller's office: who is heard, who is fenced, and how it passes on.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use parking_lot::Mutex;
use streambus_protocol::epoch::BrokerEpoch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use super::cluster::{Cluster, HOST, PATIENCE, broker, create};
use crate::command::Command;
use crate::controller::liveness::{Heartbeat, Wants};
use crate::error::TransferError;
use crate::heartbeat::{HeartbeatAnswer, HeartbeatError, ShutdownProgress};
use crate::network::Lane;
use crate::node::MetadataNode;
use crate::node::control_loop::REFUSED_PAUSE;
use crate::rpc::Rpc;
use crate::types::RaftId;

/// The heartbeats of several brokers, as their processes send them.
#[derive(Default)]
struct Pulse {
    beating: BTreeMap<u32, JoinSet<()>>,
    wants: std::sync::Arc<Mutex<BTreeMap<u32, Wants>>>,
    answers: std::sync::Arc<Mutex<BTreeMap<u32, HeartbeatAnswer>>>,
}

impl Pulse {
    /// Registers the broker's life and begins to beat.
    async fn begin(&mut self, n: u32, node: &MetadataNode) {
        let epoch = node.register_disk(node.identity().directory_id, true).await.unwrap();
        let (node, answers, wants) = (node.clone(), self.answers.clone(), self.wants.clone());
        let beats = async move {
            let mut ticks = interval(Duration::from_millis(50));
            loop {
                ticks.tick().await;
                let beat = Heartbeat {
                    broker: broker(n),
                    epoch,
                    applied: node.image().applied,
                    wants: wants.lock().get(&n).copied().unwrap_or(Wants::Serve),
                    unanswered: Duration::ZERO,
                    disk_used_bytes: 0,
                    disk_free_bytes: 1,
                    problem: None,
                    wants_disks: false,
                };
                if let Ok(answer) = node.heartbeat(beat).await {
                    answers.lock().insert(n, answer);
                }
            }
        };
        self.beating.entry(n).or_default().spawn(beats);
    }

    async fn end(&mut self, n: u32) {
        self.beating.remove(&n).unwrap().shutdown().await;
    }
}

async fn fenced(cluster: &Cluster, via: u32, expected: &[u32]) {
    let fenced = |image: &std::sync::Arc<crate::image::ClusterImage>| {
        let fenced = image.brokers.iter().filter(|(id, b)| b.fenced && id.get() != HOST);
        fenced.map(|(id, _)| id.get()).collect::<Vec<_>>() == expected
    };
    cluster.image(via, |image| image.brokers.len() >= 3 && fenced(image)).await;
}

/// Catches: heartbeats that only the controller's own broker can send, a broker that is never put into service, one
/// that is silent and stays in it, one that is fenced although it is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heard_brokers_serve_and_silent_ones_are_fenced() {
    let mut cluster = Cluster::new();
    cluster.tuning.session = Duration::from_secs(2);
    cluster.start(&[1, 2, 3]).await;
    let mut pulse = Pulse::default();
    for n in 1..=3 {
        pulse.begin(n, &cluster.nodes[&n]).await;
    }
    fenced(&cluster, 1, &[]).await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let silent = if controller == 1 { 2 } else { 1 };
    pulse.end(silent).await;
    fenced(&cluster, 3, &[silent]).await;
    pulse.begin(silent, &cluster.nodes[&silent]).await;
    fenced(&cluster, 3, &[]).await;
    for n in 1..=3 {
        let answer = pulse.answers.lock()[&n].clone();
        assert_eq!((answer.controller, answer.unknown_registration), (broker(controller), false));
        assert_eq!(answer.disks, [], "not asked for");
    }
    cluster.stop().await;
}

/// Catches: a dead broker that leads until its session is over although its machine says that it is gone, also when
/// the controller died with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_process_is_fenced_at_once() {
    for controller_dies in [false, true] {
        // Its sessions never end.
        let mut cluster = Cluster::started().await;
        let mut pulse = Pulse::default();
        for n in 1..=3 {
            pulse.begin(n, &cluster.nodes[&n]).await;
        }
        fenced(&cluster, 1, &[]).await;
        let controller = cluster.controller(&[1, 2, 3]).await;
        let follower = if controller == 1 { 2 } else { 1 };
        let dead = if controller_dies { controller } else { follower };
        pulse.end(dead).await;
        cluster.kill(dead).await;
        let via = cluster.running()[0];
        fenced(&cluster, via, &[dead]).await;
        cluster.stop().await;
    }
}

/// Catches: a controller that had no majority for longer than a session and then fences everybody, since it refused to
/// hear them all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controller_that_had_no_majority_fences_nobody_for_it() {
    let mut cluster = Cluster::new();
    cluster.tuning.session = Duration::from_secs(2);
    cluster.start(&[1, 2, 3]).await;
    let mut pulse = Pulse::default();
    for n in 1..=3 {
        pulse.begin(n, &cluster.nodes[&n]).await;
    }
    fenced(&cluster, 1, &[]).await;
    // Whoever is fenced, if only for a moment, loses what it leads.
    for n in 1..=3 {
        cluster.nodes[&1].propose(create(&format!("of-{n}"), u128::from(n), n)).await.unwrap();
    }
    for n in 1..=3 {
        cluster.network.isolate(broker(n));
    }
    let nothing = std::future::pending::<()>;
    assert!(timeout(cluster.tuning.session * 2, nothing()).await.is_err());
    cluster.network.heal();
    assert!(timeout(cluster.tuning.session, nothing()).await.is_err());
    let image = cluster.reached(1, cluster.nodes[&1].read_index().await.unwrap()).await;
    assert_eq!(image.topic_count(), 3);
    for (id, _, partition) in image.partitions() {
        assert!(partition.leader.is_some() && partition.leader_epoch.get() == 0, "{id}: {partition:?}");
    }
    for n in 1..=3 {
        pulse.end(n).await;
    }
    cluster.stop().await;
}

/// Catches: a new controller that gives the former one, which it has not heard since, a whole session more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_former_controller_has_only_the_rest_of_its_session() {
    let cluster = Cluster::started().await;
    let former = cluster.controller(&[1, 2, 3]).await;
    for n in 1..=3 {
        let node = &cluster.nodes[&n];
        node.register_disk(node.identity().directory_id, true).await.unwrap();
    }
    // Sessions begin with what the next controller knows when it takes office.
    for n in 1..=3 {
        cluster.image(n, |image| image.brokers.len() == 3).await;
    }
    cluster.network.isolate(broker(former));
    let others: Vec<u32> = (1..=3).filter(|n| *n != former).collect();
    let controller = cluster.controller(&others).await;
    let third = others.into_iter().find(|n| *n != controller).unwrap();
    let ends = || {
        let office = cluster.nodes[&controller].inner.office.lock();
        let liveness = &office.as_ref()?.liveness;
        Some((liveness.ends(broker(former)), liveness.ends(broker(third))))
    };
    let in_office = async {
        let mut ticks = interval(Duration::from_millis(5));
        loop {
            ticks.tick().await;
            if let Some(ends) = ends() {
                return ends;
            }
        }
    };
    let (of_former, of_third) = timeout(PATIENCE, in_office).await.expect("it takes office");
    assert!(of_former + cluster.tuning.election_min <= of_third, "{of_former:?} {of_third:?}");
    cluster.stop().await;
}

/// Has another node elected while it loses messages of these kinds, and says which.
pub(super) async fn elect_another(cluster: &Cluster, lost: &[(Lane, Rpc)]) -> u32 {
    let former = cluster.controller(&[1, 2, 3]).await;
    for (lane, rpc) in lost {
        cluster.network.lose(*lane, *rpc);
    }
    let next = if former == 1 { 2 } else { 1 };
    let node = &cluster.nodes[&next];
    let reign = node.inner.reign_of(broker(former)).unwrap();
    // As when the former one hands its office over: nobody waits for its lease.
    let request = TransferLeaderRequest::new(reign.vote(), node.identity().raft_id, None);
    node.inner.raft.handle_transfer_leader(request).await.unwrap().unwrap();
    let mut metrics = node.inner.raft.server_metrics();
    let elected = async {
        while !metrics.borrow_watched().state.is_leader() {
            metrics.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, elected).await.expect("it is elected");
    next
}

/// True if the node vouches for a heartbeat within `patience`.
async fn vouches(cluster: &Cluster, n: u32, patience: Duration) -> bool {
    let node = &cluster.nodes[&n];
    let beat = Heartbeat {
        broker: broker(n),
        epoch: BrokerEpoch::new(1),
        applied: 1,
        wants: Wants::Serve,
        unanswered: Duration::ZERO,
        disk_used_bytes: 0,
        disk_free_bytes: 1,
        problem: None,
        wants_disks: false,
    };
    let heard = async {
        let mut ticks = interval(Duration::from_millis(10));
        while node.inner.hear(&beat).is_err() {
            ticks.tick().await;
        }
    };
    timeout(patience, heard).await.is_ok()
}

/// Catches: a controller that vouches for leaders, itself among them, since its election, although nobody has answered it
/// since, and one that does with what it knew before it had everything that its predecessor committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controller_vouches_for_nobody_before_it_is_answered_and_has_everything() {
    let of_entries = (Lane::Log, Rpc::Append);
    let of_heartbeats = (Lane::Heartbeat, Rpc::Append);
    for lost in [vec![of_entries, of_heartbeats], vec![of_entries]] {
        let cluster = Cluster::started().await;
        let controller = elect_another(&cluster, &lost).await;
        assert!(!vouches(&cluster, controller, cluster.tuning.election_max).await, "{lost:?} are lost");
        assert!(cluster.nodes[&controller].inner.office.lock().is_some(), "it is in office");
        cluster.network.heal();
        let controller = cluster.controller(&[1, 2, 3]).await;
        assert!(vouches(&cluster, controller, PATIENCE).await, "it is answered");
        cluster.stop().await;
    }
}

/// Catches: a controller that is heard only as often as a heartbeat may take: one that is lost costs it its lease then, and
/// others notice late that it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controller_is_heard_far_more_often_than_a_heartbeat_may_take() {
    let mut cluster = Cluster::new();
    cluster.tuning.heartbeat = Duration::from_millis(10);
    cluster.start(&[1, 2, 3]).await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let follower = if controller == 1 { 2 } else { 1 };
    let heard = || cluster.network.calls(broker(follower), Lane::Heartbeat, Rpc::Append);
    let before = heard();
    let often = async {
        let mut ticks = interval(Duration::from_millis(5));
        while heard() < before + 40 {
            ticks.tick().await;
        }
    };
    // Raft alone would have sent a quarter of them by then.
    let time = cluster.tuning.answer * 10;
    assert!(timeout(time, often).await.is_ok(), "{} heartbeats within {time:?}", heard() - before);
    cluster.stop().await;
}

/// Catches: a controller without a quorum that tells its own broker to go on serving.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_controller_hears_nobody() {
    let cluster = Cluster::started().await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let node = &cluster.nodes[&controller];
    let epoch = node.register_disk(node.identity().directory_id, true).await.unwrap();
    let beat = Heartbeat {
        broker: broker(controller),
        epoch,
        applied: epoch.get(),
        wants: Wants::Serve,
        unanswered: Duration::ZERO,
        disk_used_bytes: 0,
        disk_free_bytes: 1,
        problem: None,
        wants_disks: false,
    };
    let heard = async {
        let mut ticks = interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            if node.heartbeat(beat.clone()).await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("with a quorum it hears its broker");
    cluster.network.isolate(broker(controller));
    let refused = async {
        let mut ticks = interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            if let Err(e) = node.heartbeat(beat.clone()).await {
                return e;
            }
        }
    };
    let error = timeout(PATIENCE, refused).await.expect("it goes on hearing");
    assert_eq!(error, HeartbeatError::NoController);
    cluster.stop().await;
}

/// Catches: a planned stop that cannot move the controller, or loses what was acknowledged on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controller_hands_over_its_office() {
    let mut cluster = Cluster::started().await;
    cluster.host(1).await;
    for round in 0..4 {
        let old = cluster.controller(&[1, 2, 3]).await;
        cluster.nodes[&old].propose(create(&format!("t{round}"), round + 1, HOST)).await.unwrap();
        let new = cluster.nodes[&old].transfer_controller(PATIENCE).await.unwrap();
        assert_ne!(new, broker(old));
        assert_eq!(broker(cluster.controller(&[1, 2, 3]).await), new);
        let not = cluster.nodes[&old].transfer_controller(PATIENCE).await;
        assert_eq!(not, Err(TransferError::NotController));
    }
    cluster.nodes[&1].read_index().await.unwrap();
    assert_eq!(cluster.nodes[&1].image().topic_count(), 4);
    // Not to one that is gone, whichever that is.
    let old = cluster.controller(&[1, 2, 3]).await;
    for gone in [1, 2, 3].into_iter().filter(|n| *n != old) {
        cluster.kill(gone).await;
        let left = cluster.running().into_iter().find(|n| *n != old).unwrap();
        assert_eq!(cluster.nodes[&old].transfer_controller(PATIENCE).await, Ok(broker(left)));
        let back = cluster.nodes[&left].transfer_controller(PATIENCE).await;
        assert_eq!(back, Ok(broker(old)));
        cluster.controller(&cluster.running()).await;
        cluster.start(&[gone]).await;
        assert_eq!(cluster.controller(&[1, 2, 3]).await, old);
    }
    cluster.stop().await;
}

/// Catches: a controller that decides something while it hands its office over to somebody who does not take it, and asks
/// its own core for it without end, which refuses at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controller_that_is_handing_over_pauses_before_it_decides_again() {
    let cluster = Cluster::started().await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let others: Vec<u32> = [1, 2, 3].into_iter().filter(|n| *n != controller).collect();
    // Whoever is to take over cannot even vote for itself.
    for n in &others {
        cluster.stalls[n].set(true);
    }
    let node = &cluster.nodes[&controller];
    let patience = Duration::from_millis(20);
    assert_eq!(node.transfer_controller(patience).await, Err(TransferError::NotTaken(patience)));
    let began = Instant::now();
    node.inner.carry_out(Command::RemoveNode { raft_id: RaftId::new(9_999) }).await;
    assert!(began.elapsed() >= REFUSED_PAUSE, "asked again after {:?}", began.elapsed());
    for n in &others {
        cluster.stalls[n].set(false);
    }
    cluster.stop().await;
}

/// Catches: a broker that wants to stop and is never let go, or is let go while it still leads in the metadata.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_that_wants_to_stop_is_let_go() {
    let cluster = Cluster::started().await;
    let mut pulse = Pulse::default();
    for n in 1..=3 {
        pulse.begin(n, &cluster.nodes[&n]).await;
    }
    fenced(&cluster, 1, &[]).await;
    pulse.wants.lock().insert(2, Wants::ShutDown);
    let may_stop = async {
        let mut ticks = interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            let progress = pulse.answers.lock().get(&2).map(|answer| answer.shutdown);
            if progress == Some(ShutdownProgress::MayStop) {
                return;
            }
        }
    };
    timeout(PATIENCE, may_stop).await.expect("it is never let go");
    let image = cluster.image(1, |image| image.brokers[&broker(2)].in_controlled_shutdown).await;
    assert!(!image.brokers[&broker(1)].in_controlled_shutdown);
    cluster.stop().await;
}
