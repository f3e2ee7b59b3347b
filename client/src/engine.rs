//! What every handle of one client shares, and how a call is retried until its time is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use streambus_protocol::api::Request;
use streambus_protocol::api::offsets::{ListOffsetsRequest, OffsetFound, OffsetQuery, OffsetsPartition};
use streambus_protocol::error_code::{Applied, ErrorCode};
use streambus_protocol::ids::{BrokerId, PartitionIndex};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::config::Config;
use crate::connection::circuit_state::CircuitRules;
use crate::connection::pool::Pool;
use crate::connection::{Connection, ConnectionSettings};
use crate::environment::Environment;
use crate::error::{Error, TopicPartition};
use crate::metadata::Metadata;
use crate::metadata::race::race;
use crate::op::Scope;
use crate::tasks::Tasks;

/// How long a read is waited for before another broker is asked too.
const READ_STAGGER: Duration = Duration::from_millis(700);
/// Pauses of [`Engine::quick_pause`] that are short: about as long together as a broker that is cut off leads on.
const QUICK_PAUSES: u32 = 50;
const QUICK_PAUSE_MAX: Duration = Duration::from_millis(100);

/// Whether a request changes anything: what makes an unknown outcome matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Asking twice is harmless.
    Read,
    /// Asking twice may do it twice, so an unknown outcome ends the call.
    Change,
}

/// Whether a call that ended with `error` is made again.
pub(crate) fn may_retry(error: &Error, effect: Effect) -> bool {
    // A replica may become eligible; whoever named it should hear that it is not, instead of waiting for that.
    let ineligible = error.code() == Some(ErrorCode::IneligibleReplica);
    error.is_retriable() && !ineligible && (effect == Effect::Read || error.applied() == Applied::No)
}

/// Whether another attempt after `pause` is worth beginning with `left` time from now.
///
/// A change that the deadline cuts short ends with an unknown outcome, in the place of a cause that was known: it gets at
/// least as much time as was waited for it, or is not made.
fn is_worth_another(effect: Effect, pause: Duration, left: Duration) -> bool {
    let least = if effect == Effect::Change { pause } else { Duration::ZERO };
    left > pause + least
}

/// Whether `error` says that the client's picture of the cluster is out of date.
pub(crate) fn wants_new_metadata(error: &Error) -> bool {
    match error {
        Error::Io { .. } | Error::Protocol { .. } => true,
        _ => error.code().is_some_and(|code| {
            matches!(
                code,
                ErrorCode::NotLeader
                    | ErrorCode::UnknownTopicId
                    | ErrorCode::UnknownPartition
                    | ErrorCode::FencedLeaderEpoch
                    | ErrorCode::UnknownLeaderEpoch
                    | ErrorCode::LeaderNotAvailable
                    | ErrorCode::NoController
                    | ErrorCode::StorageReadOnly
                    | ErrorCode::StorageDamaged
                    | ErrorCode::NotReady
            )
        }),
    }
}

/// The shared part of a client.
pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) environment: Environment,
    pub(crate) tasks: Tasks,
    pub(crate) pool: Arc<Pool>,
    pub(crate) metadata: Metadata,
    pub(crate) backoff: Backoff,
}

impl Engine {
    pub(crate) fn new(config: Config, environment: Environment) -> Self {
        let tasks = Tasks::new();
        let settings = ConnectionSettings {
            client_id: config.client_id.clone(),
            connect_timeout: config.connect_timeout,
            request_timeout: config.request_timeout,
            ping_interval: config.ping_interval,
            ping_timeout: config.ping_timeout,
            requests_in_flight_max: config.requests_in_flight_max,
            frame_bytes_max: config.frame_bytes_max,
        };
        let rules = CircuitRules {
            failures: config.circuit_failures.max(1),
            pause: Backoff::new(config.circuit_pause, config.circuit_pause.saturating_mul(16)),
            probe_timeout: config.connect_timeout,
        };
        let pool = Arc::new(Pool::new(environment.clone(), settings, rules, tasks.clone()));
        let metadata = Metadata::new(
            Arc::clone(&pool),
            Arc::clone(&environment.random),
            config.brokers.clone(),
            config.metadata_max_age,
        );
        let backoff = Backoff::new(config.retry_backoff, config.retry_backoff_max);
        Self { config, environment, tasks, pool, metadata, backoff }
    }

