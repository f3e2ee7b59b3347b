//! The ledger of long runs: one table row for each judged run, appended to the file that `STREAMBUS_LEDGER` names.
//! Nothing is written when it names none. `STREAMBUS_LEDGER_RUN` is what stands in front of each row: the day and the
//! commit, which whoever starts a soak knows.

use std::fs::OpenOptions;
use std::io::Write as _;

use crate::history::History;
use crate::setting;

/// Appends a run's row: day and commit, name, seed, faults and other steps, acknowledged, unknown, violations.
///
/// Panics when the file cannot be written: a run that does not count is better noticed at once.
pub fn append(name: &str, history: &History, steps: usize, violations: usize) {
    let Some(path) = std::env::var_os("STREAMBUS_LEDGER") else { return };
    let run = std::env::var("STREAMBUS_LEDGER_RUN").unwrap_or_else(|_| "not said".to_owned());
    let row = format!(
        "| {run} | {name} | {} | {steps} | {} | {} | {violations} |\n",
        setting::seed(),
        history.acked(),
        history.unknown()
    );
    let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("the ledger can be opened");
    file.write_all(row.as_bytes()).expect("the ledger can be written");
}
