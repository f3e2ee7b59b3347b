//! `streambus topic create NAME`.

use clap::Args;
use serde::Serialize;
use streambus_client::Topic;
use streambus_protocol::error_code::ErrorCode;

use crate::args::{Global, key_value};
use crate::failure::Failure;
use crate::output::{Output, OutputMode, Present};
use crate::{session, terminal};

/// Options of `topic create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name: letters, digits, '.', '_' and '-'
    pub name: String,
    /// How many partitions [default: the broker's]
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub partitions: Option<u32>,
    /// How many replicas of each partition [default: the broker's]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..), value_name = "R")]
    pub replicas: Option<u16>,
    /// A setting that differs from the default, such as retention.ms=86400000; repeatable
    #[arg(short, long, value_parser = key_value, value_name = "KEY=VALUE")]
    pub config: Vec<(String, String)>,
    /// Only check whether it could be created
    #[arg(long)]
    pub dry_run: bool,
    /// Succeed when a topic of that name exists already, whatever its settings
    #[arg(long)]
    pub if_not_exists: bool,
}

#[derive(Clone, Serialize)]
struct Created {
    name: String,
    id: String,
    partitions: u32,
    replication_factor: u16,
    created: bool,
}

impl Present for Created {
    type Item = Created;

    fn items(&self) -> Vec<Created> {
        vec![self.clone()]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, wide: bool) -> String {
        let what = if self.created { "created" } else { "could be created" };
        let id = if wide { format!("  id {}", self.id) } else { String::new() };
        format!("{} {what}: {} partition(s), replication {}{id}\n", self.name, self.partitions, self.replication_factor)
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

/// Creates the topic.
pub async fn run(global: &Global, args: &CreateArgs) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let mut topic = Topic::partitions(args.partitions.unwrap_or(0)).replicas(args.replicas.unwrap_or(0));
    for (key, value) in &args.config {
        topic = topic.config(key, value);
    }
    if args.dry_run {
        topic = topic.validate_only();
    }
    let response = match client.admin().create_topic(&args.name, topic).await {
        Ok(response) => response,
        Err(error) if args.if_not_exists && error.code() == Some(ErrorCode::TopicExists) => {
            if !global.quiet {
                terminal::note(&format!("topic {} exists already", args.name));
            }
            return Ok(());
        }
        Err(error) => return Err(session::about_topic(&client, &args.name, error).await),
    };
    let created = Created {
        name: args.name.clone(),
        id: response.id.to_string(),
        partitions: response.partitions,
        replication_factor: response.replication_factor,
        created: !args.dry_run,
    };
    // For people this is a note; data on standard output is for those who asked for a form.
    match global.output {
        None | Some(OutputMode::Table) => {
            if !global.quiet {
                terminal::note(&created.text(false));
            }
            Ok(())
        }
        mode => Output::stdout().present(&created, mode),
    }
}
