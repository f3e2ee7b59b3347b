//! End to end: records are sent at a fixed rate while they are consumed; latency counts from when a record was due to
//! when the consumer had it, so that neither a slow producer nor a slow consumer hides its own delay.

use std::time::Duration;

use streambus_client::Start;
use tokio::task::JoinSet;

use super::error::WorkloadError;
use super::produce::{Fleet, ProduceOptions, failures};
use super::setup::{self, Meter};
use super::verify::POLL_RECORDS;
use crate::integrity::Ledger;
use crate::latency::Latencies;
use crate::report::{Report, Workload};
use crate::stamp::{self, Reading};
use crate::stopwatch::{self, Stopwatch};

/// How long the consumer waits for more once everything was sent.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the workload: `options.rate` is the pace. Every record is judged as it arrives, so there is no reading back.
pub async fn run(options: &ProduceOptions) -> Result<Report, WorkloadError> {
    options.require_stamps()?;
    let Some(rate) = options.rate.filter(|rate| *rate > 0) else {
        return Err(WorkloadError::Options("end-to-end runs need a rate".to_owned()));
    };
    let reader = options.common.connect().await?;
    let state = setup::topic_state(&reader, &options.common.topic).await?;
    let run = stopwatch::run_number();
    // The start is fixed before the first record is sent, so none is missed.
    let consumer = reader
        .consumer([options.common.topic.as_str()])
        .from(Start::Latest)
        .start()
        .await
        .map_err(WorkloadError::during("starting the consumer"))?;
    let fleet = Fleet::connect(options).await?;
    let meter = Meter::start(options.common.broker_pid);
    let mut receiving = JoinSet::new();
    let total = options.records;
    let ledger = Ledger::new(run, options.common.client_count(), options.record_bytes);
    receiving.spawn(receive(consumer, run, total, ledger, meter.watch, due_end(total, rate)));
    let all = fleet.send(run, meter.watch).await?;
    let Some(received) = receiving.join_next().await else {
        return Err(WorkloadError::NoVerdict);
    };
    let (mut ledger, latencies, bytes) = received??;
    let metered = meter.read();
    all.iter().for_each(|sent| sent.tell(&mut ledger));
    let (errors, first_error) = failures(&all);
    let verdict = ledger.finish();
    Ok(Report {
        errors,
        first_error,
        latency_of: "due time to receipt",
        latency: latencies.percentiles(),
        integrity: Some(verdict),
        ..metered.report(Workload::EndToEnd, options.conditions(&state, 1), verdict.read, bytes)
    })
}

/// When the last record is due.
fn due_end(records: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(records as f64 / rate as f64)
}

/// Receives until every record has come, or nothing comes any more after the last was due.
async fn receive(
    mut consumer: streambus_client::Consumer,
    run: u32,
    total: u64,
    mut ledger: Ledger,
    watch: Stopwatch,
    last_due: Duration,
) -> Result<(Ledger, Latencies, u64), WorkloadError> {
    let (mut latencies, mut bytes) = (Latencies::new(), 0_u64);
    while ledger.read_count() < total {
        let wait = DRAIN_TIMEOUT + last_due.saturating_sub(watch.elapsed());
        let batch = consumer.next_batch(POLL_RECORDS, wait).await.map_err(WorkloadError::during("consuming"))?;
        let now = watch.elapsed_micros();
        let mut received_any = false;
        for record in batch {
            received_any = true;
            let value = record.value.as_deref().unwrap_or_default();
            if let Reading::Valid(stamp) = stamp::read(value, run) {
                latencies.record_micros(now.saturating_sub(stamp.intended_micros));
                bytes += u64::try_from(value.len()).unwrap_or(0);
            }
            ledger.read(record.partition, value);
        }
        if !received_any {
            break;
        }
    }
    Ok((ledger, latencies, bytes))
}
