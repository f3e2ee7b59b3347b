//! Disks without room: writes are refused and say why, reads go on, brokers with room go on, and with room again
//! everything heals without a restart.

use std::time::Duration;

use streambus_client::{Client, Record, Start, Topic};
use streambus_tests::cluster::{Disks, Options, PATIENCE};
use streambus_tests::load::{LoadOptions, client_config};
use streambus_tests::loop_disk;
use streambus_tests::measure::recovery_us;
use streambus_tests::patience::wait_for;
use streambus_tests::run::{Run, create_topic};
use streambus_tests::setting;

const MIB: u64 = 1 << 20;
/// What stays free on a full disk: less than a segment, enough for the metadata.
const LEFT: u64 = 20 * MIB;
/// Batches of filler until a disk that has no room must have refused one: two segments, and as much again.
const ROUNDS_MAX: u32 = 64;

fn options() -> Options {
    let options = Options { disks: Disks::default().loops(768 * MIB), ..Options::default() };
    options.with_small_segments().with_small_reserve().with(&["replication.lag_time_max=1s"])
}

/// Writes to a topic of its own on every broker until the one named in `full` refuses; returns what it said.
fn fill_until_refused(run: &Run, cycle: u64, full: &[u32]) -> String {
    let topic = format!("filler-{cycle}");
    let patience = LoadOptions { delivery_timeout: Duration::from_secs(3), ..LoadOptions::default() };
    let config = client_config(&run.cluster.client_addresses(), &patience);
    let partitions = run.cluster.ids().len() as u32;
    let refused = run.ask(async |bus| {
        // Nobody's copy is waited for, so that only the leaders' own disks count.
        let wanted = Topic::partitions(partitions).replicas(3).config("min.insync.replicas", "1");
        create_topic(bus, &topic, &wanted).await;
        let bus = Client::connect_with(config).await.expect("a connection");
        let producer = bus.producer();
        let mut said = None;
        for _ in 0..ROUNDS_MAX {
            let mut deliveries = Vec::new();
            for partition in 0..partitions {
                for _ in 0..16 {
                    let record = Record::new(topic.as_str(), vec![0x5a; 60_000]).partition(partition);
                    if let Ok(delivery) = producer.enqueue(record).await {
                        deliveries.push(delivery);
                    }
                }
            }
            for delivery in deliveries {
                if let Err(error) = delivery.await {
                    said.get_or_insert(format!("{error:?}"));
                }
            }
            if said.is_some() {
                break;
            }
        }
        bus.close().await;
        said
    });
    let refused = refused.unwrap_or_else(|| panic!("brokers {full:?} took everything although their disks are full"));
    run.cluster.recorder().fault(format!("refused: {refused}"));
    refused
}

fn check_that_health_says_it(run: &Run, id: u32) {
    let health = wait_for(PATIENCE, || {
        run.cluster.page(id, "/health").filter(|health| health.contains("bytes are free: writes are refused"))
    });
    assert!(health.is_some(), "broker {id} does not say that its disk is full: {:?}", run.cluster.page(id, "/health"));
    assert!(run.cluster.is_ready(id), "a full disk still serves reads");
}

/// Everything that was acknowledged can be read now.
fn check_that_reads_go_on(run: &Run) {
    let acked = *run.cluster.recorder().acked().borrow();
    let read = run.ask(async |bus| {
        let consumer = bus.consumer(["proof"]).from(Start::Earliest).until_end().start().timeout(PATIENCE).await;
        let mut consumer = consumer.expect("a full disk can be read");
        let mut count = 0;
        while let Some(_record) = consumer.next().await.expect("a full disk can be read to the end") {
            count += 1;
        }
        count
    });
    assert!(read >= acked, "{acked} were acknowledged, {read} can be read");
}

#[test]
fn one_full_disk_refuses_writes_and_serves_reads_and_the_others_go_on() {
    let name = "the disk of one broker is full";
    if !loop_disk::available(name) {
        return;
    }
    let run = Run::start(name, &options(), &LoadOptions::default());
    for cycle in 0..setting::cycles(1) {
        let leaders = run.leaders();
        let id = leaders[&0];
        run.cluster.fill_disk(id, LEFT);
        let said = fill_until_refused(&run, cycle, &[id]);
        assert!(said.contains("StorageFull"), "it says why: {said}");
        check_that_health_says_it(&run, id);
        let full_us = run.cluster.recorder().fault("it is full");
        let others = leaders.iter().filter(|(_, leader)| **leader != id).map(|(partition, _)| *partition);
        for partition in others {
            let goes_on = wait_for(PATIENCE, || {
                recovery_us(&run.cluster.recorder().events(), full_us).contains_key(&partition).then_some(())
            });
            assert!(goes_on.is_some(), "partition {partition}, led by a broker with room, takes no records");
        }
        check_that_reads_go_on(&run);
        let healed_us = run.cluster.empty_disk(id);
        run.wait_recovery(healed_us);
        run.wait_in_sync();
    }
    run.finish();
}

#[test]
fn full_disks_of_all_brokers_refuse_writes_and_serve_reads() {
    let name = "the disks of all brokers are full";
    if !loop_disk::available(name) {
        return;
    }
    let run = Run::start(name, &options(), &LoadOptions::default());
    for cycle in 0..setting::cycles(1) {
        let ids = run.cluster.ids();
        for id in &ids {
            run.cluster.fill_disk(*id, LEFT);
        }
        let said = fill_until_refused(&run, cycle, &ids);
        assert!(said.contains("StorageFull"), "it says why: {said}");
        for id in &ids {
            check_that_health_says_it(&run, *id);
        }
        check_that_reads_go_on(&run);
        let mut healed_us = 0;
        for id in &ids {
            healed_us = run.cluster.empty_disk(*id);
        }
        run.wait_recovery(healed_us);
        run.wait_in_sync();
    }
    run.finish();
}
