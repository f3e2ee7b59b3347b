//! The `streambus` binary. Everything is in the library, so that it can be tested.

use std::process::ExitCode;

fn main() -> ExitCode {
    streambus_cli::run(std::env::args_os())
}
