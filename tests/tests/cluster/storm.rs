//! Leaders and replicas that are moved about without a pause, by random commands of a seed, while brokers die.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use streambus_client::{Error, LeaderChoice};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::BrokerId;
use streambus_tests::cluster::Options;
use streambus_tests::load::LoadOptions;
use streambus_tests::run::Run;
use streambus_tests::setting;

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(5);

/// How long after the last command every partition takes records again, at the latest. Nothing is broken by then: leaders
/// move in milliseconds, and a broker that was killed serves again.
const SETTLED: Duration = Duration::from_secs(4);

/// What became of commands, by what they were and how they ended.
type Tally = BTreeMap<String, u32>;

/// One random command; a refusal counts with its code, and one that says nothing fails the test.
fn command(run: &Run, random: &mut StdRng, tally: &mut Tally) {
    let topic = "proof";
    let partition = random.random_range(0..4);
    let mut brokers = run.cluster.ids();
    brokers.shuffle(random);
    let (what, outcome): (&str, Result<(), Error>) = match random.random_range(0..10) {
        0..4 => {
            let to = LeaderChoice::Broker(BrokerId::new(brokers[0]));
            let moved =
                run.ask(async |bus| bus.admin().elect_leader(topic, partition, to).timeout(LIMIT).await.map(|_| ()));
            ("transfer-leader", moved)
        }
        4..8 => {
            let replicas = brokers[..3].to_vec();
            let moved =
                run.ask(async |bus| bus.admin().reassign(topic, partition, replicas).timeout(LIMIT).await.map(|_| ()));
            ("reassign", moved)
        }
        8 => {
            let stopped =
                run.ask(async |bus| bus.admin().cancel_reassign(topic, partition).timeout(LIMIT).await.map(|_| ()));
            ("cancel", stopped)
        }
        _ => {
            let draining = random.random();
            let drained =
                run.ask(async |bus| bus.admin().drain_broker(brokers[0], draining).timeout(LIMIT).await.map(|_| ()));
            ("drain", drained)
        }
    };
    let ended = match outcome {
        Ok(()) => "done".to_owned(),
        Err(error) => {
            let code = error.code();
            let silent = matches!(code, Some(ErrorCode::Internal));
            assert!(!silent && error.to_string().len() > 10, "{what}: a refusal says why: {error}");
            code.map_or_else(|| "no answer in time".to_owned(), |code| format!("{code:?}"))
        }
    };
    *tally.entry(format!("{what} {ended}")).or_default() += 1;
}

#[test]
fn storms_of_moves_lose_nothing() {
    let mut random = StdRng::seed_from_u64(setting::seed());
    let options = Options { brokers: 4, ..Options::default() };
    let mut run = Run::start("storms of leader transfers and moves", &options, &LoadOptions::default());
    let mut tally = Tally::new();
    for cycle in 0..setting::cycles(2) {
        run.cluster.recorder().fault("a storm of moves");
        for _ in 0..25 {
            command(&run, &mut random, &mut tally);
        }
        let victim = *run.cluster.ids().choose(&mut random).expect("four brokers");
        // Every other storm goes on over a broker that dies and comes back.
        if cycle % 2 == 1 {
            run.cluster.kill_nine(victim);
            for _ in 0..15 {
                command(&run, &mut random, &mut tally);
            }
            run.cluster.start_broker(victim);
            run.cluster.wait_ready(victim);
        }
        let over_us = run.cluster.recorder().fault("the storm is over");
        let slowest_us = run.wait_recovery(over_us).into_values().max().unwrap_or_default();
        let slowest = Duration::from_micros(slowest_us);
        assert!(slowest < SETTLED, "a partition takes records {slowest:?} after the last move");
    }
    for id in run.cluster.ids() {
        let undrained = run.ask(async |bus| bus.admin().drain_broker(id, false).timeout(LIMIT).await);
        undrained.expect("a broker may always take part again");
    }
    let report = run.finish();
    eprintln!("storms of moves: {tally:?}");
    assert_eq!(report.refused, 0, "a client gave up although there was always a quorum");
}
