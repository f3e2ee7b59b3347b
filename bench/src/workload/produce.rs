//! Produce: closed loop with a bounded number of records in flight, or single records at a fixed rate.
//!
//! Closed loop: each client enqueues as fast as acknowledgements free its places, so throughput is the result and
//! latency follows from it. Fixed rate: sends are due at a schedule that does not wait for anybody, and latency counts
//! from when a record was due, so that a stall shows in every record it delayed.

use std::collections::VecDeque;
use std::time::Duration;

use streambus_client::{Acks, Client, Delivery, Error, ProducerConfig, Record};
use tokio::task::JoinSet;

use super::error::WorkloadError;
use super::setup::{self, Common, Meter, TopicState};
use super::verify;
use crate::integrity::Ledger;
use crate::latency::Latencies;
use crate::report::{Conditions, Report, Workload};
use crate::stamp::{Filler, STAMP_BYTES, ValueMaker};
use crate::stopwatch::{self, Stopwatch, micros};
use crate::tally::Stage;

/// Records of which a sender tells whoever watches at once.
const TOLD_TOGETHER: u64 = 256;

/// What to produce.
#[derive(Clone, Debug)]
pub struct ProduceOptions {
    /// Where.
    pub common: Common,
    /// How records are batched and acknowledged.
    pub producer: ProducerConfig,
    /// Records of all clients together.
    pub records: u64,
    /// Bytes of a value.
    pub record_bytes: usize,
    /// What values are filled with.
    pub filler: Filler,
    /// Records that one client keeps in flight.
    pub in_flight: usize,
    /// Records a second of all clients together; `None` for a closed loop.
    pub rate: Option<u64>,
    /// Keys to spread over, 0 for none: records without a key.
    pub keys: u32,
    /// Read everything back afterwards.
    pub verify: bool,
}

impl ProduceOptions {
    /// The conditions of a run that sends as these options say; `passes` says how often it reads the records.
    pub(crate) fn conditions(&self, topic: &TopicState, passes: u32) -> Conditions {
        Conditions {
            acks: acks_name(self.producer.acks).to_owned(),
            record_bytes: self.record_bytes,
            batch_bytes: self.producer.batch_bytes,
            compression: self.producer.compression.to_string(),
            in_flight: if self.rate.is_some() { 0 } else { self.in_flight },
            rate: self.rate.unwrap_or(0),
            passes,
            ..topic.conditions(&self.common)
        }
    }

    /// Refuses records that are too small to say which they are, where that is how they are judged.
    pub(crate) fn require_stamps(&self) -> Result<(), WorkloadError> {
        if self.record_bytes >= STAMP_BYTES {
            return Ok(());
        }
        Err(WorkloadError::Options(format!("records carry a stamp here: at least {STAMP_BYTES} bytes")))
    }
}

/// What one client saw.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) producer: u16,
    pub(crate) acked: Vec<(u32, u32)>,
    pub(crate) latencies: Latencies,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Settled records that nobody who watches was told of yet.
    untold: u64,
}

impl Sent {
    fn new(producer: u16) -> Self {
        Self { producer, acked: Vec::new(), latencies: Latencies::new(), errors: 0, first_error: None, untold: 0 }
    }

    /// Tells `ledger` which records were acknowledged.
    pub(crate) fn tell(&self, ledger: &mut Ledger) {
        self.acked
            .iter()
            .for_each(|(base, end)| (*base..*end).for_each(|sequence| ledger.acked(self.producer, sequence)));
    }

