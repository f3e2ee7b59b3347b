//! SIGHUP: a running broker reads its configuration again.

use crate::process::Broker;

/// The last line about one setting.
fn about<'a>(said: &'a [String], key: &str) -> &'a str {
    said.iter().rfind(|line| line.contains(key)).unwrap_or_else(|| panic!("nothing about {key}: {said:#?}"))
}

#[test]
fn a_running_broker_takes_over_what_it_can_and_says_what_waits() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("streambus.toml");
    std::fs::write(&file, "[storage]\nscrub_rate = \"1MiB/s\"\n").unwrap();
    let broker = Broker::configured(&directory.path().join("data"), &file);

    std::fs::write(&file, "[storage]\nscrub_rate = \"2MiB/s\"\n[limits]\nconnections = 12345\n").unwrap();
    broker.hang_up();
    let said = broker.says_until("the configuration was read again");
    let taken = about(&said, "storage.scrub_rate");
    assert!(taken.contains("INFO") && taken.contains("1MiB/s") && taken.contains("2MiB/s"), "{taken}");
    let waits = about(&said, "limits.connections");
    assert!(waits.contains("WARN") && waits.contains("next start") && waits.contains("12345"), "{waits}");

    std::fs::write(&file, "[storage]\nscrub_rate = 5\nscrub_rat = \"2MiB/s\"\n").unwrap();
    broker.hang_up();
    let refused = broker.says_until("scrub_rat").join("\n");
    assert!(refused.contains("ERROR") && refused.contains("nothing changes"), "{refused}");
    assert_eq!(broker.run(&["topic", "create", "t", "--partitions", "1"], "").code, 0, "it serves on");

    std::fs::write(&file, "[log]\nlevel = \"debug\"\n").unwrap();
    broker.hang_up();
    let said = broker.says_until("the configuration was read again");
    // What is not in the file any more has its default again.
    assert!(about(&said, "storage.scrub_rate").contains("2MiB/s"), "{said:#?}");
    assert!(about(&said, "log.level").contains("debug"), "{said:#?}");
    assert_eq!(broker.terminate(), 0);
}
