//! What the brokers answer, by request.

use bytes::Bytes;
use streambus_client::Acks;
use streambus_protocol::api::fetch::{Batches, FetchOutcome, Fetched};
use streambus_protocol::api::metadata::{
    BrokerEndpoint, MetadataRequest, MetadataResponse, PartitionLayout, TopicLayout, TopicMetadata,
};
use streambus_protocol::api::offsets::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetFound, OffsetQuery, OffsetsOutcome,
};
use streambus_protocol::api::produce::{
    InitProducerRequest, InitProducerResponse, ProduceOutcome, ProduceRequest, ProduceResponse, Produced, Receipt,
};
use streambus_protocol::api::session::{
    ErrorBody, HandshakeRequest, HandshakeResponse, HealthRequest, HealthResponse, LeaderHint,
};
use streambus_protocol::api::topics::{
    CreateTopicRequest, CreateTopicResponse, ListTopicsRequest, ListTopicsResponse, TopicListing,
};
use streambus_protocol::epoch::{LeaderEpoch, PartitionEpoch};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, ClusterId, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicName};
use streambus_protocol::limits::FRAME_BYTES_MAX;
use streambus_protocol::offset::Offset;
use streambus_protocol::timestamp::Timestamp;

use super::log::Log;
use super::session::{Manner, Session, refusal};
use super::{Broker, Leadership, Picture};

/// A batch that was taken: where it begins and ends, and under which leadership.
struct Taken {
    base: u64,
    end: u64,
    epoch: u32,
}

impl Session {
    pub(super) fn handshake(&self, _: HandshakeRequest) -> HandshakeResponse {
        HandshakeResponse {
            cluster_id: ClusterId::from_bytes([9; 16]),
            broker_id: BrokerId::new(self.broker),
            software_version: "test".to_owned(),
            frame_bytes_max: FRAME_BYTES_MAX as u32,
            requests_in_flight_max: 64,
            apis: Vec::new(),
        }
    }

