//! What a cluster does when machines die, disks stall and links are cut.

use std::time::Duration;

use futures::FutureExt;
use openraft::async_runtime::watch::WatchReceiver;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use streambus_protocol::ids::TopicName;
use tokio::time::{Instant, timeout};

use super::cluster::{Cluster, HOST, PATIENCE, broker, create};
use crate::config::Tuning;
use crate::error::{NotApplied, ProposeError, UnknownOutcome};
use crate::network::Lane;
use crate::outcome::{Outcome, RefusedReason};
use crate::round_trip::RoundTrip;
use crate::rpc::Rpc;

fn has(cluster: &Cluster, n: u32, name: &str) -> bool {
    cluster.nodes[&n].image().topic_by_name(&TopicName::new(name).unwrap()).is_some()
}

/// Catches: a proposal that only the controller takes, a proposer that does not see what it proposed, a refusal that
/// becomes something else on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_broker_proposes_and_sees_what_it_did() {
    let cluster = Cluster::started().await;
    cluster.host(1).await;
    for n in 1..=3 {
        let name = format!("by-{n}");
        let id = streambus_protocol::ids::TopicId::from_bytes(u128::from(n).to_be_bytes());
        let outcome = cluster.nodes[&n].propose(create(&name, u128::from(n), HOST)).await;
        assert_eq!(outcome, Ok(Outcome::TopicCreated { id }));
        assert!(has(&cluster, n, &name), "broker {n}");
        let refused = cluster.nodes[&n].propose(create(&name, 100 + u128::from(n), HOST)).await;
        assert!(matches!(refused, Err(ProposeError::Refused(RefusedReason::TopicExists { .. }))), "{refused:?}");
        // Whoever asks for a read index afterwards sees it too, without a wait of its own.
        for reader in 1..=3 {
            cluster.nodes[&reader].read_index().await.unwrap();
            assert!(has(&cluster, reader, &name), "broker {reader}");
        }
    }
    cluster.stop().await;
}

/// Catches: a cluster that stops when one of three dies, whoever that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_go_on() {
    let mut cluster = Cluster::started().await;
    cluster.host(1).await;
    for n in 1..=3 {
        cluster.kill(n).await;
        for via in cluster.running() {
            let name = format!("without-{n}-by-{via}");
            let id = u128::from(10 * n + via);
            cluster.nodes[&via].propose_within(create(&name, id, HOST), PATIENCE).await.unwrap();
        }
        cluster.start(&[n]).await;
    }
    let applied = cluster.nodes[&1].read_index().await.unwrap();
    for n in 1..=3 {
        assert_eq!(cluster.reached(n, applied).await.topic_count(), 6, "broker {n}");
    }
    cluster.stop().await;
}

/// Catches: split brain, a lost acknowledged command, a write accepted by an isolated controller, one that is reported
/// as failed and applied later, images that differ after healing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_controller_commits_nothing() {
    let cluster = Cluster::started().await;
    cluster.host(1).await;
    let old = cluster.controller(&[1, 2, 3]).await;
    cluster.nodes[&old].propose(create("before", 1, HOST)).await.unwrap();
    cluster.network.isolate(broker(old));
    // At once, while it still believes in itself: the entry is in its log, so nobody can know.
    let short = Duration::from_millis(200);
    let early = cluster.nodes[&old].propose_within(create("early", 2, HOST), short).await;
    assert!(matches!(early, Err(ProposeError::Unknown(_))), "{early:?}");
    let rest: Vec<u32> = cluster.running().into_iter().filter(|n| *n != old).collect();
    let new = cluster.controller(&rest).await;
    assert_ne!(new, old);
    cluster.nodes[&new].propose_within(create("during", 3, HOST), PATIENCE).await.unwrap();
    // Its lease is over: nothing is appended, and it says so.
    let (asked, longer) = (Instant::now(), Duration::from_secs(2));
    let late = cluster.nodes[&old].propose_within(create("late", 4, HOST), longer).await;
    assert_eq!(late, Err(ProposeError::NotApplied(NotApplied::NoController)));
    assert!(asked.elapsed() < longer, "the answer has a way to go, and would come too late");
    assert!(cluster.nodes[&old].read_index_within(short).await.is_err(), "its image is old and must not pass for new");
    assert!(!has(&cluster, old, "during"));

    cluster.network.heal();
    let current = cluster.controller(&[1, 2, 3]).await;
    cluster.nodes[&old].propose_within(create("after", 5, HOST), PATIENCE).await.unwrap();
    let applied = cluster.nodes[&current].read_index().await.unwrap();
    for n in 1..=3 {
        let image = cluster.reached(n, applied).await;
        let names: Vec<_> = image.topics_by_name().map(|topic| topic.name.to_string()).collect();
        assert_eq!(names, ["after", "before", "during"], "broker {n}");
    }
    cluster.stop().await;
}

