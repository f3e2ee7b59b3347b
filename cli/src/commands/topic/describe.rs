//! `streambus topic describe NAME`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use streambus_protocol::api::topics::{DescribeTopicResponse, PartitionDescription, ReplicaDescription};
use streambus_protocol::ids::BrokerId;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Present};
use crate::session;
use crate::table::{Column, Table, bytes_shown, grouped};

/// Options of `topic describe`.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// The topic
    pub name: String,
}

#[derive(Serialize)]
struct Item {
    name: String,
    id: String,
    partition_count: usize,
    replication_factor: usize,
    config: BTreeMap<String, String>,
    overridden: Vec<String>,
    partitions: Vec<PartitionItem>,
}

#[derive(Serialize)]
struct PartitionItem {
    partition: u32,
    leader: Option<u32>,
    leader_epoch: u32,
    partition_epoch: u32,
    replicas: Vec<u32>,
    isr: Vec<u32>,
    elr: Vec<u32>,
    last_known_elr: Vec<u32>,
    adding: Vec<u32>,
    removing: Vec<u32>,
    /// What the move may send in a second, if it has a limit of its own; zero for no limit.
    throttle_bytes_per_second: Option<u64>,
    recovering: bool,
    log_start: u64,
    high_watermark: u64,
    log_end: u64,
    size_bytes: u64,
    damaged: Vec<DamagedItem>,
    /// Empty when the leader did not answer.
    replica_states: Vec<ReplicaItem>,
}

#[derive(Serialize)]
struct ReplicaItem {
    broker: u32,
    log_end: u64,
    durable_end: u64,
    lag_records: u64,
    in_sync: bool,
    caught_up_ms_ago: Option<u64>,
    lag_bytes: u64,
    bytes_per_second: u64,
}

#[derive(Serialize)]
struct DamagedItem {
    base: u64,
    end: u64,
}

struct Description(DescribeTopicResponse);

/// Broker ids as numbers.
pub fn numbers(brokers: &[BrokerId]) -> Vec<u32> {
    brokers.iter().map(|broker| broker.get()).collect()
}

