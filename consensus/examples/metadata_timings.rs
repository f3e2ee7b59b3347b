//! Measures what a metadata node costs: first start, restart, commit latency, resident memory.
//!
//! `cargo run --release -p streambus-consensus --example metadata_timings -- DIRECTORY [TOPICS]`. The directory must
//! be empty and should be on the disk that will be used.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a measurement reads the clock and prints")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use streambus_consensus::command::{Assignment, Command};
use streambus_consensus::config::ConsensusConfig;
use streambus_consensus::node::{ConsensusEnv, MetadataNode};
use streambus_protocol::api::metadata::BrokerEndpoint;
use streambus_protocol::ids::{BrokerId, TopicId, TopicName};
use streambus_protocol::timestamp::Timestamp;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("name an empty directory")?;
    let topics: u32 = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let directory = Path::new(&directory);

    println!("resident before: {}", resident()?);
    let node = started("first start", directory, 1).await?;
    println!("resident: {}", resident()?);
    let mut latencies = Vec::new();
    for n in 0..topics {
        let before = Instant::now();
        node.propose(create(n)?).await?;
        latencies.push(before.elapsed());
    }
    report(&format!("{topics} topics created one by one"), &mut latencies);
    let before = Instant::now();
    let many = (topics..topics * 2).map(|n| Ok(node.propose(create(n)?)));
    let created = futures::future::join_all(many.collect::<Result<Vec<_>, Failure>>()?).await;
    let failed = created.iter().filter(|outcome| outcome.is_err()).count();
    println!("{topics} topics created at once: {:?}, {failed} failed", before.elapsed());
    println!("resident: {}", resident()?);
    node.shutdown().await;
    drop(node);
    for life in 2..5 {
        let node = started("restart", directory, life).await?;
        println!("  topics: {}, resident: {}", node.image().topic_count(), resident()?);
        node.shutdown().await;
    }
    Ok(())
}

async fn started(what: &str, directory: &Path, life: u8) -> Result<MetadataNode, Failure> {
    let endpoint = BrokerEndpoint { id: BrokerId::new(0), host: "localhost".to_owned(), port: 9092, rack: None };
    let mut drawn = 0;
    let random = move || {
        drawn += 1;
        let mut bytes = [life; 16];
        bytes[0] = drawn;
        bytes
    };
    let before = Instant::now();
    let env = ConsensusEnv::alone(endpoint.id, random);
    let node = MetadataNode::start(ConsensusConfig::alone(directory.to_path_buf(), endpoint), env).await?;
    let ready = before.elapsed();
    node.register().await?;
    println!("{what}: recovered after {ready:?}, registered after {:?}", before.elapsed());
    Ok(node)
}

fn create(n: u32) -> Result<Command, Failure> {
    let mut id = [1; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    Ok(Command::CreateTopic {
        name: TopicName::new(&format!("topic-{n}"))?,
        id: TopicId::from_bytes(id),
        partitions: vec![Assignment { replicas: vec![BrokerId::new(0)] }; 4],
        config: BTreeMap::new(),
        at: Timestamp::from_millis(0),
    })
}

fn report(what: &str, latencies: &mut [Duration]) {
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get((latencies.len().saturating_sub(1)) * percent / 100).copied();
    println!("{what}: median {:?}, 99th percentile {:?}, worst {:?}", at(50), at(99), at(100));
}

fn resident() -> Result<String, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let wanted = ["VmRSS", "RssAnon", "RssFile", "Threads"];
    let lines = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    Ok(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", "))
}
