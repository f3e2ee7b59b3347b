//! What reads from disk cost, over a store that keeps nothing in memory.

use futures::FutureExt;
use streambus_protocol::api::produce::Acks;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::topic_config::Durability;
use streambus_storage::config::StoreConfig;
use streambus_storage::store::Store;

use super::*;
use crate::partition::fixture;

const BUDGET: usize = 4 << 20;

/// Partitions with one record of 3,000 bytes each, on disk only.
fn on_disk(count: u32) -> (Store, Vec<Arc<Partition>>) {
    let store = fixture::store(StoreConfig { tail_cache_bytes: 0, ..StoreConfig::tiny() });
    // The cache gives up a batch when the next one comes: the last partition's is still there, so it is not returned.
    let mut partitions: Vec<_> = (0..=count).map(|index| fixture::partition(&store, index, Durability::Sync)).collect();
    for partition in &partitions {
        let batch = fixture::batch(&[b'x'; 3_000], None);
        let appended = partition.append(batch, LeaderEpoch::UNKNOWN, Acks::All).expect("appended");
        while store.step() {}
        let _receipt = appended.committed().now_or_never().expect("on disk").expect("acknowledged");
    }
    partitions.pop();
    (store, partitions)
}

fn wanted(partitions: &[Arc<Partition>], bytes_max: usize) -> Vec<Wanted> {
    let wanted = |(place, partition): (usize, &Arc<Partition>)| Wanted {
        place,
        partition: Arc::clone(partition),
        from: Offset::ZERO,
        bytes_max,
        scope: ReadScope::Committed,
    };
    partitions.iter().enumerate().map(wanted).collect()
}

fn bytes(got: &[Got]) -> usize {
    got.iter().map(|got| got.result.as_ref().expect("read").fetched.batches.len()).sum()
}

// Catches a charge by what was asked for: a few fetches with large limits and little to read would hold everything.
#[tokio::test]
async fn a_read_holds_what_it_brought_and_gives_it_back() {
    let (_store, partitions) = on_disk(2);
    let (budget, closing) = (ReadBudget::new(BUDGET), CancellationToken::new());
    let patience = Patience { deadline: None, closing: &closing };
    let got = read_all(&budget, wanted(&partitions, 1 << 20), 2 << 20, patience).await;
    let brought = bytes(&got);
    assert!((6_000..8_000).contains(&brought), "{brought} bytes");
    assert_eq!(budget.bytes.available_permits(), BUDGET - brought);
    drop(got);
    assert_eq!(budget.bytes.available_permits(), BUDGET);
}

// Catches first batches that come whole in every partition: with limits of one byte, a short request would bring as
// many batches as it names partitions.
#[tokio::test]
async fn whole_first_batches_stay_within_the_answer() {
    let (_store, partitions) = on_disk(8);
    let (budget, closing) = (ReadBudget::new(BUDGET), CancellationToken::new());
    let patience = Patience { deadline: None, closing: &closing };
    let got = read_all(&budget, wanted(&partitions, 1), 4_000, patience).await;
    assert_eq!(got.len(), 8, "every place is answered");
    assert!((3_000..=4_000).contains(&bytes(&got)), "{} bytes", bytes(&got));
}

// Catches a read that waits for ever for memory that others hold, and one that leaves places without an answer.
#[tokio::test]
async fn waiting_for_memory_ends_with_the_deadline_or_the_connection() {
    let (_store, partitions) = on_disk(3);
    let (budget, closing) = (ReadBudget::new(BUDGET), CancellationToken::new());
    let permits = u32::try_from(BUDGET).expect("small");
    let _held = Arc::clone(&budget.bytes).acquire_many_owned(permits).await.expect("all of it");
    let late = Patience { deadline: Some(Deadline::after(std::time::Duration::ZERO)), closing: &closing };
    let got = read_all(&budget, wanted(&partitions, 1_000), 1_000, late).await;
    let codes: Vec<_> = got.into_iter().map(|got| got.result.map(|_| ()).expect_err("late").code).collect();
    assert_eq!(codes, [ErrorCode::Overloaded; 3]);

    closing.cancel();
    let got =
        read_all(&budget, wanted(&partitions, 1_000), 1_000, Patience { deadline: None, closing: &closing }).await;
    assert_eq!((got.len(), bytes(&got)), (3, 0));
}
