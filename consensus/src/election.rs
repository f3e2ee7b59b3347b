//! Who leads a partition. Pure: the partition and who is alive in, a broker out.

use streambus_protocol::ids::BrokerId;

use crate::image::PartitionImage;

/// The broker that should lead `partition`: the first in order of assignment that is in sync and alive. A broker for
/// which `is_fresh` holds has just started; another one is preferred, since it is known to serve, but a fresh one
/// leads rather than nobody. Replicas out of sync never lead.
pub fn elect(
    partition: &PartitionImage,
    is_alive: impl Fn(BrokerId) -> bool,
    is_fresh: impl Fn(BrokerId) -> bool,
) -> Option<BrokerId> {
    let eligible = |broker: &&BrokerId| partition.isr.contains(broker) && is_alive(**broker);
    let mut candidates = partition.replicas.iter().filter(eligible);
    let first = candidates.clone().next().copied();
    candidates.find(|broker| !is_fresh(**broker)).copied().or(first)
}

#[cfg(test)]
mod tests {
    use streambus_protocol::epoch::{LeaderEpoch, PartitionEpoch};

    use super::*;

    fn brokers(ids: &[u32]) -> Vec<BrokerId> {
        ids.iter().copied().map(BrokerId::new).collect()
    }

    fn partition(replicas: &[u32], isr: &[u32]) -> PartitionImage {
        PartitionImage {
            replicas: brokers(replicas),
            isr: brokers(isr),
            elr: vec![],
            leader: None,
            leader_epoch: LeaderEpoch::ZERO,
            partition_epoch: PartitionEpoch::ZERO,
        }
    }

    /// Catches: electing a replica that is out of sync or dead, or ignoring the order of preference.
    #[test]
    fn first_alive_in_sync_replica_leads() {
        let nobody = |_: BrokerId| false;
        let alive = |ids: &'static [u32]| move |b: BrokerId| ids.contains(&b.get());
        let elect = |p: &PartitionImage, ids| elect(p, alive(ids), nobody).map(BrokerId::get);
        assert_eq!(elect(&partition(&[2, 1, 3], &[1, 2, 3]), &[1, 2, 3]), Some(2));
        assert_eq!(elect(&partition(&[2, 1, 3], &[1, 3]), &[1, 2, 3]), Some(1));
        assert_eq!(elect(&partition(&[2, 1, 3], &[1, 2]), &[3]), None);
    }

    /// Catches: a broker that has just restarted taking leadership from one that serves, or a lone one left without.
    #[test]
    fn fresh_broker_leads_only_when_no_other_can() {
        let everyone = |_: BrokerId| true;
        let fresh = |b: BrokerId| b.get() == 1;
        assert_eq!(elect(&partition(&[1, 2], &[1, 2]), everyone, fresh), Some(BrokerId::new(2)));
        assert_eq!(elect(&partition(&[1, 2], &[1]), everyone, fresh), Some(BrokerId::new(1)));
    }
}
