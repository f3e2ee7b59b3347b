//! `streambus cluster drain BROKER` and `undrain BROKER`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use streambus_client::{Admin, Error, ErrorCode};
use streambus_protocol::api::cluster::DrainBrokerResponse;

use crate::args::{self, Global};
use crate::clock::Elapsed;
use crate::failure::{Exit, Failure};
use crate::output::{Output, OutputMode, Present};
use crate::progress::Status;
use crate::table::bytes_shown;
use crate::{session, terminal};

/// How often it is asked how far draining is.
const POLL: Duration = Duration::from_millis(500);
/// After so long without any change, what is left has nowhere to go.
const STALLED: Duration = Duration::from_secs(5);

/// Options of `cluster drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The broker
    pub broker: u32,
    /// Return at once, with what is left to move; repeat the command to see the progress
    #[arg(long, conflicts_with = "wait")]
    pub no_wait: bool,
    /// Wait this long at most; exit code 6 when it is not done by then [default: as long as it moves]
    #[arg(long, value_parser = args::duration, value_name = "TIME")]
    pub wait: Option<Duration>,
}

/// Options of `cluster undrain`.
#[derive(Debug, Args)]
pub struct UndrainArgs {
    /// The broker
    pub broker: u32,
}

/// How far draining is, and whether it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It leads or holds partitions that are on their way.
    Draining,
    /// It leads nothing; what it holds has no other broker to go to.
    Stuck,
    /// It holds nothing.
    Drained,
    /// It takes part.
    Undrained,
}

/// What is told of a drain.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Drain {
    broker: u32,
    stage: Stage,
    leaders_left: u32,
    replicas_left: u32,
    moving: u32,
    bytes_left: u64,
    unmeasured: u32,
}

impl Drain {
    fn new(broker: u32, stage: Stage, left: DrainBrokerResponse) -> Self {
        let DrainBrokerResponse { leaders_left, replicas_left, moving, bytes_left, unmeasured } = left;
        Self { broker, stage, leaders_left, replicas_left, moving, bytes_left, unmeasured }
    }

    /// What is still to be copied, as in `1.2 GiB left to copy`.
    fn left_to_copy(&self) -> String {
        let at_least = if self.unmeasured > 0 { "at least " } else { "" };
        format!("{at_least}{} left to copy", bytes_shown(self.bytes_left))
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.stage
    }
}

impl Present for Drain {
    type Item = Drain;

    fn items(&self) -> Vec<Drain> {
        vec![*self]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, _wide: bool) -> String {
        let Self { broker, leaders_left, replicas_left, moving, .. } = self;
        match self.stage {
            Stage::Draining => {
                format!(
                    "broker {broker} leads {leaders_left} and holds {replicas_left} partition(s), {moving} of them moving, \
                     {}\n",
                    self.left_to_copy()
                )
            }
            Stage::Stuck => format!(
                "broker {broker} leads nothing and can be stopped; it still holds {replicas_left} partition(s), which have \
                 no other broker to go to\n"
            ),
            Stage::Drained => format!("broker {broker} is empty\n"),
            Stage::Undrained => format!("broker {broker} takes part again\n"),
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.broker.to_string()]
    }
}

/// Watches a drain: when is it done, when does it not go on? Pure.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    last: DrainBrokerResponse,
    changed: Duration,
}

impl Watch {
    /// The first answer, at `now` since the start.
    pub fn new(first: DrainBrokerResponse, now: Duration) -> Self {
        Self { last: DrainBrokerResponse { bytes_left: 0, unmeasured: 0, ..first }, changed: now }
    }

    /// A further answer.
    pub fn see(&mut self, left: DrainBrokerResponse, now: Duration) -> Stage {
        // What is appended meanwhile is no progress.
        let counts = DrainBrokerResponse { bytes_left: 0, unmeasured: 0, ..left };
        if counts != self.last {
            (self.last, self.changed) = (counts, now);
        }
        let still = now.saturating_sub(self.changed) >= STALLED;
        match left {
            DrainBrokerResponse { leaders_left: 0, replicas_left: 0, .. } => Stage::Drained,
            DrainBrokerResponse { leaders_left: 0, moving: 0, .. } if still => Stage::Stuck,
            _ => Stage::Draining,
        }
    }
}

