//! One simulated run: three brokers and their clients, faults drawn from the seed, then everything is healed, read back,
//! recovered, compared and judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use streambus_consensus::blocking::AtOnce;
use streambus_tests::checker::{check_replicas, check_run};
use streambus_tests::dump::LogDump;
use streambus_tests::event::What;
use streambus_tests::history::{History, Outcome};
use tokio::sync::watch;
use turmoil::Sim;

use crate::entropy;
use crate::load::{LoadHost, Phase, Progress};
use crate::machine::{Machine, PLANNED_MAX, host};
use crate::network::{HostNetwork, Machine as MachineState, Wires};
use crate::plant::Plant;
use crate::trace::{LogLines, Trace};

const BROKERS: u32 = 3;
const MIN_ISR: u8 = 2;
const CLIENTS: [&str; 4] = ["load-0", "load-1", "reader", "observer"];
const TICK: Duration = Duration::from_millis(1);
/// How long bytes between brokers may stay unconfirmed before their connection breaks.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(3);
/// Simulated time that each phase may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long after a fault leaders may still change because of it.
const UNSETTLED: Duration = Duration::from_secs(5);
/// Acknowledgements before the first fault.
const ACKED_FIRST: u64 = 100;

/// What a run showed.
pub(crate) struct Outcomes {
    pub(crate) trace: Vec<String>,
    pub(crate) problems: Vec<String>,
    pub(crate) summary: String,
    pub(crate) simulated_ms: u128,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    PowerCut,
    PowerCutInAWrite,
    PowerCutOfAll,
    Cut,
    CutOneWay,
    Isolation,
    Freeze,
    SlowLink,
    SlowDisk,
    ClockJump,
}

impl Fault {
    const ALL: [Self; 11] = [
        Self::Kill,
        Self::PowerCut,
        Self::PowerCutInAWrite,
        Self::PowerCutOfAll,
        Self::Cut,
        Self::CutOneWay,
        Self::Isolation,
        Self::Freeze,
        Self::SlowLink,
        Self::SlowDisk,
        Self::ClockJump,
    ];
}

/// What ends a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    Start(u32),
    Unblock(String, String),
    BreakLines(String, String),
    Release(String, String),
    QuickLink(String, String),
    QuickDisk(u32),
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
}

