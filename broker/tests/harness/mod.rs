//! A broker in this process on free ports and a directory of its own, and a client made of nothing but frames.

// Each test binary uses its part of the harness.
#![allow(dead_code, reason = "shared by several test binaries")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use streambus_broker::config::BrokerConfig;
use streambus_broker::server::{BrokerEnv, RunningServer, Server, StopError};
use streambus_protocol::api::fetch::{FetchOutcome, FetchPartition, FetchRequest, FetchResponse};
use streambus_protocol::api::produce::{Acks, ProducePartition, ProduceRequest, ProduceResponse, Produced};
use streambus_protocol::api::session::{ErrorBody, HandshakeRequest, HandshakeResponse};
use streambus_protocol::api::topics::{CreateTopicRequest, CreateTopicResponse};
use streambus_protocol::api::{Message, Request, decode_body, decode_response, encode_request};
use streambus_protocol::batch::{BatchBuilder, BatchOptions, PlacedBatch, ProducerStamp, UnverifiedBatch, batches};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::frame::{EncodedFrame, Flags, Frame, FrameDecoder};
use streambus_protocol::ids::{CorrelationId, PartitionIndex, TopicId, TopicName};
use streambus_protocol::limits::FRAME_BYTES_MAX;
use streambus_protocol::offset::Offset;
use streambus_protocol::preface::{BrokerPreface, ClientPreface, PREFACE_BYTES};
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::clock::{Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Far longer than anything here takes: a test that reaches it hangs for a reason.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A broker and its directory.
pub(crate) struct TestBroker {
    pub(crate) server: RunningServer,
    pub(crate) directory: tempfile::TempDir,
}

/// A configuration for a small broker on free ports.
pub(crate) fn config(directory: &Path) -> BrokerConfig {
    let mut config = BrokerConfig::default();
    config.storage.data_dir = directory.to_path_buf();
    config.storage.tail_cache_bytes = 4 << 20;
    config.storage.disk_reserve_bytes = 0;
    config.storage.disk_reserve_percent = 0;
    config.client.listen.port = 0;
    config.http.listen.port = 0;
    config
}

impl TestBroker {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = config(directory.path());
        change(&mut config);
        let server = Server::start(config, BrokerEnv::system()).await.expect("a broker");
        Self { server, directory }
    }

    /// Stops the broker in an orderly way and starts another one on its directory.
    pub(crate) async fn restart(self) -> Self {
        let Self { server, directory } = self;
        server.drain_and_stop(PATIENCE).await.expect("an orderly stop");
        let server = Server::start(config(directory.path()), BrokerEnv::system()).await.expect("a broker");
        Self { server, directory }
    }

    pub(crate) async fn stop(self) -> Result<(), StopError> {
        self.server.drain_and_stop(PATIENCE).await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.client_address()
    }

    pub(crate) async fn client(&self) -> TestClient {
        TestClient::connect(self.address()).await
    }
}

/// One connection.
pub(crate) struct TestClient {
    pub(crate) stream: TcpStream,
    buffer: BytesMut,
    decoder: FrameDecoder,
    next_correlation: u32,
}

