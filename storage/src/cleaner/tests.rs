//! The cleaner against a model: what is left, where it lies, and what is left alone.

use std::collections::BTreeMap;

use proptest::prelude::*;
use streambus_protocol::batch::{BatchBuilder, BatchOptions, ProducerStamp, UnverifiedBatch};
use streambus_protocol::compression::Compression;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::{ProducerEpoch, ProducerId, Sequence};
use streambus_protocol::record::Record;

use super::*;

/// A record of the model: offset, key, value, and when it goes if it is a tombstone that was met.
type Known = (u64, Option<u8>, Option<u8>, Option<i64>);

/// What to put into a batch.
#[derive(Clone, Debug)]
struct Spec {
    records: Vec<(Option<u8>, Option<u8>)>,
    codec: Compression,
    epoch_grows: bool,
    producer: Option<i32>,
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let record = (prop::option::weighted(0.9, 0..6_u8), prop::option::weighted(0.7, any::<u8>()));
    let codec = prop::sample::select(Compression::ALL.to_vec());
    let batch =
        (prop::collection::vec(record, 1..5), codec, prop::bool::weighted(0.1), prop::option::weighted(0.3, 0..9))
            .prop_map(|(records, codec, epoch_grows, producer)| Spec { records, codec, epoch_grows, producer });
    prop::collection::vec(batch, 1..12)
}

/// A log as the cleaner sees it, and the simplest thing that ends with the same records.
#[derive(Default)]
struct Pair {
    batches: Vec<PlacedBatch>,
    known: Vec<Known>,
    end: u64,
    epoch: u32,
}

fn at(value: u64) -> Offset {
    Offset::new(value).expect("small")
}

fn ms(value: i64) -> Timestamp {
    Timestamp::from_millis(value)
}

impl Pair {
    fn append(&mut self, spec: &Spec) {
        let producer = spec.producer.map(|sequence| ProducerStamp {
            id: ProducerId::new(3),
            epoch: ProducerEpoch::new(0),
            base_sequence: Sequence::new(sequence),
        });
        let mut builder =
            BatchBuilder::new(BatchOptions { compression: spec.codec, producer, ..BatchOptions::default() });
        let base = self.end;
        for (key, value) in &spec.records {
            let time = ms(i64::try_from(self.end * 3 % 17).expect("small"));
            let bytes = |byte: &u8| Bytes::from(vec![*byte; 20]);
            let record = Record {
                key: key.as_ref().map(bytes),
                value: value.as_ref().map(bytes),
                headers: Vec::new(),
                timestamp: time,
            };
            builder.push(&record).expect("fits");
            self.known.push((self.end, *key, *value, None));
            self.end += 1;
        }
        self.epoch += u32::from(spec.epoch_grows);
        let batch = UnverifiedBatch::new(builder.build().expect("not empty")).verify(1 << 20).expect("just built");
        self.batches.push(batch.place(at(base), LeaderEpoch::new(self.epoch)));
    }

    fn clean(&mut self, now: i64, retention_ms: u64, named: &dyn Fn(Offset) -> bool) -> Cleaned {
        let mut newest = OffsetMap::new(1 << 16);
        assert!(self.batches.iter().all(|batch| note_keys(batch, &mut newest)));
        let rules = Rules {
            newest: &newest,
            now: ms(now),
            delete_retention_ms: retention_ms,
            names_producer: named,
            always_sound_below: Offset::ZERO,
            sound_below: Offset::MAX,
        };
        let mut cleaner = Cleaner::new(rules);
        self.batches.drain(..).for_each(|batch| cleaner.push(batch));
        let cleaned = cleaner.finish();
        self.batches.clone_from(&cleaned.batches);

        let last: BTreeMap<u8, u64> = self.known.iter().filter_map(|(o, key, ..)| Some(((*key)?, *o))).collect();
        self.known.retain(|(o, key, _, horizon)| {
            key.is_none_or(|key| last[&key] == *o) && horizon.is_none_or(|horizon| horizon > now)
        });
        for (_, _, _, horizon) in self.known.iter_mut().filter(|(_, key, value, _)| key.is_some() && value.is_none()) {
            horizon.get_or_insert(now + i64::try_from(retention_ms).expect("small"));
        }
        cleaned
    }

