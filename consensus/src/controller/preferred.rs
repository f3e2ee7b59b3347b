//! Leaders back to where the assignment wants them, a few at a time (L6): a restart moves leaders away, and without
//! this the load stays with the brokers that did not restart.

use crate::command::{Election, ElectionKind};
use crate::election::Standing;
use crate::image::ClusterImage;

/// Up to `max` elections of preferred replicas that could lead and do not. A partition without a leader is not among
/// them: it gets one by itself as soon as somebody can lead.
pub fn imbalance(image: &ClusterImage, max: usize) -> Vec<Election> {
    let could_lead = image.partitions().filter(|(_, _, partition)| {
        let Some(preferred) = partition.replicas.first() else { return false };
        let serves = image.brokers.get(preferred).is_some_and(|broker| broker.standing() == Standing::Serving);
        serves && partition.leader.is_some_and(|leader| leader != *preferred) && partition.isr.contains(preferred)
    });
    could_lead.map(|(id, _, _)| Election { id, kind: ElectionKind::Preferred }).take(max).collect()
}
