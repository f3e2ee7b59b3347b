//! One picture of the cluster, and how a newer one is made of it. Pure.
//!
//! Brokers learn of changes one after the other, so an answer may be older than what is known already. What has an epoch
//! never goes back: a leadership is replaced by one of a larger epoch only.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use streambus_protocol::api::metadata::{MetadataResponse, TopicLayout};
use streambus_protocol::api::session::{ErrorBody, LeaderHint};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, TopicId, TopicName};
use tokio::time::Instant;

use crate::error::{Error, TopicPartition};

/// One picture of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct ClusterView {
    /// Grows with every picture that was fetched.
    pub(crate) version: u64,
    /// When it was fetched; `None` for the empty picture of a new client.
    pub(crate) fetched: Option<Instant>,
    /// The broker that decides about metadata.
    pub(crate) controller: Option<BrokerId>,
    /// Where the brokers are.
    pub(crate) brokers: HashMap<BrokerId, String>,
    topics: HashMap<TopicName, Result<Arc<TopicView>, ErrorBody>>,
}

/// One topic in the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicView {
    pub(crate) name: TopicName,
    pub(crate) id: TopicId,
    /// In the order of their numbers.
    pub(crate) partitions: Vec<PartitionView>,
}

/// One partition in the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionView {
    pub(crate) leader: Option<BrokerId>,
    pub(crate) leader_epoch: LeaderEpoch,
}

impl TopicView {
    /// Partition number `partition`, or [`Error::UnknownPartition`].
    pub(crate) fn partition(&self, partition: u32) -> Result<PartitionView, Error> {
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        let at = || TopicPartition { topic: self.name.clone(), partition };
        self.partitions.get(index).copied().ok_or_else(|| Error::UnknownPartition { at: at() })
    }

    fn from_layout(name: &TopicName, layout: &TopicLayout) -> Result<Self, String> {
        let mut partitions = Vec::with_capacity(layout.partitions.len());
        for (expected, partition) in (0u32..).zip(&layout.partitions) {
            if partition.index.get() != expected {
                return Err(format!("topic '{name}' lists partition {} in place {expected}", partition.index));
            }
            partitions.push(PartitionView { leader: partition.leader, leader_epoch: partition.leader_epoch });
        }
        Ok(Self { name: name.clone(), id: layout.id, partitions })
    }

    /// The same topic with, of each partition, the newer leadership of the two. Partitions never become fewer.
    fn newest(&self, other: &Self) -> Self {
        let count = self.partitions.len().max(other.partitions.len());
        let newest = |place: usize| match (self.partitions.get(place), other.partitions.get(place)) {
            (Some(a), Some(b)) if b.leader_epoch > a.leader_epoch => Some(*b),
            (Some(a), _) => Some(*a),
            (None, b) => b.copied(),
        };
        let partitions = (0..count).filter_map(newest).collect();
        Self { name: self.name.clone(), id: self.id, partitions }
    }
}

impl ClusterView {
    /// The picture of a new client.
    pub(crate) fn empty() -> Self {
        Self { version: 0, fetched: None, controller: None, brokers: HashMap::new(), topics: HashMap::new() }
    }

