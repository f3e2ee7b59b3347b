//! `PROTOCOL.md` says what the code does: its tables and its example are read and compared.

mod samples;

use std::collections::BTreeMap;

use streambus_protocol::api::ApiKey;
use streambus_protocol::error_code::{Applied, ErrorCode};
use streambus_protocol::limits;

const SPECIFICATION: &str = include_str!("../PROTOCOL.md");

/// The cells of the table rows between the heading that starts with `heading` and the next one, its header row left out.
fn table(heading: &str) -> Vec<Vec<String>> {
    let section = SPECIFICATION.split("\n## ").find(|section| section.starts_with(heading));
    let rows = section.unwrap_or_else(|| panic!("there is no section '{heading}'")).lines();
    rows.filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`').to_owned()).collect())
        .collect()
}

#[test]
fn the_error_code_table_is_the_code() {
    let described: Vec<[String; 4]> =
        table("9 ").iter().map(|row| [row[0].clone(), row[1].clone(), row[2].clone(), row[3].clone()]).collect();
    let actual: Vec<[String; 4]> = ErrorCode::ALL
        .iter()
        .map(|code| {
            let retriable = if code.is_retriable() { "yes" } else { "no" };
            let applied = match code.applied() {
                Applied::No => "no",
                Applied::Unknown => "unknown",
            };
            [code.to_wire().to_string(), code.to_string(), retriable.into(), applied.into()]
        })
        .collect();
    assert_eq!(described, actual);
    assert!(table("9 ").iter().all(|row| row.len() == 5 && !row[4].is_empty()), "each code has a meaning");
}

#[test]
fn the_limits_table_is_the_code() {
    let described: BTreeMap<String, u64> =
        table("10 ").iter().map(|row| (row[0].clone(), row[1].parse().expect("a number"))).collect();
    macro_rules! actual {
        ($($name:ident),* $(,)?) => {
            BTreeMap::from([$((stringify!($name).to_owned(), limits::$name as u64)),*])
        };
    }
    let actual = actual![
        FRAME_HEADER_BYTES,
        FRAME_BYTES_MAX,
        FRAME_BYTES_MAX_BEFORE_HANDSHAKE,
        READ_AHEAD_BYTES_MAX,
        READ_IDLE_BYTES,
        FRAME_BODY_BYTES_MAX,
        BATCH_BYTES_MAX_DEFAULT,
        BATCH_BYTES_MAX,
        BATCH_RECORDS_MAX,
        RECORD_HEADERS_MAX,
        DECOMPRESSED_FACTOR_MAX,
        TOPIC_NAME_BYTES_MAX,
        STRING_BYTES_MAX,
        PARTITIONS_PER_TOPIC_MAX,
        PARTITIONS_PER_REQUEST_MAX,
        TOPICS_PER_REQUEST_MAX,
        TOPICS_PER_RESPONSE_MAX,
        CONFIG_ENTRIES_MAX,
        ARRAY_ELEMENTS_MAX,
        REQUESTS_IN_FLIGHT_MAX,
        SUBSCRIPTIONS_PER_CONNECTION_MAX,
        FETCH_WAIT_MS_MAX,
    ];
    assert_eq!(described, actual);
    let declared = include_str!("../src/limits.rs").matches("\npub const ").count();
    assert_eq!(declared, actual.len(), "a limit is missing from this test and from the table");
}

#[test]
fn the_list_of_apis_is_the_code() {
    let described: Vec<(String, String)> =
        table("6 ").iter().take(ApiKey::ALL.len()).map(|row| (row[0].clone(), row[1].clone())).collect();
    let actual: Vec<(String, String)> =
        ApiKey::ALL.iter().map(|api| (api.to_wire().to_string(), api.as_str().to_owned())).collect();
    assert_eq!(described, actual);
}

#[test]
fn the_worked_example_is_what_is_sent() {
    let (_, after) = SPECIFICATION.split_once("```hex\n").expect("an example");
    let (example, _) = after.split_once("```").expect("an end of it");
    let bytes: Vec<u8> = example
        .lines()
        .flat_map(|line| line.get(..47.min(line.len())).expect("ASCII").split_whitespace())
        .map(|pair| u8::from_str_radix(pair, 16).expect("two hexadecimal digits"))
        .collect();
    let sent = samples::samples().into_iter().find(|sample| sample.name == "fetch_request").expect("a fetch request");
    assert_eq!(bytes, sent.bytes);

    // The checksum as the text describes it, one bit at a time.
    let crc = bytes[..4].iter().chain(&bytes[8..]).fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 })
    });
    assert_eq!((!crc).to_le_bytes(), bytes[4..8]);
}
