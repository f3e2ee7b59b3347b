//! `streambus-planted`: the same program with one mistake in it, named by `STREAMBUS_PLANTED_BUG`. It exists to prove that
//! the checker of the tests finds such mistakes in real brokers, and is never shipped.

use std::process::ExitCode;

use streambus_cli::failure::Exit;
use streambus_cli::terminal;

fn main() -> ExitCode {
    match std::env::var(streambus_planted::VARIABLE) {
        Ok(name) => match streambus_planted::named(&name) {
            Ok(defect) => {
                streambus_planted::plant(defect);
                terminal::note_plain(&format!(
                    "PLANTED BUG {name}: THIS PROGRAM IS BROKEN ON PURPOSE AND LOSES RECORDS"
                ));
            }
            Err(unknown) => {
                terminal::note_plain(&format!("error: {unknown}"));
                return Exit::Usage.into();
            }
        },
        Err(_) => terminal::note_plain(&format!(
            "no bug is planted: {} is not set; this program is for the tests of the checker",
            streambus_planted::VARIABLE
        )),
    }
    streambus_cli::run(std::env::args_os())
}
