//! `make demo`: three brokers, a load, `kill -9` of a leader, and whether anything acknowledged was lost. The verdict is
//! the checker's, not the story's. `STREAMBUS_DEMO_RATE` is how many records a second each of the two producers sends
//! (1,000), `STREAMBUS_DEMO_SECONDS` how long they send before and after the fault (3).

use std::time::Duration;

use streambus_tests::cluster::Options;
use streambus_tests::load::LoadOptions;
use streambus_tests::measure::recovery_us;
use streambus_tests::run::Run;
use streambus_tests::setting;

fn main() {
    let rate = u32::try_from(setting::number("STREAMBUS_DEMO_RATE", 1_000)).expect("records a second");
    let pause = Duration::from_secs(setting::number("STREAMBUS_DEMO_SECONDS", 3));
    let load = LoadOptions { topic: "orders".to_owned(), partitions: 6, producers: 2, rate, ..LoadOptions::default() };
    eprintln!("Three brokers on this machine, each with a disk folder of its own; producers wait for acks=all.\n");
    let mut run = Run::start("demo", &Options::default(), &load);
    for id in run.cluster.ids() {
        let pid = run.cluster.pid(id).expect("it runs");
        eprintln!("  broker {id}: clients {}, process {pid}", run.cluster.client_address(id));
    }
    eprintln!("  controller: broker {}; leaders: {}", run.controller(), shown(&run));
    run.let_run(pause);

    let victim = run.leaders()[&0];
    eprintln!(
        "\n{} records acknowledged so far. Now broker {victim} dies:\n",
        *run.cluster.recorder().acked().borrow()
    );
    let killed_us = run.cluster.kill_nine(victim);
    for (partition, micros) in run.wait_recovery(killed_us) {
        eprintln!("             partition {partition} acknowledges again after {} ms", micros / 1_000);
    }
    eprintln!("\n  leaders now: {}", shown(&run));
    run.let_run(pause);

    let back_us = run.cluster.recorder().fault(format!("broker {victim} is started again"));
    run.cluster.start_broker(victim);
    run.cluster.wait_ready(victim);
    run.wait_in_sync();
    let in_sync_ms = run.cluster.recorder().now_us().saturating_sub(back_us) / 1_000;
    eprintln!("             it holds everything again, in sync, {in_sync_ms} ms after its start\n");
    run.wait_acks(1_000);

    eprintln!("Load ends. Everything is read back, the brokers stop, their disks are compared:\n");
    let report = run.finish();
    let slowest = recovery_us(&report.events, killed_us).into_values().max().unwrap_or_default() / 1_000;
    eprintln!(
        "\nVERDICT: {} records acknowledged, every one read back once, in order, with its own bytes; the three disks hold \
         the same.\n         {} refused, {} unknown. Slowest partition after kill -9: {slowest} ms. Longest silence of any \
         partition: {} ms.",
        report.history.acked(),
        report.refused,
        report.history.unknown(),
        report.longest_silence_us / 1_000
    );
}

fn shown(run: &Run) -> String {
    let leaders = run.leaders();
    leaders.iter().map(|(partition, leader)| format!("{partition} on {leader}")).collect::<Vec<_>>().join(", ")
}