/// Runs `seed` on a thread of its own, whose randomness it fixes.
pub(crate) fn simulate(seed: u64, faults_for: Duration, plant: Plant) -> Outcomes {
    let run = move || {
        if plant != Plant::Undetermined {
            entropy::fix_on_this_thread(seed);
        }
        let _at_once = AtOnce::on_this_thread();
        let trace = Trace::default();
        tracing::subscriber::with_default(LogLines::new(trace.clone()), || World::run(seed, faults_for, plant, trace))
    };
    let thread = std::thread::Builder::new().name("simulation".to_owned()).stack_size(16 << 20).spawn(run);
    thread.expect("a thread").join().expect("a simulation reports what is wrong")
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
        Outcomes { simulated_ms: world.trace.now().as_millis(), trace: world.trace.lines(), problems, summary }
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
        let mut machines = BTreeMap::new();
        for id in 1..=BROKERS {
            let machine = Machine::new(id, BROKERS, seed, &wires, &trace, plant);
            machine.skew_ms.store(random.random_range(-60_000..=60_000), Ordering::Relaxed);
            let started = machine.clone();
            sim.host(host(id), move || started.clone().run());
            machines.insert(id, machine);
        }
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
                _ => sim.host(name, move || client.clone().observe()),
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
        }
    }

    fn go(&mut self, faults_for: Duration) -> Result<(), String> {
        self.until("the cluster takes no records", |world| world.progress.lock().acked >= ACKED_FIRST)?;
        let count = self.random.random_range(3..=Fault::ALL.len());
        let kinds: Vec<Fault> = Fault::ALL.choose_multiple(&mut self.random, count).copied().collect();
        let pause_max = self.random.random_range(300..=3_000);
        self.trace.line("driver", &format!("faults of this run: {kinds:?}"));
        let end = self.sim.elapsed() + faults_for;
        while self.sim.elapsed() < end {
            let pause = Duration::from_millis(self.random.random_range(50..=pause_max));
            self.pass(pause)?;
            let kind = *kinds.choose(&mut self.random).expect("at least three");
            self.hurt(kind);
        }
        self.heal();
        let partitions = self.partitions as usize;
        let in_sync = move |world: &Self| {
            world.machines.values().all(|machine| {
                let image = machine.image.lock();
                image.as_ref().is_some_and(|image| {
                    let mut count = 0;
                    let all = image.partitions().all(|(_, _, partition)| {
                        count += 1;
                        partition.leader.is_some() && partition.isr.len() == partition.replicas.len()
                    });
                    all && count == partitions
                })
            })
        };
        self.phase.send_replace(Phase::Drain);
        self.until("not every record has an outcome", |world| world.progress.lock().drained == 2)?;
        self.until("not every replica is in sync", in_sync)?;
        self.phase.send_replace(Phase::ReadBack);
        self.until("the records cannot be read back", |world| world.progress.lock().read.is_some())
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
            .filter(|(id, m)| !self.down.contains(id) && !m.is_powered())
            .map(|(id, _)| *id)
            .collect();
        for id in died {
            let back = Duration::from_millis(self.random.random_range(300..=5_000));
            self.fault(format!("power of broker {id} went in the middle of a write, back in {back:?}"));
            self.lose_power(id, back);
        }
        let now = self.sim.elapsed();
        if !self.due.is_empty() {
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

    fn fault(&self, what: String) {
        self.trace.event("driver", What::Fault { what });
    }

    fn later(&mut self, after: Duration, due: Due) {
        self.due.push((self.sim.elapsed() + after, due));
    }

    fn duration(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from_ms..=to_ms))
    }

    fn broker(&mut self) -> u32 {
        self.random.random_range(1..=BROKERS)
    }

    fn hosts(&self) -> Vec<String> {
        (1..=BROKERS).map(host).chain(CLIENTS.map(str::to_owned)).collect()
    }

    /// Two hosts of which one is a broker.
    fn pair(&mut self) -> (String, String) {
        let one = host(self.broker());
        loop {
            let other = self.hosts().choose(&mut self.random).expect("hosts").clone();
            if other != one {
                return (one, other);
            }
        }
    }

    fn hurt(&mut self, kind: Fault) {
        match kind {
            Fault::Kill => {
                let (id, back) = (self.broker(), self.duration(50, 4_000));
                if self.down.insert(id) {
                    self.fault(format!("broker {id} is killed, back in {back:?}"));
                    self.machines[&id].lose_process();
                    self.sim.crash(host(id));
                    self.wires.set_machine(&host(id), MachineState::WithoutProcess);
                    self.later(back, Due::Start(id));
                }
            }
            Fault::PowerCut => {
                let (id, back) = (self.broker(), self.duration(300, 6_000));
                if !self.down.contains(&id) {
                    self.fault(format!("power of broker {id} is cut, back in {back:?}"));
                    self.lose_power(id, back);
                }
            }
            Fault::PowerCutInAWrite => {
                let (id, nth) = (self.broker(), self.random.random_range(1..=PLANNED_MAX));
                if !self.down.contains(&id) {
                    self.fault(format!("power of broker {id} will go in change {nth} of its disk"));
                    self.machines[&id].plan_power_cut(nth);
                }
            }
            Fault::PowerCutOfAll => {
                self.fault("power of every broker is cut".to_owned());
                for id in 1..=BROKERS {
                    let back = self.duration(500, 3_000);
                    if !self.down.contains(&id) {
                        self.lose_power(id, back);
                    }
                }
            }
            Fault::Cut => {
                let ((one, other), time) = (self.pair(), self.duration(100, 8_000));
                self.fault(format!("{one} and {other} are cut off from each other for {time:?}"));
                self.block(&one, &other, time);
                self.block(&other, &one, time);
            }
            Fault::CutOneWay => {
                let ((mut from, mut to), time) = (self.pair(), self.duration(100, 8_000));
                if self.random.random_bool(0.5) {
                    std::mem::swap(&mut from, &mut to);
                }
                self.fault(format!("nothing from {from} reaches {to} for {time:?}"));
                self.block(&from, &to, time);
            }
            Fault::Isolation => {
                let (me, time) = (host(self.broker()), self.duration(500, 8_000));
                self.fault(format!("{me} is cut off from everybody for {time:?}"));
                for other in self.hosts().into_iter().filter(|other| *other != me) {
                    self.block(&me, &other, time);
                    self.block(&other, &me, time);
                }
            }
            Fault::Freeze => {
                let ((one, other), time) = (self.pair(), self.duration(20, 2_500));
                let pair = (one.clone(), other.clone());
                if !self.is_blocked(&one, &other) && self.held.insert(pair) {
                    self.fault(format!("what {one} and {other} send is lost and sent again for {time:?}"));
                    self.sim.hold(one.as_str(), other.as_str());
                    self.later(time, Due::Release(one, other));
                }
            }
            Fault::SlowLink => {
                let ((one, other), time) = (self.pair(), self.duration(500, 6_000));
                let latency = self.duration(20, 400);
                self.fault(format!("{one} and {other} are up to {latency:?} apart for {time:?}"));
                self.sim.set_link_max_message_latency(one.as_str(), other.as_str(), latency);
                self.later(time, Due::QuickLink(one, other));
            }
            Fault::SlowDisk => {
                let (id, time, longest) = (self.broker(), self.duration(300, 5_000), self.duration(20, 1_500));
                self.fault(format!("the disk of broker {id} takes up to {longest:?} a commit for {time:?}"));
                let longest = u64::try_from(longest.as_millis()).expect("short");
                self.machines[&id].commit_ms_max.store(longest, Ordering::Relaxed);
                self.later(time, Due::QuickDisk(id));
            }
            Fault::ClockJump => {
                let (id, jump) = (self.broker(), self.random.random_range(-3_600_000_i64..=3_600_000));
                self.fault(format!("the wall clock of broker {id} jumps by {jump} ms"));
                self.machines[&id].skew_ms.fetch_add(jump, Ordering::Relaxed);
            }
        }
    }

    fn end(&mut self, due: Due) {
        match due {
            Due::Start(id) => {
                let me = host(id);
                if self.dark.remove(&id) {
                    for other in self.hosts().into_iter().filter(|other| *other != me) {
                        self.wires.break_lines(&me, &other);
                        self.unblock(&me, &other);
                        self.unblock(&other, &me);
                    }
                }
                self.fault(format!("broker {id} starts again"));
                self.machines[&id].restart();
                self.down.remove(&id);
                self.wires.set_machine(&me, MachineState::Serving);
                self.sim.bounce(me);
            }
            Due::Unblock(from, to) => {
                self.wires.break_lines(&from, &to);
                self.unblock(&from, &to);
            }
            Due::BreakLines(one, other) => self.wires.break_lines(&one, &other),
            Due::Release(one, other) => {
                if self.held.remove(&(one.clone(), other.clone())) {
                    self.sim.release(one, other);
                }
            }
            Due::QuickLink(one, other) => {
                self.sim.set_link_max_message_latency(one, other, Duration::from_millis(8));
            }
            Due::QuickDisk(id) => self.machines[&id].commit_ms_max.store(4, Ordering::Relaxed),
        }
    }

    /// Nobody answers where broker `id` was, and nothing that it did not make durable need be there when it is back.
    fn lose_power(&mut self, id: u32, back: Duration) {
        let me = host(id);
        self.down.insert(id);
        self.dark.insert(id);
        for other in self.hosts().into_iter().filter(|other| *other != me) {
            self.block_now(&me, &other);
            self.block_now(&other, &me);
            self.later(UNCONFIRMED_MAX.min(back), Due::BreakLines(me.clone(), other));
        }
        self.wires.set_machine(&me, MachineState::Dark);
        self.machines[&id].lose_power();
        self.sim.crash(me);
        self.later(back, Due::Start(id));
    }

    fn block(&mut self, from: &str, to: &str, time: Duration) {
        self.block_now(from, to);
        self.later(UNCONFIRMED_MAX.min(time), Due::BreakLines(from.to_owned(), to.to_owned()));
        self.later(time, Due::Unblock(from.to_owned(), to.to_owned()));
    }

    fn block_now(&mut self, from: &str, to: &str) {
        // Turmoil knows one state of a link: what was held back arrives before the cut.
        for (one, other) in [(from, to), (to, from)] {
            if self.held.remove(&(one.to_owned(), other.to_owned())) {
                self.sim.release(one, other);
            }
        }
        if self.wires.block(from, to) {
            self.sim.partition_oneway(from, to);
        }
    }

    fn unblock(&mut self, from: &str, to: &str) {
        if self.wires.unblock(from, to) {
            self.sim.repair_oneway(from, to);
        }
    }

    fn is_blocked(&self, one: &str, other: &str) -> bool {
        self.wires.is_cut(one, other)
    }

    /// Ends every fault now.
    fn heal(&mut self) {
        for id in 1..=BROKERS {
            if self.machines[&id].has_plan() {
                if !self.down.contains(&id) {
                    self.lose_power(id, TICK);
                }
                self.machines[&id].use_up_plan();
            }
        }
        self.fault("everything is healed".to_owned());
        for (_, due) in std::mem::take(&mut self.due) {
            self.end(due);
        }
    }

    fn judge(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.panicked.load(Ordering::Relaxed) {
            problems.push("something panicked: see the trace".to_owned());
        }
        let Some((read, watermarks)) = self.progress.lock().read.take() else { return problems };
        problems.extend(check_run(&self.trace.events(), &read, MIN_ISR).iter().map(ToString::to_string));
        let mut replicas: BTreeMap<String, BTreeMap<u32, LogDump>> = BTreeMap::new();
        let mut ends = BTreeMap::new();
        for (id, machine) in &self.machines {
            machine.lose_process();
            self.sim.crash(host(*id));
            match machine.dump() {
                Ok(logs) => {
                    for (partition, log) in logs {
                        ends.insert(partition.to_string(), watermarks.get(partition.partition.get() as usize).copied());
                        replicas.entry(partition.to_string()).or_default().insert(*id, log);
                    }
                }
                Err(problem) => problems.push(format!("the disk of broker {id}: {problem}")),
            }
        }
        if replicas.len() != self.partitions as usize {
            problems.push(format!("{} logs on the disks for {} partitions", replicas.len(), self.partitions));
        }
        for (log, replicas) in &replicas {
            if replicas.len() != self.machines.len() {
                problems.push(format!("{log} is on {} disks only", replicas.len()));
            }
            let watermark = ends.get(log).copied().flatten().unwrap_or(0);
            problems.extend(check_replicas(log, watermark, replicas).iter().map(ToString::to_string));
        }
        problems
    }
}
