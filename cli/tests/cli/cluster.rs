//! Commands about brokers and replicas, against one broker: what it has to show, and what it refuses.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;
use streambus_cli::clock::Elapsed;

use crate::process::{Broker, streambus};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn one_broker_describes_itself_and_its_partitions() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    assert_eq!(broker.run(&["topic", "create", "orders", "--partitions", "2"], "").code, 0);
    let brokers = json(&broker.run(&["cluster", "brokers", "-o", "json"], "").stdout);
    assert_eq!((brokers[0]["state"].as_str(), brokers[0]["leaders"].as_u64()), (Some("ready"), Some(2)), "{brokers}");
    assert_eq!(broker.run(&["cluster", "brokers", "-o", "name"], "").stdout.trim(), brokers[0]["id"].to_string());
    let info = json(&broker.run(&["cluster", "info", "-o", "json"], "").stdout);
    assert_eq!((info["healthy"].as_bool(), info["reassigning"].as_u64()), (Some(true), Some(0)), "{info}");
    let topic = json(&broker.run(&["topic", "describe", "orders", "-o", "json"], "").stdout);
    for partition in topic["partitions"].as_array().unwrap() {
        assert_eq!(partition["isr"], partition["replicas"], "{partition}");
        assert!(partition["adding"].as_array().unwrap().is_empty(), "{partition}");
    }
    let unknown = broker.run(&["topic", "transfer-leader", "ordres", "-p", "0"], "");
    assert_ne!(unknown.code, 0);
    let wrong = broker.run(&["topic", "reassign", "orders", "-p", "0"], "");
    assert_eq!(wrong.code, 2, "neither --replicas nor --cancel: {}", wrong.stderr);
    let refused = broker.run(&["cluster", "decommission", "7"], "");
    assert_eq!(refused.code, 2, "without a terminal it needs --yes: {}", refused.stderr);
}

/// An address where somebody listens and says nothing holds nobody up, and neither does one where nobody listens.
#[test]
fn silent_and_dead_addresses_cost_less_than_two_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let addresses = format!("{},{dead},{}", silent.local_addr().unwrap(), broker.address);
    // Which one is asked first is left to chance.
    for args in [&["topic", "list"][..], &["cluster", "info"], &["cluster", "health"], &["topic", "list"]] {
        let began = Elapsed::start();
        let ended = streambus(&[&["-b", addresses.as_str()], args].concat(), "");
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
        assert!(began.get() < Duration::from_secs(2), "{args:?} took {:?}", began.get());
    }
}

// Catches a command that removes a log which nobody put in quarantine, that acts without being told to, or that leaves the
// user without a next step.
#[test]
fn a_log_that_is_served_is_no_stray_and_is_not_discarded() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    assert_eq!(broker.run(&["topic", "create", "orders"], "").code, 0);
    let id = json(&broker.run(&["cluster", "brokers", "-o", "json"], "").stdout)[0]["id"].to_string();
    let strays = broker.run(&["cluster", "strays", "-o", "json"], "");
    assert_eq!((strays.code, json(&strays.stdout)), (0, Value::Array(Vec::new())), "{}", strays.stderr);
    let topic = json(&broker.run(&["topic", "describe", "orders", "-o", "json"], "").stdout);
    let log = format!("{}/0", topic["id"].as_str().unwrap());
    let refused = broker.run(&["cluster", "discard", &id, &log, "--yes"], "");
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("next:") && refused.stderr.contains("cluster strays"), "{}", refused.stderr);
    let unknown = broker.run(&["cluster", "discard", "7", &log, "--yes", "-o", "json"], "");
    assert_eq!(unknown.code, 3, "{}", unknown.stderr);
    assert_eq!(json(&unknown.stderr)["error"]["code"], "UNKNOWN_BROKER", "{}", unknown.stderr);
    let written = broker.run(&["produce", "orders"], "still here\n");
    assert_eq!(written.code, 0, "{}", written.stderr);
}
