//! The clients of a run, each on a host of its own: producers, a consumer that follows, an observer of watermarks, and
//! at the end a reader of everything.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use streambus_client::environment::{Environment, Seeded, WallClock};
use streambus_client::{
    Client, Config, Delivery, Error, OffsetQuery, ProducerConfig, Record, Start, Topic, TopicPartition,
};
use streambus_protocol::ids::{PartitionIndex, TopicName};
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;
use streambus_tests::checker::ReadBack;
use streambus_tests::event::What;
use streambus_tests::history::Value;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::machine::{CLIENT_PORT, host};
use crate::network::HostNetwork;
use crate::trace::Trace;

pub(crate) const TOPIC: &str = "proof";
/// How often a producer gives records to its client.
const BEAT: Duration = Duration::from_millis(10);
const GLANCE: Duration = Duration::from_millis(200);
const OUTSTANDING_MAX: usize = 500;

/// What the clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Produce, consume, observe.
    Load,
    /// Await what is outstanding.
    Drain,
    /// Read everything back.
    ReadBack,
}

/// What the clients have achieved.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) is_created: bool,
    pub(crate) acked: u64,
    pub(crate) drained: u32,
    /// The broker that leaves for good holds nothing any more, and is forgotten.
    pub(crate) is_drained: bool,
    pub(crate) is_removed: bool,
    /// Everything that was read at the end, and each partition's watermark.
    pub(crate) read: Option<(Vec<ReadBack>, Vec<u64>)>,
}

/// A client's host.
#[derive(Clone)]
pub(crate) struct LoadHost {
    pub(crate) network: HostNetwork,
    pub(crate) trace: Trace,
    pub(crate) brokers: u32,
    pub(crate) partitions: u32,
    pub(crate) seed: u64,
    /// Records of one beat of a producer at most.
    pub(crate) burst_max: u64,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) progress: Arc<Mutex<Progress>>,
}

struct SimulatedTime(Trace);

impl WallClock for SimulatedTime {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + i64::try_from(self.0.now().as_millis()).expect("a short run"))
    }
}

impl LoadHost {
    pub(crate) async fn connect(&self) -> Client {
        let addresses = (1..=self.brokers).map(|id| format!("{}:{CLIENT_PORT}", host(id)));
        let config = Config::new(addresses)
            .connect_timeout(Duration::from_secs(1))
            .request_timeout(Duration::from_secs(5))
            .delivery_timeout(Duration::from_secs(40))
            .ping(Duration::from_secs(1), Duration::from_secs(1));
        let mut pause = interval(GLANCE);
        loop {
            pause.tick().await;
            let environment = Environment {
                connector: Arc::new(self.network.clone()),
                clock: Arc::new(SimulatedTime(self.trace.clone())),
                random: Arc::new(Seeded::new(self.seed)),
            };
            if let Ok(bus) = Client::connect_in(config.clone(), environment).await {
                return bus;
            }
        }
    }

    pub(crate) fn has_phase(&self, phase: Phase) -> bool {
        *self.phase.borrow() >= phase
    }