    fn check(&self) {
        let mut cursor = Offset::ZERO;
        let mut found = Vec::new();
        let mut epoch = LeaderEpoch::ZERO;
        for batch in &self.batches {
            let batch = PlacedBatch::verify_stored(batch.as_bytes().clone()).expect("a valid batch");
            assert_eq!(batch.base_offset(), cursor, "no gap");
            assert!(batch.leader_epoch() >= epoch);
            (cursor, epoch) = (batch.next_offset(), batch.leader_epoch());
            for stored in records_of(&batch).expect("readable") {
                let byte = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| bytes[0]);
                let offset = stored.offset.get();
                assert_eq!(stored.record.timestamp, ms(i64::try_from(offset * 3 % 17).expect("small")));
                found.push((offset, byte(&stored.record.key), byte(&stored.record.value)));
            }
        }
        assert_eq!(cursor.get(), self.end, "the end stays");
        assert_eq!(found, self.known.iter().map(|(o, key, value, _)| (*o, *key, *value)).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    // Catches a lost newest record, one that comes back, a tombstone that goes early or never, a moved offset or time.
    #[test]
    fn what_is_left_is_what_the_model_has(rounds in prop::collection::vec(specs(), 1..5), retention_ms in 1..40_u64) {
        let mut pair = Pair::default();
        for (round, specs) in rounds.iter().enumerate() {
            specs.iter().for_each(|spec| pair.append(spec));
            let now = i64::try_from(round).expect("small") * 15;
            let cleaned = pair.clean(now, retention_ms, &|_| false);
            pair.check();
            prop_assert!(cleaned.horizon.is_none_or(|horizon| horizon.as_millis() > now));
            prop_assert!(cleaned.horizon.is_some() == pair.known.iter().any(|(.., horizon)| horizon.is_some()));
            let again = pair.clean(now, retention_ms, &|_| false);
            prop_assert!(!again.is_changed && again.records_removed == 0, "nothing is left to do");
        }
        let placeholders = pair.batches.windows(2).filter(|w| {
            w[0].is_placeholder() && w[1].is_placeholder() && w[0].leader_epoch() == w[1].leader_epoch()
        });
        prop_assert_eq!(placeholders.count(), 0, "neighbours join");
    }

    // Catches a cleaning that forgets a producer whose sequence numbers a copy of the log must know.
    #[test]
    fn a_named_producer_stays(specs in specs()) {
        let mut pair = Pair::default();
        specs.iter().for_each(|spec| pair.append(spec));
        let stamps = |batches: &[PlacedBatch]| {
            batches.iter().filter_map(|b| Some((b.base_offset(), b.next_offset(), b.producer()?))).collect::<Vec<_>>()
        };
        let before = stamps(&pair.batches);
        pair.clean(0, 0, &|_| true);
        pair.clean(1, 0, &|_| true);
        pair.check();
        prop_assert_eq!(stamps(&pair.batches), before);
    }
}

// Catches a cleaner that decides a transaction's fate, or drops what it cannot read.
#[test]
fn what_is_not_the_cleaners_to_judge_stays() {
    let mut pair = Pair::default();
    let spec =
        Spec { records: vec![(Some(1), Some(1))], codec: Compression::None, epoch_grows: false, producer: Some(0) };
    (0..3).for_each(|_| pair.append(&spec));
    let altered = |batch: &PlacedBatch, at: usize, byte: u8| {
        let mut bytes = batch.as_bytes().to_vec();
        bytes[at] = byte;
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        PlacedBatch::verify_stored(bytes.into()).expect("a valid header")
    };
    pair.batches[0] = altered(&pair.batches[0], 22, 1 << 4);
    pair.batches[1] = altered(&pair.batches[1], 61, 0x7f);
    let before = pair.batches.clone();
    let cleaned = pair.clean(0, 0, &|_| false);
    assert_eq!((cleaned.batches, cleaned.is_changed), (before, false));
    assert_eq!(cleaned.left_alone, Some(at(0)));
}

// Catches a tombstone that goes while what it deletes may still be in a batch that was left alone.
#[test]
fn a_tombstone_above_what_was_left_alone_stays() {
    let mut pair = Pair::default();
    for records in [[(Some(1), Some(1))], [(Some(2), None)]] {
        pair.append(&Spec { records: records.into(), codec: Compression::None, epoch_grows: false, producer: None });
    }
    let clean = |batches: &[PlacedBatch], always: u64, sound: u64, now: i64| {
        let newest = OffsetMap::new(1 << 16);
        let mut cleaner = Cleaner::new(Rules {
            newest: &newest,
            now: ms(now),
            delete_retention_ms: 10,
            names_producer: &|_| false,
            always_sound_below: at(always),
            sound_below: at(sound),
        });
        batches.iter().for_each(|batch| cleaner.push(batch.clone()));
        cleaner.finish()
    };
    for (always, sound) in [(0, 1), (1, 1)] {
        let cleaned = clean(&pair.batches, always, sound, 0);
        assert_eq!((cleaned.is_changed, cleaned.horizon), (false, None), "it waits for nothing");
    }
    let met = clean(&pair.batches, 0, 2, 0);
    assert_eq!((met.is_changed, met.horizon), (true, Some(ms(10))));
    assert_eq!(clean(&met.batches, 0, 1, 20).records_removed, 0);
    assert_eq!(clean(&met.batches, 2, 0, 20).records_removed, 1);
    // The first batch cannot be read now.
    let mut bytes = met.batches[0].as_bytes().to_vec();
    bytes[61] = 0x7f;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let unreadable = PlacedBatch::verify_stored(bytes.into()).expect("a valid header");
    let batches = [unreadable, met.batches[1].clone()];
    let cleaned = clean(&batches, 0, 2, 20);
    assert_eq!((cleaned.records_removed, cleaned.horizon), (0, None));
    assert_eq!(clean(&batches, 2, 2, 20).records_removed, 1, "it was sound before");
}

#[test]
fn a_placeholder_is_clipped_for_whoever_asks_from_inside_it() {
    let hole = PlacedBatch::placeholder(at(3), at(9), LeaderEpoch::ZERO, ms(1)).expect("some offsets").into_bytes();
    let clipped = PlacedBatch::verify_stored(clip_placeholder(hole.clone(), at(5))).expect("a valid batch");
    assert_eq!((clipped.base_offset(), clipped.next_offset()), (at(5), at(9)));
    assert_eq!(clip_placeholder(hole.clone(), at(3)), hole);
}