/// Catches: a command handed over to a core that cannot take it, whose outcome is then unknown for want of time although it
/// was certain beforehand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_the_controller_says_so_without_asking_its_core() {
    let cluster = Cluster::started().await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let follower = cluster.running().into_iter().find(|n| *n != controller).unwrap();
    let inner = &cluster.nodes[&follower].inner;
    let mut metrics = inner.raft.server_metrics();
    let follows = async {
        while metrics.borrow_watched().current_leader.is_none() {
            metrics.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, follows).await.expect("it follows nobody");
    // Known at the first poll.
    let proposed = inner.propose_here(create("late", 1, HOST), Instant::now(), Duration::ZERO).now_or_never();
    let refused = proposed.map(|proposed| proposed.err());
    assert!(matches!(refused, Some(Some(ProposeError::NotApplied(NotApplied::OtherController { .. })))), "{refused:?}");
    cluster.stop().await;
}

/// Catches: a command that is sent to the controller when its time is over, so that nobody knows what became of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_time_is_over_is_not_sent() {
    let cluster = Cluster::started().await;
    cluster.host(1).await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let follower = cluster.running().into_iter().find(|n| *n != controller).unwrap();
    let inner = &cluster.nodes[&follower].inner;
    let mut metrics = inner.raft.server_metrics();
    let follows = async {
        loop {
            if let Some(peer) = inner.controller() {
                return peer;
            }
            metrics.changed().await.unwrap();
        }
    };
    let peer = timeout(PATIENCE, follows).await.expect("it follows nobody");
    let late = create("late", 1, HOST);
    let refused = inner.propose_there(&peer, &late, Instant::now(), Duration::ZERO).await.expect_err("no time is left");
    assert!(matches!(refused, ProposeError::NotApplied(NotApplied::NoController)), "{refused:?}");
    cluster.stop().await;
}

/// Catches: an election because one disk is slow, be it a follower's or the controller's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_disk_causes_no_election() {
    let cluster = Cluster::started().await;
    cluster.host(1).await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let follower = if controller == 3 { 2 } else { 3 };
    let term = cluster.nodes[&controller].status().term;
    for (id, stalled) in [(1, follower), (2, controller)] {
        cluster.stalls[&stalled].set(true);
        // Two disks are a majority, also without the controller's own.
        cluster.nodes[&controller].propose(create(&format!("slow-{stalled}"), id, HOST)).await.unwrap();
        let changes = async {
            let mut metrics: Vec<_> = (1..=3).map(|n| cluster.nodes[&n].inner.raft.server_metrics()).collect();
            loop {
                let votes: Vec<_> = metrics.iter().map(|m| m.borrow_watched().vote).collect();
                if votes.iter().any(|vote| vote.leader_id.term != term) {
                    return votes;
                }
                let changes: Vec<_> = metrics.iter_mut().map(|m| Box::pin(m.changed())).collect();
                futures::future::select_all(changes).await.0.unwrap();
            }
        };
        let elected = timeout(Duration::from_secs(3), changes).await;
        cluster.stalls[&stalled].set(false);
        assert!(elected.is_err(), "broker {stalled}'s disk: {elected:?}");
        cluster.nodes[&stalled].propose(create(&format!("quick-{stalled}"), id + 10, HOST)).await.unwrap();
    }
    assert_eq!(cluster.controller(&[1, 2, 3]).await, controller);
    cluster.stop().await;
}

