//! A partition moves to brokers none of which had it, and somebody dies by `kill -9` at one step of that: the old leader, a new
//! replica, or the controller. Every step with every victim comes in turn, by seed and cycle.

use std::time::Duration;

use streambus_protocol::api::topics::PartitionDescription;
use streambus_protocol::ids::BrokerId;
use streambus_tests::cluster::Options;
use streambus_tests::load::LoadOptions;
use streambus_tests::run::Run;
use streambus_tests::setting;

/// What the partition holds when it moves, so that a move takes some seconds at its limit.
const RECORDS: u64 = 60_000;
/// What the move may send in a second.
const LIMIT: &str = "1MiB";
/// Moves of a short run.
const MOVES: u64 = 3;

/// How far the move is when somebody dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The metadata knows of it.
    Asked,
    /// A new replica has a part of the log.
    Copying,
    /// A new replica is in sync.
    InSync,
    /// The old replicas are gone from the metadata, a moment ago.
    Over,
}

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    OldLeader,
    NewReplica,
    Controller,
}

const STEPS: [Step; 4] = [Step::Asked, Step::Copying, Step::InSync, Step::Over];
const VICTIMS: [Victim; 3] = [Victim::OldLeader, Victim::NewReplica, Victim::Controller];

fn numbers(brokers: &[BrokerId]) -> Vec<u32> {
    brokers.iter().map(|broker| broker.get()).collect()
}

fn is_over(now: &PartitionDescription, wanted: &[u32]) -> bool {
    now.adding.is_empty() && now.removing.is_empty() && numbers(&now.layout.replicas) == wanted
}

impl Step {
    /// True once the move to `wanted` is that far, or further.
    fn is_reached(self, now: &PartitionDescription, wanted: &[u32]) -> bool {
        let is_new = |broker: &BrokerId| wanted.contains(&broker.get());
        let has_part = || {
            let third = now.high_watermark.get() / 3;
            now.replica_states.iter().any(|replica| is_new(&replica.broker) && replica.log_end.get() > third)
        };
        is_over(now, wanted)
            || match self {
                Self::Asked => !now.adding.is_empty(),
                Self::Copying => has_part(),
                Self::InSync => now.layout.isr.iter().any(is_new),
                Self::Over => false,
            }
    }
}

fn disjoint_moves(name: &str, replicas: u16) {
    let load = LoadOptions {
        replicas: Some(replicas),
        min_isr: Some(1),
        delivery_timeout: Duration::from_secs(120),
        ..LoadOptions::default()
    };
    let mut run = Run::start(name, &Options { brokers: 4, ..Options::default() }, &load);
    run.burst(0, RECORDS);
    let moves = setting::cycles(MOVES);
    let turns = STEPS.iter().flat_map(|step| VICTIMS.map(|victim| (*step, victim)));
    // One seed goes on where the one before it ended.
    let first = usize::try_from(setting::seed().wrapping_mul(moves) % 12).expect("less than twelve");
    for (step, victim) in turns.cycle().skip(first).take(usize::try_from(moves).expect("few")) {
        let (leader, old) = run.whole_partition(0);
        let others = run.cluster.ids().into_iter().filter(|id| !old.contains(id));
        let wanted: Vec<u32> = others.take(usize::from(replicas)).collect();
        run.cluster.recorder().fault(format!("{victim:?} shall die at step {step:?} of {old:?} to {wanted:?}"));
        run.reassign(0, &wanted, LIMIT);
        run.wait_partition(0, &format!("step {step:?}"), |now| step.is_reached(now, &wanted));

        let id = match victim {
            Victim::OldLeader => leader,
            Victim::NewReplica => wanted[0],
            Victim::Controller => run.controller(),
        };
        let killed_us = run.cluster.kill_nine(id);
        // Nobody stands in for the only replica.
        if replicas > 1 {
            run.wait_recovery(killed_us);
        }
        run.cluster.start_broker(id);
        run.cluster.wait_ready(id);
        let over = run
            .wait_partition(0, "the move is over", |now| is_over(now, &wanted) && now.layout.isr.len() == wanted.len());
        assert!(over.layout.leader.is_none_or(|leader| wanted.contains(&leader.get())), "an old one leads: {over:?}");
        let since_us = run.cluster.recorder().now_us();
        run.wait_recovery(since_us);
        run.wait_readers(since_us);
    }
    let report = run.finish();
    assert_eq!(report.refused, 0, "a client gave up although everybody came back at once");
}

/// Catches: an only replica that is given up before its successor has everything, a move that ends or begins anew with
/// whoever dies, and a partition that is left without a leader or with an old one.
#[test]
fn an_only_replica_moves_while_somebody_dies() {
    disjoint_moves("a disjoint move of one replica with a kill -9 at each step", 1);
}

/// Catches the same, and a new replica that is counted as in sync for what only the other new one has.
#[test]
fn two_replicas_move_to_two_others_while_somebody_dies() {
    disjoint_moves("a disjoint move of two replicas with a kill -9 at each step", 2);
}
