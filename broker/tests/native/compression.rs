//! What a client compressed goes to the disk and back as it was: the broker has neither reason nor right to compress anew.

use bytes::BytesMut;
use streambus_protocol::batch::{BATCH_HEADER_BYTES, BatchBuilder, BatchOptions, UnverifiedBatch};
use streambus_protocol::compression::Compression;
use streambus_protocol::ids::TopicId;
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;
use streambus_storage::clock::{Clock, SystemClock};

use crate::harness::{TestBroker, TestClient, at, fetch_request, placed, values};

/// The leader writes these fields, and they alone lie outside the checksum.
const BASE_OFFSET: std::ops::Range<usize> = 0..8;
const LEADER_EPOCH: std::ops::Range<usize> = 12..16;

fn texts() -> Vec<String> {
    (0..50).map(|number| format!("the same words again and again, number {number}")).collect()
}

fn built(compression: Compression) -> BytesMut {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    let now = Timestamp::from_millis(SystemClock::new().now().as_millis());
    for text in texts() {
        builder.push(&Record::new(text.into_bytes(), now)).expect("room");
    }
    builder.build().expect("a batch")
}

/// The batch as another program might have compressed it: valid, and with bytes that no encoder of this project makes.
fn foreign(compression: Compression) -> BytesMut {
    let plain = built(Compression::None);
    let (header, records) = plain.split_at(BATCH_HEADER_BYTES);
    let length = u32::try_from(records.len()).expect("a small batch");
    let packed = match compression {
        Compression::None => records.to_vec(),
        // RFC 1952: the time of the file in bytes 4 to 7, which our encoder leaves at zero.
        Compression::Gzip => {
            let mut packed = BytesMut::new();
            compression.compress(records, &mut packed).expect("compressed");
            packed[4..8].copy_from_slice(&1_700_000_000_u32.to_le_bytes());
            packed.to_vec()
        }
        // One literal without Xerial's blocks: the length as a varint, then the tag of a literal with two bytes of length.
        Compression::Snappy => {
            let two = u16::try_from(length - 1).expect("a small batch").to_le_bytes();
            let varint = [(length & 0x7f) as u8 | 0x80, (length >> 7) as u8];
            [&varint[..], &[61 << 2], &two, records].concat()
        }
        // A frame of one block that is stored as it is, and the mark of the end.
        Compression::Lz4 => {
            let head = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
            [&head[..], &(length | (1 << 31)).to_le_bytes(), records, &[0; 4]].concat()
        }
        // A frame of one raw block, the last one, with the size of the content in four bytes.
        Compression::Zstd => {
            let head = [0x28, 0xb5, 0x2f, 0xfd, 0xa0];
            [&head[..], &length.to_le_bytes(), &((length << 3) | 1).to_le_bytes()[..3], records].concat()
        }
    };
    let mut batch = BytesMut::from(header);
    batch.extend_from_slice(&packed);
    let length = i32::try_from(batch.len() - 12).expect("a small batch");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[22] = compression.to_wire();
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// Reads everything back and compares it, bytes first, then what stands in it.
async fn compare(client: &mut TestClient, topic: TopicId, sent: &[BytesMut], from: &str) {
    let mut offset = 0;
    for (number, sent) in sent.iter().enumerate() {
        let response = client.fetch(&fetch_request(topic, 0, offset, 0)).await;
        let batch = placed(&response.partitions[0]).into_iter().next().expect("a batch");
        assert_eq!(batch.base_offset(), at(offset));
        let mut served = BytesMut::from(&batch.as_bytes()[..]);
        for leaders in [BASE_OFFSET, LEADER_EPOCH] {
            served[leaders.clone()].copy_from_slice(&sent[leaders]);
        }
        assert_eq!(served, *sent, "batch {number} from {from}");
        assert_eq!(values(&response.partitions[0])[..50], texts(), "batch {number} from {from}");
        offset = batch.next_offset().get();
    }
}

// Catches a broker that unpacks and packs anew, with another codec, another level or only another encoder of the same
// codec: from memory, and from the disk after a restart.
#[tokio::test]
async fn compressed_batches_are_stored_and_served_as_they_were_sent() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic = client.create_topic("t", 1).await;
    let sent: Vec<BytesMut> = Compression::ALL.into_iter().flat_map(|codec| [built(codec), foreign(codec)]).collect();
    for batch in &sent {
        client.produce_batch(topic, 0, UnverifiedBatch::new(batch.clone())).await.expect("written");
    }
    compare(&mut client, topic, &sent, "memory").await;
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    compare(&mut client, topic, &sent, "the disk").await;
    broker.stop().await.expect("an orderly stop");
}
