//! The faulty disk does what it is asked to, and nothing else.

use super::*;
use crate::disk::conformance;
use crate::disk::memory::MemoryDisk;

const BLOCK: u64 = BLOCK_BYTES as u64;

fn block(byte: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(BLOCK_BYTES);
    buffer.as_mut_slice().fill(byte);
    buffer
}

fn faulty(seed: u64) -> FaultyDisk {
    FaultyDisk::new(Arc::new(MemoryDisk::new()), seed)
}

/// Without faults the wrapper is a disk like any other.
#[test]
fn faulty_conforms_when_nothing_is_planned() {
    conformance::check(&mut || Arc::new(faulty(1)));
}

/// Catches a wrapper whose power cut loses what was durable, or never loses what was not.
#[test]
fn a_power_cut_tears_only_the_write_in_flight() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let disk = faulty(seed);
        let file = disk.open("a", OpenHow::CreateNew).expect("creates");
        file.allocate(4 * BLOCK).expect("allocates");
        file.write_at_durably(0, block(1).blocks(BLOCK_BYTES)).expect("writes");
        file.write_at_durably(BLOCK, block(1).blocks(BLOCK_BYTES)).expect("writes");
        disk.sync_dir().expect("syncs");
        disk.plan(Fault::PowerCutAtMutation(disk.counters().mutations + 1));
        file.write_at_durably(BLOCK, block(2).blocks(BLOCK_BYTES)).expect_err("power is lost");
        assert!(disk.exists("a").is_err(), "nothing works without power");
        disk.restart();
        assert!(file.len().is_err(), "files do not survive the restart");
        let bytes = disk.read_file("a").expect("reads");
        assert!(bytes[..BLOCK_BYTES].iter().all(|byte| *byte == 1), "durable bytes stay");
        let torn = &bytes[BLOCK_BYTES..2 * BLOCK_BYTES];
        assert!(
            torn.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|byte| *byte == sector[0])),
            "sectors are whole"
        );
        seen.insert(torn.iter().map(|byte| u64::from(*byte)).sum::<u64>());
    }
    assert!(seen.len() > 3, "tears differ: {seen:?}");
}

/// Catches a fault that comes after it was taken back, and one that is said to be taken back after it has come.
#[test]
fn what_is_taken_back_does_not_come() {
    let disk = faulty(1);
    let file = disk.open("a", OpenHow::CreateNew).expect("creates");
    disk.plan(Fault::FailWrite(1));
    assert!(disk.take_back(&Fault::FailWrite(1)), "it has not come");
    file.write_at_durably(0, block(1).blocks(BLOCK_BYTES)).expect("nothing is planned");
    disk.plan(Fault::FailWrite(2));
    file.write_at_durably(0, block(2).blocks(BLOCK_BYTES)).expect_err("it is planned");
    assert!(!disk.take_back(&Fault::FailWrite(2)), "it has come");
}

/// Catches names that survive without a sync, and synced ones that do not.
#[test]
fn a_power_cut_keeps_a_prefix_of_the_changes_of_names() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let disk = faulty(seed);
        disk.open("synced", OpenHow::CreateNew).expect("creates");
        disk.open("victim", OpenHow::CreateNew).expect("creates");
        disk.sync_dir().expect("syncs");
        disk.open("new", OpenHow::CreateNew).expect("creates");
        disk.rename("new", "victim").expect("replaces");
        disk.remove("victim").expect("removes");
        disk.cut_power().expect("loses power");
        disk.restart();
        seen.insert(disk.list("").expect("lists"));
    }
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let all = [list(&["synced", "victim"]), list(&["new", "synced", "victim"]), list(&["synced"])];
    assert_eq!(seen, all.into_iter().collect(), "each prefix, and nothing else, is possible");
}

/// Catches a kill that loses bytes, and a sync after it that protects nothing.
#[test]
fn what_a_killed_process_wrote_is_lost_only_without_a_sync() {
    let mut reverted = 0;
    for seed in 0..64 {
        for sync in [false, true] {
            let disk = faulty(seed);
            let file = disk.open("a", OpenHow::CreateNew).expect("creates");
            file.write_at_durably(0, block(1).blocks(BLOCK_BYTES)).expect("writes");
            disk.sync_dir().expect("syncs");
            disk.plan(Fault::KillAtMutation(disk.counters().mutations + 1));
            file.write_at_durably(0, block(2).blocks(BLOCK_BYTES)).expect_err("is killed");
            disk.restart();
            let before = disk.read_file("a").expect("reads");
            if sync {
                disk.open("a", OpenHow::Existing).expect("opens").sync().expect("syncs");
            }
            disk.cut_power().expect("loses power");
            disk.restart();
            let after = disk.read_file("a").expect("reads");
            if sync {
                assert!(before == after, "a sync protects");
            }
            reverted += usize::from(before != after);
        }
    }
    assert!(reverted > 0, "without a sync something is lost");
}

/// Catches a failure that lasts, or one that stores everything.
#[test]
fn failures_happen_once_and_where_planned() {
    let disk = faulty(3);
    let file = disk.open("a", OpenHow::CreateNew).expect("creates");
    disk.plan(Fault::FailWrite(2));
    disk.plan(Fault::FailSync(1));
    disk.plan(Fault::FailAllocate(1));
    disk.plan(Fault::ShortWrite { nth: 4, sectors: 3 });
    assert_eq!(file.allocate(BLOCK).expect_err("no space").kind(), io::ErrorKind::StorageFull);
    file.allocate(2 * BLOCK).expect("space again");
    file.write_at_durably(0, block(1).blocks(BLOCK_BYTES)).expect("the first write");
    assert_eq!(file.write_at_durably(0, block(2).blocks(BLOCK_BYTES)).expect_err("fails").raw_os_error(), Some(5));
    file.write_at_durably(0, block(3).blocks(BLOCK_BYTES)).expect("the third write");
    assert_eq!(file.sync().expect_err("fails").raw_os_error(), Some(5));
    file.sync().expect("syncs");
    file.write_at_durably(0, block(4).blocks(BLOCK_BYTES)).expect_err("is short");
    let bytes = disk.read_file("a").expect("reads");
    assert_eq!(bytes.iter().filter(|byte| **byte == 4).count(), 3 * SECTOR_BYTES);
    disk.plan(Fault::Unreadable { name: "a".to_owned(), bytes: 10..11 });
    file.read_at(0, &mut [0; 11]).expect_err("is unreadable");
    file.read_at(11, &mut [0; 11]).expect("is readable");
    disk.flip_bit("a", 4095, 0).expect("flips");
    let mut byte = [0];
    file.read_at(4095, &mut byte).expect("reads");
    assert_eq!(byte, [3 ^ 1]);
}
