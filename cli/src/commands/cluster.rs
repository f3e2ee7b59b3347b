//! `streambus cluster ...`: one file per subcommand.

pub mod brokers;
pub mod decommission;
pub mod drain;
pub mod overview;
pub mod strays;

use clap::Subcommand;

use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::session;

/// What to do with the cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Brokers, controller, topics and partitions
    Info,
    /// Is everything as it should be? Exit code 7 when it is not
    Health,
    /// List the brokers
    Brokers,
    /// Move everything off a broker, and wait until that is done
    Drain(drain::DrainArgs),
    /// Let a drained broker take part again
    Undrain(drain::UndrainArgs),
    /// Drain a broker, wait until it is stopped, and forget it
    Decommission(decommission::DecommissionArgs),
    /// List the logs in quarantine: on a broker's disk, and not known to belong there
    Strays(strays::StraysArgs),
    /// Remove one log in quarantine from a broker's disk, for good
    Discard(strays::DiscardArgs),
}

/// Runs one of them.
pub fn run(global: &Global, command: &ClusterCommand) -> Result<Exit, Failure> {
    session::block_on(async {
        match command {
            ClusterCommand::Info => overview::run(global, false).await,
            ClusterCommand::Health => overview::run(global, true).await,
            ClusterCommand::Brokers => brokers::run(global).await,
            ClusterCommand::Drain(args) => drain::run(global, args).await,
            ClusterCommand::Undrain(args) => drain::undo(global, args).await,
            ClusterCommand::Decommission(args) => decommission::run(global, args).await,
            ClusterCommand::Strays(args) => strays::list(global, args).await,
            ClusterCommand::Discard(args) => strays::discard(global, args).await,
        }
    })
}