/// Catches: a voter that campaigns for as long as it is cut off, and whose high term makes the others elect anew when it
/// is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_voter_that_comes_back_has_not_raised_the_term() {
    let cluster = Cluster::started().await;
    cluster.host(1).await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let alone = if controller == 3 { 2 } else { 3 };
    let before = cluster.nodes[&controller].status().term;
    let asked = || {
        let others = (1..=3).filter(|n| *n != alone);
        others.map(|n| cluster.network.calls(broker(n), Lane::Log, Rpc::PreVote)).sum::<usize>()
    };
    let asked_before = asked();
    cluster.network.isolate(broker(alone));
    let campaigns = async {
        // Both others, four times.
        let mut glances = tokio::time::interval(Duration::from_millis(20));
        while asked() < asked_before + 8 {
            glances.tick().await;
        }
    };
    timeout(PATIENCE, campaigns).await.expect("it does not notice that it has no controller");
    assert_eq!(cluster.nodes[&alone].status().term, before, "it asks whether it could win, and votes for nobody");
    cluster.nodes[&controller].propose(create("meanwhile", 1, HOST)).await.unwrap();
    cluster.network.heal();
    cluster.nodes[&alone].propose_within(create("back", 2, HOST), PATIENCE).await.unwrap();
    for n in 1..=3 {
        let status = cluster.nodes[&n].status();
        assert_eq!((status.term, status.voted_term, status.leader), (before, before, Some(broker(controller))), "{n}");
    }
    cluster.stop().await;
}

/// Catches: calls that end before a message can be there and back: no controller keeps its office then, and none is
/// elected; and elections because an answer takes long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_are_far_apart_keep_their_controller() {
    keep_their_controller_at(Duration::from_millis(150), RoundTrip::default()).await;
}

/// Catches: a distance that is asked for and not provided for by one of the waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_are_further_apart_keep_their_controller_if_they_are_told() {
    keep_their_controller_at(Duration::from_millis(300), RoundTrip::of_up_to(Duration::from_millis(700))).await;
}

async fn keep_their_controller_at(one_way: Duration, round_trip: RoundTrip) {
    let mut cluster = Cluster::new();
    cluster.tuning = Tuning { session: cluster.tuning.session, ..Tuning::within(round_trip) };
    cluster.network.set_delay(one_way);
    cluster.start(&[1, 2, 3]).await;
    cluster.host(1).await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let term = cluster.nodes[&controller].status().term;
    let began = Instant::now();
    let mut id = 0;
    while began.elapsed() < one_way * 34 {
        id += 1;
        let via = 1 + u32::try_from(id % 3).unwrap();
        let outcome = cluster.nodes[&via].propose(create(&format!("far-{id}"), id, HOST)).await;
        assert!(outcome.is_ok(), "{outcome:?}");
        cluster.nodes[&via].read_index().await.unwrap();
    }
    assert!(id >= 3, "each takes a few times there and back: {id}");
    assert_eq!(cluster.nodes[&controller].status().term, term, "somebody campaigned");
    // Nor is a new one hindered.
    cluster.network.isolate(broker(controller));
    let rest: Vec<u32> = cluster.running().into_iter().filter(|n| *n != controller).collect();
    let next = cluster.controller(&rest).await;
    cluster.nodes[&next].propose_within(create("after", 1_000, HOST), PATIENCE).await.unwrap();
    cluster.stop().await;
}

/// Catches: entries that are sent again and again to a follower that is putting them on its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disk_is_sent_entries_once() {
    let cluster = Cluster::started().await;
    cluster.host(1).await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let slow = if controller == 3 { 2 } else { 3 };
    let before = cluster.network.calls(broker(slow), Lane::Log, Rpc::Append);
    cluster.stalls[&slow].set(true);
    cluster.nodes[&controller].propose(create("one", 1, HOST)).await.unwrap();
    assert!(timeout(cluster.tuning.answer * 4, std::future::pending::<()>()).await.is_err());
    let sent = cluster.network.calls(broker(slow), Lane::Log, Rpc::Append) - before;
    cluster.stalls[&slow].set(false);
    assert!(sent <= 2, "{sent} times, for an entry and what is committed");
    cluster.nodes[&slow].read_index().await.unwrap();
    cluster.stop().await;
}

