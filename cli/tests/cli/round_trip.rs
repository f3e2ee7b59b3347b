//! A broker and the commands against it, as processes.

use crate::process::Broker;
use serde_json::Value;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_is_produced_is_consumed_in_order_across_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    let created = broker.run(&["topic", "create", "orders", "--partitions", "2", "--config", "retention.ms=-1"], "");
    assert_eq!(created.code, 0, "{}", created.stderr);

    let input: String = (0..1_000).map(|n| format!("key{}\tvalue {n}\n", n % 7)).collect();
    let produced = broker.run(&["produce", "orders", "-f", "%k\\t%v\\n", "--acks", "all", "-o", "json"], &input);
    assert_eq!(produced.code, 0, "{}", produced.stderr);
    let positions = lines(&produced.stdout);
    assert_eq!(positions.len(), 1_000);

    assert_eq!(broker.terminate(), 0);
    let broker = Broker::start(directory.path());

    let consumed = broker.run(&["consume", "orders", "-e", "-o", "json"], "");
    assert_eq!(consumed.code, 0, "{}", consumed.stderr);
    let records = lines(&consumed.stdout);
    assert_eq!(records.len(), 1_000);
    // Each input line is where its position says, and offsets of a partition come in order.
    let mut next = [0, 0];
    for record in &records {
        let partition = usize::try_from(record["partition"].as_u64().unwrap()).unwrap();
        assert_eq!(record["offset"], next[partition]);
        next[partition] += 1;
        let number: usize = record["value"].as_str().unwrap().strip_prefix("value ").unwrap().parse().unwrap();
        assert_eq!(positions[number]["offset"], record["offset"], "line {number}");
        assert_eq!(positions[number]["partition"], record["partition"], "line {number}");
        assert_eq!(record["key"], format!("key{}", number % 7));
    }

    let again = broker.run(&["consume", "orders", "-e", "-f", "%k\\t%v\\n", "--from", "-3"], "");
    assert_eq!(again.stdout.lines().count(), 6, "three of each of two partitions: {}", again.stdout);
    let first = broker.run(&["consume", "orders", "-n", "5"], "");
    assert_eq!(first.stdout.lines().count(), 5);

    let described = broker.run(&["topic", "describe", "orders", "-o", "json"], "");
    let topic: Value = serde_json::from_str(&described.stdout).unwrap();
    let ends: u64 = topic["partitions"].as_array().unwrap().iter().map(|p| p["high_watermark"].as_u64().unwrap()).sum();
    assert_eq!(ends, 1_000);
    assert_eq!(topic["config"]["retention.ms"], "-1");
    let health = broker.run(&["cluster", "health"], "");
    assert_eq!(health.code, 0, "{}", health.stdout);
    assert!(health.stdout.starts_with("Healthy"), "{}", health.stdout);

    assert_eq!(broker.terminate(), 0);
    let verified = crate::process::streambus(&["log", "verify", directory.path().to_str().unwrap(), "-o", "json"], "");
    assert_eq!(verified.code, 0, "{verified:?}");
}

#[test]
fn mistakes_have_their_exit_codes_and_a_next_step() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    assert_eq!(broker.run(&["topic", "create", "orders", "--partitions", "1"], "").code, 0);

    let exists = broker.run(&["topic", "create", "orders"], "");
    assert_eq!(exists.code, 4, "{}", exists.stderr);
    let unknown = broker.run(&["topic", "describe", "ordres"], "");
    assert_eq!(unknown.code, 3);
    assert!(unknown.stderr.contains("did you mean 'orders'"), "{}", unknown.stderr);
    assert_eq!(broker.run(&["consume", "ordres", "-e"], "").code, 3);
    assert_eq!(broker.run(&["produce", "ordres"], "x\n").code, 3);
    assert_eq!(broker.run(&["consume", "orders", "-e", "-p", "9"], "").code, 3);
    let config = broker.run(&["topic", "create", "t", "--config", "retention.msx=1"], "");
    assert_eq!(config.code, 2, "{}", config.stderr);

    let refused = broker.run(&["topic", "delete", "orders"], "y\n");
    assert_eq!(refused.code, 2, "without a terminal it needs --yes: {}", refused.stderr);
    assert_eq!(broker.run(&["topic", "delete", "orders", "--yes"], "").code, 0);
    assert_eq!(broker.run(&["topic", "list", "-o", "name"], "").stdout, "");
}

