//! Appending records: `POST /topics/{t}/records`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::{Response, StatusCode};
use serde::Serialize;
use streambus_protocol::api::metadata::{MetadataRequest, TopicLayout};
use streambus_protocol::api::produce::{Acks, ProducePartition, ProduceRequest, Produced};
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::batch::UnverifiedBatch;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::{Applied, ErrorCode};
use streambus_protocol::ids::{PartitionIndex, TopicName};
use streambus_protocol::timestamp::Timestamp;

use super::super::HttpState;
use super::super::body::{Answer, BodyType, ReadBody, json};
use super::super::problem::{PartError, Problem};
use super::super::query::Query;
use super::off_the_runtime;
use super::produce_plan::{self, Plan, PlannedBatch, Refusal};
use crate::clock::Deadline;
use crate::service::Services;

/// What appending understands.
pub(super) const PARAMETERS: &[&str] = &["acks"];

/// Appends every record of the body and tells each one's outcome, in order: 200 when all are appended, 207 when some
/// are, a problem when none is.
pub(super) async fn produce(
    state: &HttpState,
    services: &Arc<Services>,
    topic: &TopicName,
    query: &Query,
    body_type: BodyType,
    body: ReadBody,
    deadline: Deadline,
) -> Result<Response<Answer>, Problem> {
    let acks = match query.get("acks") {
        None | Some("all") => Acks::All,
        Some("leader") => Acks::Leader,
        Some(other) => {
            // `none` too: every record gets an answer here, and without acknowledgement there is none to give.
            return Err(Problem::invalid(format!("'acks' is '{other}', it must be all or leader")).at("acks"));
        }
    };
    let layout = layout(services, topic, deadline).await?;
    let partitions = u32::try_from(layout.partitions.len()).unwrap_or(u32::MAX).max(1);
    let turn = state.requests.fetch_add(1, Ordering::Relaxed);
    let now = state.clock.now();
    let plan = off_the_runtime(move || {
        let incoming = produce_plan::read(&body.bytes, body_type, now)?;
        Ok::<_, Problem>((produce_plan::plan(incoming, partitions, turn), body))
    });
    let (plan, body) = plan.await??;
    let outcomes = append(services, &layout, plan, acks, deadline).await;
    drop(body);
    answer(outcomes)
}

/// Where the topic's partitions are; an unknown topic's refusal has a "did you mean".
pub(super) async fn layout(services: &Services, topic: &TopicName, deadline: Deadline) -> Result<TopicLayout, Problem> {
    let request = MetadataRequest { topics: Some(vec![topic.clone()]) };
    let metadata = services.cluster.metadata(&request, deadline).await?;
    let found = metadata.topics.into_iter().find(|found| found.name == *topic).map(|found| found.outcome);
    match found {
        Some(outcome) => Ok(outcome?),
        None => Err(Problem::new(ErrorCode::UnknownTopic, format!("no topic '{topic}'"))),
    }
}

/// Appends the plan round by round.
async fn append(
    services: &Services,
    layout: &TopicLayout,
    plan: Plan,
    acks: Acks,
    deadline: Deadline,
) -> Vec<Result<Appended, Refusal>> {
    let mut outcomes = Outcomes::new(plan.records);
    for (position, refusal) in plan.refused {
        outcomes.set(position, Err(refusal));
    }
    let mut waiting: BTreeMap<PartitionIndex, std::vec::IntoIter<PlannedBatch>> =
        plan.batches.into_iter().map(|(partition, batches)| (partition, batches.into_iter())).collect();
    while !waiting.is_empty() {
        let mut round: BTreeMap<PartitionIndex, Vec<(usize, Timestamp)>> = BTreeMap::new();
        let mut partitions = Vec::new();
        waiting.retain(|partition, batches| {
            let Some(batch) = batches.next() else { return false };
            round.insert(*partition, batch.records);
            partitions.push(ProducePartition {
                topic: layout.id,
                partition: *partition,
                leader_epoch: LeaderEpoch::UNKNOWN,
                batch: UnverifiedBatch::new(batch.bytes),
            });
            true
        });
        if partitions.is_empty() {
            break;
        }
        let response = services.produce.produce(ProduceRequest { acks, partitions }, deadline).await;
        for outcome in response.partitions {
            let Some(records) = round.remove(&outcome.partition) else { continue };
            match outcome.result {
                Ok(produced) => outcomes.appended(outcome.partition, &records, &produced),
                Err(error) => {
                    let not_tried = waiting.remove(&outcome.partition);
                    outcomes.refused(&records, &error);
                    for batch in not_tried.into_iter().flatten() {
                        outcomes.not_tried(&batch.records, &error);
                    }
                }
            }
        }
    }
    outcomes.into_vec()
}

