//! The command line: global options and the closed list of commands. Each command's own options are in its file.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    bench::BenchCommand, cluster::ClusterCommand, completion::CompletionArgs, config::ConfigCommand,
    consume::ConsumeArgs, dev::DevArgs, log::LogCommand, offset::OffsetCommand, produce::ProduceArgs,
    server::ServerArgs, tail::TailArgs, topic::TopicCommand, version::VERSION,
};
use crate::instant;
use crate::output::OutputMode;

/// The default address of a broker.
pub const BROKER_DEFAULT: &str = "127.0.0.1:9092";

/// StreamBus: a replicated streaming broker, and every tool to use it.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict, 5 not allowed, 6 timeout, 7 unhealthy.
#[derive(Debug, Parser)]
#[command(name = "streambus", version = VERSION, propagate_version = false, disable_help_subcommand = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Brokers to ask first, as host:port; several with commas or by repeating. Any one that answers suffices
    #[arg(short, long, global = true, env = "STREAMBUS_BROKERS", value_name = "HOST:PORT", value_delimiter = ',',
        default_value = BROKER_DEFAULT)]
    pub brokers: Vec<String>,
    /// How results are written
    #[arg(short, long, global = true, env = "STREAMBUS_OUTPUT", value_enum, value_name = "MODE")]
    pub output: Option<OutputMode>,
    /// The longest an operation may take, with a unit: 500ms, 10s, 2m [default: the client's, 10s]
    #[arg(long, global = true, env = "STREAMBUS_TIMEOUT", value_parser = duration, value_name = "TIME")]
    pub timeout: Option<Duration>,
    /// Never colour anything (NO_COLOR is obeyed too)
    #[arg(long, global = true)]
    pub no_color: bool,
    /// No notes and no progress, only data and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice shows the log of the client
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Every command of the product.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a broker
    Server(Box<ServerArgs>),
    /// Run a broker on a directory that is removed afterwards, to try things
    Dev(DevArgs),
    /// Create, list, describe, change and delete topics
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Send records from standard input
    Produce(ProduceArgs),
    /// Print records
    Consume(ConsumeArgs),
    /// Print records that arrive from now on
    Tail(TailArgs),
    /// Find offsets: the first, the next, or those of a time
    #[command(subcommand)]
    Offset(OffsetCommand),
    /// Look at the cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Read a broker's data directory while the broker is stopped
    #[command(subcommand)]
    Log(LogCommand),
    /// Show and check a broker's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Measure the cluster, and check that nothing is lost, doubled or out of order
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print the completion script of a shell
    Completion(CompletionArgs),
    /// Print the version
    Version,
}

/// Reads a duration with its unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    instant::parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "write a number and a unit: 500ms, 10s, 2m, 1h, 7d".to_owned())
}

/// Reads a number of bytes, with or without a unit.
pub fn bytes(text: &str) -> Result<u64, String> {
    instant::parse_bytes(text).ok_or_else(|| "write a number of bytes, or one with a unit: 64KiB, 1MiB, 5MB".to_owned())
}

/// Reads `key=value`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("write key=value, for example retention.ms=86400000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// These spellings are in scripts; a change here breaks them.
    #[test]
    fn the_fixed_spellings_parse() {
        for line in [
            "streambus server --data-dir d --listen 127.0.0.1:0 --http 127.0.0.1:0",
            "streambus server --broker-id 1 --data-dir d --listen h:1 --cluster-listen h:2 --http h:3 --peers 1@h:2,2@i:2,3@j:2",
            "streambus server --broker-id 1 --data-dir d --listen h:1 --cluster-listen h:2 --http h:3 --peers 1@h:2 --rack r",
            "streambus -b a:1,b:2,c:3 topic create orders --partitions 3 --replicas 3",
            "streambus -b a:1 -b b:2 -b c:3 topic describe orders",
            "streambus -b a:1,b:2 topic transfer-leader orders --partition 0",
            "streambus -b a:1,b:2 topic transfer-leader orders --partition 0 --to 2",
            "streambus -b a:1 topic create orders --partitions 3 --replicas 1 --config retention.ms=1 --config durability=sync",
            "streambus -b a:1 produce orders -f %k\\t%v\\n --acks all",
            "streambus -b a:1 produce orders -f %v --acks none -o json",
            "streambus -b a:1 consume orders -e -f %p --from -5",
            "streambus -b a:1 consume orders -e -o json",
            "streambus -b a:1 topic describe orders -o json",
            "streambus -b a:1 cluster info -o json",
            "streambus log verify dir -o json",
            "streambus -b a:1 bench produce --topic t --record-size 100 --records 10 --acks all -o json",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}\n{error}");
            }
        }
    }

    #[test]
    fn brokers_come_with_commas_repeated_and_on_either_side() {
        let cli = parse("streambus -b a:1,b:2 topic list -b c:3").unwrap();
        // clap keeps the occurrences of the innermost place; either way no address is split or lost within one flag.
        assert!(cli.global.brokers.contains(&"c:3".to_owned()));
        let cli = parse("streambus -b a:1,b:2 -b c:3 topic list").unwrap();
        assert_eq!(cli.global.brokers, ["a:1", "b:2", "c:3"]);
    }

    #[test]
    fn usage_errors_exit_with_two() {
        for line in [
            "streambus",
            "streambus topic crate x",
            "streambus topic create x --config y",
            "streambus --timeout 10 version",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
