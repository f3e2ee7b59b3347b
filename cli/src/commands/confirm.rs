//! Destructive commands ask first. Without a terminal they need `--yes`, so that no script deletes by accident.

use clap::Args;

use crate::failure::{Exit, Failure};
use crate::terminal;

/// The option that answers the question beforehand.
#[derive(Clone, Copy, Debug, Args)]
pub struct Confirm {
    /// Do it without asking
    #[arg(short = 'y', long)]
    pub yes: bool,
}

impl Confirm {
    /// Passes when the user agrees that `what` happens, as in "delete topic orders and its 3 partitions".
    pub fn ask(self, what: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !terminal::stdin_is_terminal() || !terminal::stderr_is_terminal() {
            return Err(Failure::usage(format!("refusing to {what}: nobody is there to ask"))
                .next("repeat it with --yes if you mean it"));
        }
        if terminal::ask(&format!("Really {what}?")) {
            Ok(())
        } else {
            Err(Failure::new(Exit::Failed, format!("nothing was done: {what} was not confirmed")))
        }
    }
}