    fn settle(&mut self, sequence: u32, outcome: Result<(), &Error>) {
        match outcome {
            // Runs of sequence numbers, half-open: a clean run needs one entry.
            Ok(()) => match self.acked.last_mut() {
                Some((_, end)) if *end == sequence => *end += 1,
                _ => self.acked.push((sequence, sequence + 1)),
            },
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

/// How many records of all clients failed, and why the first did.
pub(crate) fn failures(all: &[Sent]) -> (u64, Option<String>) {
    (all.iter().map(|sent| sent.errors).sum(), all.iter().find_map(|sent| sent.first_error.clone()))
}

/// A place in flight.
struct Place {
    sequence: u32,
    due_micros: u64,
    delivery: Delivery,
}

/// Runs the workload.
pub async fn run(options: &ProduceOptions) -> Result<Report, WorkloadError> {
    let topic = &options.common.topic;
    let scout = options.common.connect().await?;
    let before = setup::topic_state(&scout, topic).await?;
    let run = stopwatch::run_number();
    let fleet = Fleet::connect(options).await?;
    let meter = Meter::start(options.common.broker_pid);
    let all = fleet.send(run, meter.watch).await?;
    let metered = meter.read();
    let mut latencies = Latencies::new();
    let mut acked = 0_u64;
    for sent in &all {
        latencies.add(&sent.latencies);
        acked += sent.acked.iter().map(|(base, end)| u64::from(end - base)).sum::<u64>();
    }
    let (mut integrity, mut verify_seconds) = (None, None);
    if options.verify {
        let watch = Stopwatch::start();
        let mut ledger = Ledger::new(run, options.common.client_count(), options.record_bytes);
        // Without acknowledgements nothing is promised, so nothing can be lost: order and doubles are still judged.
        if options.producer.acks != Acks::None {
            all.iter().for_each(|sent| sent.tell(&mut ledger));
        }
        let tally = &options.common.tally;
        tally.begin(Stage::Checking, acked, u64::try_from(options.record_bytes).unwrap_or(0));
        verify::read_back(&scout, topic, &before.ends, &mut ledger, tally).await?;
        verify_seconds = Some(watch.elapsed().as_secs_f64());
        integrity = Some(ledger.finish());
    }
    let bytes = acked.saturating_mul(u64::try_from(options.record_bytes).unwrap_or(0));
    let (errors, first_error) = failures(&all);
    let (workload, latency_of) = match options.rate {
        Some(_) => (Workload::ProducePaced, "due time to acknowledgement"),
        None => (Workload::Produce, "enqueue to acknowledgement"),
    };
    Ok(Report {
        errors,
        first_error,
        latency_of,
        latency: latencies.percentiles(),
        integrity,
        verify_seconds,
        ..metered.report(workload, options.conditions(&before, 0), acked, bytes)
    })
}

/// The name of an ack level.
fn acks_name(acks: Acks) -> &'static str {
    match acks {
        Acks::All => "all",
        Acks::Leader => "leader",
        Acks::None => "none",
    }
}

/// How many of `total` fall to client `index` of `clients`.
fn share(total: u64, clients: u16, index: u16) -> u32 {
    let (clients, index) = (u64::from(clients), u64::from(index));
    u32::try_from(total / clients + u64::from(index < total % clients)).unwrap_or(u32::MAX)
}

/// Clients that are connected and have sent nothing yet.
pub(crate) struct Fleet<'a> {
    options: &'a ProduceOptions,
    clients: Vec<Client>,
}

impl<'a> Fleet<'a> {
    /// Connects, so that connecting is no part of what is measured.
    pub(crate) async fn connect(options: &'a ProduceOptions) -> Result<Self, WorkloadError> {
        Ok(Self { options, clients: options.common.connect_all().await? })
    }

