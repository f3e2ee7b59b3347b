//! `streambus topic add-partitions NAME --total N`.

use clap::Args;

use crate::args::Global;
use crate::failure::Failure;
use crate::{session, terminal};

/// Options of `topic add-partitions`.
#[derive(Debug, Args)]
pub struct AddPartitionsArgs {
    /// The topic
    pub name: String,
    /// How many partitions it shall have; keys may move to other partitions from then on
    #[arg(long, alias = "partitions", value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub total: u32,
}

/// Grows the topic.
pub async fn run(global: &Global, args: &AddPartitionsArgs) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    if let Err(error) = client.admin().add_partitions(&args.name, args.total).await {
        return Err(session::about_topic(&client, &args.name, error).await);
    }
    if !global.quiet {
        terminal::note(&format!("{} has {} partitions", args.name, args.total));
    }
    Ok(())
}
