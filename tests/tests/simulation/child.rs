//! Starts runs as processes of their own, and is one.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use parking_lot::Mutex;

use crate::machine::Compaction;
use crate::plant::Plant;
use crate::world::simulate;

const ORDER: &str = "STREAMBUS_SIM_ORDER";
/// Problems that a failure prints.
const SHOWN_MAX: usize = 10;

/// A run that was asked for: seed, seconds of faults, what is planted.
pub(crate) struct Order {
    seed: u64,
    seconds: u64,
    plant: Plant,
}

/// What this process was started for, if for a run.
pub(crate) fn order() -> Option<Order> {
    let text = std::env::var(ORDER).ok()?;
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("{ORDER}={text} is no order"));
    let (seed, seconds) = (word().parse().expect("a seed"), word().parse().expect("seconds"));
    Some(Order { seed, seconds, plant: Plant::from_name(word()) })
}

/// Does the run and writes what it showed into the current directory.
pub(crate) fn obey(order: &Order) {
    let outcomes = simulate(order.seed, Duration::from_secs(order.seconds), order.plant);
    let write = |name: &str, lines: &[String]| {
        let mut file = std::io::BufWriter::new(std::fs::File::create(name).expect("a file"));
        for line in lines {
            writeln!(file, "{line}").expect("written");
        }
        file.flush().expect("written");
    };
    write("trace", &outcomes.trace);
    write("problems", &outcomes.problems);
    let Compaction { built, installed, purged, torn } = outcomes.compaction;
    let numbers = [cpu_ms().into(), outcomes.simulated_ms, built.into(), installed.into(), purged.into(), torn.into()];
    let lines: Vec<String> = [outcomes.summary].into_iter().chain(numbers.map(|number| number.to_string())).collect();
    write("summary", &lines);
}

/// What this process has used of the processor, in milliseconds; in steps of ten.
fn cpu_ms() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in brackets may hold anything; user and system time are the 12th and 13th words behind it.
    let words = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    words.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10
}

/// A run that has ended.
pub(crate) struct Finished {
    pub(crate) trace: String,
    pub(crate) problems: Vec<String>,
    pub(crate) summary: String,
    pub(crate) simulated: Duration,
    pub(crate) cpu: Duration,
    pub(crate) compaction: Compaction,
    directory: PathBuf,
}

/// Runs `seed` in a process of its own.
pub(crate) fn run(seed: u64, seconds: u64, plant: Plant) -> Finished {
    let directory = tempfile::Builder::new().prefix("simulation-").tempdir().expect("a directory");
    let me = std::env::current_exe().expect("this test's binary");
    let output = Command::new(me)
        .args(["--exact", "one_run", "--nocapture", "--test-threads=1"])
        .env(ORDER, format!("{seed} {seconds} {}", plant.name()))
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()
        .expect("this test's binary runs");
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name));
    let Ok(summary) = read("summary") else {
        panic!("seed {seed} ended without a summary:\n{}", String::from_utf8_lossy(&output.stderr));
    };
    let mut lines = summary.lines();
    let line = lines.next().unwrap_or_default().to_owned();
    let mut number = || lines.next().and_then(|line| line.parse().ok()).expect("a number");
    let (cpu, simulated) = (Duration::from_millis(number()), Duration::from_millis(number()));
    let compaction = Compaction { built: number(), installed: number(), purged: number(), torn: number() };
    let problems: Vec<String> = read("problems").expect("problems").lines().map(str::to_owned).collect();
    let trace = read("trace").expect("a trace");
    // A failed run's files are the evidence.
    let directory = match problems.is_empty() || plant != Plant::None {
        true => PathBuf::new(),
        false => directory.keep(),
    };
    Finished { trace, problems, summary: line, simulated, cpu, compaction, directory }
}

/// Runs every seed, as many at a time as there are processors.
pub(crate) fn run_all(seeds: Vec<u64>, seconds: u64, plant: Plant) -> Vec<Finished> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (left, done) = (Mutex::new(seeds), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some(seed) = left.lock().pop() else { return };
                    let finished = run(seed, seconds, plant);
                    done.lock().push((seed, finished));
                }
            });
        }
    });
    let mut done = done.into_inner();
    done.sort_by_key(|(seed, _)| *seed);
    done.into_iter().map(|(_, finished)| finished).collect()
}

impl Finished {
    /// Fails the test on any problem.
    pub(crate) fn assert_sound(&self) {
        let shown = &self.problems[..self.problems.len().min(SHOWN_MAX)];
        let place = self.directory.display();
        assert!(self.problems.is_empty(), "{}\n{}\nits trace: {place}/trace", self.summary, shown.join("\n"));
    }

    /// The first line in which two runs differ.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let (mut ours, mut theirs) = (self.trace.lines(), other.trace.lines());
        for number in 1.. {
            let (one, two) = (ours.next(), theirs.next());
            if one != two {
                return Some(format!("line {number}:\n  {one:?}\n  {two:?}"));
            }
            if one.is_none() {
                break;
            }
        }
        None
    }
}