    /// Sends everything as records of `run`; `watch` is the schedule's beginning.
    pub(crate) async fn send(self, run: u32, watch: Stopwatch) -> Result<Vec<Sent>, WorkloadError> {
        let Self { options, clients } = self;
        let record_bytes = u64::try_from(options.record_bytes).unwrap_or(0);
        options.common.tally.begin(Stage::Sending, options.records, record_bytes);
        let count_of_clients = options.common.client_count();
        let mut tasks = JoinSet::new();
        for (index, client) in (0..count_of_clients).zip(clients) {
            let count = share(options.records, count_of_clients, index);
            let sender = Sender { options: options.clone(), index, clients: count_of_clients, count, run, watch };
            tasks.spawn(sender.run(client));
        }
        let mut all = Vec::new();
        while let Some(outcome) = tasks.join_next().await {
            all.push(outcome??);
        }
        Ok(all)
    }
}

/// One client's part.
struct Sender {
    options: ProduceOptions,
    index: u16,
    clients: u16,
    count: u32,
    run: u32,
    watch: Stopwatch,
}

impl Sender {
    async fn run(self, client: Client) -> Result<Sent, WorkloadError> {
        let options = &self.options;
        let producer =
            client.producer_with(options.producer.clone()).map_err(WorkloadError::during("starting a producer"))?;
        let maker = ValueMaker::new(self.run, self.index, options.record_bytes, options.filler);
        let topic: std::sync::Arc<str> = options.common.topic.as_str().into();
        let mut sent = Sent::new(self.index);
        let mut flying: VecDeque<Place> = VecDeque::with_capacity(options.in_flight);
        for sequence in 0..self.count {
            let due_micros = match options.rate {
                Some(rate) => {
                    let due = self.due(sequence, rate);
                    self.collect_until(due, &mut flying, &mut sent).await;
                    micros(due)
                }
                None => {
                    while flying.len() >= options.in_flight.max(1) {
                        self.collect_one(&mut flying, &mut sent).await;
                    }
                    self.watch.elapsed_micros()
                }
            };
            let mut record = Record::new(topic.clone(), maker.make(sequence, due_micros));
            if options.keys > 0 {
                // A multiplicative hash spreads neighbours; the constant is Knuth's.
                let key = sequence.wrapping_mul(2_654_435_761) % options.keys;
                record = record.key(key.to_le_bytes().to_vec());
            }
            match producer.enqueue(record).await {
                Ok(delivery) => flying.push_back(Place { sequence, due_micros, delivery }),
                Err(error) => {
                    sent.settle(sequence, Err(&error));
                    options.common.tally.fail();
                    if matches!(error, Error::Closed | Error::UnknownTopic { .. }) {
                        break;
                    }
                }
            }
        }
        while !flying.is_empty() {
            self.collect_one(&mut flying, &mut sent).await;
        }
        options.common.tally.add(std::mem::take(&mut sent.untold));
        producer.close().await.map_err(WorkloadError::during("closing a producer"))?;
        Ok(sent)
    }

    /// When this client's record `sequence` is due: clients take turns.
    fn due(&self, sequence: u32, rate: u64) -> Duration {
        let number = f64::from(sequence) * f64::from(self.clients) + f64::from(self.index);
        Duration::from_secs_f64(number / rate.max(1) as f64)
    }

    async fn collect_one(&self, flying: &mut VecDeque<Place>, sent: &mut Sent) {
        if let Some(place) = flying.pop_front() {
            let outcome = place.delivery.await;
            self.settle(place.sequence, place.due_micros, outcome.map(|_| ()), sent);
        }
    }

    /// Collects acknowledgements until `due`; when that has passed already, collects nothing and is late.
    async fn collect_until(&self, due: Duration, flying: &mut VecDeque<Place>, sent: &mut Sent) {
        let wait = self.watch.wait_until(due);
        let mut wait = std::pin::pin!(wait);
        loop {
            let Some(front) = flying.front_mut() else {
                wait.await;
                return;
            };
            tokio::select! {
                biased;
                outcome = &mut front.delivery => {
                    let (sequence, due_micros) = (front.sequence, front.due_micros);
                    flying.pop_front();
                    self.settle(sequence, due_micros, outcome.map(|_| ()), sent);
                }
                () = &mut wait => return,
            }
        }
    }

    fn settle(&self, sequence: u32, due_micros: u64, outcome: Result<(), Error>, sent: &mut Sent) {
        if outcome.is_ok() {
            sent.latencies.record_micros(self.watch.elapsed_micros().saturating_sub(due_micros));
        } else {
            self.options.common.tally.fail();
        }
        sent.untold += 1;
        if sent.untold == TOLD_TOGETHER {
            self.options.common.tally.add(std::mem::take(&mut sent.untold));
        }
        sent.settle(sequence, outcome.as_ref().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (total, clients) in [(10, 3), (0, 2), (7, 7), (1, 4)] {
            let sum: u64 = (0..clients).map(|index| u64::from(share(total, clients, index))).sum();
            assert_eq!(sum, total);
        }
    }

    #[test]
    fn acked_runs_merge_and_failures_split_them() {
        let mut sent = Sent::new(0);
        (0..3).for_each(|sequence| sent.settle(sequence, Ok(())));
        sent.settle(3, Err(&Error::Closed));
        sent.settle(4, Ok(()));
        assert_eq!(sent.acked, [(0, 3), (4, 5)]);
        assert_eq!((sent.errors, sent.first_error.as_deref()), (1, Some("closed")));
    }
}
