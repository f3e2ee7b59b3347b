//! What idle partitions cost.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use streambus_storage::partition_log::LogOptions;

use crate::world::{Spec, World, append, partition, settle};

/// Partitions, and the goal for each, in bytes.
const PARTITIONS: u32 = 10_000;
const BYTES_EACH_MAX: usize = 20 * 1024;

/// Counts live bytes of this thread's test as well as of others; the test allows for that.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "a global allocator that counts can be written in no other way")]
// SAFETY: every call is passed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// Catches a buffer, handle, channel or table per partition.
#[test]
fn ten_thousand_idle_partitions_are_cheap() {
    let mut world = World::new(31);
    world.config.segment_bytes = 8 << 20;
    let store = world.open();
    let before = LIVE.load(Ordering::Relaxed);
    for index in 0..PARTITIONS {
        let log = loop {
            match store.create_log(partition(index), LogOptions::default()) {
                Ok(log) => break log,
                Err(_) => settle(&store),
            }
        };
        append(&log, &Spec { record_bytes: 20, ..Spec::default() });
        settle(&store);
    }
    settle(&store);
    // The simulated disk keeps its files in memory; they are not the partitions'.
    let disk_bytes = usize::try_from(store.status().used_bytes).expect("small");
    let each =
        LIVE.load(Ordering::Relaxed).saturating_sub(before + disk_bytes) / usize::try_from(PARTITIONS).expect("small");
    let estimated = store.log(partition(0)).expect("the log").resident_bytes();
    assert!(each < BYTES_EACH_MAX, "{each} bytes each by the allocator");
    assert!(estimated < BYTES_EACH_MAX, "{estimated} bytes by estimate");
}