    /// Creates the topic, then produces until it is told to stop.
    pub(crate) async fn produce(self, number: u32) -> turmoil::Result {
        let bus = self.connect().await;
        if number == 0 {
            let topic = || {
                let replicas = u16::try_from(self.brokers.min(3)).expect("few brokers");
                Topic::partitions(self.partitions).replicas(replicas).config("min.insync.replicas", "2")
            };
            while bus.admin().create_topic(TOPIC, topic()).timeout(Duration::from_secs(5)).await.is_err() {
                if bus.admin().describe_topic(TOPIC).timeout(Duration::from_secs(5)).await.is_ok() {
                    break;
                }
            }
            self.progress.lock().is_created = true;
        }
        let config = ProducerConfig::new().batch_bytes(8 << 10);
        let producer = bus.producer_with(config)?;
        let topic: Arc<str> = TOPIC.into();
        let (mut sinks, mut collectors) = (Vec::new(), Vec::new());
        for _ in 0..self.partitions {
            let (sink, source) = mpsc::channel(OUTSTANDING_MAX);
            collectors.push(Handle::current().spawn(collect(self.clone(), source)));
            sinks.push(sink);
        }
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut sequence, mut beats) = (0_u64, self.seed);
        while !self.has_phase(Phase::Drain) {
            beat.tick().await;
            beats = beats.wrapping_add(1);
            if !self.progress.lock().is_created {
                continue;
            }
            for _ in 0..beats % (self.burst_max + 1) {
                let value = Value { producer: number, sequence };
                let partition = u32::try_from(sequence % u64::from(self.partitions)).expect("few partitions");
                sequence += 1;
                self.trace.event(&self.network.me, What::Invoked { value });
                let record = Record::new(Arc::clone(&topic), value.to_bytes()).partition(partition);
                match producer.enqueue(record).await {
                    Ok(delivery) => {
                        let sink = &sinks[usize::try_from(partition).expect("few partitions")];
                        sink.send((value, delivery)).await.map_err(|_| "a collector ended")?;
                    }
                    Err(error) => report(&self, value, &error),
                }
            }
        }
        drop(sinks);
        for collector in collectors {
            collector.await?;
        }
        self.progress.lock().drained += 1;
        std::future::pending().await
    }

    /// Follows every partition from its beginning.
    pub(crate) async fn follow(self, reader: u32) -> turmoil::Result {
        self.created().await;
        let bus = self.connect().await;
        let mut consumer = loop {
            match bus.consumer([TOPIC]).from(Start::Earliest).start().await {
                Ok(consumer) => break consumer,
                Err(error) => self.trace.line(&self.network.me, &format!("could not start: {error}")),
            }
        };
        loop {
            let record = consumer.next().await.map_err(|error| format!("reader {reader} failed: {error}"))?;
            let Some(record) = record else { return Err("a consumer that follows came to an end".into()) };
            let value = record.value.as_deref().and_then(Value::from_bytes);
            let (partition, offset) = (record.partition, record.offset);
            self.trace.event(&self.network.me, What::Read { reader, partition, offset, value });
        }
    }

    /// Asks for every partition's watermark again and again; at the end reads everything back.
    pub(crate) async fn observe(self) -> turmoil::Result {
        self.created().await;
        let bus = self.connect().await;
        let mut pause = interval(GLANCE);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.has_phase(Phase::ReadBack) {
            pause.tick().await;
            for partition in 0..self.partitions {
                let asked_us = self.trace.now_us();
                let wanted = [(at(partition), OffsetQuery::Latest)];
                let answer = bus.admin().list_offsets(wanted).timeout(Duration::from_secs(1)).await;
                if let Ok([(_, found)]) = answer.as_deref() {
                    let what = What::Watermark { asked_us, partition, offset: found.offset.get() };
                    self.trace.event(&self.network.me, what);
                }
            }
        }
        loop {
            match self.read_back(&bus).await {
                Ok(read) => {
                    self.progress.lock().read = Some(read);
                    return std::future::pending().await;
                }
                Err(error) => self.trace.line(&self.network.me, &format!("cannot read back: {error}")),
            }
        }
    }

    async fn read_back(&self, bus: &Client) -> Result<(Vec<ReadBack>, Vec<u64>), Error> {
        let limit = Duration::from_secs(10);
        let wanted = (0..self.partitions).map(|partition| (at(partition), OffsetQuery::Latest));
        let ends = bus.admin().list_offsets(wanted).timeout(limit).await?;
        let consumer = bus.consumer([TOPIC]).from(Start::Earliest).until_end().start().timeout(limit).await;
        let (mut consumer, mut read) = (consumer?, Vec::new());
        while let Some(record) = consumer.next().await? {
            read.push(ReadBack {
                partition: PartitionIndex::new(record.partition),
                offset: Offset::new(record.offset).expect("in range"),
                value: record.value.as_deref().and_then(Value::from_bytes),
            });
        }
        Ok((read, ends.into_iter().map(|(_, found)| found.offset.get()).collect()))
    }

    pub(crate) async fn created(&self) {
        let mut pause = interval(GLANCE);
        while !self.progress.lock().is_created {
            pause.tick().await;
        }
    }
}

fn at(partition: u32) -> TopicPartition {
    TopicPartition { topic: TopicName::new(TOPIC).expect("a valid name"), partition }
}

/// Waits for the deliveries of one partition in order, which is the order in which they are acknowledged.
async fn collect(host: LoadHost, mut source: mpsc::Receiver<(Value, Delivery)>) {
    while let Some((value, delivery)) = source.recv().await {
        match delivery.await {
            Ok(position) => {
                let durable = position.receipt.durable;
                let (partition, offset) = (position.partition, position.offset);
                host.progress.lock().acked += 1;
                host.trace.event(&host.network.me, What::Acked { value, partition, offset, durable });
            }
            Err(error) => report(&host, value, &error),
        }
    }
}

fn report(host: &LoadHost, value: Value, error: &Error) {
    let why = error.to_string();
    host.trace.event(
        &host.network.me,
        match error.is_outcome_unknown() {
            true => What::Unknown { value, why },
            false => What::Refused { value, why },
        },
    );
}
