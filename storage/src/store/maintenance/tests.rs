//! What a checkpoint knows that is captured while things are on their way to the disk.

use streambus_protocol::offset::Offset;

use crate::checkpoint::{CHECKPOINT_PREFIX, Checkpoint};
use crate::disk::Disk;
use crate::journal::segment::{SEGMENT_PREFIX, segment_file_name};
use crate::partition_log::damage::DamagedOffsets;
use crate::store::stepped_world::{World, append, at, commit, create, fill, partition, read_all};

// Catches a checkpoint that is captured while a repair is on its way to the disk: replay skips the repair, and the
// checkpoint does not know of it.
#[test]
fn a_repair_on_its_way_is_not_forgotten_by_a_checkpoint() {
    let world = World::new();
    let store = world.open(0);
    let log = create(&store, 0);
    fill(&store, &log, 20);
    let content = read_all(&log);
    for name in world.disk.list(SEGMENT_PREFIX).expect("listed") {
        let bytes = world.disk.read_file(&name).expect("readable");
        for batch in [&content[5], &content[6], &content[9]] {
            if let Some(position) = bytes.windows(batch.len()).position(|window| window == &batch[..]) {
                world.disk.flip_bit(&name, position as u64 + 80, 1).expect("flipped");
            }
        }
    }
    log.look_at(Offset::ZERO).expect("answered");
    assert_eq!(log.damaged().len(), 2);

    let other = create(&store, 1);
    let first = store.inner().journal.active_segment();
    while store.inner().journal.active_segment() == first {
        append(&other);
        commit(&store);
    }
    let (written, known) = (store.metrics().checkpoints.get(), world.disk.list(CHECKPOINT_PREFIX).expect("listed"));
    let mut durable = log.repair(vec![content[5].clone(), content[6].clone()]).expect("accepted");
    store.inner().maintain();
    assert_eq!((durable.now(), store.metrics().checkpoints.get()), (None, written), "captured, and not written yet");
    commit(&store);
    store.inner().maintain();
    assert_eq!(durable.now(), Some(Ok(())));
    let mut names = world.disk.list(CHECKPOINT_PREFIX).expect("listed");
    names.retain(|name| !known.contains(name));
    assert!(!names.is_empty());
    for name in names {
        let checkpoint = Checkpoint::decode(&world.disk.read_file(&name).expect("readable")).expect("sound");
        let snapshot = checkpoint.logs.iter().find(|snapshot| snapshot.log == log.id()).expect("known");
        assert_eq!(snapshot.damaged, [DamagedOffsets { base: at(9), next: at(10) }], "{name}");
        assert!(snapshot.repaired.iter().any(|extent| extent.base <= at(5) && at(5) < extent.next), "{name}");
    }
    assert!(world.disk.exists(&segment_file_name(first)).expect("known"));

    let store = world.crash(store);
    let log = store.log(partition(0)).expect("the log");
    assert_eq!(log.damaged(), [DamagedOffsets { base: at(9), next: at(10) }]);
    log.repair(vec![content[9].clone()]).expect("accepted");
    while store.step() {}
    assert_eq!(read_all(&log), content);
}
