//! The `streambus` binary: `server`, `dev` and every client command.
//!
//! Only data goes to standard output; notes, progress and errors go to standard error. Every command takes
//! `-o table|wide|json|jsonl|name`. The exit code says what kind of thing went wrong ([`failure::Exit`]).
//!
//! This crate parses, calls and prints. It must never hold a rule of the product: what a topic may be called, how a
//! record is placed or when it is durable is for the crates below it. `format`, `instant` and `suggest` are pure;
//! `terminal`, `clock` and `program` are the adapters to the outside.

#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod allocator;
pub mod args;
pub mod clock;
pub mod commands;
pub mod failure;
pub mod format;
pub mod instant;
pub mod output;
pub mod program;
pub mod progress;
pub mod session;
pub mod suggest;
pub mod table;
pub mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::failure::{Exit, Failure, Voice};
use crate::output::{Output, OutputMode};

/// Runs the command line `args` (the program's name first) and says how it ended.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return refuse_usage(&args, &error),
    };
    let mode = cli.global.output;
    let outcome = commands::run(cli);
    let failure = match outcome {
        Ok(exit) => return exit.into(),
        Err(failure) => failure,
    };
    if failure.voice == Voice::Spoken {
        terminal::note(&failure.render(mode));
    }
    failure.exit.into()
}

/// Help and version are answers; everything else is a usage error, as text or, when asked for, as JSON.
fn refuse_usage(args: &[OsString], error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let mut output = Output::stdout();
        let text = error.render().to_string();
        return match output.text(&text).and_then(|()| output.finish()) {
            Ok(()) => Exit::Ok.into(),
            Err(failure) => failure.exit.into(),
        };
    }
    let wants_json = args.windows(2).any(|pair| {
        pair[0].to_str().is_some_and(|flag| flag == "-o" || flag == "--output")
            && pair[1].to_str().is_some_and(|mode| mode.starts_with("json"))
    }) || args
        .iter()
        .any(|arg| arg.to_str().is_some_and(|arg| arg.starts_with("-ojson") || arg == "--output=json"));
    if wants_json {
        let text = error.render().to_string();
        let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        terminal::note(&Failure::usage(what).render(Some(OutputMode::Json)));
    } else {
        terminal::note_plain(error.render().to_string().trim_end());
    }
    Exit::Usage.into()
}
