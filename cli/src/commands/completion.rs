//! `streambus completion SHELL`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Options of `completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell to complete for
    pub shell: Shell,
}

/// Prints the completion script.
pub fn run(args: &CompletionArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "streambus", &mut script);
    let mut output = Output::stdout();
    output.bytes(&script)?;
    output.finish()?;
    Ok(Exit::Ok)
}
