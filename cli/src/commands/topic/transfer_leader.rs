//! `streambus topic transfer-leader NAME --partition P [--to BROKER]`.

use clap::Args;
use serde::Serialize;
use streambus_client::{Client, Error, ErrorCode, LeaderChoice};
use streambus_protocol::api::cluster::ElectLeaderResponse;
use streambus_protocol::api::topics::PartitionDescription;
use streambus_protocol::ids::BrokerId;

use crate::args::Global;
use crate::commands::confirm::Confirm;
use crate::failure::Failure;
use crate::output::{Output, Present};
use crate::session;

/// Options of `topic transfer-leader`.
#[derive(Debug, Args)]
pub struct TransferLeaderArgs {
    /// The topic
    pub name: String,
    /// The partition
    #[arg(short, long, value_name = "P")]
    pub partition: u32,
    /// The broker that shall lead: one that is in sync [default: the first replica, which is the preferred leader]
    #[arg(long, value_name = "BROKER")]
    pub to: Option<u32>,
    /// Take whichever replica is alive, even one that lacks acknowledged records: those are lost
    #[arg(long, conflicts_with = "to")]
    pub unclean: bool,
    /// Confirmation, asked for with --unclean only.
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Clone, Serialize)]
struct Elected {
    topic: String,
    partition: u32,
    leader: u32,
    leader_epoch: u32,
    /// Nobody could lead, so that a replica was taken that may lack acknowledged records.
    unclean: bool,
}

impl Present for Elected {
    type Item = Elected;

    fn items(&self) -> Vec<Self> {
        vec![self.clone()]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, _wide: bool) -> String {
        let Self { topic, partition, leader, leader_epoch, unclean } = self;
        let lost = if *unclean { "; acknowledged records that it lacks are lost" } else { "" };
        format!("{topic}/{partition} is led by broker {leader} in epoch {leader_epoch}{lost}\n")
    }

    fn names(&self) -> Vec<String> {
        vec![self.leader.to_string()]
    }
}

/// Gives the partition another leader.
pub async fn run(global: &Global, args: &TransferLeaderArgs) -> Result<(), Failure> {
    let client = session::connect(global).await?;
    let choice = match args.to {
        Some(broker) => LeaderChoice::Broker(BrokerId::new(broker)),
        None if args.unclean => LeaderChoice::Unclean,
        None => LeaderChoice::Preferred,
    };
    if args.unclean {
        args.confirm.ask(&format!(
            "lose the acknowledged records of {}/{} that no live replica has",
            args.name, args.partition
        ))?;
    }
    let unclean = args.unclean && is_leaderless(&client, args).await;
    match client.admin().elect_leader(&args.name, args.partition, choice).await {
        Ok(ElectLeaderResponse { leader, leader_epoch }) => {
            let (leader, leader_epoch) = (leader.get(), leader_epoch.get());
            let elected =
                Elected { topic: args.name.clone(), partition: args.partition, leader, leader_epoch, unclean };
            Output::stdout().present(&elected, global.output)
        }
        Err(error) => {
            let failure = session::about_topic(&client, &args.name, error.clone()).await;
            let is_leaderless =
                error.code() == Some(ErrorCode::IneligibleReplica) && is_leaderless(&client, args).await;
            Err(next_step(failure, &error, &args.name, is_leaderless))
        }
    }
}

/// True when nobody leads the partition, as far as a broker says.
async fn is_leaderless(client: &Client, args: &TransferLeaderArgs) -> bool {
    let topic = client.admin().describe_topic(&args.name).await;
    let leads = |at: &PartitionDescription| at.layout.index.get() == args.partition && at.layout.leader.is_none();
    topic.is_ok_and(|topic| topic.partitions.iter().any(leads))
}

fn next_step(failure: Failure, error: &Error, topic: &str, is_leaderless: bool) -> Failure {
    let look = format!("`streambus topic describe {topic}` shows who is in sync");
    match error.code() {
        Some(ErrorCode::IneligibleReplica) if is_leaderless => failure.next(format!(
            "{look}: start one of those, or one in the ELR; with --unclean any replica that is alive leads, and what it \
             lacks is lost"
        )),
        Some(ErrorCode::IneligibleReplica | ErrorCode::InvalidAssignment) => failure.next(look),
        Some(ErrorCode::LeaderNotAvailable) => failure.next(
            "start a broker that is in the ISR or ELR; with --unclean any replica leads, and what it lacks is lost",
        ),
        _ => failure,
    }
}
