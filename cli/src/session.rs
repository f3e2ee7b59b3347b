//! From the global options to a connected client, and from a client's error to what the user reads.

use std::future::Future;

use streambus_client::{Client, Config, Error, TopicPartition};
use streambus_protocol::api::offsets::OffsetQuery;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::timestamp::Timestamp;
use tokio::runtime::{Builder, Runtime};

use crate::args::Global;
use crate::failure::{Exit, Failure, exit_of};
use crate::suggest;

/// Starts the runtime of a client command.
pub fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("starting the runtime failed: {error}")))
}

/// Runs a client command to its end.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime()?;
    let outcome = runtime.block_on(work);
    // A reader of standard input may be blocked for ever; the process ends all the same.
    runtime.shutdown_background();
    outcome
}

/// The client's settings that the global options ask for.
pub fn client_config(global: &Global) -> Config {
    let mut config = Config::new(global.brokers.iter().map(String::as_str)).client_id("streambus-cli");
    if let Some(timeout) = global.timeout {
        config = config.request_timeout(timeout);
        if config.connect_timeout > timeout {
            config = config.connect_timeout(timeout);
        }
    }
    config
}

/// Connects, or says which addresses were tried.
pub async fn connect(global: &Global) -> Result<Client, Failure> {
    connect_with(global, client_config(global)).await
}

/// Connects with settings of the command's own.
pub async fn connect_with(global: &Global, config: Config) -> Result<Client, Failure> {
    Client::connect_with(config).await.map_err(|error| {
        let failure = from_client(&error);
        let next = match &error {
            Error::Invalid { .. } => "write -b host:port",
            _ => "is a broker running there? `streambus server` starts one; -b or STREAMBUS_BROKERS names another",
        };
        if failure.next.is_some() { failure } else { failure.next(next) }.at(global.brokers.join(", "))
    })
}

/// What the user reads of a client's error.
pub fn from_client(error: &Error) -> Failure {
    let exit = match error {
        Error::Timeout { last, .. } => match last.as_deref().and_then(Error::code) {
            Some(code) if exit_of(code) == Exit::Unhealthy => Exit::Unhealthy,
            _ => Exit::Timeout,
        },
        Error::UnknownTopic { .. } | Error::UnknownPartition { .. } | Error::OffsetOutOfRange { .. } => Exit::NotFound,
        Error::Fenced { .. } => Exit::Conflict,
        Error::Invalid { .. } => Exit::Usage,
        Error::Broker { code, .. } => exit_of(*code),
        _ => Exit::Failed,
    };
    let mut failure = Failure::new(exit, error.to_string());
    failure.code = error.code().map(ErrorCode::as_str);
    failure.place = error.partition().map(|at| at.to_string());
    if error.is_outcome_unknown() {
        failure = failure.next("look whether it happened before you repeat it");
    }
    failure
}

/// Like [`from_client`], for an operation on `topic`: an unknown name gets the nearest known one.
pub async fn about_topic(client: &Client, topic: &str, error: Error) -> Failure {
    let mut failure = from_client(&error);
    match &error {
        Error::UnknownTopic { .. } => {
            let names = topic_names(client).await;
            failure.next = Some(match suggest::nearest(topic, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean '{near}'? `streambus topic list` shows all"),
                None => format!("`streambus topic create {topic}` makes it, `streambus topic list` shows all"),
            });
        }
        Error::Broker { code: ErrorCode::TopicExists, .. } => {
            failure.next = Some(format!("`streambus topic describe {topic}` shows it"));
        }
        Error::Broker { code: ErrorCode::InvalidReplicationFactor, .. } => {
            failure.next = Some(
                "ask for fewer --replicas, or start more brokers: `streambus cluster brokers` lists them".to_owned(),
            );
        }
        _ => {}
    }
    if failure.place.is_none() {
        failure.place = Some(format!("topic {topic}"));
    }
    failure
}

/// An offset found in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
    /// The time of the record there, when it was asked for by time.
    pub timestamp: Timestamp,
}

/// Proves that `topic` and the given partitions of it exist; all its partitions when none is given.
pub async fn check_partitions(
    client: &Client,
    topic: &str,
    partitions: &[u32],
) -> Result<Vec<TopicPartition>, Failure> {
    let all = match client.admin().partitions(topic).await {
        Ok(all) => all,
        Err(error) => return Err(about_topic(client, topic, error).await),
    };
    if let Some(unknown) = partitions.iter().find(|wanted| !all.iter().any(|at| at.partition == **wanted)) {
        let last = all.len().saturating_sub(1);
        return Err(Failure::new(Exit::NotFound, format!("topic '{topic}' has no partition {unknown}"))
            .next(format!("its partitions are 0 to {last}")));
    }
    Ok(all.into_iter().filter(|at| partitions.is_empty() || partitions.contains(&at.partition)).collect())
}

/// One offset in each of the given partitions of `topic`, or in all when none is given; by partition.
pub async fn offsets(
    client: &Client,
    topic: &str,
    partitions: &[u32],
    query: OffsetQuery,
) -> Result<Vec<Found>, Failure> {
    let wanted = check_partitions(client, topic, partitions).await?;
    let found = client.admin().list_offsets(wanted.into_iter().map(|at| (at, query))).await;
    let found = found.map_err(|error| from_client(&error))?;
    Ok(found
        .into_iter()
        .map(|(at, found)| Found { partition: at.partition, offset: found.offset.get(), timestamp: found.timestamp })
        .collect())
}

/// The names of all topics; none when they cannot be had, since this only feeds a suggestion.
async fn topic_names(client: &Client) -> Vec<String> {
    match client.admin().list_topics().await {
        Ok(topics) => topics.into_iter().map(|topic| topic.name.to_string()).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use streambus_protocol::error_code::Applied;

    use super::*;

    fn broker(code: ErrorCode) -> Error {
        Error::Broker { code, message: String::new(), at: None }
    }

    /// Scripts switch on these numbers.
    #[test]
    fn errors_map_to_exit_codes() {
        let timeout = |last| Error::Timeout {
            op: "x",
            after: Duration::from_secs(1),
            attempts: 1,
            last: Some(Box::new(last)),
            outcome: Applied::No,
        };
        for (error, exit) in [
            (Error::UnknownTopic { topic: "t".into() }, 3),
            (broker(ErrorCode::UnknownPartition), 3),
            (broker(ErrorCode::TopicExists), 4),
            (broker(ErrorCode::Timeout), 6),
            (broker(ErrorCode::InvalidConfig), 2),
            (broker(ErrorCode::NotReady), 7),
            (broker(ErrorCode::Internal), 1),
            (timeout(Error::Closed), 6),
            (timeout(broker(ErrorCode::NoController)), 7),
            (Error::Closed, 1),
        ] {
            assert_eq!(from_client(&error).exit as u8, exit, "{error}");
        }
    }

    #[test]
    fn an_unknown_outcome_is_never_told_as_a_plain_failure() {
        let failure = from_client(&broker(ErrorCode::MetadataOutcomeUnknown));
        assert!(failure.render(None).contains("look whether it happened"));
        assert!(
            failure.render(Some(crate::output::OutputMode::Json)).contains("\"code\":\"METADATA_OUTCOME_UNKNOWN\"")
        );
    }
}
