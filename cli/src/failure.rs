//! How a command fails: what happened, where, and what to do next; and the exit code that a script switches on.

use std::process::ExitCode;

use serde::Serialize;
use streambus_protocol::error_code::ErrorCode;

use crate::output::OutputMode;

/// What a process's exit code says. The numbers are a contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It did not work.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The named thing does not exist.
    NotFound = 3,
    /// The named thing exists already, or is in another state than asked for.
    Conflict = 4,
    /// Not allowed.
    Auth = 5,
    /// The deadline passed.
    Timeout = 6,
    /// The cluster answers, and is not healthy or not ready.
    Unhealthy = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the exit code will be.
    pub exit: Exit,
    /// The broker's code, when a broker refused.
    pub code: Option<&'static str>,
    /// What happened.
    pub what: String,
    /// Where: an address, a topic, a file and line.
    pub place: Option<String>,
    /// What the user can do next.
    pub next: Option<String>,
    /// How it is told.
    pub voice: Voice,
}

/// Whether a failure still has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// It is printed on standard error.
    Spoken,
    /// The command has told it already, or there is nothing to tell: the reader of standard output has gone.
    Quiet,
}

#[derive(Serialize)]
struct FailureJson<'a> {
    error: FailureFields<'a>,
}

#[derive(Serialize)]
struct FailureFields<'a> {
    code: Option<&'a str>,
    exit: u8,
    what: &'a str,
    #[serde(rename = "where")]
    place: Option<&'a str>,
    next: Option<&'a str>,
}

impl Failure {
    /// A failure with an exit code of its own.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, code: None, what: what.into(), place: None, next: None, voice: Voice::Spoken }
    }

    /// A plain failure.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what)
    }

    /// A wrong command line.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// An end that needs no words.
    pub fn quiet(exit: Exit) -> Self {
        Self { voice: Voice::Quiet, ..Self::new(exit, "") }
    }

    /// Names the place.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Names the next step.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// The text for standard error: JSON in the JSON modes, else up to three lines.
    pub fn render(&self, mode: Option<OutputMode>) -> String {
        if mode.is_some_and(OutputMode::is_json) {
            let fields = FailureFields {
                code: self.code,
                exit: self.exit as u8,
                what: &self.what,
                place: self.place.as_deref(),
                next: self.next.as_deref(),
            };
            return serde_json::to_string(&FailureJson { error: fields }).unwrap_or_else(|_| self.what.clone());
        }
        let mut text = format!("error: {}", self.what);
        if let Some(code) = self.code
            && !self.what.contains(code)
        {
            text.push_str(&format!(" [{code}]"));
        }
        if let Some(place) = &self.place {
            text.push_str(&format!("\n  where: {place}"));
        }
        if let Some(next) = &self.next {
            text.push_str(&format!("\n  next:  {next}"));
        }
        text
    }
}

/// The exit code that says the same as a broker's code.
pub fn exit_of(code: ErrorCode) -> Exit {
    use ErrorCode as C;
    match code {
        C::UnknownTopic | C::UnknownTopicId | C::UnknownPartition | C::OffsetOutOfRange | C::UnknownBroker => {
            Exit::NotFound
        }
        C::TopicExists
        | C::OutOfOrderSequence
        | C::FencedProducer
        | C::DuplicateSequence
        | C::WrongCluster
        | C::WrongBroker
        | C::DuplicateBroker
        | C::StaleBrokerEpoch
        | C::BrokerNotEmpty
        | C::IneligibleReplica
        | C::NoReassignment => Exit::Conflict,
        C::Timeout => Exit::Timeout,
        C::InvalidTopicName
        | C::InvalidConfig
        | C::InvalidPartitions
        | C::InvalidReplicationFactor
        | C::InvalidAssignment
        | C::InvalidRecord
        | C::InvalidRequest => Exit::Usage,
        C::NotEnoughReplicas | C::NotEnoughReplicasAfterAppend => Exit::Unhealthy,
        C::NotReady | C::NoController | C::LeaderNotAvailable | C::StorageReadOnly | C::StorageFull => Exit::Unhealthy,
        _ => Exit::Failed,
    }
}
