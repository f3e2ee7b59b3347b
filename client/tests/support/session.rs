//! One connection of one broker: reads frames, applies faults, hands requests to their answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use streambus_protocol::api::fetch::{FetchRequest, FetchResponse};
use streambus_protocol::api::metadata::MetadataRequest;
use streambus_protocol::api::offsets::ListOffsetsRequest;
use streambus_protocol::api::produce::InitProducerRequest;
use streambus_protocol::api::session::{ErrorBody, HandshakeRequest, HealthRequest};
use streambus_protocol::api::subscribe::{CreditRequest, UnsubscribeRequest, UnsubscribeResponse};
use streambus_protocol::api::topics::{CreateTopicRequest, ListTopicsRequest};
use streambus_protocol::api::{ApiKey, Message, decode_body, encode_error, encode_response};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::frame::{EncodedFrame, Frame, FrameDecoder};
use streambus_protocol::ids::CorrelationId;
use streambus_protocol::limits::FRAME_BYTES_MAX;
use streambus_protocol::preface::{ClientPreface, PREFACE_BYTES};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::answers::Asked;
use super::{Broker, Cluster, Fault};

pub struct Session {
    pub cluster: Cluster,
    pub broker: u32,
    pub out: mpsc::UnboundedSender<Vec<u8>>,
    pub cut: CancellationToken,
    pub credits: Arc<Mutex<HashMap<u32, Credit>>>,
}

/// What is left, the news of more, and the end.
pub type Credit = (i64, Arc<Notify>, CancellationToken);

pub fn flatten(frame: EncodedFrame) -> Vec<u8> {
    frame.into_chunks().flatten().collect()
}

pub fn refusal(code: ErrorCode) -> ErrorBody {
    ErrorBody::new(code, "as the test wants it")
}

/// How an answer is given.
#[derive(Clone, Copy)]
pub struct Manner {
    pub correlation: CorrelationId,
    pub delay: Option<Duration>,
    /// With the last bit flipped.
    pub flip: bool,
}

/// Serves one connection of `broker`.
pub async fn serve<R, W>(cluster: Cluster, broker: u32, mut reader: R, mut writer: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let token = CancellationToken::new();
    cluster.state.lock().connections.push((broker, token.clone()));
    let (out, mut outgoing) = mpsc::unbounded_channel::<Vec<u8>>();
    let cut = token.clone();
    cluster.tasks.spawn(async move {
        let write = async {
            while let Some(bytes) = outgoing.recv().await {
                if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                    break;
                }
            }
        };
        cut.run_until_cancelled(write).await;
    });
    let session = Session { cluster, broker, out, cut: token.clone(), credits: Arc::default() };
    token.run_until_cancelled(session.run(&mut reader)).await;
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

    /// The same session with another way out.
    pub fn with_out(&self, out: mpsc::UnboundedSender<Vec<u8>>) -> Self {
        let (cluster, cut, credits) = (self.cluster.clone(), self.cut.clone(), Arc::clone(&self.credits));
        Self { cluster, broker: self.broker, out, cut, credits }
    }

    pub fn is_hung(&self) -> bool {
        self.cluster.state.lock().brokers.get(&self.broker) == Some(&Broker::Hung)
    }

    fn handle(&self, frame: Frame) {
        let (correlation, timeout_ms) = (frame.header.correlation, frame.header.timeout_ms);
        let api = ApiKey::from_wire(frame.header.api).expect("a known API");
        let mut manner = Manner { correlation, delay: None, flip: false };
        if self.is_hung() {
            return;
        }
        let fault = {
            let mut state = self.cluster.state.lock();
            state.requests.push((api, timeout_ms));
            let place = state.faults.iter().position(|(wanted, _)| *wanted == api);
            place.map(|place| state.faults.remove(place).1)
        };
        match fault {
            Some(Fault::LoseRequest) => return self.cut.cancel(),
            Some(Fault::Silence) => return,
            Some(Fault::Refuse(code)) => {
                return self.say(flatten(encode_error(api.to_wire(), correlation, &refusal(code))));
            }
            Some(Fault::Bytes(bytes)) => return self.say(bytes),
            Some(Fault::WrongCorrelation) => {
                manner.correlation = CorrelationId::new(correlation.get() ^ 0x4000_0000);
            }
            Some(Fault::LoseAnswer) => {
                self.with_out(mpsc::unbounded_channel().0).answer(frame, api, manner);
                return self.cut.cancel();
            }
            Some(Fault::Delay(delay)) => manner.delay = Some(delay),
            Some(Fault::FlipPayload) => manner.flip = true,
            None => {}
        }
        self.answer(frame, api, manner);
    }

    pub fn say(&self, bytes: Vec<u8>) {
        let _ = self.out.send(bytes);
    }

    pub fn reply<M: Message>(&self, message: &M, manner: Manner) {
        let mut bytes = flatten(encode_response(message, manner.correlation));
        if manner.flip
            && let Some(last) = bytes.last_mut()
        {
            *last ^= 1;
        }
        match manner.delay {
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

    fn answer(&self, frame: Frame, api: ApiKey, manner: Manner) {
        macro_rules! with {
            ($request:ty, $handler:ident) => {{
                let request: $request = decode_body(frame).expect("the client's messages decode");
                self.reply(&self.$handler(request), manner)
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
            ApiKey::Produce => self.produce(decode_body(frame).expect("decodes"), manner),
            ApiKey::Fetch => {
                let request: FetchRequest = decode_body(frame).expect("decodes");
                let read = |p: &streambus_protocol::api::fetch::FetchPartition| {
                    let (from, bytes_max) = (p.offset.get(), p.bytes_max as usize);
                    let asked =
                        Asked { topic: p.topic, partition: p.partition, epoch: p.leader_epoch, from, bytes_max };
                    self.read_in(request.rack.as_deref(), asked)
                };
                self.reply(&FetchResponse { partitions: request.partitions.iter().map(read).collect() }, manner);
            }
            ApiKey::Subscribe => self.subscribe(decode_body(frame).expect("decodes"), manner.correlation, manner.flip),
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
                self.reply(&UnsubscribeResponse {}, manner);
            }
            other => {
                let refused = encode_error(other.to_wire(), manner.correlation, &refusal(ErrorCode::UnsupportedApi));
                self.say(flatten(refused));
            }
        }
    }
}
