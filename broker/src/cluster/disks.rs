//! The disks of all brokers, as the controller heard of them a moment ago.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use streambus_consensus::controller::liveness::BrokerDisk;
use streambus_protocol::ids::BrokerId;

/// What is known of the disks of the cluster's brokers. Cheap to clone; all clones are one. A broker without peers hears
/// of none.
#[derive(Clone, Debug, Default)]
pub struct ClusterDisks {
    disks: Arc<ArcSwap<BTreeMap<BrokerId, BrokerDisk>>>,
}

impl ClusterDisks {
    /// What the controller says. A broker that it does not name is one that it has not heard: what was known of it before
    /// is not shown as if it were new.
    pub(crate) fn heard(&self, disks: &[BrokerDisk]) {
        self.disks.store(Arc::new(disks.iter().map(|disk| (disk.broker, *disk)).collect()));
    }

    /// The disk of `broker`, if the controller has heard of it.
    pub fn of(&self, broker: BrokerId) -> Option<BrokerDisk> {
        self.disks.load().get(&broker).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Catches a disk that is shown long after its broker was heard last.
    #[test]
    fn only_what_was_heard_last_is_known() {
        let disk = |n| BrokerDisk { broker: BrokerId::new(n), used_bytes: u64::from(n), free_bytes: 7 };
        let disks = ClusterDisks::default();
        assert_eq!(disks.of(BrokerId::new(1)), None);
        disks.heard(&[disk(1), disk(2)]);
        assert_eq!(disks.of(BrokerId::new(2)), Some(disk(2)));
        disks.heard(&[disk(1)]);
        assert_eq!((disks.of(BrokerId::new(1)), disks.of(BrokerId::new(2))), (Some(disk(1)), None));
    }
}
