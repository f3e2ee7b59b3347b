//! `streambus-micro`: micro rows beside the machine's own limits. Rows go to standard output, one JSON document with
//! `-o json`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use streambus_bench::micro::sampler::{Row, line};
use streambus_bench::micro::{MicroOptions, run};

/// Measures single parts of StreamBus beside the limits of this machine, in one run.
#[derive(Debug, Parser)]
#[command(name = "streambus-micro", version)]
struct Arguments {
    /// Only rows whose name contains this; repeatable. A row is divided by its baseline only when both are measured
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// A tenth of the samples: a smoke test, not a measurement
    #[arg(long)]
    quick: bool,
    /// Measure the disk that this directory is on
    #[arg(long, default_value = ".", value_name = "DIR")]
    directory: PathBuf,
    /// How results are written
    #[arg(short, long, value_enum, default_value = "table")]
    output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A line a row, as it is measured.
    Table,
    /// One document at the end.
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = MicroOptions { filters: arguments.filter, quick: arguments.quick, directory: arguments.directory };
    let mut stdout = std::io::stdout().lock();
    let mut stderr = std::io::stderr().lock();
    let as_table = arguments.output == Form::Table;
    let mut progress = |row: &Row| {
        let text = line(row);
        // A reader that has gone away is nobody's failure here.
        let _nobody_reads = if as_table { writeln!(stdout, "{text}") } else { writeln!(stderr, "{text}") };
    };
    let outcome = run(&options, &mut progress);
    match outcome {
        Ok(report) => {
            if !as_table && let Ok(text) = serde_json::to_string(&report) {
                let _nobody_reads = writeln!(stdout, "{text}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _nobody_reads = writeln!(stderr, "error: {error}");
            ExitCode::FAILURE
        }
    }
}
