//! How a template reads: which bytes of the input belong to which field.
//!
//! The last literal of a template ends each record; without one the whole input is one record. A template with `%K` or
//! `%V` reads lengths first, so keys and values may hold any byte; others split at their literals, and the last field
//! takes all that is left of its line.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use memchr::memmem;

use super::template::{Encoding, Field, Piece, Template, TemplateError};
use crate::instant;

/// One record read from the input; what the template does not name is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputRecord {
    /// From `%t`.
    pub topic: Option<String>,
    /// From `%p`.
    pub partition: Option<u32>,
    /// From `%T`, milliseconds since the Unix epoch.
    pub timestamp: Option<i64>,
    /// From `%k`.
    pub key: Option<Bytes>,
    /// From `%v`.
    pub value: Option<Bytes>,
    /// From `%h` and `%h{name}`, in the order of the template.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// A template made ready for reading.
#[derive(Clone, Debug)]
pub struct InputPlan {
    pieces: Vec<Piece>,
    terminator: Option<Vec<u8>>,
    sized: bool,
    null_empty: bool,
}

/// What matching the start of the input against the plan came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The record takes this many bytes, its terminator included; its fields are in the spans.
    Done(usize),
    /// More input is needed to tell.
    NeedMore,
}

impl InputPlan {
    /// Makes `template` ready, or says why it cannot be read back. With `null_empty`, an empty key or value means none.
    pub fn new(text: &str, null_empty: bool) -> Result<Self, TemplateError> {
        let template = Template::parse(text)?;
        let wrong = |problem: String, remedy: &str| TemplateError {
            template: text.to_owned(),
            position: None,
            problem,
            remedy: remedy.to_owned(),
        };
        let mut pieces = template.pieces().to_vec();
        let terminator = match pieces.pop() {
            Some(Piece::Literal(bytes)) => Some(bytes),
            Some(field) => {
                pieces.push(field);
                None
            }
            None => return Err(wrong("it is empty".into(), "write for example '%k\\t%v\\n'")),
        };
        let (mut key_sized, mut value_sized, mut has_data) = (false, false, false);
        for (index, piece) in pieces.iter().enumerate() {
            let Piece::Field(field) = piece else { continue };
            if pieces.iter().take(index).any(|earlier| earlier == piece) {
                return Err(wrong("a field stands in it twice".into(), "name each field once"));
            }
            let has_length = match field {
                Field::Key(_) => key_sized,
                Field::Value(_) => value_sized,
                Field::HeaderCount => {
                    return Err(wrong("%H cannot be read from input".into(), "remove it"));
                }
                _ => false,
            };
            has_data |= matches!(field, Field::Key(_) | Field::Value(_));
            key_sized |= *field == Field::KeyLength;
            value_sized |= *field == Field::ValueLength;
            if !has_length && matches!(pieces.get(index + 1), Some(Piece::Field(_))) {
                return Err(wrong(
                    "two fields stand side by side, so nothing says where the first ends".into(),
                    "put a separator between them, or give a length first: '%V %v'",
                ));
            }
        }
        if !has_data {
            return Err(wrong("it reads neither key nor value".into(), "write for example '%k\\t%v\\n'"));
        }
        Ok(Self { pieces, terminator, sized: key_sized || value_sized, null_empty })
    }

    /// The bytes that end a record; `None` when the whole input is one record.
    pub fn terminator(&self) -> Option<&[u8]> {
        self.terminator.as_deref()
    }

    /// True when lengths in the input say where fields end.
    pub fn is_sized(&self) -> bool {
        self.sized
    }

