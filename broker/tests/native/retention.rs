//! Retention as a running broker applies it by itself.

use std::time::Duration;

use streambus_protocol::api::offsets::{ListOffsetsRequest, OffsetQuery, OffsetsPartition};
use streambus_protocol::ids::{PartitionIndex, TopicId};

use crate::harness::{TestBroker, TestClient, within};

async fn offset(client: &mut TestClient, topic: TopicId, query: OffsetQuery) -> u64 {
    let partition = OffsetsPartition { topic, partition: PartitionIndex::new(0), query };
    let found = client.call(&ListOffsetsRequest { partitions: vec![partition] }).await.expect("offsets");
    found.partitions[0].result.as_ref().expect("an offset").offset.get()
}

// Catches a broker that never applies retention while it runs, so that its disk fills, that applies it to topics which keep
// more, or by another clock than the records'.
#[tokio::test]
async fn what_is_too_old_goes_while_the_broker_runs_and_nothing_else() {
    let often = Duration::from_millis(50);
    let broker = TestBroker::start_with(|config| config.storage.retention_interval = often).await;
    let mut client = broker.client().await;
    let short = client.create_topic_with("short", 1, &[("retention.ms", "1")]).await.expect("a topic").id;
    let long = client.create_topic("long", 1).await;
    for topic in [short, long] {
        client.produce(topic, 0, &["a", "b"]).await.expect("written");
    }
    within(async {
        while offset(&mut client, short, OffsetQuery::Earliest).await < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(offset(&mut client, short, OffsetQuery::Latest).await, 2, "offsets go on where they were");
    assert_eq!(offset(&mut client, long, OffsetQuery::Earliest).await, 0);
    assert_eq!(client.values(long, 0, 0).await, ["a", "b"]);
    broker.stop().await.expect("an orderly stop");
}
