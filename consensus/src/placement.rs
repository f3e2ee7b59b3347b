//! Which brokers get a new topic's replicas. Pure: brokers and counts in, assignments out.
//!
//! Brokers are put in a ring that alternates between racks. Partition `p` is led by the broker at `offset + p`; its
//! other replicas are the next brokers on the ring, starting further on with every turn, so that the partitions of
//! one leader do not all follow on the same broker. No broker holds a partition twice, and no rack holds a second
//! replica of a partition while another rack has none.

use std::collections::BTreeMap;

use streambus_protocol::ids::BrokerId;
use streambus_protocol::limits::PARTITIONS_PER_TOPIC_MAX;

use crate::command::Assignment;
use crate::election::Standing;
use crate::image::ClusterImage;
use crate::limits::REPLICAS_MAX;

/// A broker that may take replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The broker.
    pub id: BrokerId,
    /// Its failure domain; brokers without one share the unnamed one.
    pub rack: Option<String>,
}

/// Why replicas cannot be placed. The messages name the numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Fewer live brokers than replicas.
    #[error("replication factor {replication_factor} needs as many live brokers, there are {live}")]
    NotEnoughBrokers {
        /// Replicas asked for.
        replication_factor: u16,
        /// Brokers that could take one.
        live: usize,
    },
    /// A partition needs at least one replica, and has an upper limit.
    #[error("replication factor {0} is not possible: use 1 to {REPLICAS_MAX}")]
    ReplicationFactor(u16),
    /// A topic needs at least one partition, and has an upper limit.
    #[error("{0} partitions are not possible: use 1 to {PARTITIONS_PER_TOPIC_MAX}")]
    PartitionCount(u32),
}

/// The brokers of `image` that take new replicas: those in service that are not being drained.
pub fn candidates(image: &ClusterImage) -> Vec<Candidate> {
    let live = image.brokers.iter().filter(|(_, broker)| broker.standing() == Standing::Serving);
    live.map(|(id, broker)| Candidate { id: *id, rack: broker.rack.clone() }).collect()
}

/// Places `partitions` partitions of `replication_factor` replicas each. `offset` rotates the ring: pass the index
/// of the first partition when a topic grows, and something that differs from topic to topic when it is created.
pub fn place(
    brokers: &[Candidate],
    partitions: u32,
    replication_factor: u16,
    offset: u64,
) -> Result<Vec<Assignment>, PlacementError> {
    let replicas = usize::from(replication_factor);
    if replicas == 0 || replicas > REPLICAS_MAX {
        return Err(PlacementError::ReplicationFactor(replication_factor));
    }
    if partitions == 0 || partitions > PARTITIONS_PER_TOPIC_MAX {
        return Err(PlacementError::PartitionCount(partitions));
    }
    let ring = rack_alternating(brokers);
    if ring.len() < replicas {
        return Err(PlacementError::NotEnoughBrokers { replication_factor, live: ring.len() });
    }
    let brokers = ring.len() as u64;
    let rotated = |position: u64| usize::try_from(position % brokers).ok().and_then(|i| ring.get(i)).copied();
    let place_one = |partition: u64| {
        let turn = (offset / brokers).wrapping_add(partition / brokers);
        let start = (offset % brokers) + (partition % brokers);
        let others = brokers.saturating_sub(1).max(1);
        let followers = (0..brokers - 1).map(|step| start + 1 + (turn.wrapping_add(step)) % others);
        let order: Vec<&Candidate> = std::iter::once(start).chain(followers).filter_map(rotated).collect();
        Assignment { replicas: spread(&order, replicas) }
    };
    Ok((0..u64::from(partitions)).map(place_one).collect())
}

/// The first `replicas` of `order`, where a rack is used again only after every other rack was used as often.
fn spread(order: &[&Candidate], replicas: usize) -> Vec<BrokerId> {
    let mut used: BTreeMap<Option<&str>, usize> = order.iter().map(|c| (c.rack.as_deref(), 0)).collect();
    let mut left: Vec<&Candidate> = order.to_vec();
    let mut chosen = Vec::with_capacity(replicas);
    while chosen.len() < replicas && !left.is_empty() {
        let uses = |c: &Candidate| used.get(&c.rack.as_deref()).copied().unwrap_or(0);
        // min_by_key returns the first of equals, which keeps the order of the ring.
        let Some((position, _)) = left.iter().enumerate().min_by_key(|(_, c)| uses(c)) else { break };
        let candidate = left.remove(position);
        *used.entry(candidate.rack.as_deref()).or_default() += 1;
        chosen.push(candidate.id);
    }
    chosen
}

