//! Rules L2 and L6: who leads.

use super::*;

fn brokers(ids: &[u32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId::new).collect()
}

fn partition(replicas: &[u32], isr: &[u32], elr: &[u32]) -> PartitionImage {
    PartitionImage { replicas: brokers(replicas), isr: brokers(isr), elr: brokers(elr), ..PartitionImage::default() }
}

fn serving(ids: &'static [u32]) -> impl Fn(BrokerId) -> Standing {
    move |broker| if ids.contains(&broker.get()) { Standing::Serving } else { Standing::Fenced }
}

/// L2, in sync. Catches: electing a replica that is out of sync or dead, or ignoring the order of preference.
#[test]
fn first_serving_in_sync_replica_leads() {
    let led = |p: &PartitionImage, ids| elect(p, serving(ids), false);
    assert_eq!(led(&partition(&[2, 1, 3], &[1, 2, 3], &[]), &[1, 2, 3]), Some(Elected::InSync(BrokerId::new(2))));
    assert_eq!(led(&partition(&[2, 1, 3], &[1, 3], &[]), &[1, 2, 3]), Some(Elected::InSync(BrokerId::new(1))));
    assert_eq!(led(&partition(&[2, 1, 3], &[1, 2], &[]), &[3]), None);
    let kept = PartitionImage { leader: Some(BrokerId::new(3)), ..partition(&[2, 1, 3], &[1, 2, 3], &[]) };
    assert_eq!(led(&kept, &[1, 2, 3]), Some(Elected::InSync(BrokerId::new(3))), "a valid leader stays");
}

/// L2, ELR. Catches: an eligible replica before an in-sync one, or none although one is there.
#[test]
fn eligible_replica_leads_after_the_in_sync_ones() {
    let led = |p: &PartitionImage, ids| elect(p, serving(ids), false);
    assert_eq!(led(&partition(&[1, 2, 3], &[3], &[2]), &[2, 3]), Some(Elected::InSync(BrokerId::new(3))));
    assert_eq!(led(&partition(&[1, 2, 3], &[3], &[2]), &[1, 2]), Some(Elected::Eligible(BrokerId::new(2))));
    assert_eq!(led(&partition(&[1, 2, 3], &[3], &[2]), &[1]), None, "replica 1 lacks records");
}

/// L2, last known and unclean. Catches: giving records up without leave, or while a complete replica may come back.
#[test]
fn records_are_given_up_only_when_nobody_complete_is_left_or_with_leave() {
    let lost = |known: &[u32]| PartitionImage { last_known_elr: brokers(known), ..partition(&[1, 2, 3], &[], &[]) };
    let unclean = |id| Some(Elected::Unclean(BrokerId::new(id)));
    assert_eq!(elect(&lost(&[2]), serving(&[1, 2]), false), unclean(2));
    assert_eq!(elect(&lost(&[2]), serving(&[1]), false), None, "the one that was complete may still return");
    assert_eq!(elect(&lost(&[2, 3]), serving(&[1, 2, 3]), false), None, "which one holds more is not known");
    assert_eq!(elect(&lost(&[2, 3]), serving(&[1, 2, 3]), true), unclean(2));
    assert_eq!(elect(&lost(&[]), serving(&[3]), true), unclean(3));
    assert_eq!(elect(&partition(&[1, 2], &[1], &[]), serving(&[2]), false), None);
    assert_eq!(elect(&partition(&[1, 2], &[1], &[]), serving(&[2]), true), unclean(2));
}

/// Catches: a broker that stops or is emptied taking leadership while another could, or leaving nobody to lead.
#[test]
fn stopping_and_draining_brokers_lead_only_when_no_other_can() {
    let standing = |stopping: u32, draining: u32| {
        move |b: BrokerId| match b.get() {
            id if id == stopping => Standing::Stopping,
            id if id == draining => Standing::Draining,
            _ => Standing::Serving,
        }
    };
    let led_by_1 =
        |isr: &[u32], elr: &[u32]| PartitionImage { leader: Some(BrokerId::new(1)), ..partition(&[1, 2, 3], isr, elr) };
    let in_sync = |id| Some(Elected::InSync(BrokerId::new(id)));
    assert_eq!(elect(&led_by_1(&[1, 2, 3], &[]), standing(1, 2), false), in_sync(3));
    assert_eq!(elect(&led_by_1(&[1, 2], &[]), standing(1, 2), false), in_sync(2));
    assert_eq!(elect(&led_by_1(&[1], &[2]), standing(1, 9), false), Some(Elected::Eligible(BrokerId::new(2))));
    assert_eq!(elect(&led_by_1(&[1], &[]), standing(1, 9), false), in_sync(1), "the present leader keeps it");
    assert_eq!(elect(&partition(&[1, 2], &[1], &[]), standing(1, 9), false), None, "and takes nothing new");
    assert_eq!(elect(&led_by_1(&[1, 2], &[]), standing(9, 1), false), in_sync(1), "draining ends by elections");
}
