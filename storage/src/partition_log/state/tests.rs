//! What a snapshot taken between acceptance and commit includes.

use streambus_protocol::batch::{BatchBuilder, BatchOptions, UnverifiedBatch};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{PartitionIndex, TopicId};
use streambus_protocol::record::Record;

use super::*;

const LIMITS: LogLimits = LogLimits { extent_bytes_max: 4096, producers_max: 10 };
const NOW: Timestamp = Timestamp::from_millis(1);

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("small")
}

fn batch(base: u64) -> PlacedBatch {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(&Record::new(vec![7; 100], NOW)).expect("fits");
    let bytes = builder.build().expect("not empty");
    UnverifiedBatch::new(bytes).verify(1 << 20).expect("just built").place(offset(base), LeaderEpoch::ZERO)
}

// Catches a log that looks smaller after every restart: batches that were on their way to the disk when a checkpoint
// was captured are in it, and replay does not count them again.
#[test]
fn a_snapshot_counts_the_bytes_of_the_batches_it_includes() {
    let mut state = LogState::new(Lsn::new(0), LogOptions::default());
    let size = batch(0).size_bytes() as u64;
    for base in 0..4 {
        state.accept_batch(Lsn::new(base + 1), &batch(base), NOW, LIMITS);
    }
    state.accept_truncate(Lsn::new(5), offset(3), 0, &[]);
    state.accept_trim(Lsn::new(6), offset(1), 0);
    let partition = PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(0) };
    let snapshot = state.snapshot(LogId::new(1), partition);
    assert_eq!((snapshot.start, snapshot.end), (offset(1), offset(3)));
    assert_eq!(snapshot.size_bytes, 2 * size, "neither what was cut nor what was trimmed");
}
