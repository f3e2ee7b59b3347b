//! A cluster in memory that speaks the real protocol over pipes: logs, leaders, producer memory as KIP-98 wants it, and
//! faults on demand. Time is tokio's paused clock; nothing here sleeps for real.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test file uses its own part; nothing is published")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use streambus_client::connector::{Connector, Transport};
use streambus_client::environment::{Environment, Seeded, SystemClock};
use streambus_client::{Acks, Client, Config};
use streambus_protocol::api::fetch::{Batches, FetchOutcome, FetchRequest, FetchResponse, Fetched};
use streambus_protocol::api::metadata::{
    BrokerEndpoint, MetadataRequest, MetadataResponse, PartitionLayout, TopicLayout, TopicMetadata,
};
use streambus_protocol::api::offsets::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetFound, OffsetQuery, OffsetsOutcome,
};
use streambus_protocol::api::produce::{
    InitProducerRequest, InitProducerResponse, ProduceOutcome, ProduceRequest, ProduceResponse, Produced, Receipt,
};
use streambus_protocol::api::session::{ErrorBody, HandshakeRequest, HandshakeResponse, HealthRequest, HealthResponse};
use streambus_protocol::api::subscribe::{
    CreditRequest, PushedBatches, SubscribeRequest, SubscribeResponse, UnsubscribeRequest, UnsubscribeResponse,
    Watermarks,
};
use streambus_protocol::api::topics::{
    CreateTopicRequest, CreateTopicResponse, ListTopicsRequest, ListTopicsResponse, TopicListing,
};
use streambus_protocol::api::{ApiKey, Message, decode_body, encode_error, encode_push, encode_response};
use streambus_protocol::batch::{PlacedBatch, UnverifiedBatch};
use streambus_protocol::epoch::{LeaderEpoch, PartitionEpoch};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::frame::{EncodedFrame, Frame, FrameDecoder};
use streambus_protocol::ids::{
    BrokerId, ClusterId, CorrelationId, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicName,
};
use streambus_protocol::limits::FRAME_BYTES_MAX;
use streambus_protocol::offset::Offset;
use streambus_protocol::preface::{ClientPreface, PREFACE_BYTES};
use streambus_protocol::timestamp::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What happens to the next request of an API.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection breaks before the request has any effect.
    LoseRequest,
    /// The request is carried out, and the connection breaks before the answer.
    LoseAnswer,
    /// Refused without effect.
    Refuse(ErrorCode),
    /// Never answered; the connection stays.
    Silence,
    /// Answered later than what follows.
    Delay(Duration),
    /// These bytes come instead of an answer.
    Bytes(Vec<u8>),
    /// Answered under a correlation id that nobody used.
    WrongCorrelation,
    /// The last record byte of the answer, or of every push of this subscription, is flipped.
    FlipPayload,
}

#[derive(Default)]
struct Log {
    leader: u32,
    epoch: u32,
    log_start: u64,
    /// Nothing can be read from here on.
    damaged_from: Option<u64>,
    batches: Vec<PlacedBatch>,
    /// (producer, epoch) -> last batches: first and last sequence, base offset.
    producers: HashMap<i64, (i16, VecDeque<Remembered>)>,
}

type Remembered = (i64, i64, u64);

impl Log {
    fn end(&self) -> u64 {
        self.batches.last().map_or(self.log_start, |b| b.next_offset().get())
    }

    fn append(&mut self, batch: UnverifiedBatch) -> Result<u64, ErrorCode> {
        let batch = batch.verify(1 << 20).map_err(|e| e.error_code())?;
        let base = self.end();
        if let Some(stamp) = batch.producer() {
            let first = i64::from(stamp.base_sequence.get());
            let last = first + i64::from(batch.record_count()) - 1;
            match self.producers.get_mut(&stamp.id.get()) {
                Some((epoch, _)) if stamp.epoch.get() < *epoch => return Err(ErrorCode::FencedProducer),
                Some((epoch, known)) if stamp.epoch.get() == *epoch => {
                    if let Some((_, _, base)) = known.iter().find(|(f, l, _)| (*f, *l) == (first, last)) {
                        return Ok(*base);
                    }
                    if known.back().map_or(0, |(_, l, _)| l + 1) != first {
                        return Err(ErrorCode::OutOfOrderSequence);
                    }
                }
                Some(_) if first != 0 => return Err(ErrorCode::OutOfOrderSequence),
                _ => {
                    self.producers.insert(stamp.id.get(), (stamp.epoch.get(), VecDeque::new()));
                }
            }
            let (_, known) = self.producers.get_mut(&stamp.id.get()).expect("just there");
            known.push_back((first, last, base));
            if known.len() > 5 {
                known.pop_front();
            }
        }
        self.batches.push(batch.place(Offset::new(base).expect("small"), LeaderEpoch::new(self.epoch)));
        Ok(base)
    }
}

