//! Mistakes of a change of leadership.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_planted::Defect;
use streambus_protocol::api::cluster::LeaderChoice;
use streambus_protocol::ids::BrokerId;
use streambus_tests::checker::Violation;
use streambus_tests::cluster::{Network, Weather};
use streambus_tests::load::LoadOptions;
use streambus_tests::run::Run;

use crate::{Scenario, is_found};

/// Well behind in what it hears, but not for Raft: the controller must hear of it within its heartbeat.
const DELAY: Duration = Duration::from_millis(40);
/// Moves of one run that may each show a commit of a stale epoch.
const MOVES: u32 = 4;

/// A replica that hears of everything late follows a new leader and cuts off what it has heard nobody commit; then that
/// leader dies too, before the replica has fetched again, and the replica is the next to lead.
pub(crate) fn truncate_to_watermark() -> Scenario {
    Scenario {
        defect: Defect::TruncateToWatermark,
        network: Network::Proxied,
        load: LoadOptions::default(),
        hurt: |run, seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let controller = run.controller();
            // The first choice of a partition leads it as long as it may, so it is the next to lead, too.
            let (partition, late) = run
                .leaders()
                .into_iter()
                .find(|(_, leader)| *leader != controller)
                .expect("leaderships are spread over the brokers");
            let other =
                run.cluster.ids().into_iter().find(|id| *id != late && *id != controller).expect("three brokers");
            lead(run, partition, controller);
            run.cluster.weather_around(late, Weather { delay: DELAY, ..Weather::default() });
            run.let_run(Duration::from_millis(random.random_range(1_000..1_500)));
            lead(run, partition, other);
            run.let_run(DELAY + Duration::from_millis(random.random_range(0..40)));
            run.cluster.kill_nine(other);
            run.cluster.heal();
            // Not until it takes records again: who knows that some are gone stops, and rightly.
            run.let_run(Duration::from_secs(3));
        },
        is_it: |violation| matches!(violation, Violation::Lost { .. }),
    }
}

fn lead(run: &mut Run, partition: u32, broker: u32) {
    let topic = LoadOptions::default().topic;
    run.cluster.recorder().fault(format!("broker {broker} shall lead partition {partition}"));
    let choice = LeaderChoice::Broker(BrokerId::new(broker));
    let moved =
        run.ask(async |bus| bus.admin().elect_leader(&topic, partition, choice).timeout(Duration::from_secs(10)).await);
    moved.expect("a leader in sync can be moved");
}

/// A leader dies while one follower has what the other, and so nobody, has acknowledged: it is sent again.
pub(crate) fn dedupe_lost() -> Scenario {
    Scenario {
        defect: Defect::DedupeLostOnFailover,
        network: Network::Proxied,
        load: LoadOptions::default(),
        hurt: |run, seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let victim = run.leaders()[&0];
            let late = run.cluster.ids().into_iter().rfind(|id| *id != victim).expect("three brokers");
            run.cluster.weather_around(late, Weather { delay: DELAY, ..Weather::default() });
            run.let_run(Duration::from_millis(random.random_range(500..1_000)));
            let at_us = run.cluster.kill_nine(victim);
            run.cluster.heal();
            run.wait_recovery(at_us);
        },
        is_it: |violation| matches!(violation, Violation::Duplicate { .. }),
    }
}

/// Leadership moves, again and again, to a replica that hears of everything late: it begins without the last records of the
/// leader before it, whose producers still wait there, and gives their places to those who waited for nothing.
pub(crate) fn stale_epoch_commit() -> Scenario {
    Scenario {
        defect: Defect::StaleEpochCommit,
        network: Network::Proxied,
        // So many that there is always somebody who waits, so slow that most do not. Who waits hears of a move only with the
        // next record: later than it takes the new leader to commit.
        load: LoadOptions {
            partitions: 1,
            producers: 20,
            rate: 2,
            beat: Duration::from_millis(500),
            ..LoadOptions::default()
        },
        hurt: |run, seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let controller = run.controller();
            for _ in 0..MOVES {
                let leader = run.leaders()[&0];
                let next = run.cluster.ids().into_iter().find(|id| *id != controller && *id != leader);
                let next = next.expect("three brokers");
                run.cluster.weather_around(next, Weather { delay: DELAY, ..Weather::default() });
                run.let_run(Duration::from_millis(random.random_range(500..1_000)));
                lead(run, 0, next);
                // Until all have heard of it: a leader that has not would go on sending its records, without the delay.
                run.let_run(DELAY * 2);
                run.cluster.heal();
                run.let_run(Duration::from_millis(500));
            }
        },
        is_it: |violation| matches!(violation, Violation::Lost { .. }),
    }
}

#[test]
fn a_cut_at_the_watermark_is_found() {
    is_found(Defect::TruncateToWatermark);
}

#[test]
fn a_leader_that_forgets_producers_is_found() {
    is_found(Defect::DedupeLostOnFailover);
}

#[test]
fn a_commit_of_a_stale_epoch_is_found() {
    is_found(Defect::StaleEpochCommit);
}