    pub(super) fn metadata(&self, request: MetadataRequest) -> MetadataResponse {
        let state = self.cluster.state.lock();
        let picture = state.lagging.get(&self.broker).cloned().unwrap_or_else(|| state.picture());
        let Picture { controller, topics: known } = picture;
        let layout = |id: TopicId, leaders: &[Leadership]| TopicLayout {
            id,
            partitions: (0u32..)
                .zip(leaders)
                .map(|(index, (leader, epoch))| PartitionLayout {
                    index: PartitionIndex::new(index),
                    leader: leader.map(BrokerId::new),
                    leader_epoch: LeaderEpoch::new(*epoch),
                    partition_epoch: PartitionEpoch::new(0),
                    replicas: leader.iter().copied().map(BrokerId::new).collect(),
                    isr: leader.iter().copied().map(BrokerId::new).collect(),
                })
                .collect(),
        };
        let names = request.topics.unwrap_or_else(|| known.keys().cloned().collect());
        let topics = names
            .into_iter()
            .map(|name| TopicMetadata {
                outcome: match known.get(&name) {
                    Some((id, leaders)) => Ok(layout(*id, leaders)),
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
        MetadataResponse { cluster_id, controller: controller.map(BrokerId::new), brokers, topics }
    }

    pub(super) fn health(&self, _: HealthRequest) -> HealthResponse {
        HealthResponse { state: "ready".to_owned(), ready: true, problems: Vec::new() }
    }

    pub(super) fn list_topics(&self, _: ListTopicsRequest) -> ListTopicsResponse {
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

    pub(super) fn create_topic(&self, request: CreateTopicRequest) -> CreateTopicResponse {
        self.cluster.create(request.name.as_str(), request.partitions);
        CreateTopicResponse { id: TopicId::from_bytes([1; 16]), partitions: request.partitions, replication_factor: 1 }
    }

    pub(super) fn init_producer(&self, request: InitProducerRequest) -> InitProducerResponse {
        let mut state = self.cluster.state.lock();
        match request.producer {
            Some((id, epoch)) => InitProducerResponse { id, epoch: ProducerEpoch::new(epoch.get() + 1) },
            None => {
                state.next_producer += 1;
                InitProducerResponse { id: ProducerId::new(state.next_producer), epoch: ProducerEpoch::new(0) }
            }
        }
    }

    /// Runs `f` on a log that this broker leads in the epoch that the client knows, if it names one.
    fn on_log<T>(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        epoch: Option<LeaderEpoch>,
        f: impl FnOnce(&mut Log) -> Result<T, ErrorCode>,
    ) -> Result<T, ErrorBody> {
        let mut state = self.cluster.state.lock();
        let hints = state.hints && !state.lagging.contains_key(&self.broker);
        let Some((_, logs)) = state.topics.values_mut().find(|(id, _)| *id == topic) else {
            return Err(refusal(ErrorCode::UnknownTopicId));
        };
        let Some(log) = logs.get_mut(partition.get() as usize) else {
            return Err(refusal(ErrorCode::UnknownPartition));
        };
        let hint = log
            .leader
            .filter(|_| hints)
            .map(|leader| LeaderHint { leader: BrokerId::new(leader), leader_epoch: LeaderEpoch::new(log.epoch) });
        match epoch.map(LeaderEpoch::get) {
            _ if log.leader != Some(self.broker) => Err(refusal(ErrorCode::NotLeader).with_leader(hint)),
            Some(epoch) if epoch < log.epoch => Err(refusal(ErrorCode::FencedLeaderEpoch).with_leader(hint)),
            Some(epoch) if epoch > log.epoch => Err(refusal(ErrorCode::UnknownLeaderEpoch)),
            _ => f(log).map_err(refusal),
        }
    }

    /// Appends at once; answers when the records are committed, which takes the cluster's `commit_delay`.
    pub(super) fn produce(&self, request: ProduceRequest, manner: Manner) {
        let taken: Vec<_> = request
            .partitions
            .into_iter()
            .map(|p| {
                let taken = self.on_log(p.topic, p.partition, Some(p.leader_epoch), |log| {
                    let base = log.append(p.batch)?;
                    let batch = log.batches.iter().find(|batch| batch.base_offset().get() == base);
                    let end = batch.map_or(base, |batch| batch.next_offset().get());
                    Ok(Taken { base, end, epoch: log.epoch })
                });
                (p.topic, p.partition, taken)
            })
            .collect();
        let delay = self.cluster.state.lock().commit_delay;
        if delay.is_zero() {
            return self.committed(taken, request.acks, manner);
        }
        let session = self.with_out(self.out.clone());
        self.cluster.tasks.spawn(async move {
            tokio::time::sleep(delay).await;
            session.committed(taken, request.acks, manner);
        });
    }

    fn committed(&self, taken: Vec<(TopicId, PartitionIndex, Result<Taken, ErrorBody>)>, acks: Acks, manner: Manner) {
        let commit = |topic, partition, taken: Taken| {
            let epoch = Some(LeaderEpoch::new(taken.epoch));
            let committed = self.on_log(topic, partition, epoch, |log| {
                log.commit(taken.end);
                Ok(Produced {
                    base_offset: Offset::new(taken.base).expect("small"),
                    timestamp: Timestamp::NONE,
                    receipt: Receipt { replicas: 1, durable: 1 },
                })
            });
            // Whether the next leader has it, this one cannot know.
            committed.map_err(|_| refusal(ErrorCode::NotEnoughReplicasAfterAppend))
        };
        let partitions = taken
            .into_iter()
            .map(|(topic, partition, taken)| {
                let result = taken.and_then(|taken| commit(topic, partition, taken));
                ProduceOutcome { topic, partition, result }
            })
            .collect();
        self.cluster.appended.notify_waiters();
        if acks != Acks::None && !self.is_hung() {
            self.reply(&ProduceResponse { partitions }, manner);
        }
    }

    pub(super) fn list_offsets(&self, request: ListOffsetsRequest) -> ListOffsetsResponse {
        let outcomes = request.partitions.into_iter().map(|p| OffsetsOutcome {
            topic: p.topic,
            partition: p.partition,
            result: self.on_log(p.topic, p.partition, None, |log| {
                let offset = match p.query {
                    OffsetQuery::Earliest => log.log_start,
                    OffsetQuery::Latest | OffsetQuery::At(_) => log.committed(),
                };
                Ok(OffsetFound { offset: Offset::new(offset).expect("small"), timestamp: Timestamp::NONE })
            }),
        });
        ListOffsetsResponse { partitions: outcomes.collect() }
    }

    /// What a reader gets here, who stands in `rack`, if it said so.
    pub(super) fn read_in(&self, rack: Option<&str>, asked: Asked) -> FetchOutcome {
        let near = self.cluster.state.lock().near.clone().filter(|near| rack == Some(near.rack.as_str()));
        let outcome = match near {
            Some(near) if near.broker == self.broker => {
                // As its leader would, as far as it knows.
                let leader = self.leader_of(asked.topic, asked.partition);
                let as_leader = Self { broker: leader.unwrap_or(self.broker), ..self.with_out(self.out.clone()) };
                let mut outcome = as_leader.read(asked, near.knows);
                if asked.from > near.knows {
                    outcome.result = Err(refusal(ErrorCode::OffsetNotAvailable));
                }
                outcome
            }
            Some(near)
                if asked.from <= near.knows && self.leader_of(asked.topic, asked.partition) == Some(self.broker) =>
            {
                let hint = LeaderHint { leader: BrokerId::new(near.broker), leader_epoch: asked.epoch };
                let refused = refusal(ErrorCode::NearerReplica).with_leader(Some(hint));
                FetchOutcome { topic: asked.topic, partition: asked.partition, result: Err(refused) }
            }
            _ => self.read(asked, u64::MAX),
        };
        if let Ok(fetched) = &outcome.result {
            *self.cluster.state.lock().served.entry(self.broker).or_default() += fetched.batches.chunks().len();
        }
        outcome
    }

    fn leader_of(&self, topic: TopicId, partition: PartitionIndex) -> Option<u32> {
        let state = self.cluster.state.lock();
        let (_, logs) = state.topics.values().find(|(id, _)| *id == topic)?;
        logs.get(partition.get() as usize)?.leader
    }

    fn read(&self, asked: Asked, knows: u64) -> FetchOutcome {
        let Asked { topic, partition, epoch, from, bytes_max } = asked;
        let result = self.on_log(topic, partition, Some(epoch), |log| {
            if from < log.log_start || from > log.end() {
                return Err(ErrorCode::OffsetOutOfRange);
            }
            let committed = log.committed().min(knows);
            if from > committed {
                return Err(ErrorCode::OffsetNotAvailable);
            }
            if log.damaged_from.is_some_and(|damaged| from >= damaged) {
                return Err(ErrorCode::StorageDamaged);
            }
            let mut bytes = 0;
            let mut chunks: Vec<Bytes> = Vec::new();
            for batch in log.batches.iter().filter(|batch| batch.next_offset().get() > from) {
                let end = batch.next_offset().get();
                let damaged = log.damaged_from.is_some_and(|damaged| end > damaged);
                if damaged || end > committed || bytes > 0 && bytes + batch.size_bytes() > bytes_max {
                    break;
                }
                bytes += batch.size_bytes();
                chunks.push(batch.as_bytes().clone());
            }
            Ok(Fetched {
                high_watermark: Offset::new(committed).expect("small"),
                log_start: Offset::new(log.log_start).expect("small"),
                batches: Batches::from_chunks(chunks),
            })
        });
        FetchOutcome { topic, partition, result }
    }
}

/// A partition that is read.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) topic: TopicId,
    pub(super) partition: PartitionIndex,
    pub(super) epoch: LeaderEpoch,
    pub(super) from: u64,
    pub(super) bytes_max: usize,
}

impl super::State {
    /// What a broker that is up to date knows.
    pub(super) fn picture(&self) -> Picture {
        let is_up = |broker: &u32| self.brokers.get(broker) == Some(&Broker::Up);
        let topics = self
            .topics
            .iter()
            .map(|(name, (id, logs)): (&TopicName, _)| {
                let leaders = logs.iter().map(|log| (log.leader.filter(is_up), log.epoch)).collect();
                (name.clone(), (*id, leaders))
            })
            .collect();
        Picture { controller: self.brokers.keys().copied().find(is_up), topics }
    }
}
