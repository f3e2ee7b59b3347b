//! Logs that nobody answers for any more while work on them is under way.

use streambus_protocol::timestamp::Timestamp;
use streambus_storage::partition_log::options::Compaction;
use streambus_storage::partition_log::{Agreed, LogOptions};

use crate::world::{Spec, World, append, partition, settle};

const NOW: Timestamp = Timestamp::from_millis(5_000);

// Catches a cleaning that goes on with what was agreed on when it began, although the metadata may not be that of these
// records any more.
#[test]
fn a_cleaning_that_is_under_way_leaves_a_log_that_is_held() {
    let world = World::new(16);
    let store = world.open();
    let compaction = Compaction { delete_retention_ms: 1_000, min_lag_ms: 0, min_dirty_millionths: 300_000 };
    let options = LogOptions { compaction: Some(compaction), deletes: false, ..LogOptions::default() };
    let log = store.create_log(partition(0), options).expect("created");
    log.set_agreed(Agreed::Synced);
    for round in 0..20 {
        for key in 0..20 {
            append(&log, &Spec { record_bytes: 300, salt: round, keys: vec![key], ..Spec::default() });
            settle(&store);
        }
    }
    let clean = || {
        for _ in 0..10_000 {
            let is_idle = store.clean_step(NOW, 2_000).is_idle;
            settle(&store);
            if is_idle {
                return store.metrics().records_cleaned.get();
            }
        }
        panic!("the cleaning never ends");
    };
    let begun = store.clean_step(NOW, 1);
    assert!(begun.read_bytes > 0 && begun.records_removed == 0 && !begun.is_idle, "{begun:?}");
    log.hold();
    assert_eq!(clean(), 0, "nobody answers for it");
    let log = store.create_log(partition(0), options).expect("opened");
    log.set_agreed(Agreed::Synced);
    assert!(clean() > 300, "somebody does again");
}
