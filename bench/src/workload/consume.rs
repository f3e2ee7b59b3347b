//! Consume: reads what is there, as fast as it comes, once.

use std::collections::BTreeMap;

use streambus_client::Client;
use tokio::task::JoinSet;

use super::error::WorkloadError;
use super::setup::{self, Common, Meter};
use super::verify::RangeReader;
use crate::latency::Percentiles;
use crate::report::{Conditions, Report};

/// What to consume.
#[derive(Clone, Debug)]
pub struct ConsumeOptions {
    /// Where. Partitions are dealt out to the clients.
    pub common: Common,
    /// At most this many records of all clients together; `None` for all there are.
    pub records: Option<u64>,
}

/// Runs the workload. What is read is counted, and every batch's checksum is checked by the client; which records there
/// should be only their producer knows, so there is no verdict.
pub async fn run(options: &ConsumeOptions) -> Result<Report, WorkloadError> {
    let topic = &options.common.topic;
    let scout =
        Client::connect_with(options.common.config.clone()).await.map_err(WorkloadError::during("connecting"))?;
    let state = setup::topic_state(&scout, topic).await?;
    let starts = setup::starts(&scout, topic).await?;
    let clients = options.common.clients.max(1);
    let mut readers = Vec::new();
    for index in 0..clients {
        let own: BTreeMap<u32, u64> = state
            .ends
            .iter()
            .filter(|(p, _)| *p % u32::from(clients) == u32::from(index))
            .map(|(p, e)| (*p, *e))
            .collect();
        let client =
            Client::connect_with(options.common.config.clone()).await.map_err(WorkloadError::during("connecting"))?;
        readers.push((client, own));
    }
    let limit = options.records.map(|records| records.div_ceil(u64::from(clients)));
    let meter = Meter::start(options.common.broker_pid);
    let mut tasks = JoinSet::new();
    for (client, own) in readers {
        tasks.spawn(read(client, topic.clone(), starts.clone(), own, limit));
    }
    let (mut records, mut bytes, mut incomplete) = (0_u64, 0_u64, 0_u64);
    while let Some(outcome) = tasks.join_next().await {
        let part = outcome??;
        records += part.records;
        bytes += part.bytes;
        incomplete += u64::from(!part.complete);
    }
    let metered = meter.read();
    let sizes = bytes.checked_div(records).unwrap_or(0);
    Ok(Report {
        workload: "consume",
        conditions: Conditions {
            topic: topic.clone(),
            partitions: state.partitions,
            replication_factor: state.replication_factor,
            durability: state.durability,
            acks: "-".to_owned(),
            record_bytes: usize::try_from(sizes).unwrap_or(usize::MAX),
            batch_bytes: 0,
            compression: "-".to_owned(),
            clients: usize::from(clients),
            in_flight: 0,
            rate: 0,
        },
        records,
        bytes,
        errors: incomplete,
        first_error: (incomplete > 0).then(|| "a reader stalled before the end of its partitions".to_owned()),
        seconds: metered.seconds,
        records_per_second: records as f64 / metered.seconds,
        mb_per_second: bytes as f64 / 1e6 / metered.seconds,
        latency_of: "nothing",
        latency: Percentiles::default(),
        client_cpu_seconds: metered.client_cpu_seconds,
        broker_cpu_seconds: metered.broker_cpu_seconds,
        broker_resident_bytes: metered.broker_resident_bytes,
        integrity: None,
        verify_seconds: None,
    })
}

struct Part {
    records: u64,
    bytes: u64,
    complete: bool,
}

async fn read(
    client: Client,
    topic: String,
    from: BTreeMap<u32, u64>,
    to: BTreeMap<u32, u64>,
    limit: Option<u64>,
) -> Result<Part, WorkloadError> {
    let mut reader = RangeReader::start(&client, &topic, &from, &to).await?;
    let mut part = Part { records: 0, bytes: 0, complete: false };
    while let Some(records) = reader.next().await? {
        part.records += u64::try_from(records.len()).unwrap_or(0);
        let values = records.iter().filter_map(|record| record.value.as_ref());
        part.bytes += values.map(|value| u64::try_from(value.len()).unwrap_or(0)).sum::<u64>();
        if limit.is_some_and(|limit| part.records >= limit) {
            part.complete = true;
            return Ok(part);
        }
    }
    part.complete = reader.is_complete();
    Ok(part)
}
