//! `streambus bench produce|consume|tail|e2e`: runs a workload of the benchmark crate and prints its report.

mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use streambus_bench::limits::Limits;
use streambus_bench::report::Report;
use streambus_bench::stamp::Filler;
use streambus_bench::tally::Tally;
use streambus_bench::workload::consume::ConsumeOptions;
use streambus_bench::workload::error::WorkloadError;
use streambus_bench::workload::produce::ProduceOptions;
use streambus_bench::workload::setup::Common;
use streambus_bench::workload::tail::TailOptions;
use streambus_bench::workload::{consume, e2e, produce, tail};
use streambus_client::Topic;

use super::produce::{AcksArg, CompressionArg, producer_config};
use crate::args::{Global, bytes, duration};
use crate::failure::{Exit, Failure};
use crate::output::{Output, Present};
use crate::{session, terminal};

/// Records that a client keeps in flight unless told otherwise.
const IN_FLIGHT_DEFAULT: u32 = 20_000;

/// Which workload to run.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Send as fast as acknowledgements come, or single records at a fixed rate
    Produce(ProduceBenchArgs),
    /// Read what is there from the beginning, as fast as it comes
    Consume(ConsumeBenchArgs),
    /// Write what fits into the broker's tail cache, and read it from there several times, as fast as it comes
    Tail(TailBenchArgs),
    /// Send at a fixed rate and consume at the same time; latency from when a record was due
    E2e(E2eBenchArgs),
}

/// Options of every workload.
#[derive(Clone, Debug, Args)]
pub struct CommonArgs {
    /// The topic
    #[arg(short, long)]
    pub topic: String,
    /// Clients, each with a connection of its own
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub clients: u16,
    /// The process id of a broker on this machine, to account its CPU time and memory
    #[arg(long, value_name = "PID")]
    pub broker_pid: Option<u32>,
    /// This machine's own limits, as `streambus-micro -o json` wrote them in the same run, to stand beside the result
    #[arg(long, value_name = "FILE")]
    pub limits: Option<PathBuf>,
}

/// Options of workloads that send.
#[derive(Clone, Debug, Args)]
pub struct SendArgs {
    /// Bytes of a record's value; from 24 on each record carries a stamp that proves its fate
    #[arg(short = 's', long, default_value = "100", value_parser = bytes, value_name = "BYTES")]
    pub record_size: u64,
    /// When a record counts as sent
    #[arg(long, value_enum, default_value = "all")]
    pub acks: AcksArg,
    /// Compression of batches
    #[arg(short = 'z', long, value_enum, default_value = "none")]
    pub compression: CompressionArg,
    /// The largest batch [default: the client's]
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub batch_bytes: Option<u64>,
    /// Wait this long for more records before sending a batch [default: never wait]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub linger: Option<Duration>,
    /// Keys to spread records over, 0 for records without a key
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub keys: u32,
    /// What values are filled with
    #[arg(long, value_enum, default_value = "random")]
    pub filler: FillerArg,
    /// Partitions of the topic, which is created first when it does not exist
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub partitions: u32,
}

/// What values are filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FillerArg {
    /// Bytes that no codec can shrink.
    Random,
    /// Text like JSON events.
    Text,
}

/// Options of `bench produce`.
#[derive(Clone, Debug, Args)]
pub struct ProduceBenchArgs {
    /// Options of every workload.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Options of workloads that send.
    #[command(flatten)]
    pub send: SendArgs,
    /// Records of all clients together
    #[arg(short = 'n', long, default_value_t = 1_000_000, value_name = "N")]
    pub records: u64,
    /// Records that each client keeps in flight
    #[arg(long, default_value_t = IN_FLIGHT_DEFAULT, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub in_flight: u32,
    /// A fixed rate of all clients together, records a second; latency then counts from when a record was due
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub rate: Option<u64>,
    /// Do not read everything back
    #[arg(long)]
    pub no_verify: bool,
}

/// Options of `bench consume`.
#[derive(Clone, Debug, Args)]
pub struct ConsumeBenchArgs {
    /// Options of every workload.
    #[command(flatten)]
    pub common: CommonArgs,
    /// At most this many records [default: all there are]
    #[arg(short = 'n', long, value_name = "N")]
    pub records: Option<u64>,
}

/// Options of `bench tail`.
#[derive(Clone, Debug, Args)]
pub struct TailBenchArgs {
    /// Options of every workload.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Options of workloads that send.
    #[command(flatten)]
    pub send: SendArgs,
    /// Records to write; with what batches add they must fit into the broker's `storage.tail_cache_bytes`
    #[arg(short = 'n', long, default_value_t = 200_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub records: u64,
    /// How often to read them
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub passes: u32,
}

/// Options of `bench e2e`.
#[derive(Clone, Debug, Args)]
pub struct E2eBenchArgs {
    /// Options of every workload.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Options of workloads that send.
    #[command(flatten)]
    pub send: SendArgs,
    /// Records a second of all clients together
    #[arg(short, long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub rate: u64,
    /// How long to send
    #[arg(short, long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Records of all clients together, instead of a duration
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "duration")]
    pub records: Option<u64>,
}

struct Shown<'a>(&'a Report);

#[derive(Serialize)]
struct Item {
    clean: bool,
    #[serde(flatten)]
    report: Report,
}

