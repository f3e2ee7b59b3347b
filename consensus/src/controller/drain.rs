//! Emptying a broker: first it leads nothing any more, then its replicas move to other brokers, a batch at a time.
//!
//! Each step is decided from the image alone, so a controller that takes over goes on where the last one was.

use std::collections::BTreeMap;

use streambus_protocol::ids::{BrokerId, PartitionId};

use crate::command::{Command, Election, ElectionKind};
use crate::election::Standing;
use crate::image::{BrokerImage, ClusterImage, PartitionImage};
use crate::limits::PROPOSALS_MAX;

/// How far a drain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainProgress {
    /// Partitions the broker leads.
    pub leaders_left: u64,
    /// Partitions that name it as a replica, the moving ones included.
    pub replicas_left: u64,
    /// Partitions that will leave it once their new replicas caught up.
    pub moving: u64,
    /// Partitions that cannot leave it now, because no other broker is free for them.
    pub stuck: u64,
}

impl DrainProgress {
    /// True when nothing is left on the broker.
    pub const fn is_done(&self) -> bool {
        self.leaders_left == 0 && self.replicas_left == 0
    }
}

/// The next commands that empty `broker`: elections for all it leads and others could, as long as there are any; then
/// moves, of which at most `batch` are under way at once. Nothing to do, or nothing possible now, is an empty answer.
pub fn plan(image: &ClusterImage, broker: BrokerId, batch: usize) -> Vec<Command> {
    let led = image.partitions().filter(|(_, _, partition)| partition.leader == Some(broker));
    let elections: Vec<Election> = led
        .filter_map(|(id, _, partition)| {
            let to = partition.replicas.iter().find(|other| {
                **other != broker && partition.isr.contains(other) && stands(image, **other, Standing::Serving)
            })?;
            Some(Election { id, kind: ElectionKind::To(*to) })
        })
        .take(PROPOSALS_MAX)
        .collect();
    if !elections.is_empty() {
        return vec![Command::ElectLeaders { elections }];
    }
    let moving = held(image, broker).filter(|(_, partition)| partition.removing.contains(&broker)).count();
    let free = batch.saturating_sub(moving);
    let mut load = Load::of(image);
    held(image, broker)
        .filter_map(|(id, partition)| move_away(image, &mut load, broker, id, partition))
        .take(free)
        .collect()
}

/// How far the drain of `broker` is.
pub fn progress(image: &ClusterImage, broker: BrokerId) -> DrainProgress {
    let mut progress = DrainProgress::default();
    let load = Load::of(image);
    for (_, partition) in held(image, broker) {
        progress.replicas_left += 1;
        progress.leaders_left += u64::from(partition.leader == Some(broker));
        if partition.removing.contains(&broker) {
            progress.moving += 1;
        } else if !partition.is_moving() && load.best_for(image, partition, broker).is_none() {
            progress.stuck += 1;
        }
    }
    progress
}

fn held(image: &ClusterImage, broker: BrokerId) -> impl Iterator<Item = (PartitionId, &PartitionImage)> {
    image.partitions().filter(move |(_, _, p)| p.replicas.contains(&broker)).map(|(id, _, p)| (id, p))
}

fn stands(image: &ClusterImage, broker: BrokerId, standing: Standing) -> bool {
    image.brokers.get(&broker).is_some_and(|broker| broker.standing() == standing)
}

/// The move of one partition. One that moves already is left to finish: its target was somebody's decision.
fn move_away(
    image: &ClusterImage,
    load: &mut Load,
    broker: BrokerId,
    id: PartitionId,
    partition: &PartitionImage,
) -> Option<Command> {
    if partition.is_moving() {
        return None;
    }
    let successor = load.best_for(image, partition, broker)?;
    *load.replicas.entry(successor).or_default() += 1;
    let takes_over = |replica: &BrokerId| if *replica == broker { successor } else { *replica };
    let replicas = partition.replicas.iter().map(takes_over).collect();
    Some(Command::Reassign { id, replicas, throttle: None })
}

/// How many replicas each broker holds, with those that are decided on.
struct Load {
    replicas: BTreeMap<BrokerId, u64>,
}

impl Load {
    fn of(image: &ClusterImage) -> Self {
        let mut replicas = BTreeMap::new();
        for (_, _, partition) in image.partitions() {
            for broker in partition.replicas.iter().filter(|broker| !partition.removing.contains(broker)) {
                *replicas.entry(*broker).or_default() += 1;
            }
        }
        Self { replicas }
    }

    /// The broker that takes the replica of `leaving`: in a rack that the other replicas use least, then the one with
    /// the fewest replicas, then the lowest id.
    fn best_for(&self, image: &ClusterImage, partition: &PartitionImage, leaving: BrokerId) -> Option<BrokerId> {
        let rack = |broker: &BrokerId| image.brokers.get(broker).and_then(|broker| broker.rack.as_deref());
        let shares_rack = |candidate: &BrokerImage| {
            let others = partition.replicas.iter().filter(|other| **other != leaving);
            others.filter(|other| rack(other) == candidate.rack.as_deref()).count()
        };
        let free = image
            .brokers
            .iter()
            .filter(|(id, broker)| broker.standing() == Standing::Serving && !partition.replicas.contains(id));
        free.min_by_key(|(id, broker)| (shares_rack(broker), self.replicas.get(id).copied().unwrap_or(0), **id))
            .map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests;
