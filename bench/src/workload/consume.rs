//! Consume: reads what is there from its first record on, as fast as it comes, once. Of a topic larger than the broker's
//! tail cache this is a catch-up read: most of it comes from the disk.

use std::collections::BTreeMap;

use streambus_client::{Client, ConsumedRecord};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::WorkloadError;
use super::judge;
use super::setup::{self, Common, Meter};
use super::verify::RangeReader;
use crate::census::{Census, Offsets, Reach};
use crate::report::{Conditions, Report, Workload};
use crate::tally::{Stage, Tally};

/// What to consume.
#[derive(Clone, Debug)]
pub struct ConsumeOptions {
    /// Where. Partitions are dealt out to the clients.
    pub common: Common,
    /// At most this many records of all clients together; `None` for all there are.
    pub records: Option<u64>,
}

/// Runs the workload. Which records were acknowledged only their producer knows; the verdict is about what the logs hold:
/// every offset once and in order, every stamp right.
pub async fn run(options: &ConsumeOptions) -> Result<Report, WorkloadError> {
    let topic = &options.common.topic;
    let clients = options.common.connect_all().await?;
    let scout = &clients[0];
    let state = setup::topic_state(scout, topic).await?;
    let starts = setup::starts(scout, topic).await?;
    let held: u64 = state.ends.iter().map(|(p, end)| end.saturating_sub(starts.get(p).copied().unwrap_or(0))).sum();
    options.common.tally.begin(Stage::Reading, options.records.map_or(held, |records| records.min(held)), 0);
    let offsets = if state.is_compacted { Offsets::Compacted } else { Offsets::Dense };
    let mut judges = JoinSet::new();
    let judged = judge::start(Census::new(&starts, &state.ends, offsets), &mut judges);
    let range = Range { topic, from: &starts, to: &state.ends };
    let meter = Meter::start(options.common.broker_pid);
    let part = read_all(&clients, &range, options.records, &judged, &options.common.tally).await?;
    let metered = meter.read();
    drop(judged);
    let Some(census) = judges.join_next().await else { return Err(WorkloadError::NoVerdict) };
    let verdict = census?.finish(if part.is_limited { Reach::Limit } else { Reach::Ends });
    let record_bytes = part.bytes.checked_div(part.records).unwrap_or(0);
    let conditions = Conditions {
        record_bytes: usize::try_from(record_bytes).unwrap_or(usize::MAX),
        passes: 1,
        ..state.conditions(&options.common)
    };
    Ok(Report {
        errors: part.stalled,
        first_error: part.stall(),
        integrity: Some(verdict),
        ..metered.report(Workload::Consume, conditions, part.records, part.bytes)
    })
}

/// Half-open ranges of offsets of a topic's partitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range<'a> {
    pub(crate) topic: &'a str,
    pub(crate) from: &'a BTreeMap<u32, u64>,
    pub(crate) to: &'a BTreeMap<u32, u64>,
}

/// What readers have read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Part {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Readers to whom nothing came any more before their end.
    pub(crate) stalled: u64,
    /// Some reader stopped at the number of records that it was asked for.
    pub(crate) is_limited: bool,
}

impl Part {
    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.stalled += other.stalled;
        self.is_limited |= other.is_limited;
    }

    /// What to say of readers that did not come to their end.
    pub(crate) fn stall(&self) -> Option<String> {
        (self.stalled > 0).then(|| "a reader stalled before the end of its partitions".to_owned())
    }
}

/// Reads the range once, its partitions dealt out to the clients; the judge sees every record.
pub(crate) async fn read_all(
    clients: &[Client],
    range: &Range<'_>,
    limit: Option<u64>,
    judge: &mpsc::Sender<Vec<ConsumedRecord>>,
    tally: &Tally,
) -> Result<Part, WorkloadError> {
    let mut tasks = JoinSet::new();
    for (index, client) in clients.iter().enumerate() {
        let is_own = |partition: u32| usize::try_from(partition).is_ok_and(|number| number % clients.len() == index);
        let to: BTreeMap<u32, u64> = range.to.iter().filter(|(p, _)| is_own(**p)).map(|(p, end)| (*p, *end)).collect();
        let reader = Reading {
            client: client.clone(),
            topic: range.topic.to_owned(),
            from: range.from.clone(),
            to,
            limit: limit.map(|records| records.div_ceil(clients.len() as u64)),
            judge: judge.clone(),
            tally: tally.clone(),
        };
        tasks.spawn(reader.run());
    }
    let mut all = Part::default();
    while let Some(outcome) = tasks.join_next().await {
        all.add(&outcome??);
    }
    Ok(all)
}

/// One client's reading.
struct Reading {
    client: Client,
    topic: String,
    from: BTreeMap<u32, u64>,
    to: BTreeMap<u32, u64>,
    limit: Option<u64>,
    judge: mpsc::Sender<Vec<ConsumedRecord>>,
    tally: Tally,
}

impl Reading {
    async fn run(self) -> Result<Part, WorkloadError> {
        let mut reader = RangeReader::start(&self.client, &self.topic, &self.from, &self.to).await?;
        let mut part = Part::default();
        while let Some(records) = reader.next().await? {
            let count = u64::try_from(records.len()).unwrap_or(0);
            let values = records.iter().filter_map(|record| record.value.as_ref());
            part.bytes += values.map(|value| u64::try_from(value.len()).unwrap_or(0)).sum::<u64>();
            part.records += count;
            self.tally.add(count);
            self.judge.send(records).await.map_err(|_| WorkloadError::NoVerdict)?;
            if self.limit.is_some_and(|limit| part.records >= limit) && !reader.is_complete() {
                part.is_limited = true;
                return Ok(part);
            }
        }
        part.stalled = u64::from(!reader.is_complete());
        Ok(part)
    }
}
