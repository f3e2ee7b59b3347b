//! The load of a run: producers that are durable and idempotent by default, consumers that follow the log, an observer
//! that asks every broker who leads. Everything they see is recorded at the moment they see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use streambus_client::{Client, Config, Consumer, Delivery, Error, OffsetQuery, Record, Seek, Start, TopicPartition};
use streambus_protocol::api::cluster::ClusterDescribeRequest;
use streambus_protocol::api::metadata::{MetadataRequest, PartitionLayout};
use streambus_protocol::api::session::HandshakeRequest;
use streambus_protocol::ids::TopicName;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::event::What;
use crate::history::Value;
use crate::raw_caller::RawCaller;
use crate::recorder::Recorder;

/// How often the observer asks.
const GLANCE: Duration = Duration::from_millis(200);
/// How long one question of the observer may take.
const GLANCE_LIMIT: Duration = Duration::from_secs(1);
/// Deliveries outstanding for each producer and partition; more make the producer wait.
const OUTSTANDING_MAX: usize = 4_000;

/// What the load is like.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The topic; created by the run.
    pub topic: String,
    /// Its partitions.
    pub partitions: u32,
    /// Producers, each with a client of its own.
    pub producers: u32,
    /// Records a second of each producer, but at least one each beat.
    pub rate: u32,
    /// How often a producer gives records to its client. The producers' beats are spread evenly.
    pub beat: Duration,
    /// Consumers, each following every partition with a client of its own.
    pub readers: u32,
    /// How long a record may wait for its acknowledgement.
    pub delivery_timeout: Duration,
    /// Replicas of each partition; `None` for one on each broker, three at most.
    pub replicas: Option<u16>,
    /// The topic's `min.insync.replicas`; `None` for two of three replicas, one of fewer.
    pub min_isr: Option<u8>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            topic: "proof".to_owned(),
            partitions: 4,
            producers: 2,
            rate: 500,
            beat: Duration::from_millis(10),
            readers: 1,
            delivery_timeout: Duration::from_secs(60),
            replicas: None,
            min_isr: None,
        }
    }
}

/// The running load.
#[derive(Debug)]
pub struct Load {
    world: World,
    readers: u32,
    producing: watch::Sender<bool>,
    watching: watch::Sender<bool>,
    producers: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
}

/// The settings of a client of a run.
pub fn client_config(brokers: &[String], options: &LoadOptions) -> Config {
    Config::new(brokers.iter().cloned())
        .connect_timeout(Duration::from_secs(1))
        .request_timeout(Duration::from_secs(10))
        .delivery_timeout(options.delivery_timeout)
        .ping(Duration::from_secs(1), Duration::from_secs(1))
}

impl Load {
    /// Starts everything on `runtime`. Clients are told `addresses` and learn of the rest; each of `observed` is asked by
    /// itself. The topic exists.
    pub fn start(
        runtime: &Handle,
        addresses: &[String],
        observed: &BTreeMap<u32, String>,
        options: &LoadOptions,
        recorder: &Recorder,
    ) -> Self {
        let (producing, watching) = (watch::channel(true).0, watch::channel(true).0);
        let options = Arc::new(options.clone());
        let world = World { addresses: addresses.to_vec(), options: Arc::clone(&options), recorder: recorder.clone() };
        let producers = (0..options.producers)
            .map(|number| runtime.spawn(produce(world.clone(), number, producing.subscribe(), runtime.clone())))
            .collect();
        let mut watchers = Vec::new();
        for (broker, address) in observed {
            watchers.push(runtime.spawn(observe_leaders(
                world.clone(),
                *broker,
                address.clone(),
                watching.subscribe(),
            )));
        }
        watchers.push(runtime.spawn(observe_watermarks(world.clone(), watching.subscribe())));
        let mut load = Self { world, readers: 0, producing, watching, producers, watchers };
        for _ in 0..options.readers {
            load.add_reader(runtime, None);
        }
        load
    }

    /// One more consumer that follows every partition from its first record, and stands in `rack`; returns its number.
    pub fn add_reader(&mut self, runtime: &Handle, rack: Option<String>) -> u32 {
        let number = self.readers;
        self.readers += 1;
        self.watchers.push(runtime.spawn(follow(self.world.clone(), number, rack, self.watching.subscribe())));
        number
    }

    /// How many consumers there are, numbered from zero.
    pub fn readers(&self) -> u32 {
        self.readers
    }

    /// No more records; returns when every outstanding one has an outcome.
    pub async fn stop_producing(&mut self) {
        self.producing.send_replace(false);
        for producer in self.producers.drain(..) {
            producer.await.expect("a producer must not panic");
        }
    }

    /// Ends the consumers and the observers.
    pub async fn stop_watching(&mut self) {
        self.watching.send_replace(false);
        for watcher in self.watchers.drain(..) {
            watcher.await.expect("a consumer or observer must not panic");
        }
    }
}

