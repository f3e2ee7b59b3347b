//! Why a workload could not be run. Records that fail are no such error: they are counted in the report.

use streambus_client::Error;

/// A workload that gave no result.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The cluster refused or could not be reached.
    #[error("{what}: {source}")]
    Client {
        /// What was being done.
        what: &'static str,
        /// The client's error.
        #[source]
        source: Error,
    },
    /// The options contradict each other or the topic.
    #[error("{0}")]
    Options(String),
    /// A task of the workload ended without a result.
    #[error("a task of the workload was lost: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// What judges the records ended before the records did.
    #[error("the check of the records was lost")]
    NoVerdict,
}

impl WorkloadError {
    /// Names what the client was doing.
    pub(crate) fn during(what: &'static str) -> impl Fn(Error) -> Self {
        move |source| Self::Client { what, source }
    }
}