    /// What a broker answered, or how the answer breaks the protocol.
    pub(crate) fn from_response(version: u64, now: Instant, response: MetadataResponse) -> Result<Self, String> {
        let mut topics = HashMap::with_capacity(response.topics.len());
        for topic in response.topics {
            let view = match topic.outcome {
                Ok(layout) => Ok(Arc::new(TopicView::from_layout(&topic.name, &layout)?)),
                Err(body) => Err(body),
            };
            topics.insert(topic.name, view);
        }
        let address = |host: &str, port: u16| {
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        let brokers = response.brokers.iter().map(|b| (b.id, address(&b.host, b.port))).collect();
        Ok(Self { version, fetched: Some(now), controller: response.controller, brokers, topics })
    }

    /// The topic, if this picture has it.
    pub(crate) fn topic(&self, name: &TopicName) -> Option<Result<Arc<TopicView>, Error>> {
        self.topics.get(name).map(|outcome| match outcome {
            Ok(view) => Ok(Arc::clone(view)),
            Err(body) => Err(Error::from_topic_body(body.clone(), name.as_str())),
        })
    }

    /// The topics that are missing here, or are others under the same name than in `present`: what a broker that lags
    /// behind says too.
    pub(crate) fn doubtful(&self, present: &Self) -> Vec<TopicName> {
        let is_doubtful = |name: &&TopicName| match (self.topics.get(*name), present.topics.get(*name)) {
            (Some(Err(body)), _) => body.code == ErrorCode::UnknownTopic,
            (Some(Ok(seen)), Some(Ok(known))) => seen.id != known.id,
            _ => false,
        };
        self.topics.keys().filter(is_doubtful).cloned().collect()
    }

    /// Takes what `other` says about its topics.
    pub(crate) fn overruled_by(mut self, other: Self) -> Self {
        self.topics.extend(other.topics);
        self
    }

    /// Keeps what `present` says about `topics`, or that nothing is certain.
    pub(crate) fn unconfirmed(mut self, topics: Vec<TopicName>, present: &Self) -> Self {
        for name in topics {
            let known = present.topics.get(&name).filter(|outcome| outcome.is_ok()).cloned();
            let text = format!("topic '{name}' is unknown to the broker that was asked, and no controller confirms it");
            let kept = known.unwrap_or_else(|| Err(ErrorBody::new(ErrorCode::NoController, text)));
            self.topics.insert(name, kept);
        }
        self
    }

    /// This picture without what is older in it than in `present`.
    pub(crate) fn not_older_than(mut self, present: &Self) -> Self {
        for (name, outcome) in &mut self.topics {
            let (Ok(seen), Some(Ok(known))) = (&*outcome, present.topics.get(name)) else { continue };
            if seen.id == known.id {
                let newest = seen.newest(known);
                for leader in newest.partitions.iter().filter_map(|partition| partition.leader) {
                    // A leader that the asked broker has not heard of is where it was.
                    if let (false, Some(address)) = (self.brokers.contains_key(&leader), present.brokers.get(&leader)) {
                        self.brokers.insert(leader, address.clone());
                    }
                }
                *outcome = Ok(Arc::new(newest));
            }
        }
        self
    }

    /// The picture with the leader that `hint` names; `None` when that is no news, or nobody knows where it is.
    pub(crate) fn with_leader(&self, name: &TopicName, id: TopicId, partition: u32, hint: LeaderHint) -> Option<Self> {
        let Some(Ok(topic)) = self.topics.get(name) else { return None };
        let place = usize::try_from(partition).ok()?;
        let known = topic.partitions.get(place).filter(|_| topic.id == id)?;
        if hint.leader_epoch <= known.leader_epoch || !self.brokers.contains_key(&hint.leader) {
            return None;
        }
        let mut topic = TopicView::clone(topic);
        *topic.partitions.get_mut(place)? =
            PartitionView { leader: Some(hint.leader), leader_epoch: hint.leader_epoch };
        let mut view = self.clone();
        view.topics.insert(name.clone(), Ok(Arc::new(topic)));
        Some(view)
    }

    /// The brokers that lead something by an epoch that `present` does not know: they are alive.
    pub(crate) fn new_leaders(&self, present: &Self) -> BTreeSet<BrokerId> {
        let mut leaders = BTreeSet::new();
        for (name, outcome) in &self.topics {
            let (Ok(topic), Some(Ok(known))) = (outcome, present.topics.get(name)) else { continue };
            let changed =
                topic.partitions.iter().zip(&known.partitions).filter(|(a, b)| a.leader_epoch > b.leader_epoch);
            leaders.extend(changed.filter_map(|(partition, _)| partition.leader));
        }
        leaders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> TopicName {
        TopicName::new("orders").expect("valid")
    }

    fn view(id: u8, leaders: &[(u32, u32)], brokers: &[u32]) -> ClusterView {
        let partition = |(leader, epoch): &(u32, u32)| PartitionView {
            leader: Some(BrokerId::new(*leader)),
            leader_epoch: LeaderEpoch::new(*epoch),
        };
        let partitions = leaders.iter().map(partition).collect();
        let topic = TopicView { name: name(), id: TopicId::from_bytes([id; 16]), partitions };
        let brokers = brokers.iter().map(|id| (BrokerId::new(*id), format!("b{id}:1"))).collect();
        let topics = HashMap::from([(name(), Ok(Arc::new(topic)))]);
        ClusterView { brokers, topics, ..ClusterView::empty() }
    }

    fn leaders(view: &ClusterView) -> Vec<(u32, u32)> {
        let topic = view.topic(&name()).expect("there").expect("known");
        topic.partitions.iter().map(|p| (p.leader.expect("led").get(), p.leader_epoch.get())).collect()
    }

    #[test]
    fn an_answer_that_lags_behind_takes_no_leader_back_and_no_partition_away() {
        let present = view(1, &[(2, 5), (1, 1), (3, 1)], &[1, 2, 3]);
        let merged = view(1, &[(1, 4), (3, 2)], &[1, 3]).not_older_than(&present);
        assert_eq!(leaders(&merged), [(2, 5), (3, 2), (3, 1)]);
        assert_eq!(merged.brokers.get(&BrokerId::new(2)).map(String::as_str), Some("b2:1"), "where it was");
        assert_eq!(merged.new_leaders(&present), BTreeSet::from([BrokerId::new(3)]));
        let other = view(2, &[(1, 0)], &[1]).not_older_than(&present);
        assert_eq!(leaders(&other), [(1, 0)], "a topic created anew begins anew");
    }

    #[test]
    fn a_hint_counts_when_it_is_newer_and_the_broker_is_known() {
        let present = view(1, &[(1, 5)], &[1, 2]);
        let id = TopicId::from_bytes([1; 16]);
        let hint = |leader, epoch| LeaderHint { leader: BrokerId::new(leader), leader_epoch: LeaderEpoch::new(epoch) };
        let with = |id, partition, hint| present.with_leader(&name(), id, partition, hint);
        assert_eq!(with(id, 0, hint(2, 6)).map(|view| leaders(&view)), Some(vec![(2, 6)]));
        assert!(with(id, 0, hint(2, 5)).is_none(), "no news");
        assert!(with(id, 0, hint(3, 6)).is_none(), "nobody knows where broker 3 is");
        assert!(with(id, 1, hint(2, 6)).is_none(), "no such partition");
        assert!(with(TopicId::from_bytes([2; 16]), 0, hint(2, 6)).is_none(), "another topic");
    }

    #[test]
    fn what_is_missing_or_other_is_doubted_until_the_controller_says_so() {
        let present = view(1, &[(1, 5)], &[1]);
        let missing = || {
            let mut missing = view(1, &[], &[1]);
            missing.topics.insert(name(), Err(ErrorBody::new(ErrorCode::UnknownTopic, "")));
            missing
        };
        assert_eq!(missing().doubtful(&present), [name()]);
        assert_eq!(missing().doubtful(&ClusterView::empty()), [name()]);
        assert_eq!(view(2, &[(1, 0)], &[1]).doubtful(&present), [name()]);
        assert!(view(1, &[(1, 6)], &[1]).doubtful(&present).is_empty());
        assert_eq!(leaders(&missing().unconfirmed(vec![name()], &present)), [(1, 5)], "what is known stays");
        let unknown = missing().unconfirmed(vec![name()], &ClusterView::empty()).topic(&name()).expect("said");
        assert!(unknown.expect_err("not certain").is_retriable());
        assert_eq!(leaders(&missing().overruled_by(view(2, &[(1, 0)], &[1]))), [(1, 0)]);
    }
}
