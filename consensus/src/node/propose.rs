//! From a command to its outcome, with every error put where it belongs: not applied, unknown, or refused.

use std::time::Duration;

use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::command::Command;
use crate::error::{NotApplied, ProposeError, UnknownOutcome};
use crate::limits::COMMAND_BYTES_MAX;
use crate::outcome::{Outcome, Reply};
use crate::types::{Raft, TypeConfig};

const BACKOFF_FIRST: Duration = Duration::from_millis(2);
const BACKOFF_MAX: Duration = Duration::from_millis(100);

pub(super) async fn propose(raft: &Raft, command: Command, patience: Duration) -> Result<Outcome, ProposeError> {
    check_encoding(&command)?;
    let deadline = Instant::now() + patience;
    let mut backoff = BACKOFF_FIRST;
    loop {
        let written = match timeout_at(deadline, raft.client_write(command.clone())).await {
            Ok(written) => written,
            // The command was handed over: it may be in the log.
            Err(_) => return Err(UnknownOutcome::Deadline(patience).into()),
        };
        match written.map_err(classify) {
            Ok(answer) => return answered(answer.data),
            Err(Attempt::Failed(error)) => return Err(error),
            Err(Attempt::TryAgain) => {}
        }
        let again = Instant::now() + backoff;
        if again >= deadline {
            return Err(NotApplied::NoController.into());
        }
        sleep_until(again).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// A failed attempt.
enum Attempt {
    /// Certainly not appended, and nobody better is known: wait a little.
    TryAgain,
    /// To be reported.
    Failed(ProposeError),
}

fn classify(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Attempt {
    let error = match error {
        RaftError::APIError(error) => error,
        // The core may have appended the command before it stopped.
        RaftError::Fatal(fatal) => return Attempt::Failed(UnknownOutcome::Stopped(fatal.to_string()).into()),
    };
    match error {
        // Refused before it was appended. A leader whose lease has lapsed names nobody, and may get it back.
        ClientWriteError::ForwardToLeader(forward) => match (forward.leader_id, forward.leader_node) {
            (Some(id), Some(node)) => Attempt::Failed(NotApplied::OtherController { id, node }.into()),
            _ => Attempt::TryAgain,
        },
        ClientWriteError::LogEntryDiscarded(_) => Attempt::Failed(UnknownOutcome::ControllerChanged.into()),
        ClientWriteError::ChangeMembershipError(e) => Attempt::Failed(NotApplied::Malformed(e.to_string()).into()),
        ClientWriteError::PreconditionFailed(e) => Attempt::Failed(NotApplied::Malformed(e.to_string()).into()),
    }
}

fn answered(reply: Reply) -> Result<Outcome, ProposeError> {
    match reply {
        Reply::Command(outcome) => Ok(outcome?),
        Reply::Nothing => Err(NotApplied::Malformed("the entry was not a command".to_owned()).into()),
    }
}

/// A command enters the log only if every node will be able to read it back.
fn check_encoding(command: &Command) -> Result<(), NotApplied> {
    let bytes = command.encode();
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err(NotApplied::Malformed(format!("{} bytes, at most {COMMAND_BYTES_MAX} are possible", bytes.len())));
    }
    match Command::decode(&bytes) {
        Ok(read) if read == *command => Ok(()),
        Ok(_) => Err(NotApplied::Malformed("it reads back as another command".to_owned())),
        Err(e) => Err(NotApplied::Malformed(e.to_string())),
    }
}
