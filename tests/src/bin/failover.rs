//! `make failover`: how long until records are taken again, after each kind of end of a leader, many times over. Every run
//! is judged by the checker too. Arguments name what to measure; without any, everything is.
//!
//! Times are from the moment of the fault to the first acknowledgement (`acks=all`) of a record sent after it, of the
//! slowest partition that the fault touched. For a wiped disk it is the time from the start on the empty disk until every
//! replica is in sync again, beside how long records wait for their acknowledgement before and meanwhile; such a disk has
//! `STREAMBUS_COPIED_MIB` (128) to copy.

use std::time::Duration;

use streambus_client::{LeaderChoice, Record, Topic};
use streambus_protocol::ids::BrokerId;
use streambus_tests::cluster::{Network, Options};
use streambus_tests::load::LoadOptions;
use streambus_tests::measure::{Times, acknowledged_after_us, longest_silence_us, recovery_us};
use streambus_tests::run::{Report, Run, create_topic};
use streambus_tests::setting;

/// Measures so many trials.
type Measure = fn(u64) -> Measured;

/// What can be measured: its name, how, and the goal in milliseconds.
const KINDS: &[(&str, Measure, &str)] = &[
    ("kill-leader", kill_leader, "1000"),
    ("kill-controller", kill_controller, "1000"),
    ("isolate-leader", isolate_leader, "3000"),
    ("isolate-controller", isolate_controller, "3000"),
    ("transfer", transfer, "200"),
    ("reassign", reassign, "200"),
    ("rolling-restart", rolling_restart, "500"),
    ("rejoin", rejoin, "-"),
];

/// The topic that an emptied disk has to copy.
const COPIED: &str = "copied";
const COPIED_RECORD_BYTES: u64 = 60_000;
/// Copied at once by the producer, and waited for.
const COPIED_BATCH: u64 = 256;

/// What came of the trials of one kind.
struct Measured {
    times: Times,
    /// What was measured besides, and its goal.
    besides: Vec<(&'static str, Times, &'static str)>,
    report: Report,
}

impl Measured {
    fn of(times: Times, report: Report) -> Self {
        Self { times, besides: Vec::new(), report }
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = KINDS.iter().map(|(name, ..)| *name).collect();
    for name in &wanted {
        assert!(names.contains(&name.as_str()), "{name}: say one of {names:?}");
    }
    let trials = setting::number("STREAMBUS_TRIALS", 20);
    eprintln!(
        "| what | trials | p50 ms | p99 ms | max ms | goal ms | acknowledged | unknown | refused | load of the machine |"
    );
    eprintln!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (name, measure, goal) in KINDS {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        let before = load();
        let Measured { times, besides, report } = measure(trials);
        let (acked, unknown, refused) = (report.history.acked(), report.history.unknown(), report.refused);
        let end = format!("{acked} | {unknown} | {refused} | {before} to {}", load());
        for (what, times, goal) in [(*name, times, *goal)].iter().chain(&besides) {
            let [half, most, all] = [50, 99, 100].map(|percent| ms(times.percentile_us(percent).unwrap_or_default()));
            eprintln!("| {what} | {} | {half} | {most} | {all} | {goal} | {end} |", times.len());
        }
    }
}

/// Milliseconds, short times with a decimal.
fn ms(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{}", micros / 1_000, micros % 1_000 / 100),
        _ => (micros / 1_000).to_string(),
    }
}

/// Processes that want a core, averaged over a minute; these brokers and this program are among them.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

fn start(name: &str, network: Network) -> Run {
    let load = LoadOptions { partitions: 6, ..LoadOptions::default() };
    Run::start(name, &Options { network, ..Options::default() }, &load)
}

