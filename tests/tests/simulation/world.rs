//! One simulated run: three brokers, a fourth that may take the place of one, and their clients, faults drawn from the seed,
//! then everything is healed, read back, recovered, compared and judged.

mod hurt;
mod membership;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use streambus_consensus::blocking::AtOnce;
use streambus_consensus::image::PartitionImage;
use streambus_tests::event::What;
use streambus_tests::history::{History, Outcome};
use tokio::sync::watch;
use turmoil::Sim;

use crate::entropy;
use crate::fault::{Due, Fault};
use crate::load::{LoadHost, Phase, Progress};
use crate::machine::{Compaction, Machine, MetadataLog, Setup, host};
use crate::network::{HostNetwork, Wires};
use crate::plant::Plant;
use crate::trace::{LogLines, Trace};
use crate::world::membership::Replacement;

const BROKERS: u32 = 3;
const MIN_ISR: u8 = 2;
/// The broker that may join later.
const NEWCOMER: u32 = 4;
const CLIENTS: [&str; 5] = ["load-0", "load-1", "reader", "observer", "operator"];
const TICK: Duration = Duration::from_millis(1);
/// How long bytes between brokers may stay unconfirmed before their connection breaks.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(3);
/// Simulated time that each phase may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long after a fault leaders may still change because of it.
const UNSETTLED: Duration = Duration::from_secs(5);
/// How long a broker may take that was asked to stop: longer than all its patience with others together.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// When a supervisor starts a process again that could not start.
const SUPERVISED_AFTER: Duration = Duration::from_millis(500);
/// Real time in which no simulated time may pass: a thousand times what a slow machine takes for one step.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);
/// Acknowledgements before the first fault.
const ACKED_FIRST: u64 = 100;

/// What a run showed.
pub(crate) struct Outcomes {
    pub(crate) trace: Vec<String>,
    pub(crate) problems: Vec<String>,
    pub(crate) summary: String,
    pub(crate) simulated_ms: u128,
    /// What became of the metadata's logs.
    pub(crate) compaction: Compaction,
}

struct World<'a> {
    sim: Sim<'a>,
    trace: Trace,
    random: StdRng,
    wires: Wires,
    machines: BTreeMap<u32, Machine>,
    down: BTreeSet<u32>,
    dark: BTreeSet<u32>,
    held: BTreeSet<(String, String)>,
    due: Vec<(Duration, Due)>,
    progress: Arc<Mutex<Progress>>,
    phase: watch::Sender<Phase>,
    partitions: u32,
    panicked: Arc<AtomicBool>,
    /// Until when acknowledgements may come from a leader that does not know yet who has a record.
    unsettled_until: Duration,
    plant: Plant,
    /// Brokers that were asked to stop, until they have.
    stopping: BTreeMap<u32, Stopping>,
    emptied: Emptied,
    replacement: Replacement,
    /// Tells the operator which broker is to leave.
    orders: watch::Sender<Option<u32>>,
    setup: Setup,
    /// How many faults there were.
    faults: u64,
}

/// Whether a broker has lost its disks: one in a run, and only when the others have everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Emptied {
    NotYet,
    /// As soon as the cluster can bear it.
    Wanted,
    Done,
}

/// A broker that was asked to stop.
struct Stopping {
    until: Duration,
    back: Duration,
    /// How many faults there were, this one included, if the cluster had got over the others: unless one more comes, it must
    /// hand over.
    calm_after: Option<u64>,
}