    /// The pause after `failures` failed attempts.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        self.backoff.pause(failures, self.environment.random.next_u64())
    }

    /// The pause after `failures` failed attempts at something that another leader ends: short for as long as an election
    /// may take, then as [`Engine::pause`].
    pub(crate) fn quick_pause(&self, failures: u32) -> Duration {
        let pause = self.pause(failures);
        if failures <= QUICK_PAUSES { pause.min(QUICK_PAUSE_MAX) } else { pause }
    }

    /// Sends `request` to any broker, the controller if it is known, and retries until the call's time is over. A read
    /// that takes long is asked of another broker too; a change never.
    pub(crate) async fn call<R: Request>(
        &self,
        scope: &Scope,
        effect: Effect,
        request: &R,
    ) -> Result<R::Response, Error> {
        // Who could not serve the last attempt is asked last in the next.
        let unhelpful = Mutex::new(None);
        self.retry(scope, effect, || async {
            let avoid = *unhelpful.lock();
            let ask = |connection: Connection| {
                let unhelpful = &unhelpful;
                async move {
                    let mutates = effect == Effect::Change;
                    scope.sent(mutates);
                    let outcome = connection.call(request, scope.deadline()).await;
                    let outcome = outcome.map_err(|error| error.into_error(connection.address(), mutates));
                    if outcome.as_ref().is_err_and(Error::is_retriable) {
                        *unhelpful.lock() = Some(connection.broker());
                    }
                    outcome
                }
            };
            if effect == Effect::Change {
                return ask(self.metadata.connect_any(avoid).await?).await;
            }
            let places = self.metadata.places(avoid, true);
            let raced = race(places, READ_STAGGER, |place| async {
                let connection = self.metadata.open(place).await?;
                match ask(connection).await {
                    Err(error) if error.is_retriable() => Err(error),
                    answer => Ok(answer),
                }
            });
            raced.await.unwrap_or(Err(Error::Closed))?
        })
        .await
    }

    /// Makes attempts until one succeeds, cannot succeed, or the call's time is over. Between attempts it waits, and
    /// fetches a new picture of the cluster when the failure says so.
    pub(crate) async fn retry<T, F, Fut>(&self, scope: &Scope, effect: Effect, attempt: F) -> Result<T, Error>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let mut failures = 0u32;
        loop {
            scope.attempt();
            let seen = self.metadata.view();
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            scope.attempt_failed(&error);
            if self.tasks.is_stopped() {
                return Err(if error.is_outcome_unknown() { scope.cancelled() } else { Error::Closed });
            }
            if !may_retry(&error, effect) {
                return Err(error);
            }
            failures = failures.saturating_add(1);
            let pause = self.pause(failures);
            let left = scope.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| !is_worth_another(effect, pause, left)) {
                // Waiting would only use up the time: the last cause is already known.
                return Err(scope.timed_out());
            }
            tracing::debug!(%error, failures, ?pause, "retrying");
            tokio::time::sleep(pause).await;
            // Unless the failure said itself who leads.
            let unchanged = Arc::ptr_eq(&seen, &self.metadata.view());
            if wants_new_metadata(&error)
                && unchanged
                && let Err(error) = self.metadata.newer_than(seen.version).await
            {
                scope.attempt_failed(&error);
            }
        }
    }

    /// Finds one offset in each of some partitions, asking their leaders.
    pub(crate) async fn list_offsets(
        &self,
        scope: &Scope,
        wanted: &[(TopicPartition, OffsetQuery)],
    ) -> Result<Vec<OffsetFound>, Error> {
        self.retry(scope, Effect::Read, || self.list_offsets_once(scope, wanted)).await
    }

    async fn list_offsets_once(
        &self,
        scope: &Scope,
        wanted: &[(TopicPartition, OffsetQuery)],
    ) -> Result<Vec<OffsetFound>, Error> {
        let mut by_leader: BTreeMap<BrokerId, Vec<(usize, OffsetsPartition)>> = BTreeMap::new();
        for (place, (at, query)) in wanted.iter().enumerate() {
            let topic = self.metadata.topic(&at.topic).await?;
            let leader = topic.partition(at.partition)?.leader.ok_or_else(|| leaderless(at))?;
            let partition = PartitionIndex::new(at.partition);
            let ask = OffsetsPartition { topic: topic.id, partition, query: *query };
            by_leader.entry(leader).or_default().push((place, ask));
        }
        let mut found: Vec<Option<OffsetFound>> = vec![None; wanted.len()];
        for (leader, asked) in by_leader {
            let connection = self.metadata.connect(leader).await?;
            scope.sent(false);
            let request = ListOffsetsRequest { partitions: asked.iter().map(|(_, ask)| *ask).collect() };
            let response = connection
                .call(&request, scope.deadline())
                .await
                .map_err(|error| error.into_error(connection.address(), false))?;
            for outcome in response.partitions {
                let place = asked
                    .iter()
                    .find(|(_, ask)| ask.topic == outcome.topic && ask.partition == outcome.partition)
                    .map(|(place, _)| *place);
                let Some((slot, (at, _))) = place.and_then(|p| Some((found.get_mut(p)?, wanted.get(p)?))) else {
                    continue;
                };
                match outcome.result {
                    Ok(offset) => *slot = Some(offset),
                    Err(body) => {
                        if let Some(hint) = body.leader {
                            self.metadata.learn(&at.topic, outcome.topic, at.partition, hint);
                        }
                        return Err(Error::from_partition_body(body, at.clone()));
                    }
                }
            }
        }
        found.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| Error::Protocol {
            addr: "broker".to_owned(),
            reason: "an answer about offsets leaves out a partition".to_owned(),
            outcome: Applied::No,
        })
    }
}

