//! Commands that take their time say how far they are while they work, also where nobody watches a terminal.

use streambus_client::{Record, Topic};
use streambus_tests::cluster::{Command, Options, PATIENCE};
use streambus_tests::load::LoadOptions;
use streambus_tests::run::{Run, create_topic};

/// A topic of this many records of this size takes some seconds at [`RATE`].
const RECORDS: u32 = 96;
const RECORD_BYTES: usize = 60_000;
const RATE: &str = "1MiB";

/// Writes the topic `bulk`, of one partition on the three brokers there are.
fn fill(run: &Run) {
    run.ask(async |bus| {
        create_topic(bus, "bulk", &Topic::partitions(1).replicas(3)).await;
        let producer = bus.producer();
        let mut deliveries = Vec::new();
        for _ in 0..RECORDS {
            let record = Record::new("bulk", vec![0x5a; RECORD_BYTES]);
            deliveries.push(producer.enqueue(record).await.expect("all is well"));
        }
        for delivery in deliveries {
            delivery.await.expect("all is well");
        }
    });
}

/// Hears three lines of a command that begin with `who` and say something in MiB, after which it must still run; then its
/// end.
fn follow(mut command: Command, who: &str) -> String {
    let mut told: Vec<String> = Vec::new();
    while told.iter().filter(|line| line.starts_with(who) && line.contains(" MiB")).count() < 3 {
        let note = command.next_note();
        told.push(note.unwrap_or_else(|| panic!("it has ended, and said no more than {told:#?}")));
    }
    assert!(command.runs(), "it speaks while it works: {told:#?}");
    assert!(told.windows(2).all(|lines| lines[0] != lines[1]), "a line for each change, and no other: {told:#?}");
    let said = command.wait(PATIENCE);
    assert_eq!(said.code, 0, "{said:?}");
    said.out
}

// Catches a drain and a move that are silent until they are over, or repeat themselves.
#[test]
fn a_drain_and_a_move_say_how_far_they_are_while_they_work() {
    let settings = vec![format!("replication.catch_up_rate={RATE}/s")];
    let options = Options { spares: 1, settings, ..Options::default() };
    let mut run = Run::start("a drain and a move say how far they are", &options, &LoadOptions::default());
    fill(&run);
    run.look_after("bulk");
    run.wait_in_sync();
    let joined = run.cluster.spares()[0];
    run.cluster.join(joined);
    run.cluster.wait_ready(joined);

    let drain = run.cluster.begin(&["cluster", "drain", "2", "--wait", "60s"]);
    let out = follow(drain, "broker 2 leads ");
    assert!(out.contains("broker 2 is empty"), "{out}");
    run.cluster.command_well(PATIENCE, &["cluster", "undrain", "2"]);

    let back = ["topic", "reassign", "bulk", "-p", "0", "--replicas", "1,2,3", "--throttle", RATE, "--wait", "60s"];
    let out = follow(run.cluster.begin(&back), "broker 2 lacks ");
    assert!(out.contains("bulk/0 is on brokers 1,2,3"), "{out}");
    run.finish();
}
