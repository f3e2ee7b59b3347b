//! Consumers that read from the replica in their own rack (KIP-392) while leaders and that replica die, stand still, are cut
//! off, and change places. What each of them gets is the checker's: nothing lost, twice or out of order; that they go on,
//! and that a follower served them at all, is seen here.

use streambus_tests::cluster::{Network, Options, PATIENCE, rack_of};
use streambus_tests::load::LoadOptions;
use streambus_tests::patience::wait_for;
use streambus_tests::run::Run;
use streambus_tests::setting;

/// The broker in whose rack the consumers stand.
const NEAR: u32 = 3;
/// Who leads the four partitions at first: the near broker one, for which there is nobody nearer.
const LEADERS: [u32; 4] = [1, 2, 1, NEAR];
/// What the near broker must hand out to count as one that serves: about half a second of what others lead.
const SERVED_BYTES: f64 = 20_000.0;

/// Three brokers in three racks under load, and a consumer near the third, beside one of no rack.
fn start(name: &str, network: Network) -> Run {
    let name = format!("{name} ({network:?})");
    let options = Options { network, has_racks: true, ..Options::default() };
    let mut run = Run::start(&name, &options, &LoadOptions::default());
    place_leaders(&run);
    follow_near(&mut run);
    run
}

fn place_leaders(run: &Run) {
    run.wait_in_sync();
    for (partition, leader) in (0..).zip(LEADERS) {
        // The preferred one too, so that no controller moves it for balance.
        let others = run.cluster.ids().into_iter().filter(|id| *id != leader);
        let replicas: Vec<u32> = [leader].into_iter().chain(others).collect();
        let ordered = run.ask(async |bus| bus.admin().reassign("proof", partition, replicas).timeout(PATIENCE).await);
        ordered.unwrap_or_else(|error| panic!("replicas in another order are no move: {error}"));
        run.lead(partition, leader);
    }
}

/// One more consumer in the near broker's rack; waits until it has read what there was and gets there what comes.
fn follow_near(run: &mut Run) {
    run.wait_in_sync();
    let before = near_bytes(run);
    let begun_us = run.cluster.recorder().now_us();
    run.add_reader(Some(rack_of(NEAR)));
    wait_near_bytes(run, before + SERVED_BYTES);
    run.wait_readers(begun_us);
    wait_near_bytes(run, near_bytes(run) + SERVED_BYTES);
}

/// What the near broker has handed out of partitions that it follows, in this life.
fn near_bytes(run: &Run) -> f64 {
    let read = || run.cluster.metric(NEAR, "streambus_fetched_near_bytes_total");
    wait_for(PATIENCE, read).unwrap_or_else(|| panic!("no metrics:\n{}", run.cluster.log_end(NEAR)))
}

fn wait_near_bytes(run: &Run, wanted: f64) {
    let reached = wait_for(PATIENCE, || (near_bytes(run) >= wanted).then_some(()));
    assert!(reached.is_some(), "broker {NEAR} handed out {} bytes as a follower, not {wanted}", near_bytes(run));
}

/// Does something to the near broker, waits until every consumer gets from elsewhere what is written since, and takes it
/// back; then a consumer that comes anew is served there again.
fn lose_the_near_broker(name: &str, network: Network, lose: impl Fn(&mut Run) -> u64, restore: impl Fn(&mut Run)) {
    let mut run = start(name, network);
    for _ in 0..setting::cycles(1) {
        let lost_us = lose(&mut run);
        run.wait_recovery(lost_us);
        run.wait_readers(lost_us);
        restore(&mut run);
        run.cluster.wait_ready(NEAR);
        place_leaders(&run);
        follow_near(&mut run);
    }
    let end_us = run.cluster.recorder().fault("everybody is well");
    run.wait_readers(end_us);
    run.finish();
}

/// Catches: a reader that waits for a dead replica, and one that repeats or skips a record on its way to the leader.
#[test]
fn readers_go_on_when_the_near_replica_is_killed() {
    lose_the_near_broker(
        "kill -9 of the replica that readers are near",
        Network::Direct,
        |run| run.cluster.kill_nine(NEAR),
        |run| run.cluster.start_broker(NEAR),
    );
}

/// Catches: a reader that takes an open connection for a replica that is alive, and a replica that goes on after a pause and
/// serves what was cut off meanwhile.
#[test]
fn readers_go_on_when_the_near_replica_stands_still() {
    lose_the_near_broker(
        "SIGSTOP of the replica that readers are near",
        Network::Direct,
        |run| run.cluster.pause(NEAR),
        |run| {
            run.cluster.resume(NEAR);
        },
    );
}

/// Catches: a replica that hears nothing any more and lets its readers wait for it, in silence and with a live connection.
#[test]
fn readers_go_on_when_the_near_replica_is_cut_off_from_its_leaders() {
    lose_the_near_broker(
        "the replica that readers are near is cut off",
        Network::that_can_be_cut(),
        |run| run.cluster.isolate(NEAR),
        |run| {
            run.cluster.heal();
        },
    );
}

/// Catches: a follower that shows its readers what the next leadership cuts off, and readers that end with a leadership.
#[test]
fn near_reads_go_on_when_leaders_are_killed() {
    let mut run = start("kill -9 of leaders that are read near by", Network::Direct);
    for cycle in 0..setting::cycles(2) {
        if cycle > 0 {
            // The former one may be with the leaders for a while.
            follow_near(&mut run);
        }
        let victim = LEADERS[cycle as usize % 2];
        let killed_us = run.cluster.kill_nine(victim);
        run.wait_recovery(killed_us);
        run.wait_readers(killed_us);
        // What the other one leads was not interrupted.
        wait_near_bytes(&run, near_bytes(&run) + SERVED_BYTES);
        run.cluster.start_broker(victim);
        run.cluster.wait_ready(victim);
        place_leaders(&run);
    }
    run.finish();
}

/// Catches: readers that miss, repeat or mix up records when the near broker becomes a leader and a follower again.
#[test]
fn near_reads_go_on_when_leaderships_move() {
    let run = start("leaderships move while readers are near", Network::Direct);
    for cycle in 0..setting::cycles(2) {
        for to in [NEAR, 2, 1] {
            // Partition 1 stays where it is, and is read near by all the time.
            let moved_us = run.cluster.recorder().fault(format!("round {cycle}: partitions 0 and 2 go to broker {to}"));
            run.lead(0, to);
            run.lead(2, to);
            run.wait_readers(moved_us);
        }
        wait_near_bytes(&run, near_bytes(&run) + SERVED_BYTES);
    }
    run.finish();
}
