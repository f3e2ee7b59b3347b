//! Reading records: `GET /topics/{t}/records`.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use serde::Serialize;
use streambus_protocol::api::fetch::{FetchPartition, FetchRequest};
use streambus_protocol::api::metadata::TopicLayout;
use streambus_protocol::api::offsets::{ListOffsetsRequest, OffsetQuery, OffsetsPartition};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{PartitionIndex, TopicName};
use streambus_protocol::limits::FETCH_WAIT_MS_MAX;
use streambus_protocol::offset::Offset;

use super::super::HttpState;
use super::super::body::{Answer, json_within};
use super::super::problem::Problem;
use super::super::query::Query;
use super::json_record::OutgoingRecord;
use super::page::{self, FetchedPartition, From, PagePartition, Position};
use super::{off_the_runtime, produce};
use crate::clock::Deadline;
use crate::service::Services;

/// What reading understands.
pub(super) const PARAMETERS: &[&str] = &["from", "epoch", "cursor", "partition", "limit", "wait_ms"];
/// Records on a page.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1_000;
/// Bytes of keys, values and headers on a page, and record bytes fetched for it.
const PAGE_BYTES_MAX: u32 = 1024 * 1024;
/// What a page may take of the budget while it is built and sent: the batches, and the same as escaped JSON.
const PAGE_BUDGET_BYTES: u64 = 4 * 1024 * 1024;
/// Partitions that one page may merge.
const PARTITIONS_MAX: usize = 64;
/// The least that is fetched of a partition, so that a page over many of them makes progress in each.
const PARTITION_BYTES_MIN: u32 = 16 * 1024;

