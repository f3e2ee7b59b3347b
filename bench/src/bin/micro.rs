//! `streambus-micro`: micro rows beside the machine's own limits. Conditions and rows go to standard output; with
//! `-o json` they go to standard error as they are measured, and one JSON document to standard output at the end.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use streambus_bench::machine::Machine;
use streambus_bench::micro::sampler::{Row, line};
use streambus_bench::micro::{MicroError, MicroOptions, MicroReport, disk_rows, run};

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
    /// What was built, to stand among the conditions
    #[arg(long, value_name = "TEXT")]
    commit: Option<String>,
    /// How results are written
    #[arg(short, long, value_enum, default_value = "table")]
    output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A line a row, as it is measured.
    Table,
    /// One document at the end; the rows on standard error meanwhile.
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let form = arguments.output;
    let outcome = measure(arguments).map_err(|error| error.to_string()).and_then(|report| match form {
        Form::Table => Ok(()),
        Form::Json => {
            let text = serde_json::to_string(&report).map_err(|error| error.to_string())?;
            writeln!(std::io::stdout(), "{text}").map_err(|error| error.to_string())
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a reader there is nobody to tell; the exit code says it too.
            let _nobody_reads = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: Arguments) -> Result<MicroReport, MicroError> {
    let form = arguments.output;
    let say = |text: &str| {
        // A reader that has gone away is nobody's failure here.
        let _nobody_reads = match form {
            Form::Table => writeln!(std::io::stdout(), "{text}"),
            Form::Json => writeln!(std::io::stderr(), "{text}"),
        };
    };
    let machine = Machine::look(&arguments.directory, arguments.commit.as_deref());
    let disk = disk_rows::mode(&arguments.directory)?;
    say(&machine.text(disk));
    let options = MicroOptions { filters: arguments.filter, quick: arguments.quick, directory: arguments.directory };
    run(&options, machine, disk, &mut |row: &Row| say(&line(row)))
}