    /// Finds the fields at the start of `input`. In a plan without lengths `input` is one whole line without its
    /// terminator. `last` says that no more input follows. On success `spans` has one range per field piece.
    pub(super) fn find(&self, input: &[u8], last: bool, spans: &mut Vec<Range<usize>>) -> Result<Match, String> {
        spans.clear();
        let (mut at, mut key_bytes, mut value_bytes) = (0, None, None);
        for (index, piece) in self.pieces.iter().enumerate() {
            let rest = input.get(at..).unwrap_or_default();
            match piece {
                Piece::Literal(literal) => {
                    if !rest.starts_with(literal) {
                        if !last && literal.starts_with(rest) {
                            return Ok(Match::NeedMore);
                        }
                        return Err(format!("{} is missing {}", shown(literal), self.place(index)));
                    }
                    at += literal.len();
                }
                Piece::Field(field) => {
                    let known = match field {
                        Field::Key(encoding) => key_bytes.map(|n| encoded_bytes(n, *encoding)),
                        Field::Value(encoding) => value_bytes.map(|n| encoded_bytes(n, *encoding)),
                        _ => None,
                    };
                    let length = match known {
                        Some(length) if length <= rest.len() => length,
                        Some(_) if !last => return Ok(Match::NeedMore),
                        Some(length) => {
                            return Err(format!(
                                "{} is cut short: {length} bytes were announced, {} are left",
                                name_of(field),
                                rest.len()
                            ));
                        }
                        None => match self.end_of(index, rest, last)? {
                            Some(length) => length,
                            None => return Ok(Match::NeedMore),
                        },
                    };
                    let span = at..at + length;
                    let number = || -> Result<usize, String> {
                        let text = std::str::from_utf8(&input[span.clone()]).unwrap_or_default();
                        text.parse().map_err(|_| format!("{} is no number: '{}'", name_of(field), text))
                    };
                    match field {
                        Field::KeyLength => key_bytes = Some(number()?),
                        Field::ValueLength => value_bytes = Some(number()?),
                        _ => {}
                    }
                    at = span.end;
                    spans.push(span);
                }
            }
        }
        if self.sized
            && let Some(terminator) = &self.terminator
        {
            let rest = input.get(at..).unwrap_or_default();
            if rest.starts_with(terminator) {
                at += terminator.len();
            } else if !last && terminator.starts_with(rest) {
                return Ok(Match::NeedMore);
            } else if !(last && rest.is_empty()) {
                return Err(format!("{} is missing at the end of the record", shown(terminator)));
            }
        }
        Ok(Match::Done(at))
    }

    /// The length of the field at `index` when no number gave it; `None` when more input is needed to tell.
    fn end_of(&self, index: usize, rest: &[u8], last: bool) -> Result<Option<usize>, String> {
        let separator = match self.pieces.get(index + 1) {
            Some(Piece::Literal(literal)) => Some(literal),
            _ if self.sized => self.terminator.as_ref(),
            _ => None,
        };
        let is_last_piece = index + 1 == self.pieces.len();
        match separator.map(|separator| memmem::find(rest, separator)) {
            Some(Some(length)) => Ok(Some(length)),
            Some(None) if !last => Ok(None),
            Some(None) if is_last_piece => Ok(Some(rest.len())),
            Some(None) => {
                let literal = separator.map(|bytes| shown(bytes)).unwrap_or_default();
                Err(format!("{literal} is missing {}", self.place(index + 1)))
            }
            None if self.sized && !last => Ok(None),
            None => Ok(Some(rest.len())),
        }
    }

    fn place(&self, literal_index: usize) -> String {
        match literal_index.checked_sub(1).and_then(|index| self.pieces.get(index)) {
            Some(Piece::Field(field)) => format!("after the {}", name_of(field)),
            _ => "at the start of the record".to_owned(),
        }
    }

