//! Records written by a template, or as JSON lines. Formats by hand into one buffer: no allocation per record.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::template::{Encoding, Field, Piece, Template, TimeStyle};
use crate::instant;

/// One record, as printing sees it.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition's number.
    pub partition: u32,
    /// The record's offset.
    pub offset: u64,
    /// Milliseconds since the Unix epoch, -1 for none.
    pub timestamp: i64,
    /// The key, when there is one.
    pub key: Option<&'a [u8]>,
    /// The value, when there is one.
    pub value: Option<&'a [u8]>,
    /// Headers in the order of the record.
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

impl Template {
    /// Appends `record` to `out`, as the template says.
    pub fn print(&self, record: &RecordView<'_>, out: &mut Vec<u8>) {
        for piece in self.pieces() {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Field(field) => print_field(field, record, out),
            }
        }
    }
}

fn print_field(field: &Field, record: &RecordView<'_>, out: &mut Vec<u8>) {
    match field {
        Field::Key(encoding) => print_bytes(record.key.unwrap_or_default(), *encoding, out),
        Field::Value(encoding) => print_bytes(record.value.unwrap_or_default(), *encoding, out),
        Field::Topic => out.extend_from_slice(record.topic.as_bytes()),
        Field::Partition => print_unsigned(u64::from(record.partition), out),
        Field::Offset => print_unsigned(record.offset, out),
        Field::Timestamp(TimeStyle::Millis) => print_signed(record.timestamp, out),
        Field::Timestamp(TimeStyle::Iso) => out.extend_from_slice(instant::format_iso(record.timestamp).as_bytes()),
        Field::Headers => {
            for (index, (key, value)) in record.headers.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(key);
                if let Some(value) = value {
                    out.push(b'=');
                    out.extend_from_slice(value);
                }
            }
        }
        Field::Header(name) => {
            let found = record.headers.iter().find(|(key, _)| *key == name.as_bytes());
            out.extend_from_slice(found.and_then(|(_, value)| *value).unwrap_or_default());
        }
        Field::KeyLength => print_unsigned(length(record.key), out),
        Field::ValueLength => print_unsigned(length(record.value), out),
        Field::HeaderCount => print_unsigned(u64::try_from(record.headers.len()).unwrap_or(u64::MAX), out),
    }
}

fn length(bytes: Option<&[u8]>) -> u64 {
    u64::try_from(bytes.map_or(0, <[u8]>::len)).unwrap_or(u64::MAX)
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

fn print_bytes(bytes: &[u8], encoding: Encoding, out: &mut Vec<u8>) {
    match encoding {
        Encoding::Raw => out.extend_from_slice(bytes),
        Encoding::Hex => {
            out.reserve(bytes.len() * 2);
            for byte in bytes {
                out.push(HEX_DIGITS[usize::from(byte >> 4)]);
                out.push(HEX_DIGITS[usize::from(byte & 15)]);
            }
        }
        Encoding::Base64 => print_base64(bytes, out),
    }
}

fn print_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let encoded = base64::encoded_len(bytes.len(), true).unwrap_or(0);
    out.resize(start + encoded, 0);
    // The slice has exactly the encoded length, so this cannot fail; a shorter result would be cut here.
    let written = BASE64.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// Appends `value` in decimal.
pub fn print_unsigned(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = HEX_DIGITS[usize::try_from(value % 10).unwrap_or(0)];
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends `value` in decimal, with a minus sign when it is negative.
pub fn print_signed(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    print_unsigned(value.unsigned_abs(), out);
}

/// Appends `record` as one line of JSON. Keys and values that are text stand as text; others as `key_base64` and
/// `value_base64`, so nothing is ever lost. No key or value is `null`.
pub fn print_json(record: &RecordView<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"topic\":");
    print_json_text(record.topic, out);
    out.extend_from_slice(b",\"partition\":");
    print_unsigned(u64::from(record.partition), out);
    out.extend_from_slice(b",\"offset\":");
    print_unsigned(record.offset, out);
    out.extend_from_slice(b",\"timestamp\":");
    print_signed(record.timestamp, out);
    out.push(b',');
    print_json_bytes("key", record.key, out);
    out.push(b',');
    print_json_bytes("value", record.value, out);
    if !record.headers.is_empty() {
        out.extend_from_slice(b",\"headers\":[");
        for (index, (key, value)) in record.headers.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.push(b'{');
            print_json_bytes("key", Some(key), out);
            out.push(b',');
            print_json_bytes("value", *value, out);
            out.push(b'}');
        }
        out.push(b']');
    }
    out.extend_from_slice(b"}\n");
}

