//! `streambus topic trim NAME --partition P --before OFFSET`.

use clap::Args;

use crate::args::Global;
use crate::commands::confirm::Confirm;
use crate::failure::Failure;
use crate::{session, terminal};

/// Options of `topic trim`.
#[derive(Debug, Args)]
pub struct TrimArgs {
    /// The topic
    pub name: String,
    /// The partition
    #[arg(short, long, value_name = "P")]
    pub partition: u32,
    /// The first offset to keep
    #[arg(long, value_name = "OFFSET")]
    pub before: u64,
    /// Confirmation.
    #[command(flatten)]
    pub confirm: Confirm,
}

/// Deletes the records.
pub async fn run(global: &Global, args: &TrimArgs) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    args.confirm
        .ask(&format!("delete the records before offset {} of {}/{}", args.before, args.name, args.partition))?;
    match client.admin().trim(&args.name, args.partition, args.before).await {
        Ok(log_start) => {
            if !global.quiet {
                terminal::note(&format!("{}/{} starts at offset {log_start}", args.name, args.partition));
            }
            Ok(())
        }
        Err(error) => Err(session::about_topic(&client, &args.name, error).await),
    }
}
