//! Tail: what a consumer reads a second of records that were just produced and still lie in the broker's tail cache.
//!
//! The workload writes so few records that the cache holds them all, then reads them from the first to the last, several
//! times over, because once takes only some milliseconds. So the consumer is measured alone: while records arrive it can
//! never be faster than their producer. Every pass is judged record by record.
//!
//! Whether the cache held them only the broker knows: its metrics count the reads that missed it.

use streambus_client::Acks;
use tokio::task::JoinSet;

use super::consume::{self, Part, Range};
use super::error::WorkloadError;
use super::judge;
use super::produce::{Fleet, ProduceOptions, failures};
use super::setup::{self, Meter};
use crate::integrity::{Ledger, Verdict};
use crate::report::{Conditions, Report, Workload};
use crate::stopwatch::{self, Stopwatch};
use crate::tally::Stage;

/// What to write, and how often to read it.
#[derive(Clone, Debug)]
pub struct TailOptions {
    /// What is written, as fast as it goes; that is not measured.
    pub produce: ProduceOptions,
    /// How often it is read, each time by a new consumer.
    pub passes: u32,
}

/// Runs the workload.
pub async fn run(options: &TailOptions) -> Result<Report, WorkloadError> {
    let produce = &options.produce;
    let common = &produce.common;
    produce.require_stamps()?;
    if produce.producer.acks == Acks::None {
        return Err(WorkloadError::Options("without acknowledgements nobody knows what there is to read".to_owned()));
    }
    let readers = common.connect_all().await?;
    let fleet = Fleet::connect(produce).await?;
    let before = setup::topic_state(&readers[0], &common.topic).await?;
    let run = stopwatch::run_number();
    let sent = fleet.send(run, Stopwatch::start()).await?;
    let after = setup::ends(&readers[0], &common.topic).await?;

    let record_bytes = u64::try_from(produce.record_bytes).unwrap_or(0);
    common.tally.begin(Stage::Reading, produce.records.saturating_mul(u64::from(options.passes)), record_bytes);
    let range = Range { topic: &common.topic, from: &before.ends, to: &after };
    let mut judges = JoinSet::new();
    let mut all = Part::default();
    let meter = Meter::start(common.broker_pid);
    for _ in 0..options.passes {
        let mut ledger = Ledger::new(run, common.client_count(), produce.record_bytes);
        sent.iter().for_each(|sent| sent.tell(&mut ledger));
        let judged = judge::start(ledger, &mut judges);
        all.add(&consume::read_all(&readers, &range, None, &judged, &common.tally).await?);
    }
    let metered = meter.read();
    let mut verdict = Verdict { by_stamp: true, ..Verdict::default() };
    while let Some(ledger) = judges.join_next().await {
        verdict.add(&ledger?.finish());
    }
    let (unsent, first_unsent) = failures(&sent);
    // How the records got there is no part of what is measured.
    let conditions = Conditions { in_flight: 0, rate: 0, ..produce.conditions(&before, options.passes) };
    Ok(Report {
        errors: unsent + all.stalled,
        first_error: first_unsent.or_else(|| all.stall()),
        integrity: Some(verdict),
        ..metered.report(Workload::Tail, conditions, all.records, all.bytes)
    })
}
