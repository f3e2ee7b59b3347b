//! Moves of a partition under a limit of their own (`topic reassign --throttle`) while the broker it goes to, or the one that
//! sends it, dies: the limit is kept before and after, producers do not notice, and the move ends by itself.
//!
//! The rate is what leaders count as sent to replicas that are not in sync, over the time between two looks. A bucket may
//! be full at first and one batch may exceed it, so that much is allowed for once.

use std::time::Duration;

use streambus_protocol::api::topics::PartitionDescription;
use streambus_protocol::ids::BrokerId;
use streambus_tests::cluster::{Options, PATIENCE};
use streambus_tests::load::LoadOptions;
use streambus_tests::patience::wait_for;
use streambus_tests::run::Run;
use streambus_tests::setting;

const MIB: f64 = 1_048_576.0;
/// What the move may send in a second.
const LIMIT: &str = "1MiB";
const LIMIT_BYTES: f64 = MIB;
/// What may go at once: a full bucket, a batch above it, and what a broker that was killed lacks in other partitions.
const STOCK_BYTES: f64 = 1.5 * MIB;
/// After so much somebody dies. It is more than the stock, so that the rate shows.
const BEFORE_BYTES: f64 = 2.5 * MIB;
/// After so much since then the rate is looked at again; the start of a broker is in the time.
const AFTER_BYTES: f64 = 4.0 * MIB;
/// Records that make the partition larger than both together: more than 8 MiB.
const RECORDS: u64 = 160_000;

/// Who dies in mid-move.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Target,
    Leader,
}

/// What all leaders have sent to replicas that were not in sync, those of them that run, in their present lives.
fn sent_bytes(run: &Run) -> f64 {
    let running: Vec<u32> = run.cluster.ids().into_iter().filter(|id| run.cluster.pid(*id).is_some()).collect();
    let sent = |id: &u32| run.cluster.metric(*id, "streambus_catch_up_sent_bytes_total");
    let answered = wait_for(PATIENCE, || running.iter().map(sent).sum::<Option<f64>>());
    answered.unwrap_or_else(|| panic!("not all of {running:?} show their metrics within {PATIENCE:?}"))
}

/// A stretch of a move over which its rate is held against the limit.
struct Stretch {
    began_us: u64,
    sent_before: f64,
}

impl Stretch {
    fn begin(run: &Run) -> Self {
        // The time first: what is sent while it is asked for counts with the time that it took.
        let began_us = run.cluster.recorder().now_us();
        Self { began_us, sent_before: sent_bytes(run) }
    }

    fn sent(&self, run: &Run) -> f64 {
        sent_bytes(run) - self.sent_before
    }

    /// Waits until so much was sent, and holds the time that it took against the limit, with a quarter to spare.
    fn check_limit(&self, run: &Run, bytes: f64, what: &str) {
        let sent = wait_for(PATIENCE, || Some(self.sent(run)).filter(|sent| *sent >= bytes));
        let seconds = Duration::from_micros(run.cluster.recorder().now_us() - self.began_us).as_secs_f64();
        let sent = sent.unwrap_or_else(|| panic!("{what}: only {} bytes in {seconds} s", self.sent(run)));
        run.cluster.recorder().fault(format!("{what}: {:.1} MiB in {seconds:.1} s", sent / MIB));
        let most = STOCK_BYTES + LIMIT_BYTES * seconds * 1.25;
        assert!(sent <= most, "{what}: {sent} bytes in {seconds} s at {LIMIT} a second");
        let slowest = 10.0 + 4.0 * bytes / LIMIT_BYTES;
        assert!(seconds <= slowest, "{what}: the move crawls, {sent} bytes in {seconds} s at {LIMIT} a second");
    }
}

fn adds(partition: &PartitionDescription, broker: u32) -> bool {
    partition.adding.contains(&BrokerId::new(broker))
}

fn limited_move(name: &str, victim: Victim) {
    let options = Options { brokers: 4, ..Options::default() };
    let mut run = Run::start(name, &options, &LoadOptions::default());
    run.burst(0, RECORDS);
    for _ in 0..setting::cycles(1) {
        let (leader, old) = run.whole_partition(0);
        let target = run.cluster.ids().into_iter().find(|id| !old.contains(id)).expect("four brokers, three replicas");
        // One that follows makes room.
        let leaving = *old.iter().rfind(|id| **id != leader).expect("three replicas");
        let wanted: Vec<u32> = old.iter().map(|id| if *id == leaving { target } else { *id }).collect();

        let first = Stretch::begin(&run);
        run.reassign(0, &wanted, LIMIT);
        run.wait_recovery(first.began_us);
        first.check_limit(&run, BEFORE_BYTES, "before the kill");

        let id = if victim == Victim::Target { target } else { leader };
        let killed_us = run.cluster.kill_nine(id);
        let mut second = Stretch::begin(&run);
        run.wait_recovery(killed_us);
        let moves = |partition: &PartitionDescription| adds(partition, target) && partition.throttle.is_some();
        run.wait_partition(0, "the move goes on under its limit", moves);
        if victim == Victim::Target {
            // Nothing is sent before there is somebody to send it to.
            second = Stretch::begin(&run);
        }
        run.cluster.start_broker(id);
        run.cluster.wait_ready(id);
        second.check_limit(&run, AFTER_BYTES, "after the kill");
        let is_over = |now: &PartitionDescription| {
            let replicas: Vec<u32> = now.layout.replicas.iter().map(|id| id.get()).collect();
            now.adding.is_empty() && now.removing.is_empty() && replicas == wanted && now.layout.isr.len() == 3
        };
        run.wait_partition(0, "the move is over", is_over);
    }
    let report = run.finish();
    assert_eq!(report.refused, 0, "a client gave up although there were always two in sync");
}

/// Catches: a limit that is forgotten, or a copy that begins anew or never ends, when the new replica comes back.
#[test]
fn a_limited_move_survives_the_broker_it_goes_to() {
    limited_move("kill -9 of the broker that a limited move goes to", Victim::Target);
}

/// Catches: a limit that the next leader does not know, and a move that ends with the leader that began it.
#[test]
fn a_limited_move_survives_the_leader_that_sends_it() {
    limited_move("kill -9 of the leader that sends a limited move", Victim::Leader);
}