/// Drains, and shows the progress until it ends, in one way or another, or `wait` is over.
pub async fn drain(
    global: &Global,
    admin: &Admin,
    broker: u32,
    no_wait: bool,
    wait: Option<Duration>,
) -> Result<Drain, Failure> {
    let started = Elapsed::start();
    let mut status = Status::start(global.quiet || global.output.is_some_and(OutputMode::is_json));
    let mut watch = None;
    loop {
        let left = admin.drain_broker(broker, true).await.map_err(|error| about_broker(&error, broker))?;
        let now = started.get();
        let stage = watch.get_or_insert_with(|| Watch::new(left, now)).see(left, now);
        let drain = Drain::new(broker, stage, left);
        if stage != Stage::Draining || no_wait {
            status.clear();
            return Ok(drain);
        }
        status.show(drain.text(false).trim_end());
        if wait.is_some_and(|wait| now + POLL > wait) {
            status.clear();
            return Err(Failure::new(Exit::Timeout, drain.text(false).trim_end().to_owned())
                .at(format!("broker {broker}"))
                .next("it goes on; repeat the command to wait on, or `streambus cluster undrain` to stop it"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What the user reads when a call about `broker` fails.
pub fn about_broker(error: &Error, broker: u32) -> Failure {
    let failure = session::from_client(error).at(format!("broker {broker}"));
    match error.code() {
        Some(ErrorCode::UnknownBroker) => failure.next("`streambus cluster brokers` lists those there are"),
        Some(ErrorCode::BrokerNotEmpty) => {
            failure.next(format!("`streambus cluster drain {broker}` empties it; then stop its process"))
        }
        _ => failure,
    }
}

/// Drains a broker.
pub async fn run(global: &Global, args: &DrainArgs) -> Result<Exit, Failure> {
    let client = session::connect(global).await?;
    let drain = drain(global, &client.admin(), args.broker, args.no_wait, args.wait).await?;
    Output::stdout().present(&drain, global.output)?;
    if drain.stage() == Stage::Stuck && !global.quiet {
        terminal::note("to empty it, add a broker: every partition is on all brokers that take part");
    }
    Ok(Exit::Ok)
}

/// Lets it take part again.
pub async fn undo(global: &Global, args: &UndrainArgs) -> Result<Exit, Failure> {
    let client = session::connect(global).await?;
    let left = client.admin().drain_broker(args.broker, false).await;
    let left = left.map_err(|error| about_broker(&error, args.broker))?;
    Output::stdout().present(&Drain::new(args.broker, Stage::Undrained, left), global.output)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(leaders_left: u32, replicas_left: u32, moving: u32) -> DrainBrokerResponse {
        DrainBrokerResponse { leaders_left, replicas_left, moving, bytes_left: 0, unmeasured: 0 }
    }

    // Catches a drain that is said to be almost done because a leader did not answer.
    #[test]
    fn what_is_left_to_copy_is_said_as_far_as_it_is_known() {
        let text = |left| Drain::new(2, Stage::Draining, left).text(false);
        let known = DrainBrokerResponse { bytes_left: 3 << 20, ..left(0, 4, 2) };
        assert_eq!(text(known), "broker 2 leads 0 and holds 4 partition(s), 2 of them moving, 3.0 MiB left to copy\n");
        let guess = text(DrainBrokerResponse { unmeasured: 1, ..known });
        assert!(guess.contains("at least 3.0 MiB left to copy"), "{guess}");
    }

    #[test]
    fn a_drain_ends_when_it_is_empty_or_nothing_moves_any_more() {
        let s = Duration::from_secs;
        let mut watch = Watch::new(left(3, 9, 0), s(0));
        assert_eq!(watch.see(left(3, 9, 0), s(9)), Stage::Draining, "it still leads: that is not given up");
        assert_eq!(watch.see(left(0, 9, 4), s(10)), Stage::Draining);
        assert_eq!(watch.see(left(0, 9, 4), s(60)), Stage::Draining, "a large partition takes its time");
        assert_eq!(watch.see(left(0, 5, 0), s(61)), Stage::Draining, "between two moves");
        let growing = DrainBrokerResponse { bytes_left: 9_000, ..left(0, 5, 0) };
        assert_eq!(watch.see(growing, s(66)), Stage::Stuck, "what is appended meanwhile is no progress");
        assert_eq!(watch.see(left(0, 0, 0), s(67)), Stage::Drained);
    }
}
