//! The record batch against itself, against bytes worked out by hand, and against another implementation.

mod samples;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use samples::{batch_bytes, offset, records, stamp};
use streambus_protocol::batch::{
    BatchBuilder, BatchError, BatchOptions, PlacedBatch, PushError, TimestampType, UnverifiedBatch, batches,
    split_first,
};
use streambus_protocol::compression::Compression;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::limits::{BATCH_BYTES_MAX, RECORD_HEADERS_MAX};
use streambus_protocol::offset::Offset;
use streambus_protocol::record::{Header, Record, StoredRecord};
use streambus_protocol::timestamp::Timestamp;

const EXPANDED_MAX: usize = 1 << 20;

fn build(options: BatchOptions, records: &[Record]) -> BytesMut {
    let mut builder = BatchBuilder::new(options);
    records.iter().for_each(|record| builder.push(record).expect("room for a record"));
    builder.build().expect("a batch")
}

fn place(bytes: BytesMut, base: Offset) -> PlacedBatch {
    UnverifiedBatch::new(bytes).verify(BATCH_BYTES_MAX).expect("a valid batch").place(base, LeaderEpoch::new(7))
}

fn read(batch: &PlacedBatch) -> Vec<StoredRecord> {
    let records = batch.records(EXPANDED_MAX).expect("records that expand");
    records.collect::<Result<_, _>>().expect("valid records")
}