/// Broker ids with commas.
pub fn joined(brokers: &[BrokerId]) -> String {
    brokers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn partition_item(partition: &PartitionDescription) -> PartitionItem {
    let layout = &partition.layout;
    PartitionItem {
        partition: layout.index.get(),
        leader: layout.leader.map(BrokerId::get),
        leader_epoch: layout.leader_epoch.get(),
        partition_epoch: layout.partition_epoch.get(),
        replicas: numbers(&layout.replicas),
        isr: numbers(&layout.isr),
        elr: numbers(&partition.elr),
        last_known_elr: numbers(&partition.last_known_elr),
        adding: numbers(&partition.adding),
        removing: numbers(&partition.removing),
        throttle_bytes_per_second: partition.throttle,
        recovering: partition.recovering,
        log_start: partition.log_start.get(),
        high_watermark: partition.high_watermark.get(),
        log_end: partition.log_end.get(),
        size_bytes: partition.size_bytes,
        damaged: partition.damaged.iter().map(|(base, end)| DamagedItem { base: base.get(), end: end.get() }).collect(),
        replica_states: partition.replica_states.iter().map(replica_item).collect(),
    }
}

fn replica_item(state: &ReplicaDescription) -> ReplicaItem {
    ReplicaItem {
        broker: state.broker.get(),
        log_end: state.log_end.get(),
        durable_end: state.durable_end.get(),
        lag_records: state.lag_records,
        in_sync: state.in_sync,
        caught_up_ms_ago: state.caught_up_ms_ago,
        lag_bytes: state.lag_bytes,
        bytes_per_second: state.bytes_per_second,
    }
}

/// How far a replica out of sync is, as in `1.2 GiB left at 32.0 MiB/s`; a dash when it is in sync.
fn catching_up(state: &ReplicaDescription) -> String {
    match (state.in_sync, state.bytes_per_second) {
        (true, _) => "-".to_owned(),
        (false, 0) => format!("{} left", bytes_shown(state.lag_bytes)),
        (false, rate) => format!("{} left at {}/s", bytes_shown(state.lag_bytes), bytes_shown(rate)),
    }
}

/// What each follower lacks, as in `2:0 3:1,204`; a question mark when the leader did not answer.
fn lags(partition: &PartitionDescription) -> String {
    let followers = partition.replica_states.iter().filter(|state| Some(state.broker) != partition.layout.leader);
    let lags: Vec<String> = followers.map(|state| format!("{}:{}", state.broker, grouped(state.lag_records))).collect();
    match (lags.is_empty(), partition.layout.replicas.len() > 1) {
        (false, _) => lags.join(" "),
        (true, true) => "?".to_owned(),
        (true, false) => "-".to_owned(),
    }
}

/// Every replica, one line each.
fn replicas(topic: &DescribeTopicResponse) -> Table {
    let mut table = Table::new(&[
        Column::Number("PARTITION"),
        Column::Number("BROKER"),
        Column::Text("ROLE"),
        Column::Text("IN SYNC"),
        Column::Number("LOG END"),
        Column::Number("ON DISK"),
        Column::Number("LAG"),
        Column::Text("CAUGHT UP"),
        Column::Text("CATCHING UP"),
    ]);
    for partition in &topic.partitions {
        for state in &partition.replica_states {
            let leads = partition.layout.leader == Some(state.broker);
            table.row([
                partition.layout.index.to_string(),
                state.broker.to_string(),
                if leads { "leader" } else { "follower" }.to_owned(),
                if state.in_sync { "yes" } else { "no" }.to_owned(),
                grouped(state.log_end.get()),
                grouped(state.durable_end.get()),
                grouped(state.lag_records),
                state.caught_up_ms_ago.map_or("not yet".to_owned(), |ms| format!("{} ms ago", grouped(ms))),
                catching_up(state),
            ]);
        }
    }
    table
}

impl Present for Description {
    type Item = Item;

    fn items(&self) -> Vec<Item> {
        let topic = &self.0;
        vec![Item {
            name: topic.name.to_string(),
            id: topic.id.to_string(),
            partition_count: topic.partitions.len(),
            replication_factor: topic.partitions.first().map_or(0, |partition| partition.layout.replicas.len()),
            config: topic.config.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect(),
            overridden: topic.config.iter().filter(|e| !e.is_default).map(|e| e.key.clone()).collect(),
            partitions: topic.partitions.iter().map(partition_item).collect(),
        }]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, wide: bool) -> String {
        let topic = &self.0;
        let mut text = format!("Topic   {}  (id {})\n", topic.name, topic.id);
        for entry in topic.config.iter().filter(|entry| wide || !entry.is_default) {
            let origin = if entry.is_default { "  (default)" } else { "" };
            let _infallible = writeln!(text, "Config  {} = {}{origin}", entry.key, entry.value);
        }
        let mut columns = vec![
            Column::Number("PARTITION"),
            Column::Text("LEADER"),
            Column::Text("REPLICAS"),
            Column::Text("ISR"),
            Column::Text("ELR"),
            Column::Number("START"),
            Column::Number("END"),
            Column::Text("LAG"),
            Column::Number("SIZE"),
            Column::Text("STATE"),
        ];
        if wide {
            columns.push(Column::Number("EPOCH"));
            columns.push(Column::Number("LOG END"));
        }
        let mut table = Table::new(&columns);
        for partition in &topic.partitions {
            let layout = &partition.layout;
            let mut row = vec![
                layout.index.to_string(),
                layout.leader.map_or("none".to_owned(), |leader| leader.to_string()),
                joined(&layout.replicas),
                joined(&layout.isr),
                if partition.elr.is_empty() { "-".to_owned() } else { joined(&partition.elr) },
                grouped(partition.log_start.get()),
                grouped(partition.high_watermark.get()),
                lags(partition),
                bytes_shown(partition.size_bytes),
                state(partition),
            ];
            if wide {
                row.push(layout.leader_epoch.to_string());
                row.push(grouped(partition.log_end.get()));
            }
            table.row(row);
        }
        text.push_str(&table.render());
        let behind =
            topic.partitions.iter().flat_map(|partition| &partition.replica_states).any(|state| !state.in_sync);
        if behind || (wide && topic.partitions.iter().any(|partition| !partition.replica_states.is_empty())) {
            text.push('\n');
            text.push_str(&replicas(topic).render());
        }
        text
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.name.to_string()]
    }
}

/// What is wrong with a partition, worst first; `ok` when nothing is.
fn state(partition: &PartitionDescription) -> String {
    let layout = &partition.layout;
    if layout.leader.is_none() {
        return "no leader".to_owned();
    }
    if let Some((base, end)) = partition.damaged.first() {
        let more = partition.damaged.len() - 1;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return format!("damaged {base}..{end}{more}");
    }
    if partition.recovering {
        return "recovering".to_owned();
    }
    if !partition.adding.is_empty() || !partition.removing.is_empty() {
        let limit = match partition.throttle {
            None => String::new(),
            Some(0) => " without a limit".to_owned(),
            Some(limit) => format!(" at {}/s at most", bytes_shown(limit)),
        };
        return format!("moving to {}{limit}", joined(&after_move(partition)));
    }
    if layout.isr.len() < layout.replicas.len() { "under-replicated".to_owned() } else { "ok".to_owned() }
}

