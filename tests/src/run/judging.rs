//! The end of a run: everything is healed, read back, stopped and compared, and the whole history is judged.
//!
//! Nothing here panics because a promise was broken: a run of a broker with a planted defect must come to its verdict
//! too. What does not heal is a broken promise like any other (I12).

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use streambus_client::{OffsetQuery, Start, TopicPartition};
use streambus_consensus::database::DatabaseSource;
use streambus_consensus::inspect::held::held_log;
use streambus_protocol::api::topics::DescribeTopicResponse;
use streambus_protocol::ids::{BrokerId, PartitionIndex, TopicName};
use streambus_protocol::offset::Offset;

use super::Run;
use crate::checker::{
    ReadBack, Violation, check_controllers, check_events, check_metadata_logs, check_replicas, check_run, staleness_us,
};
use crate::clock::Stopwatch;
use crate::cluster::PATIENCE;
use crate::dump::{LogDump, dump, verify};
use crate::event::{Event, What};
use crate::footprint::Footprint;
use crate::history::{History, Outcome, Value};
use crate::measure::longest_silence_us;
use crate::{ledger, setting};

/// How long acknowledged records may take to show up in a full read, after everything is healed.
const READ_BACK_LIMIT: Duration = Duration::from_secs(20);
/// Violations that a failure prints; the rest is in the history.
const SHOWN_MAX: usize = 20;

/// A topic at the end of a run.
struct Place {
    topic: DescribeTopicResponse,
    /// By partition.
    watermarks: BTreeMap<u32, u64>,
}

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    /// Everything that was recorded.
    pub events: Vec<Event>,
    /// The full read at the end; empty when there was none.
    pub read: Vec<ReadBack>,
    /// Every attempt and its outcome.
    pub history: History,
    /// Refused records: the client gave up on them.
    pub refused: usize,
    /// The longest time without an acknowledgement in any partition, microseconds.
    pub longest_silence_us: u64,
}

/// A run with its verdict. It keeps the cluster's folder as long as it lives, so that a failed test can leave it.
#[derive(Debug)]
pub struct Judged {
    /// What the run showed.
    pub report: Report,
    /// Every broken promise.
    pub violations: Vec<Violation>,
    verdict: String,
    _run: Run,
}

impl Judged {
    /// The report of a run that kept every promise. Fails the test when one was broken.
    pub fn expect_clean(self) -> Report {
        let Self { report, violations, verdict, _run } = self;
        let shown = &violations[..violations.len().min(SHOWN_MAX)];
        assert!(violations.is_empty(), "{verdict}\n{}", Lines(shown));
        report
    }

    /// The first few broken promises, a line each.
    pub fn shown(&self) -> String {
        Lines(&self.violations[..self.violations.len().min(SHOWN_MAX)]).to_string()
    }
}

impl Run {
    /// Ends the run: the network is made whole, stopped brokers are started, everything outstanding is awaited, every
    /// replica gets in sync, everything is read back, every broker is stopped and its disk compared. Fails the test on
    /// any broken promise.
    pub fn finish(self) -> Report {
        self.judge(PATIENCE).expect_clean()
    }

    /// The same, and the verdict is the caller's. Each step of the healing may take `patience`.
    pub fn judge(mut self, patience: Duration) -> Judged {
        let mut violations = Vec::new();
        if let Err(what) = self.heal(patience) {
            violations.push(Violation::NotHealed { what });
        }
        let read = self.read_back(patience).map_err(|what| violations.push(Violation::NotHealed { what })).ok();
        let mut places = Vec::new();
        for topic in &self.topics {
            match self.place(topic) {
                Some(place) => places.push(place),
                None => violations.push(Violation::NotHealed { what: format!("nobody says where '{topic}' is") }),
            }
        }
        let (runtime, load) = (&self.runtime, &mut self.load);
        runtime.block_on(load.stop_watching());
        self.measure_brokers();
        let events = self.cluster.recorder().events();
        violations.extend(match &read {
            Some(read) => check_run(&events, read, self.min_isr),
            // What was not read back is not lost by that.
            None => check_events(&events, self.min_isr),
        });
        violations.extend(self.compare_disks(&events, places, patience));
        self.conclude(events, read.unwrap_or_default(), violations)
    }

    fn heal(&mut self, patience: Duration) -> Result<(), String> {
        self.cluster.heal();
        for id in self.cluster.ids() {
            if self.cluster.pid(id).is_none() {
                self.cluster.start_broker(id);
            }
        }
        let mut healed = Ok(());
        for id in self.cluster.ids() {
            healed = healed.and(self.cluster.try_ready(id, patience));
        }
        let (runtime, load) = (&self.runtime, &mut self.load);
        runtime.block_on(load.stop_producing());
        healed.and_then(|()| self.try_in_sync(patience))
    }

    /// Reads everything until every acknowledged record was seen, or patience ends: what is missing then is lost.
    fn read_back(&self, patience: Duration) -> Result<Vec<ReadBack>, String> {
        let history = History::of(&self.cluster.recorder().events());
        let acked: Vec<(PartitionIndex, Offset)> = history
            .outcomes()
            .filter_map(|(_, outcome)| match outcome {
                Outcome::Acked { partition, offset } => Some((partition, offset)),
                Outcome::GivenUp { .. } | Outcome::Unknown | Outcome::Refused => None,
            })
            .collect();
        let clock = Stopwatch::start();
        loop {
            let reading = async { tokio::time::timeout(patience, self.read_once()).await };
            let read = self.runtime.block_on(reading).map_err(|_| "reading it takes for ever".to_owned())??;
            let seen: HashSet<_> = read.iter().map(|record| (record.partition, record.offset)).collect();
            if acked.iter().all(|place| seen.contains(place)) || clock.elapsed() > READ_BACK_LIMIT.min(patience) {
                return Ok(read);
            }
        }
    }

