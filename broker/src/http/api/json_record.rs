//! A record as JSON, without loss: text stays text, bytes are base64, a JSON value is kept as its sender wrote it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::ids::PartitionIndex;
use streambus_protocol::record::{Header, Record, StoredRecord};
use streambus_protocol::timestamp::Timestamp;

use super::rfc3339;

/// A record to append, and the partition its sender chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IncomingRecord {
    pub(super) record: Record,
    pub(super) partition: Option<PartitionIndex>,
}

/// Why a JSON document is no record, for its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotARecord(pub(super) String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Incoming<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    key: Option<&'a RawValue>,
    key_base64: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    value_base64: Option<String>,
    #[serde(borrow, default)]
    headers: IncomingHeaders<'a>,
    partition: Option<u32>,
    #[serde(borrow, default, deserialize_with = "present")]
    timestamp: Option<&'a RawValue>,
}

/// Keeps `null` apart from "not there": a null value is a tombstone, no value is a mistake.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Headers: a list keeps order and repeated names; an object is the short form.
#[derive(Default)]
struct IncomingHeaders<'a>(Vec<IncomingHeader<'a>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IncomingHeader<'a> {
    key: String,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    value_base64: Option<String>,
}

impl<'de: 'a, 'a> Deserialize<'de> for IncomingHeaders<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::{Error, MapAccess, Visitor};

        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = IncomingHeaders<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("headers as an object of names and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut headers = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    headers.push(IncomingHeader { key, value: Some(value), value_base64: None });
                }
                Ok(IncomingHeaders(headers))
            }
        }

        let raw = <&RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        if text.starts_with('{') {
            let mut members = serde_json::Deserializer::from_str(text);
            return members.deserialize_map(Members).map_err(D::Error::custom);
        }
        serde_json::from_str(text).map(IncomingHeaders).map_err(D::Error::custom)
    }
}

/// Reads one record. `now` is its time when it names none.
pub(super) fn read(document: &str, now: Timestamp) -> Result<IncomingRecord, NotARecord> {
    let incoming: Incoming<'_> = serde_json::from_str(document).map_err(|error| NotARecord(error.to_string()))?;
    let key = field("key", incoming.key, incoming.key_base64.as_deref())?.flatten();
    let Some(value) = field("value", incoming.value, incoming.value_base64.as_deref())? else {
        return Err(NotARecord("'value' or 'value_base64' is missing (null is a tombstone)".to_owned()));
    };
    let mut headers = Vec::with_capacity(incoming.headers.0.len());
    for header in incoming.headers.0 {
        let value = field("header value", header.value, header.value_base64.as_deref())?.flatten();
        headers.push(Header { key: header.key.into(), value });
    }
    let timestamp = match incoming.timestamp {
        None => now,
        Some(raw) => instant(raw).ok_or_else(|| {
            NotARecord(format!(
                "'timestamp' is {}, it must be milliseconds since 1970 or a text such as \"2026-11-21T10:00:00Z\"",
                raw.get()
            ))
        })?,
    };
    let partition = incoming.partition.map(PartitionIndex::new);
    Ok(IncomingRecord { record: Record { key, value, headers, timestamp }, partition })
}

/// Nothing given: `None`. `null`: `Some(None)`. A string is its text; any other JSON value is its own text.
fn field(name: &str, raw: Option<&RawValue>, base64: Option<&str>) -> Result<Option<Option<Bytes>>, NotARecord> {
    match (raw.map(RawValue::get), base64) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(NotARecord(format!("give '{name}' or '{name}_base64', not both"))),
        (None, Some(text)) => match BASE64.decode(text) {
            Ok(bytes) => Ok(Some(Some(bytes.into()))),
            Err(error) => Err(NotARecord(format!("'{name}_base64' is not base64: {error}"))),
        },
        (Some("null"), None) => Ok(Some(None)),
        (Some(text), None) if text.starts_with('"') => match serde_json::from_str::<String>(text) {
            Ok(text) => Ok(Some(Some(text.into()))),
            Err(error) => Err(NotARecord(format!("'{name}': {error}"))),
        },
        (Some(text), None) => Ok(Some(Some(Bytes::copy_from_slice(text.as_bytes())))),
    }
}

fn instant(raw: &RawValue) -> Option<Timestamp> {
    let millis = if raw.get().starts_with('"') {
        rfc3339::parse(&serde_json::from_str::<String>(raw.get()).ok()?)?
    } else {
        raw.get().parse().ok()?
    };
    // Negative times cannot be told from "none" on the wire.
    (millis >= 0).then(|| Timestamp::from_millis(millis))
}

/// A stored record for a page. Exactly one of `key` and `key_base64` is there, and the same for every value.
#[derive(Debug, Serialize)]
pub(super) struct OutgoingRecord {
    pub(super) partition: u32,
    pub(super) offset: u64,
    /// With the offset it names the record for ever.
    leader_epoch: u32,
    pub(super) timestamp: i64,
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    value: Value,
    headers: Vec<OutgoingHeader>,
}

#[derive(Debug, Serialize)]
struct OutgoingHeader {
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    value: Value,
}

#[derive(Debug, Serialize)]
enum Key {
    #[serde(rename = "key")]
    Text(Option<String>),
    #[serde(rename = "key_base64")]
    Bytes(String),
}

#[derive(Debug, Serialize)]
enum Value {
    #[serde(rename = "value")]
    Text(Option<String>),
    #[serde(rename = "value_base64")]
    Bytes(String),
}

