//! `streambus cluster strays` and `streambus cluster discard BROKER LOG`: logs in quarantine, and an end to one of them.

use clap::Args;
use serde::Serialize;
use streambus_client::{Admin, Error, ErrorCode};
use streambus_protocol::api::strays::StrayDescription;

use crate::args::Global;
use crate::commands::confirm::Confirm;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Present};
use crate::session;
use crate::table::{Column, Table, bytes_shown, grouped};

/// Options of `cluster strays`.
#[derive(Debug, Args)]
pub struct StraysArgs {
    /// Of this broker only; by default of every one that takes part
    #[arg(long)]
    pub broker: Option<u32>,
}

/// Options of `cluster discard`.
#[derive(Debug, Args)]
pub struct DiscardArgs {
    /// The broker on whose disk it is
    pub broker: u32,
    /// The log, as `cluster strays` names it
    #[arg(value_name = "TOPIC-ID/PARTITION")]
    pub log: String,
    /// Confirmation.
    #[command(flatten)]
    pub confirm: Confirm,
}

/// A log in quarantine, in JSON.
#[derive(Clone, Serialize)]
struct StrayItem {
    broker: u32,
    log: String,
    records: u64,
    bytes: u64,
    newest_epoch: Option<u32>,
    passing: bool,
    reason: String,
}

impl StrayItem {
    fn of(broker: u32, stray: &StrayDescription) -> Self {
        Self {
            broker,
            log: stray.log.to_string(),
            records: stray.records,
            bytes: stray.bytes,
            newest_epoch: stray.newest_epoch.map(|epoch| epoch.get()),
            passing: stray.passing,
            reason: stray.reason.clone(),
        }
    }
}

/// What is in quarantine.
struct Strays {
    listed: Vec<StrayItem>,
    /// Brokers that have more than they list, and how many.
    unlisted: Vec<(u32, u32)>,
}

impl Present for Strays {
    type Item = StrayItem;

    fn items(&self) -> Vec<StrayItem> {
        self.listed.clone()
    }

    fn is_list(&self) -> bool {
        true
    }

    fn text(&self, wide: bool) -> String {
        if self.listed.is_empty() {
            return "no log is in quarantine\n".to_owned();
        }
        let mut columns = vec![
            Column::Number("BROKER"),
            Column::Text("LOG"),
            Column::Number("RECORDS"),
            Column::Number("BYTES"),
            Column::Text("REASON"),
        ];
        if wide {
            columns.extend([Column::Number("NEWEST EPOCH"), Column::Text("GOES BY ITSELF")]);
        }
        let mut table = Table::new(&columns);
        for stray in &self.listed {
            let mut row = vec![
                stray.broker.to_string(),
                stray.log.clone(),
                grouped(stray.records),
                bytes_shown(stray.bytes),
                stray.reason.clone(),
            ];
            if wide {
                row.push(stray.newest_epoch.map_or("-".to_owned(), |epoch| epoch.to_string()));
                row.push(if stray.passing { "yes" } else { "no" }.to_owned());
            }
            table.row(row);
        }
        let more = |(broker, logs): &(u32, u32)| format!("and {} more on broker {broker}\n", grouped(u64::from(*logs)));
        table.render() + &self.unlisted.iter().map(more).collect::<String>()
    }

    fn names(&self) -> Vec<String> {
        self.listed.iter().map(|stray| stray.log.clone()).collect()
    }
}

/// A log that is gone.
#[derive(Clone, Serialize)]
struct Discarded {
    #[serde(flatten)]
    stray: StrayItem,
    removed: bool,
}

impl Present for Discarded {
    type Item = Self;

    fn items(&self) -> Vec<Self> {
        vec![self.clone()]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, _wide: bool) -> String {
        let StrayItem { broker, log, records, bytes, .. } = &self.stray;
        let (records, bytes) = (grouped(*records), bytes_shown(*bytes));
        format!("the log {log} of {records} records in {bytes} is removed from broker {broker}\n")
    }

    fn names(&self) -> Vec<String> {
        vec![self.stray.log.clone()]
    }
}

/// Lists the logs in quarantine.
pub async fn list(global: &Global, args: &StraysArgs) -> Result<Exit, Failure> {
    let client = session::connect(global).await?;
    let admin = client.admin();
    let brokers = match args.broker {
        Some(broker) => vec![broker],
        None => {
            let cluster = admin.describe_cluster().await.map_err(|error| session::from_client(&error))?;
            let taking_part = cluster.brokers.iter().filter(|broker| !broker.fenced);
            taking_part.map(|broker| broker.endpoint.id.get()).collect()
        }
    };
    let mut strays = Strays { listed: Vec::new(), unlisted: Vec::new() };
    for broker in brokers {
        let answer = admin.list_strays(broker).await.map_err(|error| about(&error, broker))?;
        strays.listed.extend(answer.strays.iter().map(|stray| StrayItem::of(broker, stray)));
        if answer.unlisted > 0 {
            strays.unlisted.push((broker, answer.unlisted));
        }
    }
    Output::stdout().present(&strays, global.output)?;
    Ok(Exit::Ok)
}

/// Removes one of them.
pub async fn discard(global: &Global, args: &DiscardArgs) -> Result<Exit, Failure> {
    let (broker, log) = (args.broker, args.log.as_str());
    let client = session::connect(global).await?;
    let admin = client.admin();
    let stray = find(&admin, broker, log).await?;
    if stray.passing {
        return Err(Failure::new(Exit::Conflict, format!("this log goes by itself, and not before: {}", stray.reason))
            .at(format!("broker {broker}, log {log}"))
            .next("bring the brokers back that hold its partition: `streambus cluster brokers`"));
    }
    let (records, bytes) = (grouped(stray.records), bytes_shown(stray.bytes));
    let reason = &stray.reason;
    args.confirm.ask(&format!("remove {records} records in {bytes} from broker {broker} for good ({reason})"))?;
    admin.discard_stray(broker, &stray).await.map_err(|error| about(&error, broker))?;
    let removed = Discarded { stray: StrayItem::of(broker, &stray), removed: true };
    Output::stdout().present(&removed, global.output)?;
    Ok(Exit::Ok)
}

/// The log of that name among those that `broker` has in quarantine.
async fn find(admin: &Admin, broker: u32, log: &str) -> Result<StrayDescription, Failure> {
    let answer = admin.list_strays(broker).await.map_err(|error| about(&error, broker))?;
    let is_it = |stray: &StrayDescription| stray.log.to_string() == log;
    answer.strays.into_iter().find(is_it).ok_or_else(|| {
        Failure::new(Exit::NotFound, "no such log is in quarantine there; no other log is ever removed by this")
            .at(format!("broker {broker}, log {log}"))
            .next(format!("`streambus cluster strays --broker {broker}` lists those that are"))
    })
}

/// What the user reads when `broker` refuses, or does not answer.
fn about(error: &Error, broker: u32) -> Failure {
    let failure = session::from_client(error).at(format!("broker {broker}"));
    match error.code() {
        // What was listed a moment ago is so no longer.
        Some(ErrorCode::InvalidRequest) => {
            let failure = Failure { exit: Exit::Conflict, ..failure };
            failure.next(format!("look again: `streambus cluster strays --broker {broker}`"))
        }
        Some(ErrorCode::UnknownBroker) => failure.next("`streambus cluster brokers` lists the brokers"),
        Some(ErrorCode::UnsupportedApi) => failure.next("that broker is older than this command: upgrade it"),
        Some(ErrorCode::NoController) => failure.next("`streambus cluster health` says what is missing"),
        _ => failure,
    }
}
