//! `streambus topic ...`: one file per subcommand.

pub mod add_partitions;
pub mod alter;
pub mod create;
pub mod delete;
pub mod describe;
pub mod list;
pub mod reassign;
pub mod transfer_leader;
pub mod trim;

use clap::Subcommand;

use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::session;

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    Create(create::CreateArgs),
    /// List topics
    List(list::ListArgs),
    /// Show a topic's configuration and the state of its partitions
    Describe(describe::DescribeArgs),
    /// Delete a topic and its records
    Delete(delete::DeleteArgs),
    /// Give a topic more partitions
    AddPartitions(add_partitions::AddPartitionsArgs),
    /// Change a topic's configuration
    Alter(alter::AlterArgs),
    /// Give a partition another leader
    TransferLeader(transfer_leader::TransferLeaderArgs),
    /// Move a partition to other brokers
    Reassign(reassign::ReassignArgs),
    /// Delete the oldest records of a partition
    Trim(trim::TrimArgs),
}

/// Runs one of them.
pub fn run(global: &Global, command: &TopicCommand) -> Result<Exit, Failure> {
    session::block_on(async {
        match command {
            TopicCommand::Create(args) => create::run(global, args).await,
            TopicCommand::List(args) => list::run(global, args).await,
            TopicCommand::Describe(args) => describe::run(global, args).await,
            TopicCommand::Delete(args) => delete::run(global, args).await,
            TopicCommand::AddPartitions(args) => add_partitions::run(global, args).await,
            TopicCommand::Alter(args) => alter::run(global, args).await,
            TopicCommand::TransferLeader(args) => transfer_leader::run(global, args).await,
            TopicCommand::Reassign(args) => reassign::run(global, args).await,
            TopicCommand::Trim(args) => trim::run(global, args).await,
        }
    })?;
    Ok(Exit::Ok)
}
