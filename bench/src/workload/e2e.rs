//! End to end: records are sent at a fixed rate while they are consumed; latency counts from when a record was due to
//! when the consumer had it, so that neither a slow producer nor a slow consumer hides its own delay.

use std::time::Duration;

use streambus_client::{Client, Start};
use tokio::task::JoinSet;

use super::error::WorkloadError;
use super::produce::{Fleet, ProduceOptions, acks_name};
use super::setup::{self, Meter};
use super::verify::POLL_RECORDS;
use crate::integrity::Ledger;
use crate::latency::Latencies;
use crate::report::{Conditions, Report, Workload};
use crate::stamp::{self, Reading, STAMP_BYTES};
use crate::stopwatch::{self, Stopwatch};

/// How long the consumer waits for more once everything was sent.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the workload: `options.rate` is the pace. Every record is judged as it arrives, so there is no reading back.
pub async fn run(options: &ProduceOptions) -> Result<Report, WorkloadError> {
    if options.record_bytes < STAMP_BYTES {
        return Err(WorkloadError::Options(format!("end-to-end records carry a stamp: at least {STAMP_BYTES} bytes")));
    }
    let Some(rate) = options.rate.filter(|rate| *rate > 0) else {
        return Err(WorkloadError::Options("end-to-end runs need a rate".to_owned()));
    };
    let clients = options.common.clients.max(1);
    let reader = Client::connect_with(options.common.config.clone()).await;
    let reader = reader.map_err(WorkloadError::during("connecting"))?;
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
    let ledger = Ledger::new(run, clients, options.record_bytes);
    receiving.spawn(receive(consumer, run, total, ledger, meter.watch, due_end(total, rate)));
    let all = fleet.send(run, meter.watch).await?;
    let Some(received) = receiving.join_next().await else {
        return Err(WorkloadError::NoVerdict);
    };
    let (mut ledger, latencies, bytes) = received??;
    let metered = meter.read();
    let (mut errors, mut first_error) = (0, None);
    for sent in &all {
        errors += sent.errors;
        first_error = first_error.or_else(|| sent.first_error.clone());
        sent.tell(&mut ledger);
    }
    let verdict = ledger.finish();
    Ok(Report {
        workload: Workload::EndToEnd,
        conditions: Conditions {
            topic: options.common.topic.clone(),
            partitions: state.partitions,
            replication_factor: state.replication_factor,
            durability: state.durability,
            acks: acks_name(options.producer.acks).to_owned(),
            record_bytes: options.record_bytes,
            batch_bytes: options.producer.batch_bytes,
            compression: options.producer.compression.to_string(),
            clients: usize::from(clients),
            in_flight: 0,
            rate,
            passes: 1,
        },
        records: verdict.read,
        bytes,
        errors,
        first_error,
        seconds: metered.seconds,
        records_per_second: verdict.read as f64 / metered.seconds,
        mb_per_second: bytes as f64 / 1e6 / metered.seconds,
        latency_of: "due time to receipt",
        latency: latencies.percentiles(),
        client_cpu_seconds: metered.client_cpu_seconds,
        broker_cpu_seconds: metered.broker_cpu_seconds,
        broker_resident_bytes: metered.broker_resident_bytes,
        broker_peak_resident_bytes: metered.broker_peak_resident_bytes,
        integrity: Some(verdict),
        verify_seconds: None,
        limits: Vec::new(),
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
