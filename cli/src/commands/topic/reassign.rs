//! `streambus topic reassign NAME --partition P --replicas 1,2,3`, or `--cancel`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use streambus_client::{Client, Error, ErrorCode};
use streambus_protocol::api::topics::PartitionDescription;
use streambus_protocol::ids::BrokerId;

use super::describe::{joined, numbers};
use crate::args::{self, Global};
use crate::clock::Elapsed;
use crate::failure::{Exit, Failure};
use crate::output::{Output, OutputMode, Present};
use crate::progress::Status;
use crate::session;
use crate::table::{bytes_shown, grouped};

/// How often it is asked how far the move is.
const POLL: Duration = Duration::from_millis(500);

/// Options of `topic reassign`.
#[derive(Debug, Args)]
pub struct ReassignArgs {
    /// The topic
    pub name: String,
    /// The partition
    #[arg(short, long, value_name = "P")]
    pub partition: u32,
    /// The brokers that shall hold it, the preferred leader first
    #[arg(long, value_delimiter = ',', value_name = "BROKERS", required_unless_present = "cancel")]
    pub replicas: Vec<u32>,
    /// Stop moving it: it stays where it was
    #[arg(long, conflicts_with = "replicas")]
    pub cancel: bool,
    /// What the move may send to the new brokers in a second, all together, as 10MiB; 0 for no limit. Repeat the command to
    /// change it on the way [default: as their leader is set to, replication.catch_up_rate]
    #[arg(long, value_parser = args::bytes, value_name = "BYTES", conflicts_with = "cancel")]
    pub throttle: Option<u64>,
    /// Wait until the move is done, this long at most; exit code 6 when it is not done by then
    #[arg(long, value_parser = args::duration, value_name = "TIME", conflicts_with = "cancel")]
    pub wait: Option<Duration>,
}

#[derive(Clone, Serialize)]
struct Reassigned {
    topic: String,
    partition: u32,
    replicas: Vec<u32>,
    adding: Vec<u32>,
    removing: Vec<u32>,
    done: bool,
}

impl Present for Reassigned {
    type Item = Reassigned;

    fn items(&self) -> Vec<Self> {
        vec![self.clone()]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, _wide: bool) -> String {
        let Self { topic, partition, .. } = self;
        let list = |brokers: &[u32]| brokers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        if self.done {
            return format!("{topic}/{partition} is on brokers {}\n", list(&self.replicas));
        }
        let mut text = format!("{topic}/{partition} is moving");
        for (what, brokers) in [("to", &self.adding), ("off", &self.removing)] {
            if !brokers.is_empty() {
                text.push_str(&format!(" {what} {}", list(brokers)));
            }
        }
        text + "; `streambus topic describe` shows the progress\n"
    }

    fn names(&self) -> Vec<String> {
        vec![format!("{}/{}", self.topic, self.partition)]
    }
}

impl ReassignArgs {
    fn told(&self, replicas: &[BrokerId], adding: &[BrokerId], removing: &[BrokerId]) -> Reassigned {
        Reassigned {
            topic: self.name.clone(),
            partition: self.partition,
            replicas: numbers(replicas),
            adding: numbers(adding),
            removing: numbers(removing),
            done: adding.is_empty() && removing.is_empty(),
        }
    }
}

/// Begins the move, or stops it; with `--wait`, sees it through.
pub async fn run(global: &Global, args: &ReassignArgs) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let admin = client.admin();
    let begun = if args.cancel {
        admin.cancel_reassign(&args.name, args.partition).await
    } else if let Some(throttle) = args.throttle {
        admin.reassign_throttled(&args.name, args.partition, args.replicas.iter().copied(), throttle).await
    } else {
        admin.reassign(&args.name, args.partition, args.replicas.iter().copied()).await
    };
    let begun = match begun {
        Ok(begun) => args.told(&begun.replicas, &begun.adding, &begun.removing),
        Err(error) => return Err(refused(&client, args, error).await),
    };
    let told = match args.wait {
        Some(wait) if !begun.done => follow(global, &client, args, wait).await?,
        _ => begun,
    };
    Output::stdout().present(&told, global.output)
}

async fn refused(client: &Client, args: &ReassignArgs, error: Error) -> Failure {
    let code = error.code();
    let failure = session::about_topic(client, &args.name, error).await;
    match code {
        Some(ErrorCode::InvalidAssignment) => failure.next("`streambus cluster brokers` lists the brokers there are"),
        Some(ErrorCode::NoReassignment) => {
            failure.next(format!("`streambus topic describe {}` shows where it is", args.name))
        }
        _ => failure,
    }
}

async fn follow(global: &Global, client: &Client, args: &ReassignArgs, wait: Duration) -> Result<Reassigned, Failure> {
    let started = Elapsed::start();
    let mut status = Status::start(global.quiet || global.output.is_some_and(OutputMode::is_json));
    loop {
        let topic = match client.admin().describe_topic(&args.name).await {
            Ok(topic) => topic,
            Err(error) => {
                status.clear();
                return Err(session::about_topic(client, &args.name, error).await);
            }
        };
        let partition = topic.partitions.iter().find(|partition| partition.layout.index.get() == args.partition);
        let Some(partition) = partition else {
            status.clear();
            return Err(Failure::new(Exit::NotFound, format!("'{}' has no partition {}", args.name, args.partition)));
        };
        let told = args.told(&partition.layout.replicas, &partition.adding, &partition.removing);
        if told.done {
            status.clear();
            return Ok(told);
        }
        status.show(&progress(partition));
        if started.get() + POLL > wait {
            status.clear();
            return Err(Failure::new(Exit::Timeout, progress(partition))
                .at(format!("{}/{}", args.name, args.partition))
                .next(
                    "it goes on; `streambus topic describe` shows it, `streambus topic reassign --cancel` stops it",
                ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How far each replica is that is being added.
fn progress(partition: &PartitionDescription) -> String {
    let lags: Vec<String> = partition
        .replica_states
        .iter()
        .filter(|state| partition.adding.contains(&state.broker))
        .map(|state| {
            let (records, bytes) = (grouped(state.lag_records), bytes_shown(state.lag_bytes));
            let rate = bytes_shown(state.bytes_per_second);
            format!("broker {} lacks {records} records, {bytes}, and gets {rate}/s", state.broker)
        })
        .collect();
    let mut text = if lags.is_empty() { format!("moving to {}", joined(&partition.adding)) } else { lags.join(", ") };
    match partition.throttle {
        None => {}
        Some(0) => text.push_str(", without a limit"),
        Some(limit) => text.push_str(&format!(", {}/s at most", bytes_shown(limit))),
    }
    text
}
