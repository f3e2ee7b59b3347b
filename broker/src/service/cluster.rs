//! The cluster: where things are, how it is doing, how this broker is.

use std::collections::{BTreeMap, HashSet};

use streambus_consensus::image::{BrokerImage, ClusterImage, TopicImage};
use streambus_consensus::node::membership::{NodeRole, NodeStatus};
use streambus_protocol::api::cluster::{BrokerDescription, ClusterDescribeResponse};
use streambus_protocol::api::metadata::{MetadataRequest, MetadataResponse, TopicLayout, TopicMetadata};
use streambus_protocol::api::session::{ErrorBody, HealthResponse};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, ClusterId, TopicName};
use streambus_protocol::limits::FRAME_BODY_BYTES_MAX;
use streambus_storage::store::Store;

use crate::clock::Deadline;
use crate::lifecycle::{Lifecycle, State};
use crate::service::directory::{Directory, unconfirmed};
use crate::service::topic_description;

/// Answers questions about the cluster and this broker.
#[derive(Debug)]
pub struct ClusterService {
    directory: Directory,
    store: Store,
    lifecycle: Lifecycle,
}

/// Partitions that need a look, over all topics.
#[derive(Debug, Default)]
struct Tally {
    partitions: u32,
    leaderless: u32,
    under_replicated: u32,
    under_min_isr: u32,
    leaders: BTreeMap<BrokerId, u32>,
    replicas: BTreeMap<BrokerId, u32>,
    reassigning: u32,
    moving: BTreeMap<BrokerId, u32>,
}

impl ClusterService {
    /// A service over the cluster of `directory`.
    pub fn new(directory: Directory, store: Store, lifecycle: Lifecycle) -> Self {
        Self { directory, store, lifecycle }
    }

    /// This broker.
    pub fn broker_id(&self) -> BrokerId {
        self.directory.broker()
    }

    /// This cluster.
    pub fn cluster_id(&self) -> ClusterId {
        self.directory.image().cluster_id
    }

    /// True when every topic of the request is known here: then [`ClusterService::metadata`] waits for nobody.
    pub fn knows_all(&self, request: &MetadataRequest) -> bool {
        let image = self.directory.image();
        request.topics.iter().flatten().all(|name| image.topic_by_name(name).is_some())
    }

    /// Where topics and their leaders are. That there is no such topic is said only when a controller confirms it.
    ///
    /// # Errors
    /// `REQUEST_TOO_LARGE` when the answer would not fit a frame.
    pub async fn metadata(&self, request: &MetadataRequest, deadline: Deadline) -> Result<MetadataResponse, ErrorBody> {
        if self.knows_all(request) {
            return self.metadata_here(request);
        }
        match self.directory.current(deadline).await {
            Ok(_) => self.metadata_here(request),
            Err(error) => self.describe_topics(request, Some(&error)),
        }
    }

    /// As [`ClusterService::metadata`], with what is known here.
    ///
    /// # Errors
    /// `REQUEST_TOO_LARGE` when the answer would not fit a frame.
    pub fn metadata_here(&self, request: &MetadataRequest) -> Result<MetadataResponse, ErrorBody> {
        self.describe_topics(request, None)
    }

    /// `doubt` is why nobody knows whether the topics exist that are not known here.
    fn describe_topics(
        &self,
        request: &MetadataRequest,
        doubt: Option<&ErrorBody>,
    ) -> Result<MetadataResponse, ErrorBody> {
        let image = self.directory.image();
        let topics = match &request.topics {
            None => collect_within(FRAME_BODY_BYTES_MAX, image.topics_by_name().map(|topic| described(topic)))?,
            // Each name once, and a suggestion only for one that was asked for alone: both cost per name and per topic.
            Some(names) => {
                let mut seen = HashSet::new();
                let alone = names.len() == 1;
                let once = names.iter().filter(|name| seen.insert(*name));
                let look_up = |name: &TopicName| match image.topic_by_name(name) {
                    Some(topic) => described(topic),
                    None => {
                        if let Some(doubt) = doubt {
                            let error = unconfirmed(name, doubt.clone());
                            return TopicMetadata { name: name.clone(), outcome: Err(error) };
                        }
                        let plain = || ErrorBody::new(ErrorCode::UnknownTopic, format!("no topic '{name}'"));
                        let suggested = || self.directory.topic(&image, name).err();
                        let error = alone.then(suggested).flatten().unwrap_or_else(plain);
                        TopicMetadata { name: name.clone(), outcome: Err(error) }
                    }
                };
                collect_within(FRAME_BODY_BYTES_MAX, once.map(look_up))?
            }
        };
        Ok(MetadataResponse {
            cluster_id: image.cluster_id,
            controller: self.directory.metadata().status().leader,
            brokers: image.brokers.values().filter(|broker| !broker.fenced).map(|b| b.endpoint.clone()).collect(),
            topics,
        })
    }

