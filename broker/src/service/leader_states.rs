//! How partitions stand at their leaders: one question to each broker that leads some of them, all at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use streambus_protocol::api::peer::PeerLane;
use streambus_protocol::api::replica::{LeaderLogState, ReplicaStateRequest};
use streambus_protocol::api::topics::{DescribeTopicResponse, PartitionDescription};
use streambus_protocol::ids::{BrokerId, PartitionId};

use crate::cluster::pool::PeerPool;

/// A description is not worth a longer wait for a leader that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks other brokers about what they lead.
#[derive(Clone, Debug)]
pub struct LeaderStates {
    me: BrokerId,
    pool: PeerPool,
}

impl LeaderStates {
    /// Asks over `pool`, on behalf of `me`.
    pub fn new(me: BrokerId, pool: PeerPool) -> Self {
        Self { me, pool }
    }

    /// Replaces what this broker knows about partitions led elsewhere by what their leaders say. Where a leader does not
    /// answer in time, what is there stays.
    pub(crate) async fn complete(&self, topic: &mut DescribeTopicResponse, left: Duration) {
        let mut led: BTreeMap<BrokerId, Vec<PartitionId>> = BTreeMap::new();
        for partition in &topic.partitions {
            if let Some(leader) = partition.layout.leader.filter(|leader| *leader != self.me) {
                led.entry(leader).or_default().push(PartitionId { topic: topic.id, partition: partition.layout.index });
            }
        }
        let mut states = self.ask(led, left).await;
        for partition in &mut topic.partitions {
            let id = PartitionId { topic: topic.id, partition: partition.layout.index };
            if let Some(state) = states.remove(&id) {
                adopt(partition, state);
            }
        }
    }

    /// What the brokers that lead `led` say about it; without those that do not answer in time, or do not lead it.
    pub(crate) async fn ask(
        &self,
        led: BTreeMap<BrokerId, Vec<PartitionId>>,
        left: Duration,
    ) -> BTreeMap<PartitionId, LeaderLogState> {
        let ttl = left.min(PATIENCE);
        let asked = led.into_iter().map(async |(leader, partitions)| {
            let request = ReplicaStateRequest { partitions };
            match self.pool.call(leader, PeerLane::Forward, &request, ttl).await {
                Ok(answer) => answer.partitions,
                Err(error) => {
                    tracing::debug!(%leader, %error, "a leader does not say how its partitions stand");
                    Vec::new()
                }
            }
        });
        let answers = join_all(asked).await.into_iter().flatten();
        answers.filter_map(|(id, state)| Some((id, state.ok()?))).collect()
    }
}

fn adopt(partition: &mut PartitionDescription, state: LeaderLogState) {
    let LeaderLogState { log_start, high_watermark, log_end, size_bytes, damaged, replicas } = state;
    partition.log_start = log_start;
    partition.high_watermark = high_watermark;
    partition.log_end = log_end;
    partition.size_bytes = size_bytes;
    partition.damaged = damaged;
    partition.replica_states = replicas;
}