/// One outcome for each record. A place that nobody filled would be a record whose fate nobody knows.
struct Outcomes(Vec<Result<Appended, Refusal>>);

impl Outcomes {
    fn new(records: usize) -> Self {
        let unknown =
            Refusal { code: ErrorCode::Internal, detail: "no outcome was reported for this record".to_owned() };
        Self(vec![Err(unknown); records])
    }

    fn set(&mut self, position: usize, outcome: Result<Appended, Refusal>) {
        if let Some(place) = self.0.get_mut(position) {
            *place = outcome;
        }
    }

    fn appended(&mut self, partition: PartitionIndex, records: &[(usize, Timestamp)], produced: &Produced) {
        for (delta, (position, own_time)) in (0..).zip(records) {
            let offset = produced.base_offset.checked_add(delta).map(|offset| offset.get());
            let timestamp = if produced.timestamp == Timestamp::NONE { *own_time } else { produced.timestamp };
            let appended = Appended {
                partition: partition.get(),
                offset: offset.unwrap_or(u64::MAX),
                timestamp: timestamp.as_millis(),
                replicas: produced.receipt.replicas,
                durable: produced.receipt.durable,
            };
            self.set(*position, Ok(appended));
        }
    }

    fn refused(&mut self, records: &[(usize, Timestamp)], error: &ErrorBody) {
        for (position, _) in records {
            self.set(*position, Err(Refusal { code: error.code, detail: error.message.clone() }));
        }
    }

    fn not_tried(&mut self, records: &[(usize, Timestamp)], error: &ErrorBody) {
        for (position, _) in records {
            let detail = format!("not tried, because an earlier record of this request failed: {}", error.message);
            self.set(*position, Err(Refusal { code: ErrorCode::NotReady, detail }));
        }
    }

    fn into_vec(self) -> Vec<Result<Appended, Refusal>> {
        self.0
    }
}

fn answer(outcomes: Vec<Result<Appended, Refusal>>) -> Result<Response<Answer>, Problem> {
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let produced = outcomes.len() - failed;
    if produced == 0
        && let Some(worst) = headline(&outcomes)
    {
        let detail = match failed {
            1 => worst.detail.clone(),
            _ => format!("none of {failed} records was acknowledged; one of them: {}", worst.detail),
        };
        let mut problem = Problem::new(worst.code, detail);
        problem.errors = outcomes.iter().enumerate().filter_map(part).collect();
        return Err(problem);
    }
    let status = if failed == 0 { StatusCode::OK } else { StatusCode::MULTI_STATUS };
    let records = outcomes.into_iter().map(|outcome| match outcome {
        Ok(appended) => Outcome::Appended(appended),
        Err(refusal) => Outcome::Refused { error: RefusedRecord::from(refusal) },
    });
    Ok(json(status, &Report { records: records.collect(), produced, failed }))
}

/// The refusal that speaks for all: one whose outcome is unknown before one that certainly changed nothing. A client
/// that repeats the request on the word of the headline would otherwise append those records twice.
fn headline(outcomes: &[Result<Appended, Refusal>]) -> Option<&Refusal> {
    let mut refusals = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let first = refusals.clone().next();
    refusals.find(|refusal| refusal.code.applied() == Applied::Unknown).or(first)
}

