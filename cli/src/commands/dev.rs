//! `streambus dev`: a broker on a temporary directory, gone when it stops.

use clap::Args;

use super::server::{self, Reloader, Sources};
use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::{program, terminal};

/// Options of `dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where clients connect
    #[arg(short, long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Where probes, metrics and the REST API answer
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Further sources.
    #[command(flatten)]
    pub sources: Sources,
}

/// Runs the broker until it is told to stop, then removes its directory.
pub fn run(global: &Global, args: &DevArgs) -> Result<Exit, Failure> {
    let directory = tempfile::Builder::new()
        .prefix("streambus-dev-")
        .tempdir()
        .map_err(|error| Failure::failed(format!("making a temporary directory failed: {error}")))?;
    let mut flags = args.sources.set.clone();
    flags.push(("data-dir".to_owned(), directory.path().display().to_string()));
    // Somebody who tries things wants to see what goes wrong, not what goes well.
    flags.push(("log-level".to_owned(), if global.verbose > 0 { "info" } else { "warn" }.to_owned()));
    for (name, value) in [("listen", &args.listen), ("http", &args.http)] {
        if let Some(value) = value {
            flags.push((name.to_owned(), value.clone()));
        }
    }
    let config = server::load(&args.sources, flags.clone())?.into_config();
    let telemetry = streambus_broker::telemetry::install(&config.log)
        .map_err(|error| Failure::failed(format!("setting up logs failed: {error}")))?;
    let reloader = Reloader { sources: args.sources.clone(), flags, telemetry };
    server::serve(config, &reloader, |running, elapsed| {
        let (client, http) = (running.client_address(), running.http_address());
        terminal::note(&server::ready_text(&program::word(), client, http, elapsed));
        terminal::note(&format!("data in {}, removed at the end; Ctrl-C ends it", directory.path().display()));
    })
}