/// Where a partition that is being moved will be.
fn after_move(partition: &PartitionDescription) -> Vec<BrokerId> {
    partition.layout.replicas.iter().copied().filter(|replica| !partition.removing.contains(replica)).collect()
}

/// Prints the description.
pub async fn run(global: &Global, args: &DescribeArgs) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    match client.admin().describe_topic(&args.name).await {
        Ok(topic) => Output::stdout().present(&Description(topic), global.output),
        Err(error) => Err(session::about_topic(&client, &args.name, error).await),
    }
}

#[cfg(test)]
mod tests {
    use streambus_protocol::api::metadata::PartitionLayout;
    use streambus_protocol::epoch::{LeaderEpoch, PartitionEpoch};
    use streambus_protocol::ids::{PartitionIndex, TopicId, TopicName};
    use streambus_protocol::offset::Offset;

    use super::*;

    fn brokers(ids: &[u32]) -> Vec<BrokerId> {
        ids.iter().copied().map(BrokerId::new).collect()
    }

    fn partition(isr: &[u32], lag_records: u64) -> PartitionDescription {
        let offset = |offset| Offset::new(offset).unwrap();
        let replica = |broker, lag_records, in_sync| ReplicaDescription {
            broker: BrokerId::new(broker),
            log_end: offset(2_000 - lag_records),
            durable_end: offset(2_000 - lag_records),
            lag_records,
            in_sync,
            caught_up_ms_ago: in_sync.then_some(3),
            lag_bytes: lag_records * 1_024,
            bytes_per_second: if in_sync { 0 } else { 3 << 20 },
        };
        PartitionDescription {
            layout: PartitionLayout {
                index: PartitionIndex::new(0),
                leader: isr.first().copied().map(BrokerId::new),
                leader_epoch: LeaderEpoch::new(7),
                partition_epoch: PartitionEpoch::new(9),
                replicas: brokers(&[1, 2, 3]),
                isr: brokers(isr),
            },
            log_start: Offset::ZERO,
            high_watermark: offset(1_990),
            log_end: offset(2_000),
            size_bytes: 1,
            damaged: Vec::new(),
            elr: brokers(&[3]),
            last_known_elr: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
            throttle: None,
            recovering: false,
            replica_states: vec![replica(1, 0, true), replica(2, 0, true), replica(3, lag_records, false)],
        }
    }

    fn topic(partition: PartitionDescription) -> Description {
        Description(DescribeTopicResponse {
            name: TopicName::new("orders").unwrap(),
            id: TopicId::from_bytes([1; 16]),
            config: Vec::new(),
            partitions: vec![partition],
        })
    }

    #[test]
    fn a_partition_shows_its_leader_its_sets_its_watermarks_and_every_lag() {
        let text = topic(partition(&[1, 2], 1_204)).text(false);
        for part in ["1,2,3", " 1,2 ", "1,990", "2:0 3:1,204", "under-replicated"] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        let wide = topic(partition(&[1, 2], 1_204)).text(true);
        assert!(wide.contains("follower  no") && wide.contains("not yet") && wide.contains("3 ms ago"), "{wide}");
        let item = &topic(partition(&[1, 2], 1_204)).items()[0];
        let json = serde_json::to_value(item).unwrap();
        let partition = &json["partitions"][0];
        assert_eq!((&partition["leader"], &partition["leader_epoch"]), (&1.into(), &7.into()));
        assert_eq!(partition["elr"], serde_json::json!([3]));
        assert_eq!(partition["replica_states"][2]["lag_records"], 1_204);
    }

    #[test]
    fn what_is_wrong_with_a_partition_is_said_worst_first() {
        assert_eq!(state(&partition(&[], 0)), "no leader");
        assert_eq!(state(&PartitionDescription { recovering: true, ..partition(&[1], 0) }), "recovering");
        let moving = PartitionDescription { adding: brokers(&[3]), removing: brokers(&[1]), ..partition(&[1, 2], 0) };
        assert_eq!(state(&moving), "moving to 2,3");
        let throttled = |throttle| state(&PartitionDescription { throttle: Some(throttle), ..moving.clone() });
        assert_eq!(throttled(10 << 20), "moving to 2,3 at 10.0 MiB/s at most");
        assert_eq!(throttled(0), "moving to 2,3 without a limit");
        assert_eq!(state(&partition(&[1, 2, 3], 0)), "ok");
        assert_eq!(lags(&PartitionDescription { replica_states: Vec::new(), ..partition(&[1], 0) }), "?");
    }
}
