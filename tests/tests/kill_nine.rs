//! `kill -9` of the real broker at random moments under load: nothing acknowledged is lost, nothing is stored twice,
//! no offset is missing, and the clients carry on by themselves.
//!
//! `STREAMBUS_KILL_CYCLES` sets the number of kills (default 8; `make soak` runs 500), `STREAMBUS_SEED` the moments.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use streambus_client::{Client, Error, Producer, Record, Start, Topic};
use streambus_protocol::ids::PartitionIndex;
use streambus_protocol::offset::Offset;
use streambus_tests::checker::{ReadBack, check};
use streambus_tests::history::{History, Outcome, Value};
use streambus_tests::process::{Broker, binary};
use streambus_tests::{ledger, setting};
use tokio::sync::watch;

const PRODUCERS: u32 = 3;
const PARTITIONS: u32 = 4;
const TOPIC: &str = "killed";
/// Deliveries each producer keeps in flight.
const IN_FLIGHT: usize = 200;

/// Sends until told to stop, then waits for every outstanding delivery. Counts acknowledgements in `acked`.
async fn produce(bus: Client, number: u32, stop: Arc<AtomicBool>, acked: Arc<watch::Sender<u64>>) -> History {
    let producer: Producer = bus.producer();
    let mut history = History::default();
    let mut pending = std::collections::VecDeque::new();
    let mut sequence = 0;
    while !stop.load(Ordering::Relaxed) {
        let value = Value { producer: number, sequence };
        sequence += 1;
        let record = Record::new(TOPIC, value.to_bytes()).key(format!("{number}-{}", sequence % 7));
        match producer.enqueue(record).await {
            Ok(delivery) => pending.push_back((value, delivery)),
            Err(error) => panic!("enqueue failed: {error}"),
        }
        if pending.len() >= IN_FLIGHT {
            let (value, delivery) = pending.pop_front().expect("just checked");
            history.record(value, outcome(delivery.await, &acked));
        }
    }
    for (value, delivery) in pending {
        history.record(value, outcome(delivery.await, &acked));
    }
    history
}

fn outcome(result: Result<streambus_client::Position, Error>, acked: &watch::Sender<u64>) -> Outcome {
    match result {
        Ok(position) => {
            acked.send_modify(|count| *count += 1);
            let offset = Offset::new(position.offset).expect("a broker's offset is in range");
            Outcome::Acked { partition: PartitionIndex::new(position.partition), offset }
        }
        Err(error) if error.is_outcome_unknown() => Outcome::Unknown,
        Err(error) => {
            eprintln!("refused: {error}");
            Outcome::Refused
        }
    }
}

async fn read_everything(bus: &Client) -> Vec<ReadBack> {
    let mut consumer = bus.consumer([TOPIC]).from(Start::Earliest).until_end().start().await.expect("a consumer");
    let mut read = Vec::new();
    while let Some(record) = consumer.next().await.expect("a readable topic") {
        read.push(ReadBack {
            partition: PartitionIndex::new(record.partition),
            offset: Offset::new(record.offset).expect("in range"),
            value: record.value.as_deref().and_then(Value::from_bytes),
        });
    }
    read
}

fn verify_offline(data: &Path) {
    let output =
        Command::new(binary()).args(["log", "verify"]).arg(data).args(["-o", "json"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "log verify found damage: {text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nothing_acknowledged_is_lost_when_the_broker_is_killed_under_load() {
    let cycles = setting::number("STREAMBUS_KILL_CYCLES", 8);
    let seed = setting::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a folder");
    let mut broker = Broker::start(folder.path());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let bus = runtime.block_on(async {
        let bus = Client::connect(&broker.clients.to_string()).await.expect("a connection");
        bus.admin().create_topic(TOPIC, Topic::partitions(PARTITIONS)).await.expect("a topic");
        bus
    });
    let stop = Arc::new(AtomicBool::new(false));
    let (acked, mut seen) = watch::channel(0_u64);
    let acked = Arc::new(acked);
    let load: Vec<_> =
        (0..PRODUCERS).map(|number| runtime.spawn(produce(bus.clone(), number, stop.clone(), acked.clone()))).collect();
    for cycle in 0..cycles {
        // A random moment, measured in acknowledgements: it falls anywhere within a commit.
        let target = *seen.borrow() + random.random_range(1..3_000);
        runtime.block_on(seen.wait_for(|count| *count >= target)).expect("the producers are running");
        broker.kill_nine();
        if cycle % 10 == 0 {
            verify_offline(folder.path());
        }
        broker = broker.restart();
    }
    stop.store(true, Ordering::Relaxed);
    let mut history = History::default();
    for task in load {
        for (value, outcome) in runtime.block_on(task).expect("a producer must not panic").outcomes() {
            history.record(value, outcome);
        }
    }
    let read = runtime.block_on(read_everything(&bus));
    let violations = check(&history, &read);
    eprintln!(
        "seed {seed}: {cycles} kills, {} acknowledged, {} unknown, {} read, {} violations",
        history.acked(),
        history.unknown(),
        read.len(),
        violations.len()
    );
    ledger::append("kill -9 of one broker", &history, usize::try_from(cycles).unwrap_or(usize::MAX), violations.len());
    assert!(history.acked() as u64 > cycles, "the run acknowledged too little to prove anything");
    assert!(violations.is_empty(), "{:#?}", &violations[..violations.len().min(20)]);
    assert!(broker.terminate(), "the drain ends with exit code 0");
    verify_offline(folder.path());
}