/// The valid two-record batch with some bytes replaced and the checksum made right again.
fn altered(at: usize, with: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::from(&batch_bytes(Compression::None, None)[..]);
    bytes[at..at + with.len()].copy_from_slice(with);
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn refused(bytes: BytesMut) -> BatchError {
    UnverifiedBatch::new(bytes).verify(BATCH_BYTES_MAX).expect_err("the batch must be refused")
}

/// Worked out field by field from KIP-98; the checksum by an independent bitwise CRC-32C.
#[test]
fn two_records_have_the_bytes_of_the_format() {
    let mut expected = Vec::new();
    expected.extend_from_slice(&0_i64.to_be_bytes()); // base offset
    expected.extend_from_slice(&84_i32.to_be_bytes()); // length: 49 of the header and 35 of the records
    expected.extend_from_slice(&(-1_i32).to_be_bytes()); // leader epoch
    expected.push(2); // magic
    expected.extend_from_slice(&[0; 4]); // checksum, below
    expected.extend_from_slice(&0_i16.to_be_bytes()); // attributes
    expected.extend_from_slice(&1_i32.to_be_bytes()); // last offset delta
    expected.extend_from_slice(&1_700_000_000_000_i64.to_be_bytes()); // base timestamp
    expected.extend_from_slice(&1_700_000_000_042_i64.to_be_bytes()); // maximum timestamp
    expected.extend_from_slice(&(-1_i64).to_be_bytes()); // producer id
    expected.extend_from_slice(&(-1_i16).to_be_bytes()); // producer epoch
    expected.extend_from_slice(&(-1_i32).to_be_bytes()); // base sequence
    expected.extend_from_slice(&2_i32.to_be_bytes()); // record count
    expected.extend_from_slice(&[44, 0, 0, 0, 4]); // 22 bytes, attributes, deltas 0 and 0, a key of 2
    expected.extend_from_slice(b"k1\x0ahello\x02\x0atrace\x047f"); // value of 5, one header, its key of 5, its value of 2
    expected.extend_from_slice(&[22, 0, 84, 2, 1, 10]); // 11 bytes, delta 42 ms, delta 1, no key, a value of 5
    expected.extend_from_slice(b"world\x00");
    let crc = bitwise_crc32c(&expected[21..]);
    expected[17..21].copy_from_slice(&crc.to_be_bytes());

    assert_eq!(build(BatchOptions::default(), &records())[..], expected[..]);
}

/// CRC-32C as its definition has it, one bit at a time.
fn bitwise_crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

#[test]
fn placing_sets_offset_and_epoch_in_place_and_keeps_the_checksum_right() {
    let bytes = BytesMut::from(&batch_bytes(Compression::None, Some(stamp()))[..]);
    let address = bytes.as_ptr();
    let placed = place(bytes, offset(1000));
    assert_eq!(placed.as_bytes().as_ptr(), address, "placing must not copy");
    assert_eq!(
        (placed.base_offset(), placed.last_offset(), placed.next_offset()),
        (offset(1000), offset(1001), offset(1002))
    );
    assert_eq!(placed.leader_epoch(), LeaderEpoch::new(7));
    assert_eq!(placed.producer(), Some(stamp()));
    assert_eq!(PlacedBatch::verify_stored(placed.as_bytes().clone()).expect("still valid"), placed);
    assert_eq!(read(&placed)[1].offset, offset(1001));
}

#[test]
fn uncompressed_records_are_slices_of_the_batch() {
    let placed = place(build(BatchOptions::default(), &records()), Offset::ZERO);
    let range = placed.as_bytes().as_ptr_range();
    for stored in read(&placed) {
        assert!(range.contains(&stored.record.value.expect("a value").as_ptr()), "a value was copied");
    }
}

#[test]
fn append_time_replaces_every_record_time_under_a_new_checksum() {
    for codec in Compression::ALL {
        let bytes = BytesMut::from(&batch_bytes(codec, None)[..]);
        let mut batch = UnverifiedBatch::new(bytes).verify(BATCH_BYTES_MAX).expect("a valid batch");
        let at = Timestamp::from_millis(1_800_000_000_000);
        batch.set_append_time(at);
        let placed =
            PlacedBatch::verify_stored(batch.place(Offset::ZERO, LeaderEpoch::ZERO).into_bytes()).expect("valid");
        assert_eq!(placed.header().timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(placed.max_timestamp(), at);
        assert!(read(&placed).iter().all(|stored| stored.record.timestamp == at));
        assert_eq!(placed.header().codec().expect("a codec"), codec, "the codec bits must survive");
    }
}

#[test]
fn a_batch_that_breaks_one_rule_is_refused_for_that_rule() {
    assert!(matches!(refused(altered(16, &[1])), BatchError::Magic(1)));
    assert!(matches!(refused(altered(16, &[0])), BatchError::Magic(0)));
    assert!(matches!(refused(altered(21, &5_i16.to_be_bytes())), BatchError::Codec(5)));
    assert!(matches!(refused(altered(21, &32_i16.to_be_bytes())), BatchError::Control));
    assert!(matches!(refused(altered(21, &16_i16.to_be_bytes())), BatchError::Producer { .. }), "no producer");
    assert!(matches!(refused(altered(23, &2_i32.to_be_bytes())), BatchError::Count { .. }));
    assert!(matches!(refused(altered(57, &1_i32.to_be_bytes())), BatchError::Count { .. }));
    assert!(matches!(refused(altered(57, &0_i32.to_be_bytes())), BatchError::Count { .. }));
    assert!(matches!(refused(altered(57, &(-1_i32).to_be_bytes())), BatchError::Count { .. }));
    assert!(matches!(refused(altered(43, &5_i64.to_be_bytes())), BatchError::Producer { .. }), "no epoch");
    assert!(matches!(refused(altered(43, &(-2_i64).to_be_bytes())), BatchError::Producer { .. }));
    for length in [83, 85, 48, 0, -1, i32::MAX, i32::MIN] {
        assert!(matches!(refused(altered(8, &length.to_be_bytes())), BatchError::Length { .. }), "length {length}");
    }
    let mut two = BytesMut::from(&batch_bytes(Compression::None, None)[..]);
    two.extend_from_slice(&batch_bytes(Compression::None, None));
    assert!(matches!(refused(two), BatchError::Length { .. }), "one batch exactly");
    let mut flipped = altered(16, &[2]);
    flipped[70] ^= 1;
    assert!(matches!(refused(flipped), BatchError::Checksum { .. }));
    let whole = batch_bytes(Compression::None, None);
    assert!(matches!(
        UnverifiedBatch::from_shared(whole.clone()).verify(whole.len() - 1),
        Err(BatchError::TooLarge { bytes: 96, max: 95 })
    ));
    assert!(UnverifiedBatch::from_shared(whole.clone()).verify(whole.len()).is_ok());
}

/// A million records in a batch of a hundred bytes: refused by arithmetic, not by looking for them.
#[test]
fn a_plain_batch_cannot_claim_more_records_than_it_has_room_for() {
    let mut bytes = altered(57, &6_i32.to_be_bytes());
    bytes[23..27].copy_from_slice(&5_i32.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    assert!(matches!(refused(bytes), BatchError::Count { records: 6, .. }));
}

#[test]
fn errors_carry_the_code_that_clients_know() {
    assert_eq!(refused(altered(16, &[1])).error_code(), ErrorCode::UnsupportedBatch);
    assert_eq!(refused(altered(23, &9_i32.to_be_bytes())).error_code(), ErrorCode::CorruptBatch);
    let bytes = batch_bytes(Compression::None, None);
    let error = UnverifiedBatch::from_shared(bytes).verify(10).expect_err("too large");
    assert_eq!(error.error_code(), ErrorCode::BatchTooLarge);
}

#[test]
fn a_stored_batch_needs_a_place_and_may_lack_compacted_records() {
    // A client's batch has no leader epoch.
    let error = PlacedBatch::verify_stored(batch_bytes(Compression::None, None)).expect_err("no place");
    assert!(matches!(error, BatchError::Position { leader_epoch: -1, .. }));

    // Offsets 0 and 5 are left of six.
    let mut bytes = altered(23, &5_i32.to_be_bytes());
    bytes[12..16].fill(0);
    let second_delta = 61 + 23 + 3;
    assert_eq!(bytes[second_delta], 2, "the second record's offset delta");
    bytes[second_delta] = 10;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let placed = PlacedBatch::verify_stored(bytes.freeze()).expect("a compacted batch");
    assert_eq!(placed.next_offset(), offset(6));
    assert_eq!(read(&placed).iter().map(|stored| stored.offset.get()).collect::<Vec<_>>(), [0, 5]);
    assert!(placed.check_records(EXPANDED_MAX).is_ok());

    let mut past_the_end = altered(0, &i64::MAX.to_be_bytes());
    past_the_end[12..16].fill(0);
    assert!(matches!(PlacedBatch::verify_stored(past_the_end.freeze()), Err(BatchError::Position { .. })));
}

// Catches a rewritten batch that another reader would place, time, count or checksum otherwise.
#[test]
fn what_compaction_leaves_keeps_its_place_codec_and_producer() {
    for codec in Compression::ALL {
        let options = BatchOptions { compression: codec, producer: Some(stamp()), ..BatchOptions::default() };
        let six: Vec<_> = records().into_iter().cycle().take(6).collect();
        let whole = place(build(options, &six), offset(40));
        let kept: Vec<_> = read(&whole).into_iter().filter(|stored| stored.offset.get() % 2 == 1).collect();
        let horizon = Timestamp::from_millis(9_999_999);
        for (horizon, expected) in [(None, None), (Some(horizon), Some(horizon))] {
            let left = whole.with_records(&kept, horizon).expect("built");
            let left = PlacedBatch::verify_stored(left.into_bytes()).expect("a valid batch");
            assert_eq!(read(&left), kept, "{codec}");
            assert_eq!((left.base_offset(), left.next_offset()), (offset(40), offset(46)));
            assert_eq!((left.producer(), left.leader_epoch()), (whole.producer(), whole.leader_epoch()));
            assert_eq!((left.header().codec().expect("known"), left.delete_horizon()), (codec, expected));
            assert_eq!(left.max_timestamp(), kept.iter().map(|s| s.record.timestamp).max().expect("some"));
            assert!(left.check_records(EXPANDED_MAX).is_ok());
        }
        let emptied = whole.with_records(&[], None).expect("built");
        let emptied = PlacedBatch::verify_stored(emptied.into_bytes()).expect("a valid batch");
        assert_eq!((emptied.record_count(), read(&emptied).len(), emptied.size_bytes()), (0, 0, 61));
        assert_eq!((emptied.producer(), emptied.next_offset()), (whole.producer(), offset(46)));
        assert!(!emptied.is_placeholder(), "it says who produced it");
    }
}

#[test]
fn a_placeholder_is_cut_where_a_replica_goes_on() {
    let hole = PlacedBatch::placeholder(offset(5), offset(5_000_000_000), LeaderEpoch::new(3), Timestamp::NONE);
    assert_eq!(hole, None, "more offsets than a batch has");
    let hole = PlacedBatch::placeholder(offset(5), offset(90), LeaderEpoch::new(3), Timestamp::from_millis(8));
    let hole = hole.expect("some offsets");
    let cut = PlacedBatch::verify_stored(hole.clone().placeholder_from(offset(7)).into_bytes()).expect("a valid batch");
    assert_eq!(
        (cut.base_offset(), cut.next_offset(), cut.leader_epoch()),
        (offset(7), offset(90), LeaderEpoch::new(3))
    );
    assert!(cut.is_placeholder() && cut.max_timestamp() == Timestamp::from_millis(8));
    assert_eq!(hole.clone().placeholder_from(offset(5)), hole);
    let within = hole.clone().placeholder_within(offset(6), offset(8));
    assert_eq!((within.base_offset(), within.next_offset()), (offset(6), offset(8)));
    assert_eq!(hole.clone().placeholder_within(offset(90), offset(95)), hole, "it lies elsewhere");
    let batch = place(build(BatchOptions::default(), &records()), offset(40));
    assert_eq!(batch.clone().placeholder_from(offset(41)), batch, "records are never cut off");
}

// Catches a client that has tombstones removed before their time.
#[test]
fn a_client_cannot_set_a_delete_horizon() {
    assert!(matches!(refused(altered(21, &0x40_i16.to_be_bytes())), BatchError::Control));
}

#[test]
fn a_clients_records_must_be_numbered_without_gaps() {
    let gap = altered(61 + 23 + 3, &[4]);
    let batch = UnverifiedBatch::new(gap).verify(BATCH_BYTES_MAX).expect("the header is sound");
    assert!(matches!(batch.check_records(EXPANDED_MAX), Err(BatchError::Record { index: 1, .. })));
    let sound = UnverifiedBatch::from_shared(batch_bytes(Compression::Zstd, None)).verify(BATCH_BYTES_MAX);
    assert!(sound.expect("a valid batch").check_records(EXPANDED_MAX).is_ok());
}

#[test]
fn reading_ends_after_the_first_wrong_record() {
    let mut wrong = altered(61, &[0x7F]);
    wrong[12..16].fill(0);
    let placed = PlacedBatch::verify_stored(wrong.freeze()).expect("the header is sound");
    let mut records = placed.records(EXPANDED_MAX).expect("uncompressed");
    assert!(matches!(records.next(), Some(Err(BatchError::Record { index: 0, .. }))));
    assert!(records.next().is_none());
}

#[test]
fn batches_are_cut_apart_and_a_damaged_one_ends_the_walk() {
    let first = place(build(BatchOptions::default(), &records()), offset(10));
    let second =
        place(build(BatchOptions { compression: Compression::Lz4, ..BatchOptions::default() }, &records()), offset(12));
    let mut bytes = BytesMut::from(&first.as_bytes()[..]);
    bytes.extend_from_slice(second.as_bytes());
    let both = bytes.clone().freeze();
    let walked: Vec<_> = batches(both.clone()).collect::<Result<_, _>>().expect("two valid batches");
    assert_eq!(walked, [first.clone(), second]);

    let cut = both.slice(..both.len() - 1);
    let walked: Vec<_> = batches(cut.clone()).collect();
    assert!(matches!(&walked[..], [Ok(_), Err(BatchError::TooShort { .. })]));

    bytes[70] ^= 1;
    let walked: Vec<_> = batches(bytes.freeze()).collect();
    assert!(matches!(&walked[..], [Err(BatchError::Checksum { .. })]));

    let mut rest = cut;
    let (header, bytes) = split_first(&mut rest).expect("a whole batch").expect("one batch");
    assert_eq!((header.base_offset, &bytes), (10, first.as_bytes()));
    assert!(split_first(&mut rest).is_err());
    assert!(split_first(&mut Bytes::new()).expect("nothing").is_none());
}

#[test]
fn a_builder_refuses_what_does_not_fit_and_stays_as_it_was() {
    let mut builder = BatchBuilder::with_bytes_max(BatchOptions::default(), 200);
    let record = |bytes: usize| Record::new(vec![7; bytes], Timestamp::from_millis(5));
    assert!(matches!(builder.push(&record(200)), Err(PushError::RecordTooLarge { max: 200, .. })));
    assert!(builder.is_empty());
    assert!(BatchBuilder::new(BatchOptions::default()).build().is_err(), "a batch has a record");
    builder.push(&record(100)).expect("room for one");
    let size = builder.size_hint_bytes();
    assert_eq!(builder.push(&record(100)), Err(PushError::BatchFull));
    assert_eq!((builder.record_count(), builder.size_hint_bytes()), (1, size));
    let header = Header::new(&b"h"[..], &b""[..]);
    let mut many = record(1);
    many.headers = vec![header; RECORD_HEADERS_MAX + 1];
    assert!(matches!(builder.push(&many), Err(PushError::TooManyHeaders { .. })));
    assert_eq!(builder.build().expect("a batch").len(), size);
}

/// The largest record is exactly the one that fills the batch: off by one here loses a user's record.
#[test]
fn the_size_of_a_record_is_known_to_the_byte() {
    for max in 75..400 {
        let fitting = (1..400).rev().find(|bytes| {
            let mut builder = BatchBuilder::with_bytes_max(BatchOptions::default(), max);
            builder.push(&Record::new(vec![7; *bytes], Timestamp::from_millis(5))).is_ok()
        });
        let bytes = fitting.expect("some record fits");
        let mut builder = BatchBuilder::with_bytes_max(BatchOptions::default(), max);
        builder.push(&Record::new(vec![7; bytes], Timestamp::from_millis(5))).expect("it fits");
        let size = builder.size_hint_bytes();
        assert_eq!(builder.build().expect("a batch").len(), size);
        // One more byte of value may lengthen both lengths by a byte each.
        assert!(size <= max && size + 3 > max, "a limit of {max} was filled to {size}");
    }
}

#[test]
fn a_batch_kept_for_a_retry_is_not_changed_by_its_verification() {
    let kept = batch_bytes(Compression::None, None);
    let placed = UnverifiedBatch::from_shared(kept.clone())
        .verify(BATCH_BYTES_MAX)
        .expect("a valid batch")
        .place(offset(5), LeaderEpoch::new(1));
    assert_eq!(placed.base_offset(), offset(5));
    assert_eq!(kept, batch_bytes(Compression::None, None));
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..60).prop_map(Bytes::from)
}

fn any_record() -> impl Strategy<Value = Record> {
    let header = (any_bytes(), prop::option::of(any_bytes())).prop_map(|(key, value)| Header { key, value });
    let timestamp = prop_oneof![any::<i64>(), 1_600_000_000_000_i64..1_900_000_000_000];
    (prop::option::of(any_bytes()), prop::option::of(any_bytes()), prop::collection::vec(header, 0..4), timestamp)
        .prop_map(|(key, value, headers, timestamp)| Record {
            key,
            value,
            headers,
            timestamp: Timestamp::from_millis(timestamp),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_built_is_read_back(
        records in prop::collection::vec(any_record(), 1..20),
        codec in prop::sample::select(Compression::ALL.to_vec()),
        base in 0_u64..1 << 60,
    ) {
        let options = BatchOptions { compression: codec, producer: Some(stamp()), is_control: false };
        let placed = place(build(options, &records), offset(base));
        prop_assert_eq!(placed.record_count() as usize, records.len());
        let read = read(&placed);
        for (index, (stored, record)) in read.iter().zip(&records).enumerate() {
            prop_assert_eq!(&stored.record, record);
            prop_assert_eq!(stored.offset.get(), base + index as u64);
        }
        let latest = records.iter().map(|record| record.timestamp).max();
        prop_assert_eq!(Some(placed.max_timestamp()), latest);
        prop_assert!(placed.check_records(EXPANDED_MAX).is_ok());
    }
}

/// Batches of the `kafka-protocol` crate, which shares no code with ours.
mod oracle {
    use super::*;
    use kafka_protocol::records::{
        Compression as TheirCompression, Record as TheirRecord, RecordBatchDecoder, RecordBatchEncoder,
        RecordEncodeOptions, TimestampType as TheirTimestampType,
    };

    /// Codecs both sides were built with; LZ4 would need a C library just for this.
    const SHARED: [(Compression, TheirCompression); 4] = [
        (Compression::None, TheirCompression::None),
        (Compression::Gzip, TheirCompression::Gzip),
        (Compression::Snappy, TheirCompression::Snappy),
        (Compression::Zstd, TheirCompression::Zstd),
    ];

    fn theirs(index: usize, record: &Record) -> TheirRecord {
        let index = i64::try_from(index).expect("few records");
        TheirRecord {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 0,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TheirTimestampType::Creation,
            offset: index,
            sequence: i32::try_from(index).expect("few records") - 1,
            timestamp: record.timestamp.as_millis(),
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record
                .headers
                .iter()
                .map(|header| {
                    let key = header.key_str().expect("a name in UTF-8").to_owned();
                    (key.into(), header.value.clone())
                })
                .collect(),
        }
    }

    /// Record times as far apart as real ones, and header names in UTF-8 and distinct: the other side keeps a map.
    fn plain_record() -> impl Strategy<Value = Record> {
        let header = (any::<u8>(), prop::option::of(any_bytes()));
        (prop::option::of(any_bytes()), prop::option::of(any_bytes()), prop::option::of(header), 0_i64..1 << 41)
            .prop_map(|(key, value, header, timestamp)| Record {
                key,
                value,
                headers: header
                    .into_iter()
                    .map(|(name, value)| Header { key: format!("h{name}").into(), value })
                    .collect(),
                timestamp: Timestamp::from_millis(timestamp),
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn they_read_what_we_write(
            records in prop::collection::vec(plain_record(), 1..10),
            codec in prop::sample::select(SHARED.to_vec()),
        ) {
            let options = BatchOptions { compression: codec.0, ..BatchOptions::default() };
            let placed = place(build(options, &records), offset(40));
            let set = RecordBatchDecoder::decode(&mut placed.into_bytes()).expect("they decode our batch");
            prop_assert_eq!(set.records.len(), records.len());
            for (index, (theirs, ours)) in set.records.iter().zip(&records).enumerate() {
                prop_assert_eq!(theirs.offset, 40 + index as i64);
                prop_assert_eq!(theirs.timestamp, ours.timestamp.as_millis());
                prop_assert_eq!(&theirs.key, &ours.key);
                prop_assert_eq!(&theirs.value, &ours.value);
                prop_assert_eq!(theirs.headers.len(), ours.headers.len());
                for ((name, value), header) in theirs.headers.iter().zip(&ours.headers) {
                    prop_assert_eq!(name.as_bytes(), &header.key[..]);
                    prop_assert_eq!(value, &header.value);
                }
            }
        }

        #[test]
        fn we_read_what_they_write(
            records in prop::collection::vec(plain_record(), 1..10),
            codec in prop::sample::select(SHARED.to_vec()),
        ) {
            let all: Vec<TheirRecord> = records.iter().enumerate().map(|(i, record)| theirs(i, record)).collect();
            let mut bytes = BytesMut::new();
            let options = RecordEncodeOptions { version: 2, compression: codec.1 };
            RecordBatchEncoder::encode(&mut bytes, all.iter(), &options).expect("they encode");
            let walked: Vec<PlacedBatch> = batches(bytes.freeze()).collect::<Result<_, _>>().expect("valid batches");
            let read: Vec<StoredRecord> = walked.iter().flat_map(read).collect();
            prop_assert_eq!(read.len(), records.len());
            for (stored, record) in read.iter().zip(&records) {
                prop_assert_eq!(&stored.record, record);
            }
        }
    }
}