impl Present for Shown<'_> {
    type Item = Item;

    fn items(&self) -> Vec<Item> {
        vec![Item { clean: self.0.is_clean(), report: self.0.clone() }]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, _wide: bool) -> String {
        self.0.text()
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.workload.name().to_owned()]
    }
}

/// Runs the workload. Exit code 1 when a record failed, or was lost, doubled, reordered or damaged.
pub fn run(global: &Global, command: &BenchCommand) -> Result<Exit, Failure> {
    let common = match command {
        BenchCommand::Produce(args) => &args.common,
        BenchCommand::Consume(args) => &args.common,
        BenchCommand::Tail(args) => &args.common,
        BenchCommand::E2e(args) => &args.common,
    };
    // A file that cannot be read is told before anything is measured.
    let limits = common.limits.as_deref().map(read_limits).transpose()?;
    let tally = Tally::default();
    let mut report = session::block_on(watch::watched(global.quiet, &tally, measure(global, command, &tally)))?;
    if let Some(limits) = limits {
        report.limits = limits.hold(&report);
    }
    Output::stdout().present(&Shown(&report), global.output)?;
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Failed })
}

async fn measure(global: &Global, command: &BenchCommand, tally: &Tally) -> Result<Report, Failure> {
    match command {
        BenchCommand::Produce(args) => {
            ensure_topic(global, &args.common, &args.send).await?;
            let options = send_options(global, tally, &args.common, &args.send, args.records, args.rate);
            let options = ProduceOptions { in_flight: in_flight(args.in_flight), verify: !args.no_verify, ..options };
            produce::run(&options).await.map_err(failure)
        }
        BenchCommand::Consume(args) => {
            let common = common(global, tally, &args.common);
            ensure_exists(global, &args.common.topic).await?;
            consume::run(&ConsumeOptions { common, records: args.records }).await.map_err(failure)
        }
        BenchCommand::Tail(args) => {
            ensure_topic(global, &args.common, &args.send).await?;
            let options = send_options(global, tally, &args.common, &args.send, args.records, None);
            let produce = ProduceOptions { in_flight: in_flight(IN_FLIGHT_DEFAULT), ..options };
            tail::run(&TailOptions { produce, passes: args.passes }).await.map_err(failure)
        }
        BenchCommand::E2e(args) => {
            ensure_topic(global, &args.common, &args.send).await?;
            let by_time = (args.duration.as_secs_f64() * args.rate as f64).ceil() as u64;
            let records = args.records.unwrap_or(by_time);
            let options = send_options(global, tally, &args.common, &args.send, records, Some(args.rate));
            e2e::run(&options).await.map_err(failure)
        }
    }
}

fn in_flight(records: u32) -> usize {
    usize::try_from(records).unwrap_or(usize::MAX)
}

fn read_limits(path: &Path) -> Result<Limits, Failure> {
    let refused = |problem: String| {
        Failure::usage(format!("the limits cannot be read: {problem}"))
            .at(path.display().to_string())
            .next("write them with `streambus-micro -o json > FILE`")
    };
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    Limits::parse(&text).map_err(|error| refused(error.to_string()))
}

fn common(global: &Global, tally: &Tally, args: &CommonArgs) -> Common {
    Common {
        config: session::client_config(global),
        topic: args.topic.clone(),
        clients: args.clients,
        broker_pid: args.broker_pid,
        tally: tally.clone(),
    }
}

fn send_options(
    global: &Global,
    tally: &Tally,
    args: &CommonArgs,
    send: &SendArgs,
    records: u64,
    rate: Option<u64>,
) -> ProduceOptions {
    ProduceOptions {
        common: common(global, tally, args),
        producer: producer_config(send.acks, send.compression, send.batch_bytes, send.linger),
        records,
        record_bytes: usize::try_from(send.record_size).unwrap_or(usize::MAX),
        filler: match send.filler {
            FillerArg::Random => Filler::Random,
            FillerArg::Text => Filler::Text,
        },
        in_flight: 0,
        rate,
        keys: send.keys,
        verify: true,
    }
}

/// Creates the topic when it does not exist, and says so.
async fn ensure_topic(global: &Global, args: &CommonArgs, send: &SendArgs) -> Result<(), Failure> {
    let partitions = send.partitions;
    let client = session::connect(global).await?;
    match client.admin().create_topic(&args.topic, Topic::partitions(partitions)).await {
        Ok(_) => {
            if !global.quiet {
                terminal::note(&format!("topic {} created with {partitions} partition(s)", args.topic));
            }
            Ok(())
        }
        Err(error) if error.code() == Some(streambus_protocol::error_code::ErrorCode::TopicExists) => Ok(()),
        Err(error) => Err(session::about_topic(&client, &args.topic, error).await),
    }
}

/// A mistyped name is told before anything is measured.
async fn ensure_exists(global: &Global, topic: &str) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    match client.admin().describe_topic(topic).await {
        Ok(_) => Ok(()),
        Err(error) => Err(session::about_topic(&client, topic, error).await),
    }
}

fn failure(error: WorkloadError) -> Failure {
    match &error {
        WorkloadError::Client { what, source } => {
            let failure = session::from_client(source);
            Failure { what: format!("{what}: {}", failure.what), ..failure }
        }
        WorkloadError::Options(_) => Failure::usage(error.to_string()),
        WorkloadError::Task(_) | WorkloadError::NoVerdict => Failure::failed(error.to_string()),
    }
}