    /// The cluster at a glance: as the controller has it or, where it does not answer, as this broker knows it.
    ///
    /// # Errors
    /// None today; the signature leaves room for a broker that does not know its cluster yet.
    pub async fn describe(&self, deadline: Deadline) -> Result<ClusterDescribeResponse, ErrorBody> {
        let image = self.directory.recent(deadline).await;
        let status = self.directory.metadata().status();
        let tally = tally(&image);
        let out_of_touch = self.directory.contact().lost_for();
        let silent = if out_of_touch.is_some() { self.directory.metadata().silent_brokers() } else { Vec::new() };
        let describe = |(id, broker): (&BrokerId, &BrokerImage)| {
            let node = status.nodes.iter().rev().find(|node| node.broker == *id);
            let state = self.state_of(*id, broker.fenced, out_of_touch.is_some().then_some(&silent));
            self.describe_broker(*id, broker, (node, state), &tally)
        };
        let brokers = image.brokers.iter().map(describe).collect();
        Ok(ClusterDescribeResponse {
            cluster_id: image.cluster_id,
            // Without a majority the last one known may long have been succeeded.
            controller: status.leader.filter(|_| out_of_touch.is_none()),
            metadata_term: status.term,
            // Of the same moment as the term: whoever committed it was elected in that term or before.
            metadata_index: image.applied.min(status.index),
            without_quorum_ms: out_of_touch.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            silent,
            brokers,
            topics: u32::try_from(image.topic_count()).unwrap_or(u32::MAX),
            partitions: tally.partitions,
            leaderless: tally.leaderless,
            under_replicated: tally.under_replicated,
            under_min_isr: tally.under_min_isr,
            reassigning: tally.reassigning,
        })
    }

    /// What a broker is doing, in one word. Who hears no controller knows of the others only which did not answer, if it
    /// has asked.
    fn state_of(&self, id: BrokerId, is_fenced: bool, silent: Option<&Vec<BrokerId>>) -> &'static str {
        match silent {
            _ if id == self.directory.broker() => self.lifecycle.get().name(),
            Some(silent) if silent.contains(&id) => "silent",
            Some(_) => "unknown",
            None if is_fenced => "fenced",
            None => State::Ready.name(),
        }
    }

    fn describe_broker(
        &self,
        id: BrokerId,
        broker: &BrokerImage,
        (node, state): (Option<&NodeStatus>, &'static str),
        tally: &Tally,
    ) -> BrokerDescription {
        let is_this = id == self.directory.broker();
        // Its own as it is now; the others' as the controller heard of them.
        let (disk_used_bytes, disk_free_bytes) = if is_this {
            let status = self.store.status();
            (status.used_bytes, status.free_bytes)
        } else {
            self.directory.disks().of(id).map_or((0, 0), |disk| (disk.used_bytes, disk.free_bytes))
        };
        BrokerDescription {
            endpoint: broker.endpoint.clone(),
            cluster_host: broker.cluster.host.clone(),
            cluster_port: broker.cluster.port,
            epoch: broker.epoch,
            fenced: broker.fenced,
            in_controlled_shutdown: broker.in_controlled_shutdown,
            draining: broker.draining,
            is_voter: node.is_some_and(|node| node.role == NodeRole::Voter),
            metadata_lag: node.and_then(|node| node.lag),
            state: state.to_owned(),
            version: broker.version.clone(),
            leaders: tally.leaders.get(&id).copied().unwrap_or(0),
            replicas: tally.replicas.get(&id).copied().unwrap_or(0),
            reassigning: tally.moving.get(&id).copied().unwrap_or(0),
            disk_used_bytes,
            disk_free_bytes,
        }
    }

    /// How this broker is.
    pub fn health(&self) -> HealthResponse {
        let state = self.lifecycle.get();
        let problems = self.lifecycle.problems();
        HealthResponse {
            ready: self.lifecycle.unready_reasons().is_empty(),
            state: state.name().to_owned(),
            problems: problems.into_iter().map(|p| format!("{}: {}", p.component.name(), p.message)).collect(),
        }
    }
}

fn described(topic: &TopicImage) -> TopicMetadata {
    let partitions =
        topic_description::indexed(topic).map(|(index, state)| topic_description::layout(index, state)).collect();
    TopicMetadata { name: topic.name.clone(), outcome: Ok(TopicLayout { id: topic.id, partitions }) }
}