fn part((position, outcome): (usize, &Result<Appended, Refusal>)) -> Option<PartError> {
    let refusal = outcome.as_ref().err()?;
    Some(PartError { pointer: format!("/{position}"), detail: refusal.detail.clone(), code: refusal.code.as_str() })
}

#[derive(Serialize)]
struct Report {
    records: Vec<Outcome>,
    produced: usize,
    failed: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Appended(Appended),
    Refused { error: RefusedRecord },
}

/// Where a record is, and how safe it was when this was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Appended {
    partition: u32,
    offset: u64,
    timestamp: i64,
    /// Replicas that hold it.
    replicas: u8,
    /// Replicas that have it on disk.
    durable: u8,
}

#[derive(Serialize)]
struct RefusedRecord {
    code: &'static str,
    detail: String,
    retriable: bool,
    applied: &'static str,
}

impl From<Refusal> for RefusedRecord {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code.as_str(),
            detail: refusal.detail,
            retriable: refusal.code.is_retriable(),
            applied: match refusal.code.applied() {
                Applied::No => "no",
                Applied::Unknown => "unknown",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use streambus_protocol::api::produce::Receipt;
    use streambus_protocol::offset::Offset;

    use super::*;

    fn at(position: usize) -> (usize, Timestamp) {
        (position, Timestamp::from_millis(5))
    }

    fn produced(base: u64, timestamp: Timestamp) -> Produced {
        let base_offset = Offset::new(base).expect("small");
        Produced { base_offset, timestamp, receipt: Receipt { replicas: 1, durable: 1 } }
    }

    #[test]
    fn each_record_gets_its_own_offset_and_time() {
        let mut outcomes = Outcomes::new(4);
        outcomes.appended(PartitionIndex::new(2), &[at(3), at(1)], &produced(10, Timestamp::NONE));
        outcomes.appended(PartitionIndex::new(0), &[at(0)], &produced(7, Timestamp::from_millis(99)));
        let outcomes = outcomes.into_vec();
        let told: Vec<_> =
            outcomes.iter().map(|o| o.as_ref().map(|a| (a.partition, a.offset, a.timestamp)).ok()).collect();
        assert_eq!(told, [Some((0, 7, 99)), Some((2, 11, 5)), None, Some((2, 10, 5))]);
        assert_eq!(outcomes[2].as_ref().expect_err("nobody reported it").code, ErrorCode::Internal);
    }

    #[test]
    fn the_status_says_all_some_or_none() {
        let appended = || {
            let mut outcomes = Outcomes::new(1);
            outcomes.appended(PartitionIndex::new(0), &[at(0)], &produced(0, Timestamp::NONE));
            outcomes.into_vec().remove(0)
        };
        let refused = || Err(Refusal { code: ErrorCode::StorageFull, detail: "full".to_owned() });
        assert_eq!(answer(vec![appended()]).expect("all").status(), 200);
        assert_eq!(answer(vec![]).expect("nothing asked").status(), 200);
        assert_eq!(answer(vec![refused(), appended()]).expect("some").status(), 207);
        let none = answer(vec![refused(), refused()]).expect_err("none");
        assert_eq!((none.code.as_str(), none.errors.len()), ("STORAGE_FULL", 2));
        assert_eq!(none.errors[1].pointer, "/1");
    }

    // Catches a headline that says "nothing happened" for records of which some may be appended.
    #[test]
    fn an_unknown_outcome_is_the_headline_wherever_it_stands() {
        let refused = |code: ErrorCode| Err(Refusal { code, detail: code.as_str().to_owned() });
        let (no, unknown) = (ErrorCode::CorruptBatch, ErrorCode::Timeout);
        assert_eq!((no.applied(), unknown.applied()), (Applied::No, Applied::Unknown));
        for outcomes in [vec![refused(no), refused(unknown)], vec![refused(unknown), refused(no)]] {
            let problem = answer(outcomes).expect_err("none");
            assert_eq!((problem.code.as_str(), problem.errors.len()), ("TIMEOUT", 2));
            assert!(problem.detail.contains("TIMEOUT"), "{}", problem.detail);
        }
    }
}