/// Runs `seed` on a thread of its own, whose randomness it fixes.
pub(crate) fn simulate(seed: u64, faults_for: Duration, plant: Plant) -> Outcomes {
    let trace = Trace::default();
    let (done, outcomes) = mpsc::channel();
    let traced = trace.clone();
    let run = move || {
        if plant != Plant::Undetermined {
            entropy::fix_on_this_thread(seed);
        }
        let _at_once = AtOnce::on_this_thread();
        let lines = LogLines::new(traced.clone());
        let ran = tracing::subscriber::with_default(lines, || World::run(seed, faults_for, plant, traced));
        // Nobody waits any more for one that stood still for too long.
        let _unheard = done.send(ran);
    };
    let thread = std::thread::Builder::new().name("simulation".to_owned()).stack_size(16 << 20).spawn(run);
    let _ends_with_the_process = thread.expect("a thread");
    let mut seen = trace.now();
    loop {
        match outcomes.recv_timeout(STANDSTILL_MAX) {
            Ok(outcomes) => return outcomes,
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("a simulation reports what is wrong"),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        let now = trace.now();
        if now == seen {
            return Outcomes::of_standstill(seed, &trace);
        }
        seen = now;
    }
}

impl Outcomes {
    /// Something works without a pause, so that simulated time does not pass.
    fn of_standstill(seed: u64, trace: &Trace) -> Self {
        let problem = format!("time stands still at {:?}: something works without end", trace.now());
        let summary = format!("seed {seed}: {problem}");
        let (simulated_ms, compaction) = (trace.now().as_millis(), Compaction::default());
        Self { simulated_ms, trace: trace.lines(), problems: vec![problem], summary, compaction }
    }
}

impl World<'_> {
    fn run(seed: u64, faults_for: Duration, plant: Plant, trace: Trace) -> Outcomes {
        let mut world = Self::new(seed, plant, trace);
        let mut problems = Vec::new();
        if let Err(problem) = world.go(faults_for) {
            world.trace.line("driver", &problem);
            problems.push(problem);
        }
        problems.extend(world.judge());
        let events = world.trace.events();
        let history = History::of(&events);
        let refused = history.outcomes().filter(|(_, outcome)| *outcome == Outcome::Refused).count();
        let faults =
            events.iter().filter(|event| matches!(&event.what, What::Fault { what } if !what.is_empty())).count();
        let summary = format!(
            "seed {seed}: {:.1} s simulated, {faults} faults, {} acknowledged, {} unknown, {refused} refused, {} problems",
            world.trace.now().as_secs_f64(),
            history.acked(),
            history.unknown(),
            problems.len()
        );
        let compaction = *world.setup.metadata_log.done.lock();
        let simulated_ms = world.trace.now().as_millis();
        Outcomes { simulated_ms, trace: world.trace.lines(), problems, summary, compaction }
    }

    fn new(seed: u64, plant: Plant, trace: Trace) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let latency_max = random.random_range(2..=12);
        let mut builder = turmoil::Builder::new();
        builder
            .tick_duration(TICK)
            .epoch(UNIX_EPOCH + Duration::from_secs(1_800_000_000))
            .simulation_duration(Duration::from_secs(24 * 3600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(latency_max))
            .tcp_capacity(4096)
            .enable_random_order()
            .rng_seed(seed);
        let mut sim = builder.build();
        let wires = Wires::new(trace.clone());
        let partitions = random.random_range(1..=3);
        let setup = Setup {
            founders: BROKERS,
            seed,
            wires: wires.clone(),
            trace: trace.clone(),
            plant,
            metadata_log: small_metadata_log(seed),
        };
        let mut machines = BTreeMap::new();
        for id in 1..=BROKERS {
            let machine = Machine::new(id, &setup);
            machine.skew_ms.store(random.random_range(-60_000..=60_000), Ordering::Relaxed);
            let started = machine.clone();
            sim.host(host(id), move || started.clone().run());
            machines.insert(id, machine);
        }
        let orders = watch::Sender::new(None);
        let (phase, progress) = (watch::channel(Phase::Load).0, Arc::new(Mutex::new(Progress::default())));
        let burst_max = random.random_range(1..=6);
        for (number, name) in (0_u64..).zip(CLIENTS) {
            let silent = Arc::new(AtomicBool::new(false));
            let client = LoadHost {
                network: HostNetwork { me: name.to_owned(), wires: wires.clone(), silent },
                trace: trace.clone(),
                brokers: BROKERS,
                partitions,
                seed: seed.wrapping_add(number),
                burst_max,
                phase: phase.subscribe(),
                progress: Arc::clone(&progress),
            };
            match name {
                "load-0" => sim.host(name, move || client.clone().produce(0)),
                "load-1" => sim.host(name, move || client.clone().produce(1)),
                "reader" => sim.host(name, move || client.clone().follow(0)),
                "observer" => sim.host(name, move || client.clone().observe()),
                _ => {
                    let ordered = orders.subscribe();
                    sim.host(name, move || client.clone().operate(ordered.clone()));
                }
            }
        }
        let panicked = Arc::new(AtomicBool::new(false));
        let (seen, noted) = (Arc::clone(&panicked), trace.clone());
        std::panic::set_hook(Box::new(move |panic| {
            seen.store(true, Ordering::Relaxed);
            noted.line("PANIC", &panic.to_string().replace('\n', " "));
            eprintln!("{panic}");
        }));
        Self {
            sim,
            trace,
            random,
            wires,
            machines,
            down: BTreeSet::new(),
            dark: BTreeSet::new(),
            held: BTreeSet::new(),
            due: Vec::new(),
            progress,
            phase,
            partitions,
            panicked,
            unsettled_until: Duration::ZERO,
            plant,
            stopping: BTreeMap::new(),
            emptied: Emptied::NotYet,
            replacement: Replacement::NotYet,
            orders,
            setup,
            faults: 0,
        }
    }

    fn go(&mut self, faults_for: Duration) -> Result<(), String> {
        self.until("the cluster takes no records", |world| world.progress.lock().acked >= ACKED_FIRST)?;
        let count = self.random.random_range(3..=Fault::ALL.len());
        let mut kinds: Vec<Fault> = Fault::ALL.choose_multiple(&mut self.random, count).copied().collect();
        kinds.extend(self.plant.shown_by().filter(|kind| !kinds.contains(kind)));
        let pause_max = self.random.random_range(300..=3_000);
        self.trace.line("driver", &format!("faults of this run: {kinds:?}"));
        self.maybe_plan_torn_snapshot();
        if kinds.contains(&Fault::OrderlyRestart) {
            // In a cluster that is well, where it has to hand over.
            self.until("not every replica is in sync", Self::is_in_sync)?;
            self.hurt(Fault::OrderlyRestart);
            self.until("a broker does not stop", |world| world.stopping.is_empty())?;
        }
        if self.plant.shown_by() == Some(Fault::EmptiedDisk) {
            // Once in a run, and only while all is well: what comes before it, or rules it out, must not keep it from coming.
            self.until("not every replica is in sync", Self::is_in_sync)?;
            self.hurt(Fault::EmptiedDisk);
        }
        let end = self.sim.elapsed() + faults_for;
        while self.sim.elapsed() < end {
            let pause = Duration::from_millis(self.random.random_range(50..=pause_max));
            self.pass(pause)?;
            let kind = *kinds.choose(&mut self.random).expect("at least three");
            self.hurt(kind);
        }
        self.heal();
        self.phase.send_replace(Phase::Drain);
        self.until("not every record has an outcome", |world| world.progress.lock().drained == 2)?;
        self.until("a broker that leaves is not forgotten", |world| !world.is_replacing())?;
        self.until("not every replica is in sync", Self::is_in_sync)?;
        self.phase.send_replace(Phase::ReadBack);
        self.until("the records cannot be read back", |world| world.progress.lock().read.is_some())
    }

    /// True when every broker is there and knows every replica of every partition in sync.
    fn is_in_sync(&self) -> bool {
        let knows_all = |machine: &Machine| {
            machine.image.lock().as_ref().is_some_and(|image| {
                let is_whole = |partition: &PartitionImage| {
                    partition.leader.is_some() && partition.isr.len() == partition.replicas.len()
                };
                image.partition_count() == u64::from(self.partitions)
                    && image.partitions().all(|(_, _, partition)| is_whole(partition))
            })
        };
        self.down.is_empty() && self.stopping.is_empty() && self.machines.values().all(knows_all)
    }

    fn until(&mut self, otherwise: &str, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        let limit = self.sim.elapsed() + PATIENCE;
        while !done(self) {
            if self.sim.elapsed() >= limit {
                return Err(format!("after {PATIENCE:?}: {otherwise}"));
            }
            self.step()?;
        }
        Ok(())
    }

    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        self.trace.advance_to(self.sim.elapsed());
        self.sim.step().map_err(|error| error.to_string())?;
        let died: Vec<u32> = self
            .machines
            .iter()
            .filter(|(id, m)| !self.down.contains(id) && !m.disks().is_powered())
            .map(|(id, _)| *id)
            .collect();
        for id in died {
            let back = Duration::from_millis(self.random.random_range(300..=5_000));
            self.fault(format!("power of broker {id} went in the middle of a write, back in {back:?}"));
            self.lose_power(id, back);
        }
        self.take_stopped()?;
        self.empty_if_wanted();
        self.go_on_replacing();
        let now = self.sim.elapsed();
        let is_at_work = !self.due.is_empty() || !self.stopping.is_empty() || self.is_replacing();
        if is_at_work {
            self.unsettled_until = now + UNSETTLED;
        }
        if now < self.unsettled_until {
            self.trace.note_unsettled();
        }
        while let Some(at) = self.due.iter().position(|(when, _)| *when <= now) {
            let (_, due) = self.due.remove(at);
            self.end(due);
        }
        Ok(())
    }
}

/// So few changes between snapshots and so few kept behind one that brokers that were away, emptied disks and newcomers meet
/// a log whose beginning is gone.
fn small_metadata_log(seed: u64) -> MetadataLog {
    // A generator of its own: these draws are nobody else's.
    let mut random = StdRng::seed_from_u64(!seed);
    MetadataLog {
        snapshot_changes: random.random_range(10..=20),
        kept_changes: random.random_range(0..=5),
        done: Arc::default(),
    }
}