/// Brokers by id, taken from each rack in turn.
fn rack_alternating(brokers: &[Candidate]) -> Vec<&Candidate> {
    let mut racks: BTreeMap<Option<&str>, BTreeMap<BrokerId, &Candidate>> = BTreeMap::new();
    for broker in brokers {
        racks.entry(broker.rack.as_deref()).or_default().insert(broker.id, broker);
    }
    let mut ring = Vec::with_capacity(brokers.len());
    loop {
        let before = ring.len();
        ring.extend(racks.values_mut().filter_map(|rack| rack.pop_first().map(|(_, broker)| broker)));
        if ring.len() == before {
            return ring;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn brokers(racks: &[Option<&str>]) -> Vec<Candidate> {
        (0..).zip(racks).map(|(id, rack)| Candidate { id: BrokerId::new(id), rack: rack.map(str::to_owned) }).collect()
    }

    fn ids(assignments: &[Assignment]) -> Vec<Vec<u32>> {
        assignments.iter().map(|a| a.replicas.iter().map(|b| b.get()).collect()).collect()
    }

    /// Catches: a change of placement that nobody intended.
    #[test]
    fn three_brokers_take_turns() {
        let placed = place(&brokers(&[None; 3]), 4, 2, 0).unwrap();
        assert_eq!(ids(&placed), [[0, 1], [1, 2], [2, 0], [0, 2]]);
        assert_eq!(ids(&place(&brokers(&[None; 1]), 2, 1, 7).unwrap()), [[0], [0]]);
    }

    /// Catches: errors that do not name the numbers.
    #[test]
    fn refusals_name_counts() {
        let error = place(&brokers(&[None; 2]), 1, 3, 0).unwrap_err();
        assert_eq!(error.to_string(), "replication factor 3 needs as many live brokers, there are 2");
        assert_eq!(place(&brokers(&[None; 2]), 0, 1, 0), Err(PlacementError::PartitionCount(0)));
        assert_eq!(place(&brokers(&[None; 2]), 1, 0, 0), Err(PlacementError::ReplicationFactor(0)));
        assert_eq!(place(&brokers(&[None; 2]), 20_000, 1, 0), Err(PlacementError::PartitionCount(20_000)));
    }

    proptest! {
        /// Catches: a repeated replica, two replicas in one rack while another has none, uneven leadership.
        #[test]
        fn placement_spreads(
            racks in proptest::collection::vec(proptest::option::of("[abc]"), 1..9),
            partitions in 1u32..40,
            factor in 1u16..5,
            offset in any::<u64>(),
        ) {
            let brokers: Vec<Candidate> =
                (0..).zip(racks).map(|(id, rack)| Candidate { id: BrokerId::new(id), rack }).collect();
            prop_assume!(usize::from(factor) <= brokers.len());
            let placed = place(&brokers, partitions, factor, offset).unwrap();
            let rack_of = |b: &BrokerId| brokers.iter().find(|c| c.id == *b).unwrap().rack.clone();
            let rack_count = brokers.iter().map(|c| &c.rack).collect::<BTreeSet<_>>().len();
            let mut leaders: BTreeMap<BrokerId, u32> = BTreeMap::new();
            for assignment in &placed {
                let distinct: BTreeSet<_> = assignment.replicas.iter().collect();
                prop_assert_eq!(distinct.len(), usize::from(factor));
                let racks: BTreeSet<_> = assignment.replicas.iter().map(rack_of).collect();
                prop_assert_eq!(racks.len(), rack_count.min(usize::from(factor)));
                *leaders.entry(assignment.replicas[0]).or_default() += 1;
            }
            let most = leaders.values().max().copied().unwrap_or(0);
            let least = if leaders.len() < brokers.len() { 0 } else { leaders.values().min().copied().unwrap_or(0) };
            prop_assert!(most - least <= 1, "{:?}", leaders);
        }
    }
}