struct State {
    brokers: BTreeMap<u32, bool>,
    topics: BTreeMap<TopicName, (TopicId, Vec<Log>)>,
    faults: Vec<(ApiKey, Fault)>,
    requests: Vec<(ApiKey, u32)>,
    connects: u32,
    connections: Vec<(u32, CancellationToken)>,
    next_producer: i64,
    next_topic: u8,
    pushed_bytes: u64,
}

/// The cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    state: Arc<Mutex<State>>,
    appended: Arc<Notify>,
    tasks: TaskTracker,
}

impl Cluster {
    pub fn new(brokers: u32) -> Self {
        let state = State {
            brokers: (1..=brokers).map(|id| (id, true)).collect(),
            topics: BTreeMap::new(),
            faults: Vec::new(),
            requests: Vec::new(),
            connects: 0,
            connections: Vec::new(),
            next_producer: 1,
            next_topic: 1,
            pushed_bytes: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), appended: Arc::new(Notify::new()), tasks: TaskTracker::new() }
    }

    /// A client with settings that let tests run in little (paused) time.
    pub async fn client(&self) -> Client {
        self.client_with(Config::new(["broker-1:9092"])).await
    }

    pub async fn client_with(&self, config: Config) -> Client {
        Client::connect_in(config, self.environment()).await.expect("connected")
    }

    pub fn environment(&self) -> Environment {
        Environment {
            connector: Arc::new(self.clone()),
            clock: Arc::new(SystemClock),
            random: Arc::new(Seeded::new(7)),
        }
    }

    pub fn create(&self, name: &str, partitions: u32) {
        let mut state = self.state.lock();
        let brokers: Vec<u32> = state.brokers.keys().copied().collect();
        let id = TopicId::from_bytes([state.next_topic; 16]);
        state.next_topic += 1;
        let logs =
            (0..partitions).map(|p| Log { leader: brokers[p as usize % brokers.len()], ..Log::default() }).collect();
        state.topics.insert(TopicName::new(name).expect("valid"), (id, logs));
    }

    pub fn delete(&self, name: &str) {
        self.state.lock().topics.remove(&TopicName::new(name).expect("valid"));
    }

    /// Takes a topic out of sight; what it returns puts it back as it was.
    pub fn hide(&self, name: &str) -> impl FnOnce() {
        let (name, state) = (TopicName::new(name).expect("valid"), Arc::clone(&self.state));
        let hidden = state.lock().topics.remove(&name).expect("a topic");
        move || drop(state.lock().topics.insert(name, hidden))
    }

    pub fn fault(&self, api: ApiKey, fault: Fault) {
        self.state.lock().faults.push((api, fault));
    }

    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    pub fn lead(&self, topic: &str, partition: usize, leader: u32) {
        self.with_log(topic, partition, |log| {
            log.leader = leader;
            log.epoch += 1;
        });
    }

    /// Drops the first batches of a log, as retention does.
    pub fn trim(&self, topic: &str, partition: usize, before: u64) {
        self.with_log(topic, partition, |log| {
            log.batches.retain(|batch| batch.next_offset().get() > before);
            log.log_start = before;
        });
    }

    /// Makes a log unreadable from an offset on, which is the first of a batch.
    pub fn damage(&self, topic: &str, partition: usize, from: u64) {
        self.with_log(topic, partition, |log| log.damaged_from = Some(from));
    }

    pub fn stop(&self, broker: u32) {
        self.state.lock().brokers.insert(broker, false);
        self.cut(broker);
    }

    pub fn start(&self, broker: u32) {
        self.state.lock().brokers.insert(broker, true);
    }

    /// Breaks every connection to a broker.
    pub fn cut(&self, broker: u32) {
        let mut state = self.state.lock();
        state.connections.retain(|(id, token)| {
            if *id == broker {
                token.cancel();
            }
            *id != broker
        });
    }

    pub fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        self.with_log(topic, partition, |log| {
            log.batches
                .iter()
                .flat_map(|batch| batch.records(1 << 24).expect("plain"))
                .map(|stored| {
                    let value = stored.expect("intact").record.value.expect("a value");
                    String::from_utf8(value.to_vec()).expect("text")
                })
                .collect()
        })
    }

    pub fn batch_count(&self, topic: &str, partition: usize) -> usize {
        self.with_log(topic, partition, |log| log.batches.len())
    }

    pub fn count(&self, api: ApiKey) -> usize {
        self.state.lock().requests.iter().filter(|(seen, _)| *seen == api).count()
    }

    pub fn timeouts(&self, api: ApiKey) -> Vec<u32> {
        self.state.lock().requests.iter().filter(|(seen, _)| *seen == api).map(|(_, ms)| *ms).collect()
    }

    pub fn connects(&self) -> u32 {
        self.state.lock().connects
    }

    pub fn pushed_bytes(&self) -> u64 {
        self.state.lock().pushed_bytes
    }

    fn with_log<T>(&self, topic: &str, partition: usize, f: impl FnOnce(&mut Log) -> T) -> T {
        let mut state = self.state.lock();
        let (_, logs) = state.topics.get_mut(&TopicName::new(topic).expect("valid")).expect("a topic");
        f(&mut logs[partition])
    }

    /// Serves one connection of `broker`.
    pub async fn serve<R, W>(self, broker: u32, mut reader: R, mut writer: W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let token = CancellationToken::new();
        self.state.lock().connections.push((broker, token.clone()));
        let (out, mut outgoing) = mpsc::unbounded_channel::<Vec<u8>>();
        let cut = token.clone();
        self.tasks.spawn(async move {
            let write = async {
                while let Some(bytes) = outgoing.recv().await {
                    if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                        break;
                    }
                }
            };
            cut.run_until_cancelled(write).await;
        });
        let session = Session { cluster: self, broker, out, cut: token.clone(), credits: Arc::default() };
        token.run_until_cancelled(session.run(&mut reader)).await;
    }
}