#[test]
fn a_bad_line_stops_with_its_number_or_is_counted_and_never_silently_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    assert_eq!(broker.run(&["topic", "create", "t", "--partitions", "1"], "").code, 0);
    let input = "a\t1\nno separator\nb\t2\n";
    let stopped = broker.run(&["produce", "t", "-f", "%k\\t%v\\n"], input);
    assert_eq!(stopped.code, 1);
    assert!(stopped.stderr.contains("line 2") && stopped.stderr.contains("--skip-bad"), "{}", stopped.stderr);
    let skipped = broker.run(&["produce", "t", "-f", "%k\\t%v\\n", "--skip-bad"], input);
    assert_eq!(skipped.code, 0);
    assert!(skipped.stderr.contains("skipped 1"), "{}", skipped.stderr);
    let read = broker.run(&["consume", "t", "-e", "-f", "%k=%v\\n"], "");
    assert_eq!(read.stdout, "a=1\na=1\nb=2\n");
}

#[test]
fn a_benchmark_proves_that_nothing_was_lost_doubled_or_reordered() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    assert_eq!(broker.run(&["topic", "create", "bench", "--partitions", "3"], "").code, 0);
    let ended = broker.run(
        &[
            "bench",
            "produce",
            "--topic",
            "bench",
            "--record-size",
            "100",
            "--records",
            "5000",
            "--acks",
            "all",
            "-o",
            "json",
        ],
        "",
    );
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["integrity"]["acked"], 5_000);
    assert_eq!(report["integrity"]["read"], 5_000);
    assert_eq!(report["clean"], true);
    let ended =
        broker.run(&["bench", "e2e", "--topic", "bench", "--rate", "500", "--records", "200", "-o", "json"], "");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((report["records"].as_u64(), report["clean"].as_bool()), (Some(200), Some(true)), "{report}");
    let ended = broker.run(&["bench", "consume", "--topic", "bench", "-c", "2", "-o", "json"], "");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["records"], 5_200);
    // What a reader can know without the producers: every offset once, in order, and every stamp right.
    assert_eq!((report["integrity"]["expected"].as_str(), report["clean"].as_bool()), (Some("offsets"), Some(true)));
    assert_eq!(
        (report["integrity"]["acked"].as_u64(), report["integrity"]["by_stamp"].as_bool()),
        (Some(5_200), Some(true))
    );
}

/// Catches: passes that do not all read from the first record to the last, or of which only one is judged.
#[test]
fn a_benchmark_of_the_tail_reads_what_it_wrote_in_every_pass() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    for round in 1..=2 {
        let args = ["bench", "tail", "--topic", "tail", "--partitions", "2", "--records", "1000", "--passes", "3"];
        let ended = broker.run(&[&args[..], &["-o", "json"]].concat(), "");
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        // A second round finds the records of the first in the topic and must not read them.
        assert_eq!(
            (report["workload"].as_str(), report["records"].as_u64()),
            (Some("tail"), Some(3_000)),
            "round {round}"
        );
        assert_eq!(
            (report["integrity"]["acked"].as_u64(), report["integrity"]["read"].as_u64()),
            (Some(3_000), Some(3_000))
        );
        assert_eq!((report["clean"].as_bool(), report["conditions"]["passes"].as_u64()), (Some(true), Some(3)));
    }
}

/// Catches: a result printed without the limits that were handed over, and limits that cannot be read passed over.
#[test]
fn a_benchmark_stands_beside_the_limits_of_its_machine() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("limits.json");
    let row = r#"{"name":"machine/loopback stream 64KiB","bytes":65536,"median_ns":1.0,"min_ns":1.0,"max_ns":1.0,
        "p90_ns":null,"p99_ns":null,"samples":1,"mb_per_second":1000000.0,"baseline":null,"ratio":null}"#;
    std::fs::write(&file, format!("{{\"rows\":[{row}]}}")).unwrap();
    let bench = |mode: &str| {
        let path = file.to_str().unwrap();
        broker.run(&["bench", "produce", "--topic", "t", "--records", "500", "--limits", path, "-o", mode], "")
    };
    let ended = bench("json");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let held = &report["limits"][0];
    assert_eq!(held["limit"], "machine/loopback stream 64KiB");
    assert_eq!(held["own"], report["mb_per_second"]);
    let told = bench("table").stdout;
    assert!(told.contains("% of machine/loopback stream 64KiB"), "{told}");
    std::fs::write(&file, "no rows").unwrap();
    let refused = bench("json");
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("limits.json"), "{}", refused.stderr);
}
