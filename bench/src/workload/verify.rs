//! Reads back what a run wrote, from where its topic ended before to where it ends now, and judges it.

use std::collections::BTreeMap;
use std::time::Duration;

use streambus_client::{Client, ConsumedRecord, Consumer, Seek, Start, TopicPartition};

use super::error::WorkloadError;
use super::setup;
use crate::integrity::Ledger;
use crate::tally::Tally;

/// Records asked for at a time.
pub(crate) const POLL_RECORDS: usize = 20_000;
/// A read that brings nothing for this long has stalled: what is missing then counts as lost.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A consumer over exactly the half-open ranges of offsets `from..to` of each partition.
#[derive(Debug)]
pub struct RangeReader {
    consumer: Option<Consumer>,
    open: BTreeMap<u32, u64>,
}

impl RangeReader {
    /// Starts reading `topic` in the given ranges.
    pub async fn start(
        client: &Client,
        topic: &str,
        from: &BTreeMap<u32, u64>,
        to: &BTreeMap<u32, u64>,
    ) -> Result<Self, WorkloadError> {
        let begin = |partition: &u32| from.get(partition).copied().unwrap_or(0);
        let open: BTreeMap<u32, u64> =
            to.iter().filter(|(partition, end)| begin(partition) < **end).map(|(p, end)| (*p, *end)).collect();
        if open.is_empty() {
            return Ok(Self { consumer: None, open });
        }
        let started = client.consumer([topic]).partitions(open.keys().copied()).from(Start::Earliest).start().await;
        let mut consumer = started.map_err(WorkloadError::during("starting to read back"))?;
        // A seek throws away what is on its way already, so only those that stand elsewhere take one.
        let places =
            consumer.progress().into_iter().filter(|progress| progress.position != begin(&progress.at.partition));
        let places: Vec<TopicPartition> = places.map(|progress| progress.at).collect();
        for at in places {
            let seek = Seek::Offset(begin(&at.partition));
            consumer.seek_partition(&at, seek).await.map_err(WorkloadError::during("seeking"))?;
        }
        Ok(Self { consumer: Some(consumer), open })
    }

    /// The next records, all inside the ranges; `None` when everything has been read or nothing comes any more.
    pub async fn next(&mut self) -> Result<Option<Vec<ConsumedRecord>>, WorkloadError> {
        loop {
            let Some(consumer) = self.consumer.as_mut().filter(|_| !self.open.is_empty()) else { return Ok(None) };
            let batch = consumer.next_batch(POLL_RECORDS, STALL_TIMEOUT).await;
            let mut records = batch.map_err(WorkloadError::during("reading back"))?;
            if records.is_empty() {
                return Ok(None);
            }
            records.retain(|record| {
                let Some(end) = self.open.get(&record.partition).copied() else { return false };
                if record.offset + 1 >= end {
                    self.open.remove(&record.partition);
                }
                record.offset < end
            });
            if !records.is_empty() {
                return Ok(Some(records));
            }
        }
    }

    /// True when every range was read to its end.
    pub fn is_complete(&self) -> bool {
        self.open.is_empty()
    }
}

/// Reads everything written since `before` into `ledger`.
pub async fn read_back(
    client: &Client,
    topic: &str,
    before: &BTreeMap<u32, u64>,
    ledger: &mut Ledger,
    tally: &Tally,
) -> Result<(), WorkloadError> {
    let now = setup::ends(client, topic).await?;
    let mut reader = RangeReader::start(client, topic, before, &now).await?;
    while let Some(records) = reader.next().await? {
        tally.add(u64::try_from(records.len()).unwrap_or(0));
        for record in records {
            ledger.read(record.partition, record.value.as_deref().unwrap_or_default());
        }
    }
    Ok(())
}