    /// Builds the record whose fields are at `spans` of `input`; keys and values share its memory.
    pub(super) fn build(&self, input: &Bytes, spans: &[Range<usize>]) -> Result<InputRecord, String> {
        let fields = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Field(field) => Some(field),
            Piece::Literal(_) => None,
        });
        let mut record = InputRecord::default();
        for (field, span) in fields.zip(spans) {
            let raw = || input.slice(span.clone());
            let text =
                || std::str::from_utf8(&input[span.clone()]).map_err(|_| format!("the {} is no text", name_of(field)));
            match field {
                Field::Key(encoding) => record.key = self.data(raw(), *encoding, field)?,
                Field::Value(encoding) => record.value = self.data(raw(), *encoding, field)?,
                Field::Topic => record.topic = Some(text()?.to_owned()),
                Field::Partition => {
                    let number = text()?
                        .parse()
                        .map_err(|_| format!("'{}' is no partition number", text().unwrap_or_default()))?;
                    record.partition = Some(number);
                }
                Field::Timestamp(_) => {
                    let written = text()?;
                    // Only absolute times stand in records, so there is no "now" to count from.
                    let millis = if written == "-1" || written == "-" { Ok(-1) } else { instant::parse(written, 0) };
                    record.timestamp = Some(millis.map_err(|error| error.to_string())?);
                }
                Field::Headers => {
                    for header in text()?.split(',').filter(|header| !header.is_empty()) {
                        record.headers.push(match header.split_once('=') {
                            Some((name, value)) => (name.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes()))),
                            None => (header.to_owned(), None),
                        });
                    }
                }
                Field::Header(name) => record.headers.push((name.clone(), Some(raw()))),
                // Offsets are the broker's to give; a format that prints them still reads.
                Field::Offset | Field::KeyLength | Field::ValueLength | Field::HeaderCount => {}
            }
        }
        Ok(record)
    }

    fn data(&self, raw: Bytes, encoding: Encoding, field: &Field) -> Result<Option<Bytes>, String> {
        let bytes = match encoding {
            Encoding::Raw => raw,
            Encoding::Hex => {
                let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
                let pairs = raw.chunks_exact(2);
                let complete = pairs.remainder().is_empty();
                let decoded: Option<Vec<u8>> =
                    pairs.map(|pair| Some(digit(pair.first()?)? * 16 + digit(pair.get(1)?)?)).collect();
                match decoded {
                    Some(decoded) if complete => decoded.into(),
                    _ => return Err(format!("the {} is not hexadecimal", name_of(field))),
                }
            }
            Encoding::Base64 => match BASE64.decode(&raw) {
                Ok(decoded) => decoded.into(),
                Err(_) => return Err(format!("the {} is not base64", name_of(field))),
            },
        };
        Ok(if bytes.is_empty() && self.null_empty { None } else { Some(bytes) })
    }
}

fn encoded_bytes(bytes: usize, encoding: Encoding) -> usize {
    match encoding {
        Encoding::Raw => bytes,
        Encoding::Hex => bytes.saturating_mul(2),
        Encoding::Base64 => base64::encoded_len(bytes, true).unwrap_or(usize::MAX),
    }
}

fn name_of(field: &Field) -> &'static str {
    match field {
        Field::Key(_) => "key",
        Field::Value(_) => "value",
        Field::Topic => "topic",
        Field::Partition => "partition",
        Field::Offset => "offset",
        Field::Timestamp(_) => "timestamp",
        Field::Headers | Field::Header(_) => "header",
        Field::KeyLength => "key length",
        Field::ValueLength => "value length",
        Field::HeaderCount => "header count",
    }
}

/// A literal as a person would write it in a template.
fn shown(literal: &[u8]) -> String {
    format!("separator '{}'", literal.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_that_cannot_be_read_back_are_refused_with_a_remedy() {
        for (text, says) in [
            ("%k%v\\n", "put a separator between them"),
            ("%k%K\\n", "side by side"),
            ("%v %v\\n", "twice"),
            ("%t\\n", "neither key nor value"),
            ("%H %v\\n", "%H cannot be read"),
            ("", "empty"),
        ] {
            let error = InputPlan::new(text, false).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(InputPlan::new("%K %k%v\\n", false).is_ok());
        assert!(InputPlan::new("%K,%V,%k%v", false).is_ok());
    }
}