impl Connector for Cluster {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Transport>> {
        let cluster = self.clone();
        let broker: u32 = address
            .strip_prefix("broker-")
            .and_then(|rest| rest.split(':').next())
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        Box::pin(async move {
            cluster.state.lock().connects += 1;
            if cluster.state.lock().brokers.get(&broker) != Some(&true) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (near, far) = tokio::io::duplex(256 * 1024);
            let (reader, writer) = tokio::io::split(far);
            let tasks = cluster.tasks.clone();
            tasks.spawn(cluster.serve(broker, reader, writer));
            let (reader, writer) = tokio::io::split(near);
            Ok(Transport { reader: Box::new(reader), writer: Box::new(writer) })
        })
    }
}

struct Session {
    cluster: Cluster,
    broker: u32,
    out: mpsc::UnboundedSender<Vec<u8>>,
    cut: CancellationToken,
    credits: Arc<Mutex<HashMap<u32, Credit>>>,
}

/// What is left, the news of more, and the end.
type Credit = (i64, Arc<Notify>, CancellationToken);

fn flatten(frame: EncodedFrame) -> Vec<u8> {
    frame.into_chunks().flatten().collect()
}

fn refusal(code: ErrorCode) -> ErrorBody {
    ErrorBody::new(code, "as the test wants it")
}