/// Collects `topics` as long as they can fit `bytes_max` on the wire: an answer that would be refused when it is encoded
/// is not built first, which for a large cluster takes many times its bytes.
fn collect_within(
    bytes_max: usize,
    topics: impl Iterator<Item = TopicMetadata>,
) -> Result<Vec<TopicMetadata>, ErrorBody> {
    let mut bytes: usize = 0;
    let mut collected = Vec::new();
    for topic in topics {
        bytes = bytes.saturating_add(wire_bytes_min(&topic));
        if bytes > bytes_max {
            return Err(ErrorBody::new(
                ErrorCode::RequestTooLarge,
                format!("the layout of so many topics is larger than {bytes_max} bytes: ask for fewer topics by name"),
            ));
        }
        collected.push(topic);
    }
    Ok(collected)
}

/// What a topic takes in the answer, without the lengths of its strings and lists: never more than it really takes.
fn wire_bytes_min(topic: &TopicMetadata) -> usize {
    const TOPIC_ID_BYTES: usize = 16;
    // Index, both epochs, and whether there is a leader.
    const PARTITION_BYTES: usize = 4 + 4 + 4 + 1;
    const BROKER_BYTES: usize = 4;
    let outcome = match &topic.outcome {
        Ok(layout) => {
            let brokers: usize = layout.partitions.iter().map(|p| p.replicas.len() + p.isr.len()).sum();
            TOPIC_ID_BYTES + layout.partitions.len() * PARTITION_BYTES + brokers * BROKER_BYTES
        }
        Err(error) => error.message.len(),
    };
    topic.name.as_str().len() + outcome
}

fn tally(image: &ClusterImage) -> Tally {
    let mut tally = Tally::default();
    for topic in image.topics() {
        for partition in &topic.partitions {
            tally.partitions = tally.partitions.saturating_add(1);
            match partition.leader {
                Some(leader) => *tally.leaders.entry(leader).or_default() += 1,
                None => tally.leaderless += 1,
            }
            for replica in &partition.replicas {
                *tally.replicas.entry(*replica).or_default() += 1;
            }
            tally.reassigning += u32::from(partition.is_moving());
            for moving in partition.adding.iter().chain(&partition.removing) {
                *tally.moving.entry(*moving).or_default() += 1;
            }
            tally.under_replicated += u32::from(partition.isr.len() < partition.replicas.len());
            tally.under_min_isr += u32::from(partition.isr.len() < partition.in_sync_min(&topic.settings));
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use streambus_protocol::api::encode_response;
    use streambus_protocol::api::metadata::PartitionLayout;
    use streambus_protocol::epoch::{LeaderEpoch, PartitionEpoch};
    use streambus_protocol::ids::{CorrelationId, PartitionIndex, TopicId};

    use super::*;

    fn topic(number: u32, partitions: u32) -> TopicMetadata {
        let partition = |index| PartitionLayout {
            index: PartitionIndex::new(index),
            leader: None,
            leader_epoch: LeaderEpoch::new(1),
            partition_epoch: PartitionEpoch::ZERO,
            replicas: vec![BrokerId::new(1)],
            isr: vec![BrokerId::new(1)],
        };
        let layout =
            TopicLayout { id: TopicId::from_bytes([1; 16]), partitions: (0..partitions).map(partition).collect() };
        TopicMetadata { name: TopicName::new(&format!("topic-{number}")).expect("a name"), outcome: Ok(layout) }
    }

    // Catches an answer that is built in full, at many times its bytes, only to be refused for its size.
    #[test]
    fn building_stops_where_the_answer_no_longer_fits() {
        let built = Cell::new(0_u32);
        let endless = (0..1_000_000).map(|number| {
            built.set(built.get() + 1);
            topic(number, 100)
        });
        let refused = collect_within(10_000, endless).expect_err("too large");
        assert_eq!(refused.code, ErrorCode::RequestTooLarge);
        assert!(built.get() <= 5, "{} topics were built for an answer of 10,000 bytes", built.get());
    }

    // Catches an estimate above the truth: answers that fit would be refused.
    #[test]
    fn the_estimate_is_never_more_than_the_wire_takes() {
        let topics: Vec<_> = (0..50).map(|number| topic(number, number)).collect();
        let estimated: usize = topics.iter().map(wire_bytes_min).sum();
        let cluster_id = ClusterId::from_bytes([1; 16]);
        let response = MetadataResponse { cluster_id, controller: None, brokers: Vec::new(), topics: topics.clone() };
        let encoded: usize =
            encode_response(&response, CorrelationId::new(0)).into_chunks().map(|chunk| chunk.len()).sum();
        assert!(estimated <= encoded && estimated * 2 > encoded, "{estimated} for {encoded}");
        assert_eq!(collect_within(estimated, topics.clone().into_iter()).expect("fits"), topics);
    }
}
