//! `log verify` on a stopped broker's directory, whole and with one bit flipped.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::{Broker, streambus};

/// The directory of a broker that held records and was stopped.
fn stopped() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::start(directory.path());
    assert_eq!(broker.run(&["topic", "create", "t", "--partitions", "1"], "").code, 0);
    for _ in 0..3 {
        assert_eq!(broker.run(&["produce", "t"], &format!("{}\n", "x".repeat(1_000))).code, 0);
    }
    assert_eq!(broker.terminate(), 0);
    directory
}

/// What it says as text and as JSON, and both exit codes.
fn verify(directory: &Path) -> (String, Value, [i32; 2]) {
    let path = directory.to_str().unwrap();
    let text = streambus(&["log", "verify", path], "");
    let json = streambus(&["log", "verify", path, "-o", "json"], "");
    let value = serde_json::from_str(&json.stdout).unwrap_or_else(|error| panic!("{error}: {json:?}"));
    (text.stdout, value, [text.code, json.code])
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// Catches: damage in a segment without exit code 1, or without its range in either form; keys of the JSON that changed.
#[test]
fn a_flipped_bit_in_a_segment_is_told_with_its_range() {
    let directory = stopped();
    let (text, report, codes) = verify(directory.path());
    assert_eq!(codes, [0, 0], "{text}");
    assert!(text.starts_with("OK: ") && text.contains("\nmetadata: "), "{text}");
    assert_eq!((&report["ok"], &report["metadata"]["ok"]), (&Value::Bool(true), &Value::Bool(true)), "{report}");
    for key in ["directory", "segments", "commits", "entries", "batches", "logs", "bytes", "damaged"] {
        assert!(!report[key].is_null(), "{key} is missing: {report}");
    }

    let dump = streambus(&["log", "dump", directory.path().to_str().unwrap()], "").stdout;
    let batch = dump.lines().find(|line| line.contains(" batch offsets=0..1 ")).expect("the first batch");
    let number = |key: &str| -> usize {
        let value = batch.split_whitespace().find_map(|word| word.strip_prefix(key));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {key} in {batch}"))
    };
    let name = format!("journal-{:016x}.seg", number("segment="));
    // Behind the entry's header of 64 bytes, in the middle of the batch.
    let at = number("position=") + 64 + number("bytes=") / 2;
    flip(&directory.path().join(&name), at);

    let (text, report, codes) = verify(directory.path());
    assert_eq!(codes, [1, 1], "{text}");
    assert_eq!((&report["ok"], &report["metadata"]["ok"]), (&Value::Bool(false), &Value::Bool(true)), "{report}");
    let damaged = report["damaged"].as_array().unwrap();
    assert_eq!((damaged.len(), &damaged[0]["file"]), (1, &Value::String(name.clone())), "{report}");
    let (position, length) = (damaged[0]["position"].as_u64().unwrap(), damaged[0]["length"].as_u64().unwrap());
    assert!((position..position + length).contains(&(at as u64)), "{report}");
    let range = format!("{name} bytes {position}..{}", position + length);
    assert!(text.starts_with("DAMAGED: ") && text.contains(&range), "{text}");
    let names = streambus(&["log", "verify", directory.path().to_str().unwrap(), "-o", "name"], "");
    assert_eq!((names.stdout, names.code), (format!("{name}\n"), 1));
}

/// Catches: a directory on which no broker starts called well: the metadata's log, of which RocksDB drops what is damaged, and
/// its manifest, which it may read for ever.
#[test]
fn a_flipped_bit_in_the_metadata_is_told_with_its_file_and_the_remedy() {
    let directory = stopped();
    let folder = directory.path().join("metadata/db");
    for wanted in [".log", "MANIFEST-"] {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(wanted));
        let file: PathBuf = files.max_by_key(|path| fs::metadata(path).unwrap().len()).expect("such a file");
        let whole = fs::read(&file).unwrap();
        // The kind of the first record, and the middle.
        for at in [6, whole.len() / 2] {
            flip(&file, at);
            let (text, report, codes) = verify(directory.path());
            assert_eq!(codes, [1, 1], "{text}");
            assert_eq!(
                (&report["ok"], &report["damaged"]),
                (&Value::Bool(false), &Value::Array(Vec::new())),
                "{report}"
            );
            let damage = &report["metadata"]["damaged"][0];
            let name = file.strip_prefix(directory.path()).unwrap().to_str().unwrap();
            assert_eq!(damage["file"], name, "{report}");
            let position = damage["position"].as_u64().unwrap();
            assert!(position <= at as u64, "{report}");
            assert!(damage["remedy"].as_str().unwrap().contains("restore"), "{report}");
            assert!(text.contains(&format!("{name} from byte {position}: ")) && text.contains("restore"), "{text}");
            assert!(text.starts_with("DAMAGED: "), "{text}");
            fs::write(&file, &whole).unwrap();
        }
    }
    assert_eq!(verify(directory.path()).2, [0, 0]);
}