/// A broker that leads something and is, or is not, the controller; one that leads nothing gets partition 0.
fn victim(run: &Run, is_controller: bool) -> (u32, Vec<u32>) {
    let controller = run.controller();
    let leaders = run.leaders();
    let fits = |id: u32| (id == controller) == is_controller;
    let id = leaders.values().copied().find(|id| fits(*id)).unwrap_or_else(|| {
        let id = run.cluster.ids().into_iter().find(|id| fits(*id)).expect("three brokers, one controller");
        let moved = run.ask(async |bus| {
            bus.admin()
                .elect_leader("proof", 0, LeaderChoice::Broker(BrokerId::new(id)))
                .timeout(Duration::from_secs(5))
                .await
        });
        moved.expect("a replica in sync may lead");
        run.wait_acks(100);
        id
    });
    let led = run.leaders().into_iter().filter(|(_, leader)| *leader == id).map(|(partition, _)| partition).collect();
    (id, led)
}

/// A measured time. Above `STREAMBUS_SLOWEST_MS` the run fails and leaves its evidence.
fn bounded(micros: u64) -> u64 {
    let limit_ms = setting::number("STREAMBUS_SLOWEST_MS", 60_000);
    assert!(micros / 1_000 <= limit_ms, "{} ms, more than STREAMBUS_SLOWEST_MS={limit_ms}", micros / 1_000);
    micros
}

/// The slowest of these partitions.
fn slowest(run: &Run, since_us: u64, partitions: &[u32]) -> u64 {
    let times = run.wait_recovery(since_us);
    partitions.iter().filter_map(|partition| times.get(partition)).copied().max().expect("it led something")
}

fn kill(name: &str, trials: u64, is_controller: bool) -> Measured {
    let mut run = start(name, Network::Direct);
    let mut times = Times::default();
    for _ in 0..trials {
        run.wait_acks(500);
        let (id, led) = victim(&run, is_controller);
        let at_us = run.cluster.kill_nine(id);
        times.add(bounded(slowest(&run, at_us, &led)));
        run.cluster.start_broker(id);
        run.cluster.wait_ready(id);
        run.wait_in_sync();
    }
    Measured::of(times, run.finish())
}

fn kill_leader(trials: u64) -> Measured {
    kill("kill -9 of a leader", trials, false)
}

fn kill_controller(trials: u64) -> Measured {
    kill("kill -9 of the controller, which leads too", trials, true)
}

fn isolate(name: &str, trials: u64, is_controller: bool) -> Measured {
    let network = Network::of_packets(name).unwrap_or(Network::Proxied);
    let run = start(&format!("{name} ({network:?})"), network);
    let mut times = Times::default();
    for _ in 0..trials {
        run.wait_acks(500);
        let (id, led) = victim(&run, is_controller);
        let at_us = run.cluster.isolate(id);
        times.add(bounded(slowest(&run, at_us, &led)));
        run.cluster.heal();
        run.wait_acks(500);
        run.wait_in_sync();
    }
    Measured::of(times, run.finish())
}

fn isolate_leader(trials: u64) -> Measured {
    isolate("silent isolation of a leader", trials, false)
}

fn isolate_controller(trials: u64) -> Measured {
    isolate("silent isolation of the controller, which leads too", trials, true)
}

fn transfer(trials: u64) -> Measured {
    let run = start("planned leader transfer", Network::Direct);
    let mut times = Times::default();
    for trial in 0..trials {
        run.wait_acks(300);
        let partition = (trial % 6) as u32;
        let leader = run.leaders()[&partition];
        let to = run.cluster.ids().into_iter().find(|id| *id != leader).expect("three brokers");
        let at_us = run.cluster.recorder().fault(format!("partition {partition} goes from {leader} to {to}"));
        let moved = run.ask(async |bus| {
            let to = LeaderChoice::Broker(BrokerId::new(to));
            bus.admin().elect_leader("proof", partition, to).timeout(Duration::from_secs(5)).await
        });
        moved.expect("a replica in sync may lead");
        times.add(bounded(slowest(&run, at_us, &[partition])));
    }
    Measured::of(times, run.finish())
}

