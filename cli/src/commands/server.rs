//! `streambus server`: loads the configuration, starts the broker, says when it is ready, drains when told to stop.

mod reload;
mod signals;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use streambus_broker::config::{self, BrokerConfig, Effective, LoadRequest};
use streambus_broker::lifecycle::State;
use streambus_broker::server::{BrokerEnv, RunningServer, Server};
use streambus_broker::telemetry;
use tokio::runtime::Builder;

use crate::allocator;
use crate::args::{BROKER_DEFAULT, Global};
use crate::clock::Elapsed;
use crate::commands::version::VERSION;
use crate::failure::{Exit, Failure};
use crate::{program, terminal};

pub use reload::Reloader;
use signals::{Asked, Signals};

/// Where configuration comes from besides flags: files and the environment.
#[derive(Clone, Debug, Default, Args)]
pub struct Sources {
    /// A configuration file; *.toml in a folder conf.d beside it are read after it, by name
    #[arg(long, env = "STREAMBUS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A directory whose *.toml files are read last, by name
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// Any setting by its key, such as limits.connections=500; repeatable
    #[arg(long, value_parser = crate::args::key_value, value_name = "KEY=VALUE")]
    pub set: Vec<(String, String)>,
}

/// Options of `server`.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// The data directory; created when it does not exist
    #[arg(short, long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where clients connect
    #[arg(short, long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// What clients are told to connect to, when it differs from --listen
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Where probes, metrics and the REST API answer
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Where other brokers connect; only with --peers
    #[arg(long, value_name = "HOST:PORT")]
    pub cluster_listen: Option<String>,
    /// What other brokers are told to connect to, when it differs
    #[arg(long, value_name = "HOST:PORT")]
    pub cluster_advertise: Option<String>,
    /// The brokers that found the cluster, the same list on each: 1@HOST:PORT,2@HOST:PORT,3@HOST:PORT
    #[arg(long, value_name = "ID@HOST:PORT,...")]
    pub peers: Option<String>,
    /// This broker's number, unique in its cluster and the same for ever
    #[arg(long, value_name = "N")]
    pub broker_id: Option<String>,
    /// The failure domain it stands in
    #[arg(long)]
    pub rack: Option<String>,
    /// Which events are logged: error, warn, info, debug, or directives such as info,streambus_storage=debug
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// The shape of a log line: text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// How long requests in flight may finish after a stop was asked for
    #[arg(long, value_name = "TIME")]
    pub drain_grace: Option<String>,
    /// Further sources.
    #[command(flatten)]
    pub sources: Sources,
    /// Only check the configuration, and report every mistake in it
    #[arg(long)]
    pub check: bool,
}

impl ServerArgs {
    fn flags(&self) -> Vec<(String, String)> {
        let data_dir = self.data_dir.as_ref().map(|dir| dir.display().to_string());
        let short = [
            ("data-dir", &data_dir),
            ("listen", &self.listen),
            ("advertise", &self.advertise),
            ("http", &self.http),
            ("cluster-listen", &self.cluster_listen),
            ("cluster-advertise", &self.cluster_advertise),
            ("peers", &self.peers),
            ("broker-id", &self.broker_id),
            ("rack", &self.rack),
            ("log-level", &self.log_level),
            ("log-format", &self.log_format),
            ("drain-grace", &self.drain_grace),
        ];
        let short = short.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        self.sources.set.iter().cloned().chain(short).collect()
    }
}

/// Reads the sources and merges them with `flags`.
pub fn load(sources: &Sources, flags: Vec<(String, String)>) -> Result<Effective, Failure> {
    let files = files(sources)?;
    // A variable that is not text cannot be one of ours; its name is checked all the same.
    let env = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    config::load(LoadRequest { files, env, flags }).map_err(|errors| Failure::usage(errors.to_string()))
}

