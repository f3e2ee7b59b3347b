//! A topic as a producer sees it, and how a record finds its partition.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;

use crate::error::{Error, TopicPartition};
use crate::metadata::TopicView;
use crate::producer::config::Partitioner;
use crate::producer::murmur2;
use crate::producer::partition::{Home, Partition};
use crate::producer::partition_state::Identity;
use crate::producer::ring::Ring;
use crate::producer::shared::Shared;
use crate::producer::sink::Sink;
use crate::record::Record;

/// One topic.
pub(crate) struct Topic {
    layout: ArcSwap<Layout>,
    /// Where records without a key go; any number, taken modulo the partitions.
    sticky: Arc<AtomicU32>,
    partitioner: Partitioner,
    shared: Arc<Shared>,
}

/// The partitions of a topic at one time.
struct Layout {
    partitions: Vec<Arc<Partition>>,
    count: u32,
    /// Only for [`Partitioner::Ring`].
    ring: Option<Ring>,
}

impl Topic {
    /// The topic of `view`. `sink` finds the way to a broker.
    pub(crate) fn new(
        view: &TopicView,
        shared: &Arc<Shared>,
        identity: Option<Identity>,
        sink: &dyn Fn(streambus_protocol::ids::BrokerId) -> Arc<Sink>,
    ) -> Arc<Self> {
        let count = u32::try_from(view.partitions.len()).unwrap_or(u32::MAX).max(1);
        let start = u32::try_from(shared.engine.environment.random.next_u64() % u64::from(count)).unwrap_or(0);
        let topic = Self {
            layout: ArcSwap::from_pointee(Layout { partitions: Vec::new(), count: 0, ring: None }),
            sticky: Arc::new(AtomicU32::new(start)),
            partitioner: shared.config.partitioner,
            shared: Arc::clone(shared),
        };
        topic.update(view, identity, sink);
        Arc::new(topic)
    }

    /// Follows a newer picture: leaders that moved, partitions that were added. Called by one task at a time.
    pub(crate) fn update(
        &self,
        view: &TopicView,
        identity: Option<Identity>,
        sink: &dyn Fn(streambus_protocol::ids::BrokerId) -> Arc<Sink>,
    ) {
        let present = self.layout.load_full();
        let mut partitions = present.partitions.clone();
        for (number, seen) in (0u32..).zip(&view.partitions) {
            let home = Home { topic: view.id, leader_epoch: seen.leader_epoch, sink: seen.leader.map(sink) };
            match usize::try_from(number).ok().and_then(|place| partitions.get(place)) {
                Some(partition) => partition.move_to(home),
                None => {
                    let at = Arc::new(TopicPartition { topic: view.name.clone(), partition: number });
                    let (sticky, shared) = (Arc::clone(&self.sticky), Arc::clone(&self.shared));
                    partitions.push(Partition::new(at, home, identity, sticky, shared));
                }
            }
        }
        // A topic created anew under the name may have fewer: what is queued for the others has no place any more.
        for gone in partitions.drain(view.partitions.len().min(partitions.len())..) {
            gone.abort(&Error::UnknownPartition { at: (*gone.at).clone() });
        }
        if partitions.len() == present.partitions.len() && present.count > 0 {
            return;
        }
        let count = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
        let ring = (self.partitioner == Partitioner::Ring).then(|| Ring::new(count));
        self.layout.store(Arc::new(Layout { partitions, count, ring }));
    }

    /// The partition for `record`.
    pub(crate) fn choose(&self, record: &Record) -> Result<Arc<Partition>, Error> {
        let layout = self.layout.load();
        let number = match (record.partition, &record.wire.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => match &layout.ring {
                Some(ring) => ring.partition(key).unwrap_or(0),
                None => murmur2::partition(key, layout.count),
            },
            (None, None) => self.stick(&layout),
        };
        let found = usize::try_from(number).ok().and_then(|place| layout.partitions.get(place));
        found.cloned().ok_or_else(|| match streambus_protocol::ids::TopicName::new(&record.topic) {
            Ok(topic) => Error::UnknownPartition { at: TopicPartition { topic, partition: number } },
            Err(error) => Error::Invalid { what: error.to_string() },
        })
    }

    /// The sticky partition, or the next one that has a leader.
    fn stick(&self, layout: &Layout) -> u32 {
        if layout.count == 0 {
            return 0;
        }
        let first = self.sticky.load(Ordering::Relaxed) % layout.count;
        let candidates = (first..layout.count).chain(0..first);
        let with_leader = candidates.into_iter().find(|number| {
            let place = usize::try_from(*number).unwrap_or(usize::MAX);
            layout.partitions.get(place).is_some_and(|partition| partition.has_leader())
        });
        let chosen = with_leader.unwrap_or(first);
        self.sticky.store(chosen, Ordering::Relaxed);
        chosen
    }

    /// Every partition.
    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.layout.load().partitions.clone()
    }
}