/// A partition leaves the broker that leads it; the time counts from the moment at which the move is asked for.
fn reassign(trials: u64) -> Measured {
    let load = LoadOptions { partitions: 6, ..LoadOptions::default() };
    let run = Run::start("a partition moves off its leader", &Options { brokers: 4, ..Options::default() }, &load);
    let mut times = Times::default();
    for trial in 0..trials {
        run.wait_acks(300);
        let partition = (trial % 6) as u32;
        let leader = run.leaders()[&partition];
        let replicas: Vec<u32> = run.cluster.ids().into_iter().filter(|id| *id != leader).collect();
        let before = run.cluster.recorder().fault(format!("partition {partition} moves from {leader} to {replicas:?}"));
        let moved = run.ask(async |bus| {
            bus.admin().reassign("proof", partition, replicas.clone()).timeout(Duration::from_secs(5)).await
        });
        moved.expect("three brokers serve");
        run.leader_where(partition, |now| now != leader);
        run.wait_acks(300);
        run.wait_in_sync();
        let events = run.cluster.recorder().events_since(before);
        times.add(bounded(longest_silence_us(&events)));
        assert!(recovery_us(&events, before).contains_key(&partition), "it takes records");
    }
    Measured::of(times, run.finish())
}

fn rolling_restart(trials: u64) -> Measured {
    let mut run = start("rolling restart with SIGTERM", Network::Direct);
    let mut times = Times::default();
    for trial in 0..trials {
        let ids = run.cluster.ids();
        let id = ids[ids.len() - 1 - (trial as usize % ids.len())];
        run.wait_acks(300);
        let at_us = run.cluster.recorder().now_us();
        assert!(run.cluster.terminate(id).success(), "a drain ends well");
        run.wait_acks(300);
        run.cluster.start_broker(id);
        run.cluster.wait_ready(id);
        run.wait_in_sync();
        run.wait_acks(500);
        times.add(bounded(longest_silence_us(&run.cluster.recorder().events_since(at_us))));
    }
    let report = run.finish();
    assert_eq!((report.refused, report.history.unknown()), (0, 0), "a planned restart is no error of a client");
    Measured::of(times, report)
}

/// A broker comes back with an empty disk. What it lacks is copied while producers go on: they should hardly notice.
fn rejoin(trials: u64) -> Measured {
    let mut run = start("a wiped disk rejoins", Network::Direct);
    write_what_is_copied(&run);
    run.look_after(COPIED);
    let (mut times, mut calm, mut copying) = (Times::default(), Times::default(), Times::default());
    for trial in 0..trials {
        run.wait_in_sync();
        run.wait_acks(500);
        let calm_us = run.cluster.recorder().now_us();
        run.wait_acks(3_000);
        calm.extend(&acknowledged_after_us(&run.cluster.recorder().events_since(calm_us)));
        let ids = run.cluster.ids();
        let id = ids[trial as usize % ids.len()];
        let killed_us = run.cluster.kill_nine(id);
        run.wait_recovery(killed_us);
        run.cluster.wipe(id);
        let empty_us = run.cluster.recorder().now_us();
        run.cluster.start_broker(id);
        run.cluster.wait_ready(id);
        run.wait_in_sync();
        times.add(bounded(run.cluster.recorder().now_us() - empty_us));
        copying.extend(&acknowledged_after_us(&run.cluster.recorder().events_since(empty_us)));
    }
    let report = run.finish();
    let besides = vec![
        ("rejoin: acknowledgements before", calm, "-"),
        ("rejoin: acknowledgements meanwhile", copying, "p99 twice that before"),
    ];
    Measured { times, besides, report }
}

fn write_what_is_copied(run: &Run) {
    let records = setting::number("STREAMBUS_COPIED_MIB", 128) * (1 << 20) / COPIED_RECORD_BYTES;
    run.ask(async |bus| {
        create_topic(bus, COPIED, &Topic::partitions(6).replicas(3)).await;
        let producer = bus.producer();
        let mut deliveries = Vec::new();
        for number in 0..records {
            let value = vec![0x5a; COPIED_RECORD_BYTES as usize];
            let record = Record::new(COPIED, value).partition((number % 6) as u32);
            deliveries.push(producer.enqueue(record).await.expect("all brokers are well"));
            if number % COPIED_BATCH == COPIED_BATCH - 1 {
                for delivery in deliveries.drain(..) {
                    delivery.await.expect("all brokers are well");
                }
            }
        }
        for delivery in deliveries {
            delivery.await.expect("all brokers are well");
        }
    });
}
