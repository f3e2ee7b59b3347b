//! From documents to batches: which record goes to which partition, in which batch, and where its outcome is told.
//!
//! Pure: no service, clock or counter. One request may need several batches for a partition; they are appended in
//! rounds, one batch per partition and round, and after a failure a partition's later batches are not tried, so that
//! records of one request never overtake each other.

use std::collections::BTreeMap;

use bytes::BytesMut;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, PushError};
use streambus_protocol::compression::Compression;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::PartitionIndex;
use streambus_protocol::timestamp::Timestamp;

use super::super::body::BodyType;
use super::super::problem::Problem;
use super::json_record::{self, IncomingRecord};
use super::partitioner;

/// Records in one request.
const RECORDS_MAX: usize = 100_000;
/// A batch is sealed at this size: large enough to be cheap, smaller than any sensible `max.message.bytes`.
const BATCH_BYTES_TARGET: usize = 256 * 1024;

/// Why one record was not appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) detail: String,
}

/// Batches ready to be appended, and records that cannot be.
#[derive(Debug)]
pub(super) struct Plan {
    /// How many records the request has.
    pub(super) records: usize,
    /// By partition: its batches in order.
    pub(super) batches: BTreeMap<PartitionIndex, Vec<PlannedBatch>>,
    /// By position in the request.
    pub(super) refused: Vec<(usize, Refusal)>,
}

/// One batch.
#[derive(Debug)]
pub(super) struct PlannedBatch {
    pub(super) bytes: BytesMut,
    /// Position in the request and timestamp of each record, in the order of offsets.
    pub(super) records: Vec<(usize, Timestamp)>,
}

/// Splits a body into documents and reads each. A document that is no record is an outcome, not a failure of the
/// others; a body whose documents cannot be told apart fails as a whole.
pub(super) fn read(
    body: &[u8],
    body_type: BodyType,
    now: Timestamp,
) -> Result<Vec<Result<IncomingRecord, Refusal>>, Problem> {
    let text =
        std::str::from_utf8(body).map_err(|error| Problem::invalid(format!("the body is not UTF-8: {error}")))?;
    let documents: Vec<&str> = match body_type {
        BodyType::JsonLines => text.lines().filter(|line| !line.trim().is_empty()).collect(),
        BodyType::Json if text.trim_start().starts_with('{') => vec![text],
        BodyType::Json => {
            let list: Vec<&serde_json::value::RawValue> = serde_json::from_str(text).map_err(|error| {
                Problem::invalid(format!("the body must be a record or a list of records: {error}"))
            })?;
            list.into_iter().map(serde_json::value::RawValue::get).collect()
        }
    };
    if documents.len() > RECORDS_MAX {
        let detail = format!("{} records in one request, at most {RECORDS_MAX} are allowed", documents.len());
        return Err(Problem::new(ErrorCode::RequestTooLarge, detail));
    }
    let read = |document: &str| {
        json_record::read(document, now).map_err(|error| Refusal { code: ErrorCode::InvalidRequest, detail: error.0 })
    };
    Ok(documents.into_iter().map(read).collect())
}

/// Plans the batches for a topic of `partitions` (at least 1). `turn` chooses the partition of records without a key.
pub(super) fn plan(incoming: Vec<Result<IncomingRecord, Refusal>>, partitions: u32, turn: u64) -> Plan {
    let mut plan = Plan { records: incoming.len(), batches: BTreeMap::new(), refused: Vec::new() };
    let mut open: BTreeMap<PartitionIndex, OpenBatch> = BTreeMap::new();
    for (position, incoming) in incoming.into_iter().enumerate() {
        let incoming = match incoming {
            Ok(incoming) => incoming,
            Err(refusal) => {
                plan.refused.push((position, refusal));
                continue;
            }
        };
        let partition = match (incoming.partition, &incoming.record.key) {
            (Some(chosen), _) if chosen.get() >= partitions => {
                let detail = format!("no partition {chosen}: the topic has {partitions}, counted from 0");
                plan.refused.push((position, Refusal { code: ErrorCode::UnknownPartition, detail }));
                continue;
            }
            (Some(chosen), _) => chosen,
            (None, Some(key)) => partitioner::of_key(key, partitions),
            (None, None) => partitioner::of_turn(turn, partitions),
        };
        let batch = open.entry(partition).or_insert_with(OpenBatch::new);
        let pushed = match batch.push(position, &incoming) {
            Err(PushError::BatchFull) => {
                let full = std::mem::replace(batch, OpenBatch::new());
                full.seal(partition, &mut plan);
                batch.push(position, &incoming)
            }
            pushed => pushed,
        };
        if let Err(error) = pushed {
            plan.refused.push((position, Refusal { code: ErrorCode::BatchTooLarge, detail: error.to_string() }));
        }
    }
    for (partition, batch) in open {
        batch.seal(partition, &mut plan);
    }
    plan
}

