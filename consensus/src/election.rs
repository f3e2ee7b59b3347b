//! Who leads a partition. Pure: the partition and how its brokers stand in, a leader out.
//!
//! The order (KIP-966): the present leader while it may stay; in-sync replicas in order of assignment; eligible
//! replicas; then, only when none of these two sets has a member left at all, the last one that was complete; then, if
//! the topic allows it, any replica. A broker that is being drained leads only if no other in the same step can.

use streambus_protocol::ids::BrokerId;

use crate::image::PartitionImage;

/// What a broker may be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not registered, or fenced: it can do nothing.
    Fenced,
    /// About to stop: it keeps what nobody else can lead, and takes nothing new.
    Stopping,
    /// Being emptied: it leads if nobody else can.
    Draining,
    /// In service.
    Serving,
}

impl Standing {
    /// True when the broker may become a leader or an in-sync replica.
    pub const fn is_eligible(self) -> bool {
        matches!(self, Self::Draining | Self::Serving)
    }
}

/// A leader, and what it is known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elected {
    /// It is in sync.
    InSync(BrokerId),
    /// It is out of sync and complete; it becomes in sync.
    Eligible(BrokerId),
    /// It may lack records that were acknowledged; it becomes the only in-sync replica.
    Unclean(BrokerId),
}

impl Elected {
    /// The leader.
    pub const fn leader(self) -> BrokerId {
        match self {
            Self::InSync(leader) | Self::Eligible(leader) | Self::Unclean(leader) => leader,
        }
    }
}

/// The broker that should lead `partition`, whose `leader` is the present one. With `unclean`, records may be given up.
pub fn elect(partition: &PartitionImage, standing: impl Fn(BrokerId) -> Standing, unclean: bool) -> Option<Elected> {
    let in_sync = |broker: BrokerId| partition.isr.contains(&broker);
    let present = partition.leader.filter(|leader| in_sync(*leader));
    if let Some(leader) = present.filter(|leader| standing(*leader).is_eligible()) {
        return Some(Elected::InSync(leader));
    }
    let first_of = |members: &[BrokerId]| {
        let first = |wanted| partition.replicas.iter().copied().find(|b| members.contains(b) && standing(*b) == wanted);
        first(Standing::Serving).or_else(|| first(Standing::Draining))
    };
    if let Some(leader) = first_of(&partition.isr) {
        return Some(Elected::InSync(leader));
    }
    if let Some(leader) = first_of(&partition.elr) {
        return Some(Elected::Eligible(leader));
    }
    if let Some(leader) = present.filter(|leader| standing(*leader) == Standing::Stopping) {
        return Some(Elected::InSync(leader));
    }
    let nobody_is_complete = partition.isr.is_empty() && partition.elr.is_empty();
    if nobody_is_complete && (unclean || partition.last_known_elr.len() == 1) {
        // Several of them would have to be compared, and which one holds most is not known here.
        if let Some(leader) = first_of(&partition.last_known_elr) {
            return Some(Elected::Unclean(leader));
        }
    }
    if unclean { first_of(&partition.replicas).map(Elected::Unclean) } else { None }
}

#[cfg(test)]
mod tests;
