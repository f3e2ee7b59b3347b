//! Bytes as a client's batch, as stored batches, and, under a checksum made right, as records of every codec.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use streambus_protocol::batch::{PlacedBatch, UnverifiedBatch, batches};
use streambus_protocol::limits::BATCH_BYTES_MAX;

const EXPANDED_MAX: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let _ = batches(Bytes::copy_from_slice(bytes)).count();
    let mut bytes = BytesMut::from(bytes);
    if bytes.len() > 61 {
        let length = i32::try_from(bytes.len() - 12).expect("a small input");
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    if let Ok(batch) = UnverifiedBatch::new(bytes.clone()).verify(BATCH_BYTES_MAX) {
        let _ = batch.check_records(EXPANDED_MAX);
    }
    if let Ok(batch) = PlacedBatch::verify_stored(bytes.freeze()) {
        let whole = batch.check_records(EXPANDED_MAX).is_ok();
        let read = batch.records(EXPANDED_MAX).is_ok_and(|mut records| records.all(|record| record.is_ok()));
        assert_eq!(whole, read, "checking and reading must agree");
    }
});
