//! A producer and a consumer while leaders move, brokers die, fall silent and lag behind, requests and answers are lost,
//! and new leaders lack what nobody was told of: nothing is lost, doubled or reordered. Seeded; a failure names its seed.

mod support;

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use streambus_client::{Client, Config, Delivery, ErrorCode, ProducerConfig, Record, Start};
use streambus_protocol::api::ApiKey;
use support::{Cluster, Fault};

const BROKERS: u32 = 3;
const PARTITIONS: usize = 3;
const RECORDS: usize = 900;
const SEEDS: u64 = 120;

struct Chaos {
    cluster: Cluster,
    random: SmallRng,
    /// Brokers that serve.
    up: Vec<u32>,
}

impl Chaos {
    async fn run(&mut self) {
        for _ in 0..40 {
            let pause = self.random.random_range(0..600);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.strike();
        }
        self.heal();
    }

    fn strike(&mut self) {
        match self.random.random_range(0..16) {
            0..4 => {
                let partition = self.random.random_range(0..PARTITIONS);
                self.elect(partition);
            }
            4 => {
                let partition = self.random.random_range(0..PARTITIONS);
                self.cluster.elect("orders", partition, None, 0);
            }
            5..7 => self.lose_broker(),
            7..9 => self.return_brokers(),
            9 => {
                let broker = self.random.random_range(1..=BROKERS);
                self.cluster.cut(broker);
            }
            10 => {
                let broker = self.random.random_range(1..=BROKERS);
                self.cluster.lag(broker);
            }
            11 => (1..=BROKERS).for_each(|broker| self.cluster.catch_up(broker)),
            12 => {
                let hints = self.random.random();
                self.cluster.hint(hints);
            }
            13 => {
                let delay = *[0, 2, 20, 300].choose(&mut self.random).expect("some");
                self.cluster.commit_after(Duration::from_millis(delay));
            }
            _ => {
                for _ in 0..self.random.random_range(1..4) {
                    let fault = self.fault();
                    let api = [ApiKey::Produce, ApiKey::Produce, ApiKey::Metadata, ApiKey::Subscribe];
                    self.cluster.fault(*api.choose(&mut self.random).expect("some"), fault);
                }
            }
        }
    }

    fn fault(&mut self) -> Fault {
        let faults = [
            Fault::LoseAnswer,
            Fault::LoseRequest,
            Fault::Silence,
            Fault::Refuse(ErrorCode::NotEnoughReplicas),
            Fault::Refuse(ErrorCode::NotEnoughReplicasAfterAppend),
            Fault::Refuse(ErrorCode::Timeout),
            Fault::Refuse(ErrorCode::NotReady),
            Fault::Refuse(ErrorCode::UnknownTopicId),
            Fault::Delay(Duration::from_millis(self.random.random_range(1..800))),
        ];
        faults.choose(&mut self.random).expect("some").clone()
    }

    /// Another leader, or the same one anew, which may lack what is not committed.
    fn elect(&mut self, partition: usize) {
        let leader = self.up.choose(&mut self.random).copied();
        let lost = self.random.random_range(0..6);
        self.cluster.elect("orders", partition, leader, lost);
    }

    /// A broker dies or falls silent; some time later, or at once, others lead what it led.
    fn lose_broker(&mut self) {
        if self.up.len() < 2 {
            return;
        }
        let broker = self.up.swap_remove(self.random.random_range(0..self.up.len()));
        if self.random.random() {
            self.cluster.stop(broker)
        } else {
            self.cluster.hang(broker)
        }
        for partition in 0..PARTITIONS {
            if self.cluster.leader("orders", partition) == Some(broker) && self.random.random_range(0..3) > 0 {
                self.elect(partition);
            }
        }
    }

    fn return_brokers(&mut self) {
        for broker in (1..=BROKERS).filter(|broker| !self.up.contains(broker)) {
            self.cluster.start(broker);
        }
        self.up = (1..=BROKERS).collect();
    }

    fn heal(&mut self) {
        self.cluster.heal();
        self.return_brokers();
        (1..=BROKERS).for_each(|broker| self.cluster.catch_up(broker));
        for partition in 0..PARTITIONS {
            self.elect(partition);
        }
    }
}

fn value(n: usize) -> String {
    format!("{n:06} {}", "x".repeat(n % 200))
}

async fn produce(client: &Client, random: &mut SmallRng) -> Vec<(usize, Delivery)> {
    let producer = client.producer_with(ProducerConfig::new().batch_bytes(1024)).expect("valid");
    let mut deliveries = Vec::new();
    for n in 0..RECORDS {
        let partition = n % PARTITIONS;
        let record = Record::new("orders", value(n)).partition(partition as u32);
        deliveries.push((n, producer.enqueue(record).await.expect("enqueued")));
        if n % 6 == 0 {
            let pause = random.random_range(0..150);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
    deliveries
}

async fn story(seed: u64) {
    let cluster = Cluster::new(BROKERS);
    cluster.create("orders", PARTITIONS as u32);
    let addresses = (1..=BROKERS).map(|broker| format!("broker-{broker}:9092"));
    let client = cluster.client_with(Config::new(addresses)).await;
    let mut consumer = client.consumer(["orders"]).from(Start::Earliest).start().await.expect("started");
    let mut random = SmallRng::seed_from_u64(seed);
    let up = (1..=BROKERS).collect();
    let mut chaos = Chaos { cluster: cluster.clone(), random: SmallRng::seed_from_u64(!seed), up };

    let writing = async {
        let deliveries = produce(&client, &mut random).await;
        let mut offsets = vec![Vec::new(); PARTITIONS];
        for (n, delivery) in deliveries {
            let position = delivery.await.unwrap_or_else(|error| panic!("record {n}: {error}"));
            offsets[n % PARTITIONS].push(position.offset);
        }
        offsets
    };
    let reading = async {
        let mut read = vec![Vec::new(); PARTITIONS];
        for _ in 0..RECORDS {
            let record = consumer.next().await.expect("no error").expect("not the end");
            let text = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
            read[record.partition as usize].push((record.offset, text));
        }
        read
    };
    let all = async { futures::join!(chaos.run(), writing, reading) };
    let finished = tokio::time::timeout(Duration::from_secs(300), all).await;
    let ((), offsets, read) = finished.expect("everything gets an outcome, and is read");

    for partition in 0..PARTITIONS {
        let expected: Vec<String> = (0..RECORDS).filter(|n| n % PARTITIONS == partition).map(value).collect();
        assert_eq!(cluster.values("orders", partition), expected, "stored in partition {partition}");
        let numbers: Vec<u64> = (0..expected.len() as u64).collect();
        assert_eq!(offsets[partition], numbers, "acknowledged in partition {partition}");
        let numbered: Vec<_> = numbers.into_iter().zip(expected).collect();
        assert_eq!(read[partition], numbered, "read from partition {partition}");
    }
}

#[test]
fn whatever_the_cluster_does_nothing_is_lost_doubled_or_reordered() {
    for seed in 0..SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let run = std::panic::AssertUnwindSafe(|| runtime.expect("a runtime").block_on(story(seed)));
        if let Err(cause) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(cause);
        }
    }
}
