//! `streambus cluster decommission BROKER`: drained, stopped, forgotten.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use streambus_client::ErrorCode;

use super::drain::{self, Stage};
use crate::args::{self, Global};
use crate::clock::Elapsed;
use crate::commands::confirm::Confirm;
use crate::failure::{Exit, Failure};
use crate::output::{Output, OutputMode, Present};
use crate::progress::Status;
use crate::session;

/// How often it is tried to forget the broker.
const POLL: Duration = Duration::from_secs(1);

/// Options of `cluster decommission`.
#[derive(Debug, Args)]
pub struct DecommissionArgs {
    /// The broker
    pub broker: u32,
    /// Wait this long at most for it to be empty, and for its process to be stopped by you
    #[arg(long, value_parser = args::duration, value_name = "TIME", default_value = "10m")]
    pub wait: Duration,
    /// Confirmation.
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Serialize)]
struct Decommissioned {
    broker: u32,
    removed: bool,
}

impl Present for Decommissioned {
    type Item = Decommissioned;

    fn items(&self) -> Vec<Self> {
        vec![Self { ..*self }]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, _wide: bool) -> String {
        format!("broker {} is no part of the cluster any more\n", self.broker)
    }

    fn names(&self) -> Vec<String> {
        vec![self.broker.to_string()]
    }
}

/// Takes a broker out of the cluster for good.
pub async fn run(global: &Global, args: &DecommissionArgs) -> Result<Exit, Failure> {
    let broker = args.broker;
    let client = session::connect(global).await?;
    let admin = client.admin();
    args.confirm.ask(&format!("take broker {broker} out of the cluster for good"))?;
    let started = Elapsed::start();
    let drained = drain::drain(global, &admin, broker, false, Some(args.wait)).await?;
    if drained.stage() == Stage::Stuck {
        return Err(Failure::new(Exit::Conflict, drained.text(false).trim_end().to_owned())
            .at(format!("broker {broker}"))
            .next(format!("add a broker and repeat this, or `streambus cluster undrain {broker}`")));
    }
    let mut status = Status::start(global.quiet || global.output.is_some_and(OutputMode::is_json));
    let mut tried = false;
    loop {
        match admin.remove_broker(broker).await {
            Ok(()) => break,
            // An attempt of this command whose outcome was unknown, or had been lost on the way, did it.
            Err(error) if error.code() == Some(ErrorCode::UnknownBroker) && tried => break,
            // The controller changed meanwhile, or was gone: to forget a broker twice is to forget it once.
            Err(error) if error.is_outcome_unknown() && started.get() + POLL < args.wait => {
                tried = true;
                status.show(&format!("whether broker {broker} was forgotten is unknown ({error}): asking again"));
                tokio::time::sleep(POLL).await;
            }
            // Empty by now, so what keeps it is that it runs.
            Err(error) if error.code() == Some(ErrorCode::BrokerNotEmpty) && started.get() + POLL < args.wait => {
                status.show(&format!("broker {broker} is empty: stop its process now, it is forgotten then"));
                tokio::time::sleep(POLL).await;
            }
            Err(error) => {
                status.clear();
                return Err(drain::about_broker(&error, broker));
            }
        }
    }
    status.clear();
    Output::stdout().present(&Decommissioned { broker, removed: true }, global.output)?;
    Ok(Exit::Ok)
}