impl Session {
    async fn run<R: AsyncRead + Unpin>(self, reader: &mut R) {
        let mut preface = [0; PREFACE_BYTES];
        if reader.read_exact(&mut preface).await.is_err() {
            return;
        }
        let answer = ClientPreface::decode(preface).expect("a client's preface").answer();
        let _ = self.out.send(answer.encode().to_vec());
        let (mut decoder, mut buffer) = (FrameDecoder::new(FRAME_BYTES_MAX), BytesMut::new());
        loop {
            while let Some(frame) = decoder.decode(&mut buffer).expect("the client's frames are well formed") {
                self.handle(frame);
            }
            if !matches!(reader.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
    }

    fn handle(&self, frame: Frame) {
        let (correlation, timeout_ms) = (frame.header.correlation, frame.header.timeout_ms);
        let api = ApiKey::from_wire(frame.header.api).expect("a known API");
        let fault = {
            let mut state = self.cluster.state.lock();
            state.requests.push((api, timeout_ms));
            let place = state.faults.iter().position(|(wanted, _)| *wanted == api);
            place.map(|place| state.faults.remove(place).1)
        };
        let flip = matches!(fault, Some(Fault::FlipPayload));
        match fault {
            Some(Fault::LoseRequest) => return self.cut.cancel(),
            Some(Fault::Silence) => return,
            Some(Fault::Refuse(code)) => {
                return self.say(flatten(encode_error(api.to_wire(), correlation, &refusal(code))));
            }
            Some(Fault::Bytes(bytes)) => return self.say(bytes),
            Some(Fault::WrongCorrelation) => {
                return self.answer(frame, api, CorrelationId::new(correlation.get() ^ 0x4000_0000), None, flip);
            }
            Some(Fault::LoseAnswer) => {
                let deaf = Self {
                    out: mpsc::unbounded_channel().0,
                    cluster: self.cluster.clone(),
                    broker: self.broker,
                    cut: self.cut.clone(),
                    credits: Arc::clone(&self.credits),
                };
                deaf.answer(frame, api, correlation, None, flip);
                return self.cut.cancel();
            }
            Some(Fault::Delay(delay)) => return self.answer(frame, api, correlation, Some(delay), flip),
            Some(Fault::FlipPayload) | None => {}
        }
        self.answer(frame, api, correlation, None, flip);
    }

    fn say(&self, bytes: Vec<u8>) {
        let _ = self.out.send(bytes);
    }

    fn reply<M: Message>(&self, message: &M, correlation: CorrelationId, delay: Option<Duration>, flip: bool) {
        let mut bytes = flatten(encode_response(message, correlation));
        if flip && let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        match delay {
            None => self.say(bytes),
            Some(delay) => {
                let out = self.out.clone();
                self.cluster.tasks.spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = out.send(bytes);
                });
            }
        }
    }

    fn answer(&self, frame: Frame, api: ApiKey, correlation: CorrelationId, delay: Option<Duration>, flip: bool) {
        macro_rules! with {
            ($request:ty, $handler:ident) => {{
                let request: $request = decode_body(frame).expect("the client's messages decode");
                self.reply(&self.$handler(request), correlation, delay, flip)
            }};
        }
        match api {
            ApiKey::Handshake => with!(HandshakeRequest, handshake),
            ApiKey::Metadata => with!(MetadataRequest, metadata),
            ApiKey::Health => with!(HealthRequest, health),
            ApiKey::ListTopics => with!(ListTopicsRequest, list_topics),
            ApiKey::CreateTopic => with!(CreateTopicRequest, create_topic),
            ApiKey::InitProducer => with!(InitProducerRequest, init_producer),
            ApiKey::ListOffsets => with!(ListOffsetsRequest, list_offsets),
            ApiKey::Produce => {
                let request: ProduceRequest = decode_body(frame).expect("decodes");
                let acks = request.acks;
                let response = self.produce(request);
                self.cluster.appended.notify_waiters();
                if acks != Acks::None {
                    self.reply(&response, correlation, delay, flip);
                }
            }
            ApiKey::Fetch => {
                let request: FetchRequest = decode_body(frame).expect("decodes");
                let outcomes = request.partitions.iter();
                let outcomes =
                    outcomes.map(|p| self.read(p.topic, p.partition, p.offset.get(), p.bytes_max as usize)).collect();
                self.reply(&FetchResponse { partitions: outcomes }, correlation, delay, flip);
            }
            ApiKey::Subscribe => self.subscribe(decode_body(frame).expect("decodes"), correlation, flip),
            ApiKey::Credit => {
                let request: CreditRequest = decode_body(frame).expect("decodes");
                if let Some((credit, more, _)) = self.credits.lock().get_mut(&request.subscription) {
                    *credit += request.add_bytes as i64;
                    more.notify_one();
                }
            }
            ApiKey::Unsubscribe => {
                let request: UnsubscribeRequest = decode_body(frame).expect("decodes");
                if let Some((_, _, end)) = self.credits.lock().remove(&request.subscription) {
                    end.cancel();
                }
                self.reply(&UnsubscribeResponse {}, correlation, delay, flip);
            }
            other => self.say(flatten(encode_error(other.to_wire(), correlation, &refusal(ErrorCode::UnsupportedApi)))),
        }
    }

    fn handshake(&self, _: HandshakeRequest) -> HandshakeResponse {
        HandshakeResponse {
            cluster_id: ClusterId::from_bytes([9; 16]),
            broker_id: BrokerId::new(self.broker),
            software_version: "test".to_owned(),
            frame_bytes_max: FRAME_BYTES_MAX as u32,
            requests_in_flight_max: 64,
            apis: Vec::new(),
        }
    }