struct OpenBatch {
    builder: BatchBuilder,
    records: Vec<(usize, Timestamp)>,
}

impl OpenBatch {
    fn new() -> Self {
        // Stored as it came: a batch of one request is rarely large, and consumers save the expanding.
        let options = BatchOptions { compression: Compression::None, producer: None, is_control: false };
        Self { builder: BatchBuilder::new(options), records: Vec::new() }
    }

    fn push(&mut self, position: usize, incoming: &IncomingRecord) -> Result<(), PushError> {
        if self.builder.size_hint_bytes() >= BATCH_BYTES_TARGET {
            return Err(PushError::BatchFull);
        }
        self.builder.push(&incoming.record)?;
        self.records.push((position, incoming.record.timestamp));
        Ok(())
    }

    fn seal(self, partition: PartitionIndex, plan: &mut Plan) {
        if self.records.is_empty() {
            return;
        }
        match self.builder.build() {
            Ok(bytes) => {
                let batch = PlannedBatch { bytes, records: self.records };
                plan.batches.entry(partition).or_default().push(batch);
            }
            Err(error) => {
                let refusal = Refusal { code: ErrorCode::Internal, detail: error.to_string() };
                plan.refused.extend(self.records.into_iter().map(|(position, _)| (position, refusal.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(7);

    fn planned(body: &str, body_type: BodyType, partitions: u32) -> Plan {
        plan(read(body.as_bytes(), body_type, NOW).expect(body), partitions, 1)
    }

    fn positions(plan: &Plan, partition: u32) -> Vec<Vec<usize>> {
        let batches = plan.batches.get(&PartitionIndex::new(partition)).map(Vec::as_slice).unwrap_or_default();
        batches.iter().map(|batch| batch.records.iter().map(|(position, _)| *position).collect()).collect()
    }

    #[test]
    fn a_record_a_list_and_lines_are_the_same() {
        for (body, body_type) in [
            (r#" {"value":"a"}"#, BodyType::Json),
            (r#"[{"value":"a"}]"#, BodyType::Json),
            ("{\"value\":\"a\"}\n\n", BodyType::JsonLines),
        ] {
            let plan = planned(body, body_type, 3);
            assert_eq!((plan.records, positions(&plan, 1)), (1, vec![vec![0]]), "{body}");
        }
        assert_eq!(planned("[]", BodyType::Json, 3).records, 0);
    }

    /// Catches an outcome told for another record than its own, and a bad record that takes its neighbours along.
    #[test]
    fn bad_records_are_refused_alone_and_in_place() {
        let plan = planned(
            "{\"value\":\"a\",\"partition\":0}\nnonsense\n{\"value\":\"b\",\"partition\":9}\n{\"value\":\"c\",\"partition\":0}",
            BodyType::JsonLines,
            2,
        );
        assert_eq!(plan.records, 4);
        assert_eq!(positions(&plan, 0), [vec![0, 3]]);
        let refused: Vec<_> = plan.refused.iter().map(|(position, refusal)| (*position, refusal.code)).collect();
        assert_eq!(refused, [(1, ErrorCode::InvalidRequest), (2, ErrorCode::UnknownPartition)]);
    }

    #[test]
    fn keys_stay_together_and_records_without_one_share_a_turn() {
        let body: String = (0..40).map(|i| format!("{{\"value\":{i},\"key\":\"{}\"}}\n", i % 4)).collect();
        let plan = planned(&body, BodyType::JsonLines, 8);
        for key in 0..4 {
            let holders = plan
                .batches
                .values()
                .flatten()
                .filter(|batch| batch.records.iter().any(|(position, _)| position % 4 == key))
                .count();
            assert_eq!(holders, 1, "key {key}");
        }
        let keyless = planned("[{\"value\":1},{\"value\":2}]", BodyType::Json, 8);
        assert_eq!(positions(&keyless, 1), [vec![0, 1]]);
    }

    #[test]
    fn a_large_request_becomes_several_batches_in_order() {
        let value = "x".repeat(100 * 1024);
        let body: String = (0..6).map(|_| format!("{{\"value\":\"{value}\"}}\n")).collect();
        let plan = planned(&body, BodyType::JsonLines, 1);
        assert_eq!(positions(&plan, 0), [vec![0, 1, 2], vec![3, 4, 5]]);
        assert!(plan.refused.is_empty());
    }

    #[test]
    fn what_cannot_be_split_into_documents_is_refused_whole() {
        for body in ["", "5", "[{\"value\":1}", "[{\"value\":1},]", "\"x\""] {
            assert!(read(body.as_bytes(), BodyType::Json, NOW).is_err(), "{body}");
        }
        assert!(read(b"\xff", BodyType::JsonLines, NOW).is_err());
    }
}
