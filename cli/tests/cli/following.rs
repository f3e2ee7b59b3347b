//! Commands that go on until they are ended, and those that read what a broker left behind.

use crate::process::{Broker, streambus};

#[test]
fn dev_needs_no_directory_and_leaves_none() {
    let (broker, directory) = Broker::dev();
    assert!(directory.is_dir(), "{}", directory.display());
    assert_eq!(broker.run(&["topic", "create", "t", "--partitions", "1"], "").code, 0);
    assert_eq!(broker.run(&["produce", "t"], "one\ntwo\n").code, 0);
    assert_eq!(broker.run(&["consume", "t", "-e", "-f", "%v\\n"], "").stdout, "one\ntwo\n");
    assert_eq!(broker.terminate(), 0);
    assert!(!directory.exists(), "{} is still there", directory.display());
}

#[test]
fn tail_prints_the_last_lines_and_what_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    assert_eq!(broker.run(&["topic", "create", "t", "--partitions", "1"], "").code, 0);
    assert_eq!(broker.run(&["produce", "t"], "first\nsecond\nthird\n").code, 0);
    let mut tail = broker.follow(&["tail", "t", "-n", "2", "-f", "%v\\n"]);
    assert_eq!((tail.line().as_str(), tail.line().as_str()), ("second", "third"));
    for n in 0..3 {
        assert_eq!(broker.run(&["produce", "t"], &format!("new {n}\n")).code, 0);
        assert_eq!(tail.line(), format!("new {n}"));
    }
    let (_code, rest) = tail.interrupt();
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(broker.run(&["tail", "nowhere"], "").code, 3);
}

#[test]
fn a_stopped_brokers_log_is_dumped_entry_by_entry() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    assert_eq!(broker.run(&["topic", "create", "t", "--partitions", "2"], "").code, 0);
    for _ in 0..3 {
        assert_eq!(broker.run(&["produce", "t", "--partition", "1"], "a\nb\nc\n").code, 0);
    }
    assert_eq!(broker.terminate(), 0);
    let path = directory.path().to_str().unwrap();
    let dump = streambus(&["log", "dump", path], "");
    assert_eq!(dump.code, 0, "{}", dump.stderr);
    let records: u32 = dump
        .stdout
        .lines()
        .filter_map(|line| line.split("records=").nth(1)?.split(' ').next()?.parse::<u32>().ok())
        .sum();
    assert_eq!(records, 9, "{}", dump.stdout);
    assert!(
        dump.stdout.lines().any(|line| line.contains("created partition=") && line.ends_with("/1")),
        "{}",
        dump.stdout
    );
    assert_eq!(streambus(&["log", "dump", path], "").stdout, dump.stdout, "reading changes nothing");

    let empty = tempfile::tempdir().unwrap();
    let refused = streambus(&["log", "dump", empty.path().to_str().unwrap()], "");
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("next:") && refused.stdout.is_empty(), "{}", refused.stderr);
}