    async fn read_once(&self) -> Result<Vec<ReadBack>, String> {
        let topic = self.load_options.topic.as_str();
        let consumer = self.bus.consumer([topic]).from(Start::Earliest).until_end().start().timeout(PATIENCE).await;
        let mut consumer = consumer.map_err(|error| format!("no consumer starts: {error}"))?;
        let mut read = Vec::new();
        loop {
            let next = consumer.next().await.map_err(|error| format!("it cannot be read to the end: {error}"))?;
            let Some(record) = next else { return Ok(read) };
            read.push(ReadBack {
                partition: PartitionIndex::new(record.partition),
                offset: Offset::new(record.offset).expect("in range"),
                value: record.value.as_deref().and_then(Value::from_bytes),
            });
        }
    }

    /// Where a topic's replicas are, and how far each partition is committed; `None` when nobody says so.
    fn place(&self, topic: &str) -> Option<Place> {
        let name = TopicName::new(topic).expect("a valid name");
        self.runtime.block_on(async {
            let topic = self.bus.admin().describe_topic(topic).timeout(PATIENCE).await.ok()?;
            let partitions = topic.partitions.iter().map(|partition| partition.layout.index.get());
            let wanted: Vec<_> = partitions
                .map(|partition| (TopicPartition { topic: name.clone(), partition }, OffsetQuery::Latest))
                .collect();
            let found = self.bus.admin().list_offsets(wanted).timeout(PATIENCE).await.ok()?;
            let watermarks = found.into_iter().map(|(at, found)| (at.partition, found.offset.get())).collect();
            Some(Place { topic, watermarks })
        })
    }

    /// Records what each running broker has come to use (I14).
    fn measure_brokers(&self) {
        for id in self.cluster.ids() {
            if let Some(used) = self.cluster.pid(id).and_then(Footprint::of) {
                self.cluster.recorder().record(What::Footprint { broker: id, used });
            }
        }
    }

    /// Stops every broker, verifies each disk, compares the replicas of each partition up to its watermark, and judges the
    /// metadata's controllers by `events` and what they left.
    fn compare_disks(&mut self, events: &[Event], places: Vec<Place>, patience: Duration) -> Vec<Violation> {
        let mut violations = Vec::new();
        let (mut dumps, mut metadata) = (BTreeMap::new(), BTreeMap::new());
        for id in self.cluster.ids() {
            if let Err(what) = self.cluster.try_terminate(id, patience) {
                violations.push(Violation::BadStop { broker: id, what });
            }
            let data = self.cluster.data(id);
            // Verified first: RocksDB is not let near damaged logs.
            let held = || held_log(&DatabaseSource::Directory, data).map_err(|error| error.to_string());
            match verify(data).and_then(|()| Ok((dump(data)?, held()?))) {
                Ok((logs, held)) => {
                    dumps.insert(id, logs);
                    metadata.insert(id, held);
                }
                Err(what) => violations.push(Violation::DiskDamaged { broker: id, what }),
            }
        }
        violations.extend(check_metadata_logs(&metadata));
        violations.extend(check_controllers(events, &metadata));
        let partitions = places.iter().flat_map(|place| place.topic.partitions.iter().map(move |of| (place, of)));
        for (Place { topic, watermarks }, partition) in partitions {
            let layout = &partition.layout;
            let name = format!("{}/{}", topic.id, layout.index.get());
            let of = |id: &BrokerId| {
                let logs = dumps.get(&id.get())?;
                Some((id.get(), logs.get(&name).cloned().unwrap_or_default()))
            };
            let replicas: BTreeMap<u32, LogDump> = layout.replicas.iter().filter_map(of).collect();
            let watermark = watermarks.get(&layout.index.get()).copied().unwrap_or(0);
            violations.extend(check_replicas(&name, watermark, &replicas));
        }
        violations
    }

    fn conclude(self, events: Vec<Event>, read: Vec<ReadBack>, violations: Vec<Violation>) -> Judged {
        let history = History::of(&events);
        let refused = history.outcomes().filter(|(_, outcome)| *outcome == Outcome::Refused).count();
        let faults = events.iter().filter(|event| matches!(event.what, What::Fault { .. })).count();
        let longest_silence_us = longest_silence_us(&events);
        let verdict = format!(
            "{}: seed {}, {} steps, {} acknowledged, {} unknown, {refused} refused, {} read back, longest \
             silence {} ms, watermark answers behind by {} ms at most, {} violations",
            self.name,
            setting::seed(),
            faults,
            history.acked(),
            history.unknown(),
            read.len(),
            longest_silence_us / 1_000,
            staleness_us(&events) / 1_000,
            violations.len()
        );
        eprintln!("{verdict}");
        ledger::append(&self.name, &history, faults, violations.len());
        let report = Report { events, read, history, refused, longest_silence_us };
        Judged { report, violations, verdict, _run: self }
    }
}

struct Lines<'a>(&'a [Violation]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|violation| writeln!(f, "{violation}"))
    }
}
