//! `streambus topic describe NAME`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use streambus_protocol::api::topics::{DescribeTopicResponse, PartitionDescription};
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
    log_start: u64,
    high_watermark: u64,
    log_end: u64,
    size_bytes: u64,
    damaged: Vec<DamagedItem>,
}

#[derive(Serialize)]
struct DamagedItem {
    base: u64,
    end: u64,
}

struct Description(DescribeTopicResponse);

fn numbers(brokers: &[BrokerId]) -> Vec<u32> {
    brokers.iter().map(|broker| broker.get()).collect()
}

fn joined(brokers: &[BrokerId]) -> String {
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
        log_start: partition.log_start.get(),
        high_watermark: partition.high_watermark.get(),
        log_end: partition.log_end.get(),
        size_bytes: partition.size_bytes,
        damaged: partition.damaged.iter().map(|(base, end)| DamagedItem { base: base.get(), end: end.get() }).collect(),
    }
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
            Column::Number("START"),
            Column::Number("END"),
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
                grouped(partition.log_start.get()),
                grouped(partition.high_watermark.get()),
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
    if layout.isr.len() < layout.replicas.len() { "under-replicated".to_owned() } else { "ok".to_owned() }
}

/// Prints the description.
pub async fn run(global: &Global, args: &DescribeArgs) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    match client.admin().describe_topic(&args.name).await {
        Ok(topic) => Output::stdout().present(&Description(topic), global.output),
        Err(error) => Err(session::about_topic(&client, &args.name, error).await),
    }
}
