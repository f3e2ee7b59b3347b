//! The bytes of every message, held fast: a change that breaks deployed clients must show as a changed file here.
//!
//! To write the files anew after a deliberate change, run the tests with `STREAMBUS_BLESS=1` and review the difference.

mod samples;

use std::path::{Path, PathBuf};

use samples::{Sample, frame, read_any, samples};
use streambus_protocol::api::ApiKey;
use streambus_protocol::frame::Flags;

fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes
        .chunks(32)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ") + "\n")
        .collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|pair| u8::from_str_radix(pair, 16).expect("two hexadecimal digits")).collect()
}

#[test]
fn every_message_has_the_bytes_it_always_had() {
    let bless = std::env::var_os("STREAMBUS_BLESS").is_some();
    for Sample { name, bytes } in samples() {
        let path = golden_path(name);
        if bless {
            std::fs::write(&path, to_hex(&bytes)).expect("the golden file is writable");
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(to_hex(&bytes), to_hex(&from_hex(&golden)), "{name} is encoded differently from its golden bytes");
    }
}

#[test]
fn every_golden_message_is_read_and_written_back_unchanged() {
    for Sample { name, .. } in samples() {
        let golden = from_hex(&std::fs::read_to_string(golden_path(name)).expect("a golden file"));
        let again = read_any(frame(&golden)).expect("a known API").unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(to_hex(&again), to_hex(&golden), "{name} does not survive reading");
    }
}

#[test]
fn no_api_is_without_a_golden_request_and_response() {
    let frames: Vec<_> = samples().iter().map(|sample| frame(&sample.bytes).header).collect();
    for api in ApiKey::ALL {
        for flags in [Flags::REQUEST, Flags::RESPONSE] {
            assert!(
                frames.iter().any(|header| header.api == api.to_wire() && header.flags == flags),
                "{api:?} with {flags:?} has no sample"
            );
        }
    }
}