impl TestClient {
    /// Connects and does not say hello.
    pub(crate) async fn connect_raw(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, buffer: BytesMut::new(), decoder: FrameDecoder::new(FRAME_BYTES_MAX), next_correlation: 1 }
    }

    /// Connects and exchanges prefaces.
    pub(crate) async fn connect_preface(address: SocketAddr) -> Self {
        let mut client = Self::connect_raw(address).await;
        client.send_bytes(&ClientPreface::CURRENT.encode()).await;
        let mut answer = [0; PREFACE_BYTES];
        within(client.stream.read_exact(&mut answer)).await.expect("a preface");
        let chosen = BrokerPreface::decode(answer, ClientPreface::CURRENT).expect("an answer");
        assert_eq!(chosen.version, Some(1));
        client
    }

    /// Connects and says hello.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut client = Self::connect_preface(address).await;
        let _ = client.handshake().await.expect("welcome");
        client
    }

    pub(crate) async fn handshake(&mut self) -> Result<HandshakeResponse, ErrorBody> {
        self.call(&HandshakeRequest {
            client_id: "test".to_owned(),
            software_name: "harness".to_owned(),
            software_version: "1".to_owned(),
            cluster_id: None,
        })
        .await
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.expect("bytes sent");
    }

    pub(crate) async fn send<M: Request>(&mut self, message: &M) -> CorrelationId {
        self.send_with_timeout(message, 0).await
    }

    pub(crate) async fn send_with_timeout<M: Request>(&mut self, message: &M, timeout_ms: u32) -> CorrelationId {
        let correlation = CorrelationId::new(self.next_correlation);
        self.next_correlation += 1;
        let frame = encode_request(message, correlation, timeout_ms);
        self.send_bytes(&flatten(frame)).await;
        correlation
    }

    /// The next frame; `None` when the broker has closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).expect("a sound frame") {
                return Some(frame);
            }
            match within(self.stream.read_buf(&mut self.buffer)).await {
                Ok(0) => return None,
                Ok(_) => {}
                // A connection that is cut, rather than closed, may arrive as a reset.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the connection broke: {error}"),
            }
        }
    }

    pub(crate) async fn response<M: Message>(&mut self, correlation: CorrelationId) -> Result<M, ErrorBody> {
        let frame = self.receive().await.expect("an answer, not the end");
        assert_eq!(frame.header.correlation, correlation, "answers to another request");
        assert!(frame.header.flags.contains(Flags::RESPONSE));
        decode_response(frame).expect("a sound answer")
    }

    pub(crate) async fn push<M: Message>(&mut self, correlation: CorrelationId) -> M {
        let frame = self.receive().await.expect("a push, not the end");
        assert_eq!(frame.header.flags, Flags::PUSH);
        assert_eq!(frame.header.correlation, correlation);
        decode_body(frame).expect("a sound push")
    }

    pub(crate) async fn call<M: Request>(&mut self, message: &M) -> Result<M::Response, ErrorBody> {
        let correlation = self.send(message).await;
        self.response(correlation).await
    }

    /// Sends one byte after the other, each when the broker has let some time pass without closing the connection, until
    /// it does; returns how many it took.
    pub(crate) async fn trickle(&mut self) -> usize {
        within(async {
            let mut sent = 0;
            loop {
                match tokio::time::timeout(Duration::from_millis(10), self.receive()).await {
                    Ok(None) => return sent,
                    Ok(Some(frame)) => panic!("half a frame has an answer: {frame:?}"),
                    // Closed since, which the next look says.
                    Err(_) if self.stream.write_all(&[0]).await.is_err() => return sent,
                    Err(_) => sent += 1,
                }
            }
        })
        .await
    }

    pub(crate) async fn expect_end(&mut self) {
        assert!(self.receive().await.is_none(), "the broker should have closed the connection");
    }

    pub(crate) async fn create_topic(&mut self, topic: &str, partitions: u32) -> TopicId {
        self.create_topic_with(topic, partitions, &[]).await.expect("a topic").id
    }

    pub(crate) async fn create_topic_with(
        &mut self,
        topic: &str,
        partitions: u32,
        config: &[(&str, &str)],
    ) -> Result<CreateTopicResponse, ErrorBody> {
        let config: BTreeMap<String, String> =
            config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let request =
            CreateTopicRequest { name: name(topic), partitions, replication_factor: 0, config, validate_only: false };
        self.call(&request).await
    }

    pub(crate) async fn produce(
        &mut self,
        topic: TopicId,
        partition: u32,
        values: &[&str],
    ) -> Result<Produced, ErrorBody> {
        self.produce_batch(topic, partition, batch(values, None)).await
    }

    pub(crate) async fn produce_batch(
        &mut self,
        topic: TopicId,
        partition: u32,
        batch: UnverifiedBatch,
    ) -> Result<Produced, ErrorBody> {
        let response: ProduceResponse = self.call(&produce_request(topic, partition, Acks::All, batch)).await?;
        response.partitions.into_iter().next().expect("one outcome").result
    }

    pub(crate) async fn fetch(&mut self, request: &FetchRequest) -> FetchResponse {
        self.call(request).await.expect("a fetch is answered")
    }

    /// Values of one partition from `offset` on, as far as one fetch gets.
    pub(crate) async fn values(&mut self, topic: TopicId, partition: u32, offset: u64) -> Vec<String> {
        let response = self.fetch(&fetch_request(topic, partition, offset, 0)).await;
        values(&response.partitions[0])
    }
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

pub(crate) fn flatten(frame: EncodedFrame) -> Vec<u8> {
    frame.into_chunks().flat_map(|chunk| chunk.to_vec()).collect()
}

pub(crate) fn name(topic: &str) -> TopicName {
    TopicName::new(topic).expect("a topic name")
}

pub(crate) fn at(offset: u64) -> Offset {
    Offset::new(offset).expect("an offset")
}

/// A batch of records of now: older ones would be retention's.
pub(crate) fn batch(values: &[&str], producer: Option<ProducerStamp>) -> UnverifiedBatch {
    batch_at(values, producer, SystemClock::new().now().as_millis())
}

pub(crate) fn batch_at(values: &[&str], producer: Option<ProducerStamp>, timestamp: i64) -> UnverifiedBatch {
    let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
    for value in values {
        let record = Record::new(Bytes::copy_from_slice(value.as_bytes()), Timestamp::from_millis(timestamp));
        builder.push(&record).expect("room");
    }
    UnverifiedBatch::new(builder.build().expect("a batch"))
}

pub(crate) fn produce_request(topic: TopicId, partition: u32, acks: Acks, batch: UnverifiedBatch) -> ProduceRequest {
    let partition = PartitionIndex::new(partition);
    let leader_epoch = LeaderEpoch::UNKNOWN;
    ProduceRequest { acks, partitions: vec![ProducePartition { topic, partition, leader_epoch, batch }] }
}

pub(crate) fn fetch_request(topic: TopicId, partition: u32, offset: u64, wait_ms: u32) -> FetchRequest {
    FetchRequest {
        wait_ms,
        bytes_min: 1,
        bytes_max: 1 << 20,
        partitions: vec![fetch_partition(topic, partition, offset)],
        rack: None,
    }
}

pub(crate) fn fetch_partition(topic: TopicId, partition: u32, offset: u64) -> FetchPartition {
    FetchPartition {
        topic,
        partition: PartitionIndex::new(partition),
        offset: at(offset),
        bytes_max: 1 << 20,
        leader_epoch: LeaderEpoch::UNKNOWN,
    }
}

/// The batches of an outcome, proven.
pub(crate) fn placed(outcome: &FetchOutcome) -> Vec<PlacedBatch> {
    let fetched = outcome.result.as_ref().expect("batches");
    batches(fetched.batches.clone().into_bytes()).map(|batch| batch.expect("a sound batch")).collect()
}

/// The values of an outcome's records, in order.
pub(crate) fn values(outcome: &FetchOutcome) -> Vec<String> {
    let text = |value: Option<Bytes>| String::from_utf8(value.expect("a value").to_vec()).expect("text");
    placed(outcome)
        .iter()
        .flat_map(|batch| batch.records(1 << 20).expect("records").map(|record| record.expect("a record").record.value))
        .map(text)
        .collect()
}

/// The code of a refusal.
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, ErrorBody>) -> streambus_protocol::error_code::ErrorCode {
    result.expect_err("a refusal").code
}
