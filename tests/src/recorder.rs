//! Collects the events of a run from every task, stamped by one clock.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Stopwatch;
use tokio::sync::watch;

use crate::event::{Event, What};

/// The run's memory. Cheap to clone; clones write to the same run.
#[derive(Clone, Debug)]
pub struct Recorder {
    clock: Stopwatch,
    events: Arc<Mutex<Vec<Event>>>,
    acked: Arc<watch::Sender<u64>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// An empty run that begins now.
    pub fn new() -> Self {
        Self { clock: Stopwatch::start(), events: Arc::default(), acked: Arc::new(watch::channel(0).0) }
    }

    /// Microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        self.clock.elapsed_micros()
    }

    /// Records `what` as happening now; returns that moment.
    ///
    /// The stamp is taken under the lock, so the order of events is the order of their stamps.
    pub fn record(&self, what: What) -> u64 {
        let acked = matches!(what, What::Acked { .. });
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let at_us = self.clock.elapsed_micros();
        events.push(Event { at_us, what });
        drop(events);
        if acked {
            self.acked.send_modify(|count| *count += 1);
        }
        at_us
    }

    /// Records something done to the cluster, and prints it.
    pub fn fault(&self, what: impl Into<String>) -> u64 {
        let what = what.into();
        eprintln!("  {:>7.2} s  {what}", self.clock.elapsed().as_secs_f64());
        self.record(What::Fault { what })
    }

    /// The number of acknowledgements so far, and a way to wait for more.
    pub fn acked(&self) -> watch::Receiver<u64> {
        self.acked.subscribe()
    }

    /// Every event so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every event of `at_us` and later, in order: waiting for something must not copy a long run again and again.
    pub fn events_since(&self, at_us: u64) -> Vec<Event> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let first = events.partition_point(|event| event.at_us < at_us);
        events.get(first..).unwrap_or_default().to_vec()
    }

    /// Writes every event so far to `path`, one JSON line each.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn write_to(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        for event in self.events() {
            writeln!(file, "{}", event.to_line())?;
        }
        file.flush()
    }
}
