//! `streambus topic alter NAME`.

use std::collections::BTreeMap;

use clap::Args;

use crate::args::{Global, key_value};
use crate::failure::Failure;
use crate::{session, terminal};

/// Options of `topic alter`.
#[derive(Debug, Args)]
pub struct AlterArgs {
    /// The topic
    pub name: String,
    /// A setting and its new value; repeatable
    #[arg(short, long, alias = "set", value_parser = key_value, value_name = "KEY=VALUE")]
    #[arg(required_unless_present = "unset")]
    pub config: Vec<(String, String)>,
    /// A setting that returns to its default; repeatable
    #[arg(long, alias = "remove", value_name = "KEY")]
    pub unset: Vec<String>,
}

/// Changes the configuration.
pub async fn run(global: &Global, args: &AlterArgs) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let set: BTreeMap<String, String> = args.config.iter().cloned().collect();
    if let Err(error) = client.admin().alter_topic(&args.name, set, args.unset.clone()).await {
        return Err(session::about_topic(&client, &args.name, error).await);
    }
    if !global.quiet {
        terminal::note(&format!("{} altered", args.name));
    }
    Ok(())
}