/// The configuration files with their texts, weakest first: the file, those of `conf.d` beside it, those of the directory.
fn files(sources: &Sources) -> Result<Vec<(PathBuf, String)>, Failure> {
    let mut files = Vec::new();
    let mut folders = Vec::new();
    if let Some(path) = &sources.config {
        files.push((path.clone(), read(path)?));
        let beside = path.with_file_name("conf.d");
        // Not there is nothing said; there and not readable is a mistake, as with every other source.
        if beside.try_exists().map_err(|error| unreadable(&beside, &error))? {
            folders.push(beside);
        }
    }
    folders.extend(sources.config_dir.clone());
    for folder in folders {
        let entries = std::fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(|error| unreadable(&folder, &error))?;
        let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        for path in paths {
            let text = read(&path)?;
            files.push((path, text));
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("the configuration cannot be read: {error}")).at(path.display().to_string())
}

/// Runs the broker until it is told to stop.
pub fn run(global: &Global, args: &ServerArgs) -> Result<Exit, Failure> {
    let effective = load(&args.sources, args.flags())?;
    for warning in effective.warnings() {
        terminal::note(&format!("warning: {warning}"));
    }
    if args.check {
        if !global.quiet {
            terminal::note("the configuration is valid");
        }
        return Ok(Exit::Ok);
    }
    let telemetry = telemetry::install(&effective.config().log)
        .map_err(|error| Failure::failed(format!("setting up logs failed: {error}")))?;
    let reloader = Reloader { sources: args.sources.clone(), flags: args.flags(), telemetry };
    serve(effective.into_config(), &reloader, |server, elapsed| {
        if !global.quiet {
            let (client, http) = (server.client_address(), server.http_address());
            terminal::note(&ready_text(&program::word(), client, http, elapsed));
        }
    })
}

/// Runs a broker; `ready` is called once, when it serves. Ends after SIGINT or SIGTERM and a drain, or when the broker
/// stops by itself, which is a failure. A second signal ends the process without waiting for the drain. SIGHUP reads the
/// configuration again, unless it says that the terminal is gone.
pub fn serve(
    config: BrokerConfig,
    reloader: &Reloader,
    ready: impl FnOnce(&RunningServer, Duration),
) -> Result<Exit, Failure> {
    allocator::limit_arenas();
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("starting the runtime failed: {error}")))?;
    let grace = config.lifecycle.drain_grace;
    runtime.block_on(async {
        // Before the start, so that a signal during recovery is not lost.
        let mut signals = Signals::listen()?;
        let elapsed = Elapsed::start();
        let server = tokio::select! {
            started = Server::start(config, BrokerEnv::system()) => {
                started.map_err(|error| Failure::failed(error.to_string()))?
            }
            // Recovery only reads and appends: giving it up leaves nothing that the next start cannot handle.
            () = signals.stop() => return Ok(Exit::Ok),
        };
        let stopped = {
            let mut run = pin!(run_until_stopped(&server, || ready(&server, elapsed.get())));
            let mut trim = pin!(allocator::keep_trimmed());
            loop {
                tokio::select! {
                    outcome = &mut run => break Some(outcome),
                    asked = signals.next() => match asked {
                        Asked::Stop => break None,
                        Asked::Reload => reloader.reload(&server),
                    },
                    never = &mut trim => match never {},
                }
            }
        };
        if let Some(state) = stopped {
            // What can still be closed in order is; the reason is what the user must see.
            let _reason_matters_more = server.drain_and_stop(grace).await;
            return Err(Failure::failed(format!("the broker stopped by itself: {state}")));
        }
        tokio::select! {
            outcome = server.drain_and_stop(grace) => match outcome {
                Ok(()) => Ok(Exit::Ok),
                Err(error) => Err(Failure::failed(format!("stopping failed: {error}"))),
            },
            () = signals.stop() => Err(Failure::failed("stopped without a drain, at the second signal")),
        }
    })
}

/// Announces readiness when it comes, and returns the state in which the broker stopped.
async fn run_until_stopped(server: &RunningServer, ready: impl FnOnce()) -> State {
    match server.ready().await {
        Ok(()) => {
            ready();
            server.stopped().await
        }
        Err(state) => state,
    }
}

/// One line of facts and three to try next, in which the program is called `program`.
pub fn ready_text(program: &str, client: SocketAddr, http: SocketAddr, elapsed: Duration) -> String {
    let flag = if client.to_string() == BROKER_DEFAULT { String::new() } else { format!("-b {client} ") };
    format!(
        "streambus {} is ready after {} ms: clients {client}, HTTP {http}\n\
         try:\n  \
         {program} {flag}topic create orders --partitions 3\n  \
         printf 'ada\\t{{\"item\":1}}\\n' | {program} {flag}produce orders -f '%k\\t%v\\n'\n  \
         {program} {flag}consume orders -e -f '%p %o %k\\t%v\\n'",
        VERSION,
        elapsed.as_millis(),
    )
}