/// Answers one page. Without `partition`, all partitions are merged by timestamp. `wait_ms` waits for a first record
/// when there is none yet. A cursor, and `epoch` beside an offset, say what was read in front of it: a log that has something
/// else there, because a replica that lacked records was made its leader, is not read on as if nothing had happened.
pub(super) async fn consume(
    state: &HttpState,
    services: &Arc<Services>,
    topic: &TopicName,
    query: &Query,
    deadline: Deadline,
) -> Result<Response<Answer>, Problem> {
    let limit = query.number("limit", 1..=LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let wait_ms = query.number("wait_ms", 0..=FETCH_WAIT_MS_MAX)?.unwrap_or(0);
    let layout = produce::layout(services, topic, deadline).await?;
    let start = start(query, &layout, topic)?;
    let permit = state.budget.take(PAGE_BUDGET_BYTES)?;
    let asked = match start {
        Start::Cursor(positions) => positions,
        Start::From(from, partitions) => resolve(services, &layout, from, &partitions, deadline).await?,
    };
    let fetched = fetch(services, &layout, &asked, wait_ms, deadline).await?;
    let bytes_max = usize::try_from(PAGE_BYTES_MAX).unwrap_or(usize::MAX);
    let page =
        off_the_runtime(move || page::page(fetched, limit, bytes_max)).await?.map_err(|(partition, error)| {
            // The store verified it before: this broker's own reading is at fault, not the request.
            tracing::error!(%topic, %partition, %error, "a stored batch does not decode");
            Problem::new(ErrorCode::StorageDamaged, format!("partition {partition}: {error}"))
        })?;
    let next = page::cursor(&page.next);
    let answer = RecordPage { records: page.records, next, partitions: page.partitions };
    Ok(json_within(StatusCode::OK, &answer, permit))
}

enum Start {
    Cursor(Vec<Position>),
    From(From, Vec<PartitionIndex>),
}

fn start(query: &Query, layout: &TopicLayout, topic: &TopicName) -> Result<Start, Problem> {
    let count = u32::try_from(layout.partitions.len()).unwrap_or(u32::MAX);
    let exists = |partition: PartitionIndex| {
        if partition.get() < count {
            return Ok(partition);
        }
        let detail = format!("no partition {partition}: '{topic}' has {count}, counted from 0");
        Err(Problem::new(ErrorCode::UnknownPartition, detail))
    };
    if let Some(cursor) = query.get("cursor") {
        if ["from", "epoch", "partition"].iter().any(|name| query.get(name).is_some()) {
            let detail = "a cursor says where to read: give no 'from', no 'epoch' and no 'partition' with it";
            return Err(Problem::invalid(detail));
        }
        let positions = page::positions(cursor)?;
        for position in &positions {
            exists(position.partition)?;
        }
        return if positions.len() > PARTITIONS_MAX {
            Err(too_many(topic, positions.len()))
        } else {
            Ok(Start::Cursor(positions))
        };
    }
    let from = query.get("from").map_or(Ok(From::Earliest), From::parse)?;
    let partitions = match query.number("partition", 0..=u32::MAX)? {
        Some(partition) => vec![exists(PartitionIndex::new(partition))?],
        None if layout.partitions.len() > PARTITIONS_MAX => return Err(too_many(topic, layout.partitions.len())),
        None => layout.partitions.iter().map(|partition| partition.index).collect(),
    };
    if matches!(from, From::Offset(_)) && partitions.len() > 1 {
        return Err(Problem::invalid(format!(
            "'{topic}' has {count} partitions, and an offset means something else in each: name a 'partition'"
        )));
    }
    match (query.number("epoch", 0..=u32::MAX)?.map(LeaderEpoch::new), from, partitions.as_slice()) {
        (None, ..) => Ok(Start::From(from, partitions)),
        (epoch @ Some(_), From::Offset(offset), [partition]) => {
            Ok(Start::Cursor(vec![Position { partition: *partition, offset, epoch }]))
        }
        (Some(_), ..) => {
            let detail =
                "an 'epoch' is the leader epoch of the record in front of an offset: give it with from=offset:N";
            Err(Problem::invalid(detail).at("epoch"))
        }
    }
}

fn too_many(topic: &TopicName, partitions: usize) -> Problem {
    Problem::invalid(format!(
        "a page merges up to {PARTITIONS_MAX} partitions and '{topic}' has {partitions}: name a 'partition'"
    ))
}

/// Turns a starting point into offsets.
async fn resolve(
    services: &Services,
    layout: &TopicLayout,
    from: From,
    partitions: &[PartitionIndex],
    deadline: Deadline,
) -> Result<Vec<Position>, Problem> {
    let find = async |query: OffsetQuery| {
        let asked = |partition: &PartitionIndex| OffsetsPartition { topic: layout.id, partition: *partition, query };
        let request = ListOffsetsRequest { partitions: partitions.iter().map(asked).collect() };
        let response = services.offsets.list(request, deadline).await;
        let mut found = Vec::with_capacity(partitions.len());
        for outcome in response.partitions {
            let offset = outcome.result.map_err(|error| in_partition(outcome.partition, error))?.offset;
            found.push(Position { partition: outcome.partition, offset, epoch: None });
        }
        Ok::<_, Problem>(found)
    };
    match from {
        From::Earliest => find(OffsetQuery::Earliest).await,
        From::Latest => find(OffsetQuery::Latest).await,
        From::Time(at) => find(OffsetQuery::At(at)).await,
        From::Offset(offset) => {
            Ok(partitions.iter().map(|p| Position { partition: *p, offset, epoch: None }).collect())
        }
        From::Tail(count) => {
            let (earliest, mut latest) = (find(OffsetQuery::Earliest).await?, find(OffsetQuery::Latest).await?);
            for (position, earliest) in latest.iter_mut().zip(earliest) {
                let back = position.offset.get().saturating_sub(count);
                position.offset = Offset::new(back).map_or(earliest.offset, |back| back.max(earliest.offset));
            }
            Ok(latest)
        }
    }
}

async fn fetch(
    services: &Services,
    layout: &TopicLayout,
    asked: &[Position],
    wait_ms: u32,
    deadline: Deadline,
) -> Result<Vec<FetchedPartition>, Problem> {
    let shares = u32::try_from(asked.len()).unwrap_or(u32::MAX).max(1);
    let request = FetchRequest {
        wait_ms,
        bytes_min: 1,
        bytes_max: PAGE_BYTES_MAX,
        partitions: asked
            .iter()
            .map(|position| FetchPartition {
                topic: layout.id,
                partition: position.partition,
                offset: position.offset,
                bytes_max: (PAGE_BYTES_MAX / shares).max(PARTITION_BYTES_MIN),
                leader_epoch: LeaderEpoch::UNKNOWN,
            })
            .collect(),
        rack: None,
    };
    let response = services.fetch.fetch(request, deadline).await;
    let mut fetched = Vec::with_capacity(asked.len());
    for (asked, outcome) in asked.iter().zip(response.partitions) {
        debug_assert_eq!(asked.partition, outcome.partition, "outcomes stand in the order of the request");
        // First: what the reader hears of a log that has become shorter is that it is another one.
        if let Some(epoch) = asked.epoch {
            let same = services.fetch.goes_on(layout.id, asked.partition, asked.offset, epoch);
            same.map_err(|error| in_partition(asked.partition, error))?;
        }
        let found = outcome.result.map_err(|error| in_partition(asked.partition, error))?;
        let batches: Vec<Bytes> = found.batches.chunks().to_vec();
        fetched.push(FetchedPartition {
            asked: *asked,
            log_start: found.log_start,
            high_watermark: found.high_watermark,
            batches,
        });
    }
    Ok(fetched)
}

fn in_partition(partition: PartitionIndex, error: streambus_protocol::api::session::ErrorBody) -> Problem {
    let mut problem = Problem::from(error);
    problem.detail = format!("partition {partition}: {}", problem.detail);
    problem
}

#[derive(Serialize)]
struct RecordPage {
    records: Vec<OutgoingRecord>,
    /// Give it back as `cursor` for the page behind this one.
    next: String,
    partitions: Vec<PagePartition>,
}
