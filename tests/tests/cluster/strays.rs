//! What a broker has on its disk that the cluster has given up while it was away.

use streambus_client::{Client, Record, Topic};
use streambus_protocol::ids::TopicId;
use streambus_tests::cluster::{Options, PATIENCE};
use streambus_tests::load::LoadOptions;
use streambus_tests::patience::{wait_for, wait_for_async};
use streambus_tests::run::Run;
use streambus_tests::setting;

use crate::membership::values;

/// Creates a topic of one partition, as often as it is refused, and waits until every broker of `at` knows it.
fn create(run: &Run, name: &str, replicas: u16, at: &[u32]) {
    let topic = Topic::partitions(1).replicas(replicas).config("min.insync.replicas", "1");
    let create = || run.ask(async |bus| bus.admin().create_topic(name, topic.clone()).timeout(PATIENCE).await.ok());
    let id = wait_for(PATIENCE, create).expect("it is created").id;
    for broker in at {
        let address = run.cluster.client_address(*broker).to_string();
        let known = run.ask(async |_| wait_for_async(PATIENCE, || known_at(&address, name, id)).await);
        assert!(known.is_some(), "broker {broker} does not know '{name}':\n{}", run.cluster.log_end(*broker));
    }
}

async fn known_at(address: &str, name: &str, id: TopicId) -> Option<()> {
    let bus = Client::connect(address).await.ok()?;
    let described = bus.admin().describe_topic(name).timeout(PATIENCE).await;
    bus.close().await;
    described.is_ok_and(|topic| topic.id == id).then_some(())
}

/// Writes records to the only partition of a topic, with a client that has not known any other of its name.
fn write(run: &Run, topic: &str, wanted: &[String]) {
    let addresses = run.cluster.client_addresses().join(",");
    run.ask(async |_| {
        let bus = Client::connect(&addresses).await.expect("a broker answers");
        let producer = bus.producer();
        for value in wanted {
            producer.send(Record::new(topic, value.clone()).partition(0)).await.expect("it takes records");
        }
        bus.close().await;
    });
}

/// The records of a topic, with a client that has not known any other of its name.
fn read(run: &Run, topic: &str) -> Vec<String> {
    let addresses = run.cluster.client_addresses().join(",");
    run.ask(async |_| {
        let bus = Client::connect(&addresses).await.expect("a broker answers");
        let found = values(&bus, topic).await;
        bus.close().await;
        found
    })
}

/// A gauge of a broker.
fn gauge(run: &Run, id: u32, name: &str) -> Option<u64> {
    let page = run.cluster.page(id, "/metrics")?;
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Waits until a broker has so many logs, none of which is in quarantine.
fn wait_logs(run: &Run, id: u32, wanted: u64) {
    let found = || ["logs", "stray_logs"].map(|what| gauge(run, id, &format!("streambus_storage_{what}")));
    let reached = wait_for(PATIENCE, || (found() == [Some(wanted), Some(0)]).then_some(()));
    assert!(reached.is_some(), "broker {id} has {:?} logs and not {wanted}:\n{}", found(), run.cluster.log_end(id));
}

/// Catches a log that stays for ever because its broker was down when the topic was deleted, old records in a topic that was
/// created anew under the same name meanwhile, and a broker that deletes what it should serve on its return.
#[test]
fn a_topic_is_deleted_and_created_anew_while_a_broker_is_down() {
    let load = LoadOptions::default();
    let mut run = Run::start("deleted and created anew", &Options::default(), &load);
    let of_load = u64::from(load.partitions);
    let ids = run.cluster.ids();
    for cycle in 0..setting::cycles(1) {
        let id = ids[(setting::seed() + cycle) as usize % ids.len()];
        let others: Vec<u32> = ids.iter().copied().filter(|other| *other != id).collect();
        let name = format!("again-{cycle}");
        create(&run, &name, 3, &ids);
        wait_logs(&run, id, of_load + 1);
        let old: Vec<String> = (0..100).map(|number| format!("old {number}")).collect();
        write(&run, &name, &old);
        assert_eq!(read(&run, &name), old);

        let at_us = run.cluster.kill_nine(id);
        run.wait_recovery(at_us);
        // A topic of two replicas has no place on a broker that is known to be down.
        run.wait_cluster(&format!("broker {id} is fenced"), |cluster| {
            cluster.brokers.iter().any(|broker| broker.endpoint.id.get() == id && broker.fenced)
        });
        run.ask(async |bus| bus.admin().delete_topic(&name).timeout(PATIENCE).await).expect("deleted");
        create(&run, &name, 2, &others);
        let new: Vec<String> = (0..50).map(|number| format!("new {number}")).collect();
        write(&run, &name, &new);
        run.wait_acks(200);
        run.cluster.start_broker(id);
        run.cluster.wait_ready(id);
        wait_logs(&run, id, of_load);

        // It comes to lead the new topic, and has nothing but its records.
        let others = others.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let replicas = format!("{id},{others}");
        let moved = ["topic", "reassign", &name, "--partition", "0", "--replicas", &replicas, "--wait", "60s"];
        run.cluster.command_well(PATIENCE, &moved);
        let lead = ["topic", "transfer-leader", &name, "--partition", "0", "--to", &id.to_string()];
        run.cluster.command_well(PATIENCE, &lead);
        assert_eq!(read(&run, &name), new);
        run.wait_in_sync();
        run.ask(async |bus| bus.admin().delete_topic(&name).timeout(PATIENCE).await).expect("deleted");
        wait_logs(&run, id, of_load);
    }
    run.finish();
}