    fn metadata(&self, request: MetadataRequest) -> MetadataResponse {
        let state = self.cluster.state.lock();
        let layout = |id: TopicId, logs: &[Log]| TopicLayout {
            id,
            partitions: logs
                .iter()
                .enumerate()
                .map(|(index, log)| PartitionLayout {
                    index: PartitionIndex::new(index as u32),
                    leader: state.brokers.get(&log.leader).filter(|up| **up).map(|_| BrokerId::new(log.leader)),
                    leader_epoch: LeaderEpoch::new(log.epoch),
                    partition_epoch: PartitionEpoch::new(0),
                    replicas: vec![BrokerId::new(log.leader)],
                    isr: vec![BrokerId::new(log.leader)],
                })
                .collect(),
        };
        let names = request.topics.unwrap_or_else(|| state.topics.keys().cloned().collect());
        let topics = names
            .into_iter()
            .map(|name| TopicMetadata {
                outcome: match state.topics.get(&name) {
                    Some((id, logs)) => Ok(layout(*id, logs)),
                    None => Err(refusal(ErrorCode::UnknownTopic)),
                },
                name,
            })
            .collect();
        let brokers = state
            .brokers
            .keys()
            .map(|id| BrokerEndpoint { id: BrokerId::new(*id), host: format!("broker-{id}"), port: 9092, rack: None })
            .collect();
        let cluster_id = ClusterId::from_bytes([9; 16]);
        MetadataResponse { cluster_id, controller: Some(BrokerId::new(1)), brokers, topics }
    }

    fn health(&self, _: HealthRequest) -> HealthResponse {
        HealthResponse { state: "ready".to_owned(), ready: true, problems: Vec::new() }
    }

    fn list_topics(&self, _: ListTopicsRequest) -> ListTopicsResponse {
        let state = self.cluster.state.lock();
        let listing = |(name, (id, logs)): (&TopicName, &(TopicId, Vec<Log>))| TopicListing {
            name: name.clone(),
            id: *id,
            partitions: logs.len() as u32,
            replication_factor: 1,
            internal: false,
        };
        ListTopicsResponse { topics: state.topics.iter().map(listing).collect() }
    }

    fn create_topic(&self, request: CreateTopicRequest) -> CreateTopicResponse {
        self.cluster.create(request.name.as_str(), request.partitions);
        CreateTopicResponse { id: TopicId::from_bytes([1; 16]), partitions: request.partitions, replication_factor: 1 }
    }

    fn init_producer(&self, request: InitProducerRequest) -> InitProducerResponse {
        let mut state = self.cluster.state.lock();
        match request.producer {
            Some((id, epoch)) => InitProducerResponse { id, epoch: ProducerEpoch::new(epoch.get() + 1) },
            None => {
                state.next_producer += 1;
                InitProducerResponse { id: ProducerId::new(state.next_producer), epoch: ProducerEpoch::new(0) }
            }
        }
    }

    /// Runs `f` on a log that this broker leads.
    fn on_log<T>(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        f: impl FnOnce(&mut Log) -> Result<T, ErrorCode>,
    ) -> Result<T, ErrorBody> {
        let mut state = self.cluster.state.lock();
        let Some((_, logs)) = state.topics.values_mut().find(|(id, _)| *id == topic) else {
            return Err(refusal(ErrorCode::UnknownTopicId));
        };
        let Some(log) = logs.get_mut(partition.get() as usize) else {
            return Err(refusal(ErrorCode::UnknownPartition));
        };
        if log.leader != self.broker {
            return Err(refusal(ErrorCode::NotLeader));
        }
        f(log).map_err(refusal)
    }

    fn produce(&self, request: ProduceRequest) -> ProduceResponse {
        let outcomes = request.partitions.into_iter().map(|p| ProduceOutcome {
            topic: p.topic,
            partition: p.partition,
            result: self.on_log(p.topic, p.partition, |log| log.append(p.batch)).map(|base| Produced {
                base_offset: Offset::new(base).expect("small"),
                timestamp: Timestamp::NONE,
                receipt: Receipt { replicas: 1, durable: 1 },
            }),
        });
        ProduceResponse { partitions: outcomes.collect() }
    }

    fn list_offsets(&self, request: ListOffsetsRequest) -> ListOffsetsResponse {
        let outcomes = request.partitions.into_iter().map(|p| OffsetsOutcome {
            topic: p.topic,
            partition: p.partition,
            result: self.on_log(p.topic, p.partition, |log| {
                let offset = match p.query {
                    OffsetQuery::Earliest => log.log_start,
                    OffsetQuery::Latest | OffsetQuery::At(_) => log.end(),
                };
                Ok(OffsetFound { offset: Offset::new(offset).expect("small"), timestamp: Timestamp::NONE })
            }),
        });
        ListOffsetsResponse { partitions: outcomes.collect() }
    }

