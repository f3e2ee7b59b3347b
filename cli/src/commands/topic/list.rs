//! `streambus topic list`.

use clap::Args;
use serde::Serialize;
use streambus_protocol::api::topics::TopicListing;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Present};
use crate::session;
use crate::table::{Column, Table};

/// Options of `topic list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Show topics that the broker made for itself too
    #[arg(long)]
    pub internal: bool,
}

#[derive(Serialize)]
struct Item {
    name: String,
    id: String,
    partitions: u32,
    replication_factor: u16,
    internal: bool,
}

struct Topics(Vec<TopicListing>);

impl Present for Topics {
    type Item = Item;

    fn items(&self) -> Vec<Item> {
        let item = |topic: &TopicListing| Item {
            name: topic.name.to_string(),
            id: topic.id.to_string(),
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            internal: topic.internal,
        };
        self.0.iter().map(item).collect()
    }

    fn is_list(&self) -> bool {
        true
    }

    fn text(&self, wide: bool) -> String {
        let mut columns = vec![Column::Text("TOPIC"), Column::Number("PARTITIONS"), Column::Number("REPLICATION")];
        if wide {
            columns.push(Column::Text("ID"));
        }
        let mut table = Table::new(&columns);
        for topic in self.items() {
            let mut row = vec![topic.name, topic.partitions.to_string(), topic.replication_factor.to_string()];
            if wide {
                row.push(topic.id);
            }
            table.row(row);
        }
        table.render()
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|topic| topic.name.to_string()).collect()
    }
}

/// Prints the topics.
pub async fn run(global: &Global, args: &ListArgs) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let mut topics = client.admin().list_topics().await.map_err(|error| session::from_client(&error))?;
    topics.retain(|topic| args.internal || !topic.internal);
    Output::stdout().present(&Topics(topics), global.output)
}
