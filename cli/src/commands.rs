//! One file per command; this is the dispatcher.

pub mod bench;
pub mod cluster;
pub mod completion;
pub mod config;
pub mod confirm;
pub mod consume;
pub mod dev;
pub mod log;
pub mod offset;
pub mod produce;
pub mod server;
pub mod tail;
pub mod topic;
pub mod version;

use crate::args::{Cli, Command};
use crate::failure::{Exit, Failure};

/// Runs one command to its end.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    let global = cli.global;
    match cli.command {
        Command::Server(args) => server::run(&global, &args),
        Command::Dev(args) => dev::run(&global, &args),
        Command::Topic(command) => topic::run(&global, &command),
        Command::Produce(args) => produce::run(&global, &args),
        Command::Consume(args) => consume::run(&global, &args),
        Command::Tail(args) => tail::run(&global, &args),
        Command::Offset(command) => offset::run(&global, &command),
        Command::Cluster(command) => cluster::run(&global, &command),
        Command::Log(command) => log::run(&global, &command),
        Command::Config(command) => config::run(&global, &command),
        Command::Bench(command) => bench::run(&global, &command),
        Command::Completion(args) => completion::run(&args),
        Command::Version => version::run(&global),
    }
}
