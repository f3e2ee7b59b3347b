//! Bits that decay on one disk and are mended from another.

use crate::founders::{Orders, client, layout, until};
use crate::harness::{self, PATIENCE, TestClient, name};
use streambus_broker::server::RunningServer;
use streambus_protocol::api::cluster::{ElectLeaderRequest, LeaderChoice};
use streambus_protocol::api::metadata::PartitionLayout;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::BrokerId;

/// Flips a bit in every copy of `text` in the journal of `disk`.
fn decay(disk: &std::path::Path, text: &str) {
    use std::os::unix::fs::FileExt;

    let mut flipped = 0;
    for entry in std::fs::read_dir(disk).expect("list") {
        let path = entry.expect("entry").path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-")) {
            continue;
        }
        let bytes = std::fs::read(&path).expect("read");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
        let found =
            |from: usize| bytes[from..].windows(text.len()).position(|w| w == text.as_bytes()).map(|at| from + at);
        let mut next = found(0);
        while let Some(at) = next {
            file.write_all_at(&[bytes[at] ^ 4], at as u64).expect("written");
            flipped += 1;
            next = found(at + 1);
        }
        file.sync_all().expect("synced");
    }
    assert!(flipped > 0, "{text} is not on the disk");
}

fn repaired_batches(server: &RunningServer) -> u64 {
    let text = server.metrics().expect("running").render().expect("metrics");
    let line =
        text.lines().find(|line| line.starts_with("streambus_storage_repaired_batches_total ")).expect("counted");
    line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok()).expect("a number") as u64
}

// Catches a bit that decays on one disk and costs the record although two others have it: on the leader, where a reader
// meets it, and on a follower, whose recovery finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_on_one_disk_is_repaired_from_another() {
    let mut orders = Orders::begin().await;
    let index = orders.led_by(2).await;
    let Orders { founders, mut servers, mut first, topic } = orders;
    let partition = index.get();
    let mut leader = client(&servers[&2]).await;
    let values: Vec<String> = (0..40).map(|n| format!("value-{n:04}-{}", "x".repeat(8_000))).collect();
    for value in &values {
        // Until it has taken up its part and its followers have fetched for the first time.
        let refused =
            |code| matches!(code, ErrorCode::NotEnoughReplicas | ErrorCode::LeaderNotAvailable | ErrorCode::NotReady);
        let produced = async || leader.produce(topic, partition, &[value]).await;
        let produced = until(produced, |produced| !produced.as_ref().is_err_and(|error| refused(error.code))).await;
        produced.expect("acknowledged");
    }
    let all = async |client: &mut TestClient| {
        let mut read: Vec<String> = Vec::new();
        while read.len() < values.len() {
            let request = harness::fetch_request(topic, partition, read.len() as u64, 100);
            let outcome = client.fetch(&request).await.partitions.into_iter().next().expect("an outcome");
            if outcome.result.is_err() {
                return Err(outcome.result.expect_err("a refusal").code);
            }
            read.extend(harness::values(&outcome));
        }
        Ok(read)
    };

    decay(founders.disks[&2].path(), "value-0005-");
    let read = until(async || all(&mut leader).await, Result::is_ok).await;
    assert!(read.expect("readable") == values, "the leader has other records than before");
    assert_eq!(repaired_batches(&servers[&2]), 1);

    let third = servers.remove(&3).expect("started");
    third.drain_and_stop(PATIENCE).await.expect("an orderly stop");
    for number in ["0010", "0011", "0039"] {
        decay(founders.disks[&3].path(), &format!("value-{number}-"));
    }
    servers.insert(3, founders.start(3).await);
    until(async || repaired_batches(&servers[&3]), |repaired| *repaired == 3).await;
    let in_sync = |layout: &Option<Vec<PartitionLayout>>| layout.iter().flatten().all(|p| p.isr.len() == 3);
    until(async || layout(&mut first, "orders").await, in_sync).await;
    let choice = LeaderChoice::Broker(BrokerId::new(3));
    first.call(&ElectLeaderRequest { topic: name("orders"), partition: index, choice }).await.expect("elected");
    let mut third = client(&servers[&3]).await;
    let read = until(async || all(&mut third).await, Result::is_ok).await;
    assert!(read.expect("readable") == values, "the repaired disk has other records than before");
    until(async || servers[&3].lifecycle().problems(), Vec::is_empty).await;
}