impl OutgoingRecord {
    pub(super) fn new(partition: PartitionIndex, epoch: LeaderEpoch, stored: &StoredRecord) -> Self {
        let record = &stored.record;
        Self {
            partition: partition.get(),
            offset: stored.offset.get(),
            leader_epoch: epoch.get(),
            timestamp: record.timestamp.as_millis(),
            key: key(record.key.as_deref()),
            value: value(record.value.as_deref()),
            headers: record
                .headers
                .iter()
                .map(|header| OutgoingHeader { key: key(Some(&header.key)), value: value(header.value.as_deref()) })
                .collect(),
        }
    }
}

fn key(bytes: Option<&[u8]>) -> Key {
    match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => Key::Text(None),
        Some((Ok(text), _)) => Key::Text(Some(text.to_owned())),
        Some((Err(_), bytes)) => Key::Bytes(BASE64.encode(bytes)),
    }
}

fn value(bytes: Option<&[u8]>) -> Value {
    match key(bytes) {
        Key::Text(text) => Value::Text(text),
        Key::Bytes(text) => Value::Bytes(text),
    }
}

#[cfg(test)]
mod tests {
    use streambus_protocol::offset::Offset;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(7);

    fn value_of(document: &str) -> Option<String> {
        let record = read(document, NOW).expect(document).record;
        record.value.map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"))
    }

    /// Catches a JSON value that is parsed and written anew: numbers lose digits, members their order.
    #[test]
    fn json_values_keep_their_spelling() {
        for value in ["12345678901234567890123", "1.10", "{\"b\":1, \"a\": [1e400]}", "true", "[]"] {
            assert_eq!(value_of(&format!("{{\"value\":{value}}}")).as_deref(), Some(value));
        }
        assert_eq!(value_of(r#"{"value":"a\u00e4\n"}"#).as_deref(), Some("aä\n"));
        assert_eq!(value_of(r#"{"value":"null"}"#).as_deref(), Some("null"));
        assert_eq!(value_of(r#"{"value":null}"#), None);
    }

    #[test]
    fn every_member_is_read() {
        let record = read(
            r#"{"key":"k","value_base64":"/wA=","partition":3,"timestamp":"1970-01-01T00:00:01Z",
                "headers":[{"key":"h","value":"1"},{"key":"h","value_base64":"/w=="},{"key":"n","value":null}]}"#,
            NOW,
        )
        .expect("legal");
        assert_eq!(record.partition, Some(PartitionIndex::new(3)));
        assert_eq!(record.record.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(record.record.value.as_deref(), Some(&b"\xff\0"[..]));
        assert_eq!(record.record.timestamp.as_millis(), 1000);
        let headers: Vec<_> = record.record.headers.iter().map(|h| (h.key.as_ref(), h.value.as_deref())).collect();
        assert_eq!(headers, [(&b"h"[..], Some(&b"1"[..])), (b"h", Some(b"\xff")), (b"n", None)]);

        let short = read(r#"{"key":5,"value":"","headers":{"a":"1","b":{"c":2}}}"#, NOW).expect("legal").record;
        assert_eq!(
            (short.key.as_deref(), short.value.as_deref(), short.timestamp),
            (Some(&b"5"[..]), Some(&b""[..]), NOW)
        );
        assert_eq!(short.headers[1].value.as_deref(), Some(&b"{\"c\":2}"[..]));
    }

    #[test]
    fn what_is_no_record_says_why() {
        for (document, why) in [
            ("{}", "'value' or 'value_base64' is missing"),
            ("5", "invalid type"),
            (r#"{"value":"x","value_base64":"eA=="}"#, "not both"),
            (r#"{"value_base64":"?"}"#, "is not base64"),
            (r#"{"value":"x","vlaue":"y"}"#, "unknown field"),
            (r#"{"value":"x","partition":-1}"#, "invalid value"),
            (r#"{"value":"x","timestamp":"soon"}"#, "must be milliseconds since 1970"),
            (r#"{"value":"x","timestamp":-5}"#, "must be milliseconds since 1970"),
            (r#"{"value":"\ud800"}"#, "'value': "),
            (r#"{"value":"x","headers":[{"value":"x"}]}"#, "missing field `key`"),
        ] {
            let error = read(document, NOW).expect_err(document);
            assert!(error.0.contains(why), "{document}: {}", error.0);
        }
    }

    #[test]
    fn what_goes_out_is_text_or_base64_and_comes_back_the_same() {
        for value in [Some(&b"text"[..]), Some(b"\xff\xfe"), Some(b""), None] {
            let record = Record {
                key: value.map(Bytes::copy_from_slice),
                value: value.map(Bytes::copy_from_slice),
                headers: vec![Header { key: "h".into(), value: value.map(Bytes::copy_from_slice) }],
                timestamp: NOW,
            };
            let stored = StoredRecord { offset: Offset::ZERO, record: record.clone() };
            let mut json =
                serde_json::to_value(OutgoingRecord::new(PartitionIndex::new(1), LeaderEpoch::new(4), &stored))
                    .expect("serialises");
            assert_eq!((&json["partition"], &json["offset"], &json["timestamp"]), (&1.into(), &0.into(), &7.into()));
            assert_eq!(json["leader_epoch"], 4);
            // What the log gives them is not sent along.
            json.as_object_mut().expect("an object").retain(|name, _| name != "offset" && name != "leader_epoch");
            assert_eq!(read(&json.to_string(), Timestamp::NONE).expect("reads back").record, record);
        }
    }
}