    fn read(&self, topic: TopicId, partition: PartitionIndex, from: u64, bytes_max: usize) -> FetchOutcome {
        let result = self.on_log(topic, partition, |log| {
            if from < log.log_start || from > log.end() {
                return Err(ErrorCode::OffsetOutOfRange);
            }
            if log.damaged_from.is_some_and(|damaged| from >= damaged) {
                return Err(ErrorCode::StorageDamaged);
            }
            let mut bytes = 0;
            let mut chunks: Vec<Bytes> = Vec::new();
            for batch in log.batches.iter().filter(|batch| batch.next_offset().get() > from) {
                let damaged = log.damaged_from.is_some_and(|damaged| batch.next_offset().get() > damaged);
                if damaged || bytes > 0 && bytes + batch.size_bytes() > bytes_max {
                    break;
                }
                bytes += batch.size_bytes();
                chunks.push(batch.as_bytes().clone());
            }
            Ok(Fetched {
                high_watermark: Offset::new(log.end()).expect("small"),
                log_start: Offset::new(log.log_start).expect("small"),
                batches: Batches::from_chunks(chunks),
            })
        });
        FetchOutcome { topic, partition, result }
    }

    fn subscribe(&self, request: SubscribeRequest, correlation: CorrelationId, flip: bool) {
        let mut live = Vec::new();
        let partitions = request
            .partitions
            .iter()
            .map(|p| {
                let outcome = self.read(p.topic, p.partition, p.offset.get(), 0).result.map(|fetched| {
                    live.push((p.topic, p.partition, p.offset.get()));
                    Watermarks { log_start: fetched.log_start, high_watermark: fetched.high_watermark }
                });
                (p.topic, p.partition, outcome)
            })
            .collect();
        let (more, end) = (Arc::new(Notify::new()), self.cut.child_token());
        let id = request.subscription;
        self.credits.lock().insert(id, (request.credit_bytes as i64, Arc::clone(&more), end.clone()));
        let session = Self {
            cluster: self.cluster.clone(),
            broker: self.broker,
            out: self.out.clone(),
            cut: self.cut.clone(),
            credits: Arc::clone(&self.credits),
        };
        self.cluster.tasks.spawn(async move {
            // Without a pause before the first pushes: both often reach a client in one read.
            session.reply(&SubscribeResponse { partitions }, correlation, None, false);
            end.run_until_cancelled(session.push(id, correlation, live, &more, flip)).await;
        });
    }

    async fn push(
        &self,
        id: u32,
        correlation: CorrelationId,
        mut live: Vec<(TopicId, PartitionIndex, u64)>,
        more: &Notify,
        flip: bool,
    ) {
        loop {
            let appended = self.cluster.appended.notified();
            let mut idle = true;
            let mut ended = Vec::new();
            for (place, (topic, partition, next)) in live.iter_mut().enumerate() {
                if self.credits.lock().get(&id).is_none_or(|(credit, _, _)| *credit <= 0) {
                    continue;
                }
                let outcome = self.read(*topic, *partition, *next, 1);
                let bytes = match &outcome.result {
                    Ok(fetched) if fetched.batches.is_empty() => continue,
                    Ok(fetched) => {
                        let last = fetched.batches.chunks().last().expect("one").clone();
                        *next = PlacedBatch::verify_stored(last).expect("stored").next_offset().get();
                        fetched.batches.len()
                    }
                    Err(_) => {
                        ended.push(place);
                        0
                    }
                };
                idle = false;
                if let Some((credit, _, _)) = self.credits.lock().get_mut(&id) {
                    *credit -= bytes as i64;
                }
                self.cluster.state.lock().pushed_bytes += bytes as u64;
                let pushed = PushedBatches { subscription: id, partitions: vec![outcome] };
                let mut frame = flatten(encode_push(&pushed, correlation));
                if flip && let Some(last) = frame.last_mut() {
                    *last ^= 1;
                }
                self.say(frame);
            }
            for place in ended.into_iter().rev() {
                live.remove(place);
            }
            if idle {
                tokio::select! { () = appended => {}, () = more.notified() => {} }
            } else {
                tokio::task::yield_now().await;
            }
        }
    }
}
