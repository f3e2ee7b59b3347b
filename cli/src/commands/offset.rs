//! `streambus offset earliest|latest|for-time TOPIC`.

use clap::{Args, Subcommand};
use serde::Serialize;
use streambus_protocol::api::offsets::OffsetQuery;
use streambus_protocol::timestamp::Timestamp;

use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Present};
use crate::table::{Column, Table};
use crate::{clock, instant, session};

/// Which offsets to find.
#[derive(Debug, Subcommand)]
pub enum OffsetCommand {
    /// The first offset that is still there
    Earliest(Selection),
    /// The offset that the next readable record will get
    Latest(Selection),
    /// The first record at or after a time
    ForTime(ForTime),
}

/// A topic and some of its partitions.
#[derive(Debug, Args)]
pub struct Selection {
    /// The topic
    pub topic: String,
    /// Only this partition; repeatable
    #[arg(short, long, value_name = "P")]
    pub partition: Vec<u32>,
}

/// A selection and a time.
#[derive(Debug, Args)]
pub struct ForTime {
    /// The topic
    pub topic: String,
    /// 2026-11-20T08:30:00Z, a date, milliseconds since 1970, 'now', or an age such as 1h
    #[arg(allow_hyphen_values = true)]
    pub time: String,
    /// Only this partition; repeatable
    #[arg(short, long, value_name = "P")]
    pub partition: Vec<u32>,
}

#[derive(Clone, Serialize)]
struct Item {
    topic: String,
    partition: u32,
    offset: u64,
    timestamp: Option<i64>,
}

struct Offsets(Vec<Item>);

impl Present for Offsets {
    type Item = Item;

    fn items(&self) -> Vec<Item> {
        self.0.clone()
    }

    fn is_list(&self) -> bool {
        true
    }

    fn text(&self, _wide: bool) -> String {
        let mut table = Table::new(&[
            Column::Text("TOPIC"),
            Column::Number("PARTITION"),
            Column::Number("OFFSET"),
            Column::Text("TIME"),
        ]);
        for item in &self.0 {
            let time = item.timestamp.map_or("-".to_owned(), instant::format_iso);
            table.row([item.topic.clone(), item.partition.to_string(), item.offset.to_string(), time]);
        }
        table.render()
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|item| item.offset.to_string()).collect()
    }
}

/// Prints the offsets.
pub fn run(global: &Global, command: &OffsetCommand) -> Result<Exit, Failure> {
    let (topic, partitions, query) = match command {
        OffsetCommand::Earliest(selection) => (&selection.topic, &selection.partition, OffsetQuery::Earliest),
        OffsetCommand::Latest(selection) => (&selection.topic, &selection.partition, OffsetQuery::Latest),
        OffsetCommand::ForTime(selection) => {
            let millis =
                instant::parse(&selection.time, clock::now_ms()).map_err(|error| Failure::usage(error.to_string()))?;
            (&selection.topic, &selection.partition, OffsetQuery::At(Timestamp::from_millis(millis)))
        }
    };
    session::block_on(async {
        let client = session::connect(global).await?;
        let found = session::offsets(&client, topic, partitions, query).await?;
        let items = found
            .into_iter()
            .map(|found| Item {
                topic: topic.clone(),
                partition: found.partition,
                offset: found.offset,
                timestamp: (found.timestamp != Timestamp::NONE).then_some(found.timestamp.as_millis()),
            })
            .collect();
        Output::stdout().present(&Offsets(items), global.output)?;
        Ok(Exit::Ok)
    })
}