fn print_json_bytes(name: &str, bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => out.extend_from_slice(b"\":null"),
        Some((_, Ok(text))) => {
            out.extend_from_slice(b"\":");
            print_json_text(text, out);
        }
        Some((bytes, Err(_))) => {
            out.extend_from_slice(b"_base64\":\"");
            print_base64(bytes, out);
            out.push(b'"');
        }
    }
}

fn print_json_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (index, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1f => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[plain..index]);
        if escape.is_empty() {
            out.extend_from_slice(b"\\u00");
            print_bytes(&[*byte], Encoding::Hex, out);
        } else {
            out.extend_from_slice(escape);
        }
        plain = index + 1;
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> RecordView<'a> {
        RecordView { topic: "orders", partition: 3, offset: 42, timestamp: 1_795_219_200_000, key, value, headers: &[] }
    }

    fn printed(template: &str, record: &RecordView<'_>) -> String {
        let mut out = Vec::new();
        Template::parse(template).unwrap().print(record, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_field_prints_what_it_names() {
        let headers: [(&[u8], Option<&[u8]>); 2] = [(b"a", Some(b"1")), (b"b", None)];
        let record = RecordView { headers: &headers, ..view(Some(b"k1"), Some(b"hello")) };
        assert_eq!(printed("%t %p/%o %k=%v\\n", &record), "orders 3/42 k1=hello\n");
        assert_eq!(printed("%K %V %H %h %h{a} %h{none}.", &record), "2 5 2 a=1,b 1 .");
        assert_eq!(printed("%T %T{iso}", &record), "1795219200000 2026-11-21T00:00:00.000Z");
        assert_eq!(printed("%k{hex} %v{base64}", &record), "6b31 aGVsbG8=");
    }

    #[test]
    fn absent_key_and_value_print_as_nothing() {
        assert_eq!(printed("[%k|%K|%v]", &view(None, None)), "[|0|]");
    }

    #[test]
    fn json_keeps_binary_apart_from_text_and_null_apart_from_empty() {
        let mut out = Vec::new();
        print_json(&view(Some(&[0xff, 0]), Some(b"")), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(r#""key_base64":"/wA=","value":"""#), "{text}");
        let mut out = Vec::new();
        print_json(&view(None, None), &mut out);
        assert!(String::from_utf8(out).unwrap().contains(r#""key":null,"value":null"#));
    }

    proptest! {
        /// Catches a missing or wrong escape: a JSON reader must get back exactly what was in the record.
        #[test]
        fn json_lines_read_back(key in ".*", value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            print_json(&view(Some(key.as_bytes()), Some(&value)), &mut out);
            prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
            let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(read["key"].as_str(), Some(key.as_str()));
            let back = match read["value"].as_str() {
                Some(text) => text.as_bytes().to_vec(),
                None => BASE64.decode(read["value_base64"].as_str().unwrap()).unwrap(),
            };
            prop_assert_eq!(back, value);
        }

        /// Catches digit errors at the ends of the range.
        #[test]
        fn numbers_print_as_the_standard_library_does(a in any::<u64>(), b in any::<i64>()) {
            let mut out = Vec::new();
            print_unsigned(a, &mut out);
            out.push(b' ');
            print_signed(b, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{a} {b}"));
        }
    }
}