/// Catches: a dead controller that is waited for until its lease ends, although its machine says that it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_controller_is_succeeded_at_once() {
    let mut cluster = Cluster::new();
    // Longer than the test's patience: only the broken connection can lead to an election.
    cluster.tuning.election_min = PATIENCE * 2;
    cluster.tuning.election_max = PATIENCE * 3;
    cluster.start(&[1, 2, 3]).await;
    cluster.host(1).await;
    let dead = cluster.controller(&[1, 2, 3]).await;
    cluster.kill(dead).await;
    let rest = cluster.running();
    let id = u128::from(dead);
    cluster.nodes[&rest[1]].propose_within(create("on", id, HOST), PATIENCE).await.unwrap();
    assert_ne!(cluster.controller(&rest).await, dead);
    cluster.stop().await;
}

/// Catches: a connection that broke by itself and costs a healthy controller its office.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connection_alone_changes_nothing() {
    let cluster = Cluster::started().await;
    let controller = cluster.controller(&[1, 2, 3]).await;
    let term = cluster.nodes[&controller].status().term;
    for n in cluster.running() {
        cluster.doors[&n].peer_disconnected(broker(controller));
    }
    // A round through every node, so that the hints were looked at.
    for n in cluster.running() {
        cluster.nodes[&n].read_index().await.unwrap();
    }
    assert_eq!(cluster.controller(&[1, 2, 3]).await, controller);
    assert_eq!(cluster.nodes[&controller].status().term, term);
    cluster.stop().await;
}

/// Catches: a proposal reported as applied that is lost, or reported as not applied that is there all the same, over
/// links that are cut and healed at random.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_are_honest_whatever_is_cut() {
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(seed);
        let cluster = Cluster::started().await;
        cluster.host(1).await;
        let (mut applied, mut not_applied, mut unknown) = (Vec::new(), Vec::new(), 0);
        for round in 0..15 {
            cluster.network.heal();
            for _ in 0..rng.random_range(0..4) {
                let ends: Vec<u32> = [1, 2, 3].choose_multiple(&mut rng, 2).copied().collect();
                cluster.network.cut(broker(ends[0]), broker(ends[1]));
            }
            // From all brokers at once, some with hardly any time.
            let proposals = (1..=3).flat_map(|n| (0..3).map(move |k| (n, k)));
            let proposed: Vec<_> = proposals
                .map(|(n, k)| {
                    let name = format!("r{round}-n{n}-k{k}");
                    let id = u128::from(1000 * round + 10 * n + k);
                    let patience = Duration::from_millis(rng.random_range(20..1200));
                    let node = &cluster.nodes[&n];
                    async move { (name.clone(), node.propose_within(create(&name, id, HOST), patience).await) }
                })
                .collect();
            for (name, outcome) in futures::future::join_all(proposed).await {
                match outcome {
                    Ok(_) => applied.push(name),
                    Err(ProposeError::NotApplied(_)) => not_applied.push(name),
                    Err(ProposeError::Unknown(_)) => unknown += 1,
                    Err(ProposeError::Refused(reason)) => panic!("seed {seed}: {name}: {reason}"),
                }
            }
        }
        cluster.network.heal();
        let id = 1 << 100;
        // The links are whole and an election may be under way, which makes outcomes unknown: proposing again is safe.
        loop {
            match cluster.nodes[&1].propose_within(create("last", id, HOST), PATIENCE).await {
                Ok(_) | Err(ProposeError::Refused(RefusedReason::TopicExists { .. })) => break,
                Err(ProposeError::Unknown(UnknownOutcome::ControllerChanged)) => {}
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        let index = cluster.nodes[&1].read_index_within(PATIENCE).await.unwrap();
        for n in 1..=3 {
            let image = cluster.reached(n, index).await;
            let there = |name: &String| image.topic_by_name(&TopicName::new(name).unwrap()).is_some();
            let lost: Vec<_> = applied.iter().filter(|name| !there(name)).collect();
            let risen: Vec<_> = not_applied.iter().filter(|name| there(name)).collect();
            assert!(lost.is_empty() && risen.is_empty(), "seed {seed}, broker {n}: lost {lost:?}, risen {risen:?}");
        }
        assert!(!applied.is_empty(), "seed {seed}: {} not applied, {unknown} unknown", not_applied.len());
        cluster.stop().await;
    }
}
