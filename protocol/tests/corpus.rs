//! The seeds of the fuzz targets: every message has one, none is of an older format, and all of them are replayed here with
//! what the targets run, on a stable toolchain.
//!
//! After a deliberate change of a message, write the seeds anew with `STREAMBUS_BLESS=1`, as the golden bytes. What a fuzzer
//! found may be put beside them: it is replayed too.

mod fuzzed;
mod samples;

use std::path::{Path, PathBuf};

use bytes::BytesMut;
use samples::{Sample, batch_bytes, frame, samples};
use streambus_protocol::compression::Compression;

/// A seed and what it holds.
struct Seed {
    name: String,
    bytes: Vec<u8>,
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The stored bytes of a seed, written first when asked to.
fn stored(target: &str, seed: &Seed) -> Vec<u8> {
    let path = folder(target).join(&seed.name);
    if std::env::var_os("STREAMBUS_BLESS").is_some() {
        std::fs::write(&path, &seed.bytes).expect("the seed is writable");
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; STREAMBUS_BLESS=1 writes the seeds", path.display()))
}

/// Every file of a target's corpus, whoever wrote it.
fn corpus(target: &str) -> Vec<Seed> {
    let entries = std::fs::read_dir(folder(target)).expect("a corpus");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let seeds: Vec<Seed> = paths
        .map(|path| Seed {
            name: path.file_name().expect("a file").to_string_lossy().into_owned(),
            bytes: std::fs::read(&path).expect("a readable seed"),
        })
        .collect();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds
}

fn frame_seeds() -> Vec<Seed> {
    samples().into_iter().map(|Sample { name, bytes }| Seed { name: name.to_owned(), bytes }).collect()
}

/// As the target wants them: API, flags, two bytes of body length (little-endian), body, payload.
fn message_seeds() -> Vec<Seed> {
    let seed = |Sample { name, bytes }| {
        let frame = frame(&bytes);
        let flags = u8::try_from(frame.header.flags.bits()).expect("flags in one byte");
        let length = u16::try_from(frame.body.len()).expect("a small body").to_le_bytes();
        let bytes = [&[frame.header.api, flags], &length[..], &frame.body, &frame.payload].concat();
        Seed { name: name.to_owned(), bytes }
    };
    samples().into_iter().map(seed).collect()
}

/// One batch of each codec, and two in one piece.
fn batch_seeds() -> Vec<Seed> {
    let name = |codec: Compression| if codec == Compression::None { "plain" } else { codec.as_str() }.to_owned();
    let one = |codec| Seed { name: name(codec), bytes: batch_bytes(codec, None).to_vec() };
    let mut two = BytesMut::from(&batch_bytes(Compression::None, None)[..]);
    two.extend_from_within(..);
    Compression::ALL.into_iter().map(one).chain([Seed { name: "two_plain".to_owned(), bytes: two.to_vec() }]).collect()
}

// Catches a message without a seed and a seed of an older format: the fuzzer would begin with bytes that are refused at once.
#[test]
fn every_message_has_a_seed_with_the_bytes_of_today() {
    for (target, seeds) in [("frame", frame_seeds()), ("message", message_seeds())] {
        for seed in seeds {
            assert!(stored(target, &seed) == seed.bytes, "corpus/{target}/{} is of another format", seed.name);
        }
    }
}

// Catches seeds whose records the target refuses before it has looked at them, as it did with every one when their leader
// epoch was still a client's -1. Codecs may write other bytes in another version; what they wrote before is still read.
#[test]
fn every_codec_has_a_seed_that_is_read() {
    for seed in batch_seeds() {
        let bytes = stored("batch", &seed);
        // The target takes the whole input as one batch, and two as none.
        assert_eq!(fuzzed::batch(&bytes), seed.name != "two_plain", "corpus/batch/{}", seed.name);
    }
}

// Catches a target whose input was changed, so that its seeds no longer reach what they were made to reach, and every
// panic that a fuzzer once found.
#[test]
fn the_corpus_is_replayed() {
    let ours: Vec<String> = frame_seeds().into_iter().map(|seed| seed.name).collect();
    for seed in corpus("frame") {
        let messages = fuzzed::frame(&seed.bytes);
        assert!(messages == 1 || !ours.contains(&seed.name), "corpus/frame/{} holds {messages} messages", seed.name);
    }
    for seed in corpus("message") {
        let read = fuzzed::message(&seed.bytes);
        assert!(read || !ours.contains(&seed.name), "corpus/message/{} is not read", seed.name);
    }
    for seed in corpus("batch") {
        fuzzed::batch(&seed.bytes);
    }
}
