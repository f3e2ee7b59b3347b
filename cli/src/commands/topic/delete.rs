//! `streambus topic delete NAME...`.

use clap::Args;

use crate::args::Global;
use crate::commands::confirm::Confirm;
use crate::failure::Failure;
use crate::{session, terminal};

/// Options of `topic delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The topics
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Confirmation.
    #[command(flatten)]
    pub confirm: Confirm,
    /// Only say what would be deleted
    #[arg(long)]
    pub dry_run: bool,
}

/// Deletes the topics, one after the other; stops at the first that fails.
pub async fn run(global: &Global, args: &DeleteArgs) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    for name in &args.names {
        let topic = match client.admin().describe_topic(name).await {
            Ok(topic) => topic,
            Err(error) => return Err(session::about_topic(&client, name, error).await),
        };
        let bytes: u64 = topic.partitions.iter().map(|partition| partition.size_bytes).sum();
        let what = format!(
            "delete topic {name} with {} partition(s) and {}",
            topic.partitions.len(),
            crate::table::bytes_shown(bytes)
        );
        if args.dry_run {
            terminal::note(&format!("would {what}"));
            continue;
        }
        args.confirm.ask(&what)?;
        if let Err(error) = client.admin().delete_topic(name).await {
            return Err(session::about_topic(&client, name, error).await);
        }
        if !global.quiet {
            terminal::note(&format!("{name} deleted"));
        }
    }
    Ok(())
}
