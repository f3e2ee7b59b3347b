//! Who leads, who holds, and emptying a broker.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use streambus_protocol::api::cluster::{
    DrainBrokerRequest, DrainBrokerResponse, ElectLeaderRequest, ElectLeaderResponse, LeaderChoice, ReassignRequest,
    ReassignResponse, RemoveBrokerRequest,
};
use streambus_protocol::api::topics::{DescribeTopicRequest, DescribeTopicResponse};
use streambus_protocol::ids::{BrokerId, PartitionIndex, TopicName};
use tokio::time::Instant;

use super::{Admin, about, valid};
use crate::engine::Effect;
use crate::error::{Error, TopicPartition};
use crate::op::Op;

/// How long a leader may take to describe what it leads; without its answer, its partitions are told as another broker
/// knows them.
const LEADER_TIMEOUT: Duration = Duration::from_millis(900);

impl Admin {
    /// Gives a partition another leader; returns who leads now.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`]; [`Error::Broker`] with `INELIGIBLE_REPLICA` when that broker
    /// is not alive, not in sync or does not hold the partition.
    pub fn elect_leader(&self, topic: &str, partition: u32, choice: LeaderChoice) -> Op<'_, ElectLeaderResponse> {
        let topic = TopicName::new(topic);
        self.op("elect_leader", move |scope| async move {
            let request =
                ElectLeaderRequest { topic: valid(topic)?, partition: PartitionIndex::new(partition), choice };
            let outcome = self.client.engine().call(&scope, Effect::Change, &request).await;
            outcome.map_err(|error| about_partition(error, &request.topic, partition))
        })
    }

    /// Moves a partition to `replicas`, the preferred leader first. The move has begun when this returns; it is done when
    /// [`Admin::describe_topic`] shows nothing that is added or removed. New replicas are sent what they lack at most at the
    /// rate that their leader is set to.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`]; [`Error::Broker`] with `INVALID_ASSIGNMENT`.
    pub fn reassign(
        &self,
        topic: &str,
        partition: u32,
        replicas: impl IntoIterator<Item = u32>,
    ) -> Op<'_, ReassignResponse> {
        self.place(topic, partition, Some(replicas.into_iter().map(BrokerId::new).collect()), None)
    }

    /// As [`Admin::reassign`], sending new replicas at most `bytes_per_second`, zero for no limit, whatever their leader is
    /// set to. For the replicas of a move that is under way it sets another limit.
    ///
    /// # Errors
    ///
    /// As [`Admin::reassign`].
    pub fn reassign_throttled(
        &self,
        topic: &str,
        partition: u32,
        replicas: impl IntoIterator<Item = u32>,
        bytes_per_second: u64,
    ) -> Op<'_, ReassignResponse> {
        let replicas = replicas.into_iter().map(BrokerId::new).collect();
        self.place(topic, partition, Some(replicas), Some(bytes_per_second))
    }

    /// Stops moving a partition: it stays with the brokers that held it before.
    ///
    /// # Errors
    ///
    /// As [`Admin::reassign`], and [`Error::Broker`] with `NO_REASSIGNMENT` when it is not being moved.
    pub fn cancel_reassign(&self, topic: &str, partition: u32) -> Op<'_, ReassignResponse> {
        self.place(topic, partition, None, None)
    }

    fn place(
        &self,
        topic: &str,
        partition: u32,
        replicas: Option<Vec<BrokerId>>,
        throttle: Option<u64>,
    ) -> Op<'_, ReassignResponse> {
        let topic = TopicName::new(topic);
        self.op("reassign", move |scope| async move {
            let partition_index = PartitionIndex::new(partition);
            let request = ReassignRequest { topic: valid(topic)?, partition: partition_index, replicas, throttle };
            let outcome = self.client.engine().call(&scope, Effect::Change, &request).await;
            outcome.map_err(|error| about_partition(error, &request.topic, partition))
        })
    }

    /// Begins to move everything off a broker, or lets it take part again. Asking again tells how far it is.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] with `UNKNOWN_BROKER`.
    pub fn drain_broker(&self, broker: u32, draining: bool) -> Op<'_, DrainBrokerResponse> {
        self.op("drain_broker", move |scope| async move {
            let request = DrainBrokerRequest { broker: BrokerId::new(broker), draining };
            // To drain twice is to drain once, and to ask how far it is.
            self.client.engine().call(&scope, Effect::Read, &request).await
        })
    }

    /// Forgets a broker that holds nothing and is not running.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] with `UNKNOWN_BROKER`, or `BROKER_NOT_EMPTY` while it runs or holds something.
    pub fn remove_broker(&self, broker: u32) -> Op<'_, ()> {
        self.op("remove_broker", move |scope| async move {
            let request = RemoveBrokerRequest { broker: BrokerId::new(broker) };
            self.client.engine().call(&scope, Effect::Change, &request).await.map(|_| ())
        })
    }

    /// Puts in what the leaders know of the partitions that `topic` describes without it.
    pub(super) async fn complete(&self, mut topic: DescribeTopicResponse) -> DescribeTopicResponse {
        let engine = self.client.engine();
        let lacking = topic.partitions.iter().filter(|partition| partition.replica_states.is_empty());
        let leaders: BTreeSet<BrokerId> = lacking.filter_map(|partition| partition.layout.leader).collect();
        let request = &DescribeTopicRequest { name: topic.name.clone() };
        let ask = |leader: BrokerId| async move {
            let asking = async {
                let connection = engine.metadata.connect(leader).await.ok()?;
                connection.call(request, Some(Instant::now() + LEADER_TIMEOUT)).await.ok()
            };
            (leader, tokio::time::timeout(LEADER_TIMEOUT, asking).await.ok().flatten())
        };
        for (leader, answer) in join_all(leaders.into_iter().map(ask)).await {
            let Some(answer) = answer.filter(|answer| answer.id == topic.id) else {
                tracing::debug!(%leader, "a leader did not describe its partitions");
                continue;
            };
            for (known, told) in topic.partitions.iter_mut().zip(answer.partitions) {
                let newest = told.layout.leader_epoch >= known.layout.leader_epoch;
                if known.replica_states.is_empty() && told.layout.leader == Some(leader) && newest {
                    *known = told;
                }
            }
        }
        topic
    }
}

/// Names the topic or the partition in a refusal that says it does not exist.
fn about_partition(error: Error, topic: &TopicName, partition: u32) -> Error {
    match error {
        Error::Broker { code: streambus_protocol::error_code::ErrorCode::UnknownPartition, .. } => {
            Error::UnknownPartition { at: TopicPartition { topic: topic.clone(), partition } }
        }
        other => about(other, topic),
    }
}
