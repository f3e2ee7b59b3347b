#![allow(missing_docs, clippy::disallowed_methods, clippy::print_stdout)]
use bytes::{Bytes, BytesMut};
use std::hint::black_box;
use std::time::Instant;
use streambus_protocol::api::{self, fetch::*, produce::*};
use streambus_protocol::batch::*;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::frame::FrameDecoder;
use streambus_protocol::ids::*;
use streambus_protocol::offset::Offset;
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;

fn time(name: &str, mut f: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..9 {
        let n = 300_000;
        let t = Instant::now();
        for _ in 0..n {
            f();
        }
        best = best.min(t.elapsed().as_nanos() as f64 / n as f64);
    }
    println!("{name}: {best:.1} ns");
}

fn main() {
    let mut b = BatchBuilder::new(BatchOptions::default());
    let rec = Record::new(Bytes::from(vec![7u8; 100]), Timestamp::from_millis(1_700_000_000_000));
    for _ in 0..3 {
        b.push(&rec).unwrap();
    }
    let batch = b.build().unwrap().freeze();
    let req = ProduceRequest {
        acks: Acks::All,
        partitions: vec![ProducePartition {
            topic: TopicId::from_bytes([3; 16]),
            partition: PartitionIndex::new(1),
            leader_epoch: LeaderEpoch::new(4),
            batch: UnverifiedBatch::from_shared(batch.clone()),
        }],
    };
    let c = CorrelationId::new(7);
    time("produce encode", || {
        black_box(api::encode_request(black_box(&req), c, 1000));
    });
    let mut buf = BytesMut::with_capacity(4096);
    time("produce encode into", || {
        buf.clear();
        black_box(api::encode_request_into(black_box(&req), c, 1000, &mut buf));
    });
    let frame: Vec<u8> = api::encode_request(&req, c, 1000).into_chunks().flatten().collect();
    // A stream buffer as a connection has it: many frames in 64 KiB.
    let many = 64 * 1024 / frame.len();
    let stream: Vec<u8> = frame.iter().copied().cycle().take(frame.len() * many).collect();
    let mut decoder = FrameDecoder::new(1 << 24);
    let run = |decoder: &mut FrameDecoder, stream: &Vec<u8>, f: &mut dyn FnMut(streambus_protocol::frame::Frame)| {
        let mut best = f64::MAX;
        for _ in 0..400 {
            let mut buf = BytesMut::from(&stream[..]);
            let t = Instant::now();
            let mut n = 0;
            while let Some(frame) = decoder.decode(&mut buf).unwrap() {
                f(frame);
                n += 1;
            }
            best = best.min(t.elapsed().as_nanos() as f64 / n as f64);
        }
        best
    };
    println!(
        "produce frame+decode {:.1}",
        run(&mut decoder, &stream, &mut |f| {
            black_box(api::decode_body::<ProduceRequest>(f).unwrap());
        })
    );
    println!(
        "produce frame only {:.1}",
        run(&mut decoder, &stream, &mut |f| {
            black_box(f);
        })
    );
    println!(
        "produce decode+verify+place {:.1}",
        run(&mut decoder, &stream, &mut |f| {
            let mut r = api::decode_body::<ProduceRequest>(f).unwrap();
            let b = r.partitions.pop().unwrap().batch.verify(1 << 20).unwrap().place(Offset::ZERO, LeaderEpoch::new(3));
            black_box(b);
        })
    );

    let freq = FetchRequest {
        wait_ms: 500,
        bytes_min: 1,
        bytes_max: 1 << 20,
        partitions: vec![FetchPartition {
            topic: TopicId::from_bytes([3; 16]),
            partition: PartitionIndex::new(1),
            offset: Offset::ZERO,
            bytes_max: 1 << 20,
            leader_epoch: LeaderEpoch::new(4),
        }],
    };
    time("fetch encode", || {
        black_box(api::encode_request(black_box(&freq), c, 1000));
    });
    time("fetch encode into", || {
        buf.clear();
        black_box(api::encode_request_into(black_box(&freq), c, 1000, &mut buf));
    });
    let frame: Vec<u8> = api::encode_request(&freq, c, 1000).into_chunks().flatten().collect();
    let stream: Vec<u8> = frame.iter().copied().cycle().take(frame.len() * 300).collect();
    println!(
        "fetch frame+decode {:.1}",
        run(&mut decoder, &stream, &mut |f| {
            black_box(api::decode_body::<FetchRequest>(f).unwrap());
        })
    );
    println!(
        "fetch frame only {:.1}",
        run(&mut decoder, &stream, &mut |f| {
            black_box(f);
        })
    );
    let bytes60 = vec![9u8; 49];
    time("crc 49", || {
        black_box(crc32c::crc32c(black_box(&bytes60)));
    });
    time("crc 4", || {
        black_box(crc32c::crc32c(black_box(&bytes60[..4])));
    });
    time("malloc 57", || {
        black_box(BytesMut::with_capacity(57));
    });
    let mut recs = 0;
    let t = Instant::now();
    let mut total = 0;
    for _ in 0..1000 {
        let mut b = BatchBuilder::new(BatchOptions::default());
        b.reserve(120 * 1024);
        for _ in 0..1000 {
            b.push(&rec).unwrap();
            recs += 1;
        }
        total += b.build().unwrap().len();
    }
    println!("push+build per record {:.1} ns ({total})", t.elapsed().as_nanos() as f64 / recs as f64);
    let mut b = BatchBuilder::new(BatchOptions::default());
    for _ in 0..1000 {
        b.push(&rec).unwrap();
    }
    let p = UnverifiedBatch::new(b.build().unwrap()).verify(1 << 20).unwrap().place(Offset::ZERO, LeaderEpoch::ZERO);
    let t = Instant::now();
    let mut n = 0;
    for _ in 0..1000 {
        for r in p.records(1 << 20).unwrap() {
            black_box(r.unwrap());
            n += 1;
        }
    }
    println!("read per record {:.1} ns", t.elapsed().as_nanos() as f64 / n as f64);
}