#[derive(Clone, Debug)]
struct World {
    addresses: Vec<String>,
    options: Arc<LoadOptions>,
    recorder: Recorder,
}

impl World {
    fn config(&self) -> Config {
        client_config(&self.addresses, &self.options)
    }

    /// Connects while `going`; a cluster that is being hurt may take a while.
    async fn connect_while(&self, config: Config, going: &watch::Receiver<bool>) -> Option<Client> {
        let mut pause = tokio::time::interval(GLANCE);
        while *going.borrow() {
            pause.tick().await;
            if let Ok(client) = Client::connect_with(config.clone()).await {
                return Some(client);
            }
        }
        None
    }
}

async fn produce(world: World, number: u32, going: watch::Receiver<bool>, runtime: Handle) {
    let Some(bus) = world.connect_while(world.config(), &going).await else { return };
    let producer = bus.producer();
    let topic: Arc<str> = world.options.topic.as_str().into();
    let mut collectors = Vec::new();
    let mut sinks = Vec::new();
    for _ in 0..world.options.partitions {
        let (sink, source) = mpsc::channel(OUTSTANDING_MAX);
        collectors.push(runtime.spawn(collect(source, world.recorder.clone())));
        sinks.push(sink);
    }
    let LoadOptions { producers, rate, beat: every, .. } = *world.options;
    let mut beat = tokio::time::interval_at(Instant::now() + every * number / producers, every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let per_beat = u64::from(rate) * every.as_millis() as u64 / 1_000;
    let mut sequence = 0;
    while *going.borrow() {
        beat.tick().await;
        for _ in 0..per_beat.max(1) {
            let value = Value { producer: number, sequence };
            let partition = (sequence % u64::from(world.options.partitions)) as u32;
            sequence += 1;
            world.recorder.record(What::Invoked { value });
            let record = Record::new(Arc::clone(&topic), value.to_bytes()).partition(partition);
            match producer.enqueue(record).await {
                Ok(delivery) => {
                    let sink = &sinks[partition as usize];
                    sink.send((value, delivery)).await.expect("the collector runs as long as the producer");
                }
                Err(error) => report(&world.recorder, value, &error),
            }
        }
    }
    drop(sinks);
    for collector in collectors {
        collector.await.expect("a collector must not panic");
    }
    bus.close().await;
}

/// Waits for the deliveries of one partition in order, which is the order in which they are acknowledged.
async fn collect(mut source: mpsc::Receiver<(Value, Delivery)>, recorder: Recorder) {
    while let Some((value, delivery)) = source.recv().await {
        settle(value, delivery, &recorder).await;
    }
}

async fn settle(value: Value, delivery: Delivery, recorder: &Recorder) {
    match delivery.await {
        Ok(position) => {
            let durable = position.receipt.durable;
            let (partition, offset) = (position.partition, position.offset);
            recorder.record(What::Acked { value, partition, offset, durable });
        }
        Err(error) => report(recorder, value, &error),
    }
}

/// Writes `records` to one partition as fast as they are taken, as the producer of this number, which nobody else has.
pub(crate) async fn burst(bus: &Client, at: TopicPartition, number: u32, records: u64, recorder: &Recorder) {
    let producer = bus.producer();
    let topic: Arc<str> = at.topic.as_str().into();
    let mut deliveries = Vec::new();
    for sequence in 0..records {
        let value = Value { producer: number, sequence };
        recorder.record(What::Invoked { value });
        let record = Record::new(Arc::clone(&topic), value.to_bytes()).partition(at.partition);
        match producer.enqueue(record).await {
            Ok(delivery) => deliveries.push((value, delivery)),
            Err(error) => report(recorder, value, &error),
        }
    }
    for (value, delivery) in deliveries {
        settle(value, delivery, recorder).await;
    }
}

fn report(recorder: &Recorder, value: Value, error: &Error) {
    let why = error.to_string();
    recorder.record(match error.is_outcome_unknown() {
        true => What::Unknown { value, why },
        false => What::Refused { value, why },
    });
}

async fn follow(world: World, reader: u32, rack: Option<String>, mut going: watch::Receiver<bool>) {
    let config = match rack {
        Some(rack) => world.config().rack(rack),
        None => world.config(),
    };
    let Some(bus) = world.connect_while(config, &going).await else { return };
    let start = bus.consumer([world.options.topic.as_str()]).from(Start::Earliest).start().await;
    let mut consumer = match start {
        Ok(consumer) => consumer,
        Err(error) => {
            world.recorder.fault(format!("reader {reader} could not start: {error}"));
            return;
        }
    };
    loop {
        let next = tokio::select! {
            biased;
            _stopped = going.wait_for(|going| !going) => break,
            next = consumer.next() => next,
        };
        match next {
            Ok(Some(record)) => {
                let value = record.value.as_deref().and_then(Value::from_bytes);
                let (partition, offset) = (record.partition, record.offset);
                world.recorder.record(What::Read { reader, partition, offset, value });
            }
            Ok(None) => break,
            Err(error) => {
                // A consumer promises to carry on through every fault of a run; what it says is evidence.
                world.recorder.fault(format!("reader {reader} failed: {error}"));
                let Some(at) = told_of_loss(&error) else { break };
                let Some(next) = begin_anew(&mut consumer, at, &going).await else { break };
                world.recorder.record(What::Told { reader, partition: at.partition, next });
            }
        }
    }
    bus.close().await;
}

/// The partition of which `error` says that what was read of it, or was to be read, is not there any more.
fn told_of_loss(error: &Error) -> Option<&TopicPartition> {
    match error {
        Error::LogReplaced { at, .. } | Error::OffsetOutOfRange { at, .. } => Some(at),
        _ => None,
    }
}

/// Sends a consumer back to the first record of one partition; returns where that is, `None` when the run ended first.
async fn begin_anew(consumer: &mut Consumer, at: &TopicPartition, going: &watch::Receiver<bool>) -> Option<u64> {
    let mut pause = tokio::time::interval(GLANCE);
    while *going.borrow() {
        pause.tick().await;
        if consumer.seek_partition(at, Seek::Beginning).await.is_ok() {
            return consumer.position(at);
        }
    }
    None
}

async fn observe_leaders(world: World, observer: u32, address: String, going: watch::Receiver<bool>) {
    let mut pause = tokio::time::interval(GLANCE);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept: Option<RawCaller> = None;
    let mut reached = None;
    while *going.borrow() {
        pause.tick().await;
        let (caller, address, topic) = (kept.take(), address.clone(), world.options.topic.clone());
        let asked = tokio::task::spawn_blocking(move || ask_leaders(caller, &address, &topic));
        // It is down, or stands still.
        let Ok((caller, said)) = asked.await.expect("a question must not panic") else { continue };
        kept = Some(caller);
        let Said { term, applied, partitions } = said;
        world.recorder.record(What::Term { observer, term });
        if reached != Some((term, applied)) {
            reached = Some((term, applied));
            world.recorder.record(What::Reached { observer, term, applied });
        }
        for layout in partitions {
            let numbers = |ids: &[streambus_protocol::ids::BrokerId]| ids.iter().map(|id| id.get()).collect();
            world.recorder.record(What::Leadership {
                observer,
                partition: layout.index.get(),
                leader: layout.leader.map(|leader| leader.get()),
                leader_epoch: layout.leader_epoch.get(),
                isr: numbers(&layout.isr),
                replicas: numbers(&layout.replicas),
            });
        }
    }
}

/// What one broker knows of the cluster.
struct Said {
    /// The term of the metadata's Raft group that it is in, and how much it has applied.
    term: u64,
    applied: u64,
    partitions: Vec<PartitionLayout>,
}

/// Asks this one broker what it knows. By hand: the client library asks another broker when one is silent, and what one
/// broker says may not go back, while two brokers may differ.
fn ask_leaders(kept: Option<RawCaller>, address: &str, topic: &str) -> std::io::Result<(RawCaller, Said)> {
    let mut caller = match kept {
        Some(caller) => caller,
        None => {
            let address = address.parse().map_err(std::io::Error::other)?;
            let mut caller = RawCaller::connect_within(address, GLANCE_LIMIT)?;
            let greeting = HandshakeRequest {
                client_id: "observer".to_owned(),
                software_name: "streambus-tests".to_owned(),
                software_version: env!("CARGO_PKG_VERSION").to_owned(),
                cluster_id: None,
            };
            caller.call(&greeting)?.map_err(std::io::Error::other)?;
            caller
        }
    };
    let cluster = caller.call(&ClusterDescribeRequest {})?.map_err(std::io::Error::other)?;
    let name = TopicName::new(topic).map_err(std::io::Error::other)?;
    let answer = caller.call(&MetadataRequest { topics: Some(vec![name]) })?.map_err(std::io::Error::other)?;
    let layouts = answer.topics.into_iter().filter_map(|topic| topic.outcome.ok());
    let partitions = layouts.flat_map(|layout| layout.partitions).collect();
    Ok((caller, Said { term: cluster.metadata_term, applied: cluster.metadata_index, partitions }))
}

async fn observe_watermarks(world: World, going: watch::Receiver<bool>) {
    let Some(bus) = world.connect_while(world.config(), &going).await else { return };
    let topic = TopicName::new(&world.options.topic).expect("a valid name");
    let mut pause = tokio::time::interval(GLANCE);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while *going.borrow() {
        pause.tick().await;
        for partition in 0..world.options.partitions {
            let at = TopicPartition { topic: topic.clone(), partition };
            let asked_us = world.recorder.now_us();
            let answer = bus.admin().list_offsets([(at, OffsetQuery::Latest)]).timeout(GLANCE_LIMIT).await;
            if let Ok([(_, found)]) = answer.as_deref() {
                world.recorder.record(What::Watermark { asked_us, partition, offset: found.offset.get() });
            }
        }
    }
    bus.close().await;
}