/// The error for a partition that has no leader now.
pub(crate) fn leaderless(at: &TopicPartition) -> Error {
    Error::Broker { code: ErrorCode::LeaderNotAvailable, message: "no leader now".to_owned(), at: Some(at.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_change_is_not_begun_that_the_deadline_would_cut_short() {
        let ms = Duration::from_millis;
        assert!(is_worth_another(Effect::Change, ms(100), ms(201)));
        assert!(!is_worth_another(Effect::Change, ms(100), ms(107)));
        assert!(is_worth_another(Effect::Read, ms(100), ms(107)), "a read cut short leaves no doubt");
        assert!(!is_worth_another(Effect::Read, ms(100), ms(100)));
    }

    #[test]
    fn a_change_whose_outcome_is_unknown_is_never_made_again() {
        let lost = |outcome| Error::Io {
            addr: "b1:9092".into(),
            source: Arc::new(io::ErrorKind::ConnectionReset.into()),
            outcome,
        };
        assert!(!may_retry(&lost(Applied::Unknown), Effect::Change));
        assert!(may_retry(&lost(Applied::No), Effect::Change));
        assert!(may_retry(&lost(Applied::Unknown), Effect::Read));
        for code in ErrorCode::ALL {
            let error = Error::Broker { code: *code, message: String::new(), at: None };
            let expected =
                code.is_retriable() && code.applied() == Applied::No && *code != ErrorCode::IneligibleReplica;
            assert_eq!(may_retry(&error, Effect::Change), expected, "{code}");
        }
    }
}
