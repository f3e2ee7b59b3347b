//! A template's text, read into pieces. Every mistake is reported with its position and a remedy.

use std::fmt;

/// One thing a record has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// `%k`
    Key(Encoding),
    /// `%v`, `%s`
    Value(Encoding),
    /// `%t`
    Topic,
    /// `%p`
    Partition,
    /// `%o`
    Offset,
    /// `%T`, `%d`
    Timestamp(TimeStyle),
    /// `%h`: every header as `key=value`, separated by commas.
    Headers,
    /// `%h{name}`: the value of the first header of that name.
    Header(String),
    /// `%K`: bytes of the key, 0 when there is none.
    KeyLength,
    /// `%V`, `%S`: bytes of the value, 0 when there is none.
    ValueLength,
    /// `%H`: number of headers.
    HeaderCount,
}

/// How the bytes of a key or a value are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// Lower-case hexadecimal.
    Hex,
    /// RFC 4648 base64 with padding.
    Base64,
}

/// How a timestamp is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeStyle {
    /// Milliseconds since the Unix epoch, -1 for none.
    Millis,
    /// RFC 3339 in UTC.
    Iso,
}

/// A literal or a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes that stand for themselves; never empty, never next to another literal.
    Literal(Vec<u8>),
    /// A field of the record.
    Field(Field),
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("format '{template}': {problem}{}; {remedy}", Position(*.position))]
pub struct TemplateError {
    /// The template as given.
    pub template: String,
    /// Bytes before the mistake, when it has a place.
    pub position: Option<usize>,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

struct Position(Option<usize>);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(position) => write!(f, " at character {}", position + 1),
            None => Ok(()),
        }
    }
}

const FIELDS_HELP: &str = "fields are %k %v %t %p %o %T %h %K %V %H and %%";

impl Template {
    /// Reads a template. Errors name the position, the problem and what to write instead.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut chars = text.char_indices().peekable();
        let wrong = |position: usize, problem: String, remedy: &str| TemplateError {
            template: text.to_owned(),
            position: Some(position),
            problem,
            remedy: remedy.to_owned(),
        };
        while let Some((position, c)) = chars.next() {
            match c {
                '\\' => {
                    let Some((_, escape)) = chars.next() else {
                        return Err(wrong(position, "a backslash ends the text".into(), "write \\\\ for a backslash"));
                    };
                    match escape {
                        'n' => literal.push(b'\n'),
                        't' => literal.push(b'\t'),
                        'r' => literal.push(b'\r'),
                        '0' => literal.push(0),
                        '\\' => literal.push(b'\\'),
                        'x' => {
                            let high = chars.next().and_then(|(_, c)| c.to_digit(16));
                            let low = chars.next().and_then(|(_, c)| c.to_digit(16));
                            let (Some(high), Some(low)) = (high, low) else {
                                return Err(wrong(
                                    position,
                                    "\\x needs two hexadecimal digits".into(),
                                    "write for example \\x1f",
                                ));
                            };
                            literal.extend(u8::try_from(high * 16 + low));
                        }
                        other => {
                            return Err(wrong(
                                position,
                                format!("unknown escape \\{other}"),
                                "escapes are \\n \\t \\r \\0 \\\\ and \\xHH",
                            ));
                        }
                    }
                }
                '%' => {
                    let Some((_, name)) = chars.next() else {
                        return Err(wrong(position, "a per cent sign ends the text".into(), "write %% for one"));
                    };
                    if name == '%' {
                        literal.push(b'%');
                        continue;
                    }
                    let modifier = if chars.next_if(|(_, c)| *c == '{').is_some() {
                        let mut inside = String::new();
                        loop {
                            match chars.next() {
                                Some((_, '}')) => break,
                                Some((_, c)) => inside.push(c),
                                None => {
                                    return Err(wrong(position, "a '{' is never closed".into(), "close it with '}'"));
                                }
                            }
                        }
                        Some(inside)
                    } else {
                        None
                    };
                    let field = field(name, modifier.as_deref())
                        .map_err(|(problem, remedy)| wrong(position, problem, remedy))?;
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(Piece::Field(field));
                }
                other => literal.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self { pieces })
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

fn field(name: char, modifier: Option<&str>) -> Result<Field, (String, &'static str)> {
    let encoding = |modifier: Option<&str>| match modifier {
        None | Some("text") => Ok(Encoding::Raw),
        Some("hex") => Ok(Encoding::Hex),
        Some("base64") => Ok(Encoding::Base64),
        Some(other) => Err((format!("unknown modifier {{{other}}} of %{name}"), "use {hex} or {base64}")),
    };
    let bare = |field: Field| match modifier {
        None => Ok(field),
        Some(other) => Err((format!("%{name} takes no modifier, {{{other}}} was given"), "remove it")),
    };
    match name {
        'k' => Ok(Field::Key(encoding(modifier)?)),
        'v' | 's' => Ok(Field::Value(encoding(modifier)?)),
        't' => bare(Field::Topic),
        'p' => bare(Field::Partition),
        'o' => bare(Field::Offset),
        'T' | 'd' => match modifier {
            None | Some("millis") => Ok(Field::Timestamp(TimeStyle::Millis)),
            Some("iso") => Ok(Field::Timestamp(TimeStyle::Iso)),
            Some(other) => Err((format!("unknown modifier {{{other}}} of %{name}"), "use {iso} or {millis}")),
        },
        'h' => match modifier {
            None => Ok(Field::Headers),
            Some("") => Err(("%h{} names no header".into(), "write %h for all, or %h{name} for one")),
            Some(header) => Ok(Field::Header(header.to_owned())),
        },
        'K' => bare(Field::KeyLength),
        'V' | 'S' => bare(Field::ValueLength),
        'H' => bare(Field::HeaderCount),
        other => Err((format!("unknown field %{other}"), FIELDS_HELP)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_escapes_merge_into_one_piece() {
        let template = Template::parse("a%%b\\t%k\\x41\\\\").unwrap();
        assert_eq!(
            template.pieces(),
            [
                Piece::Literal(b"a%b\t".to_vec()),
                Piece::Field(Field::Key(Encoding::Raw)),
                Piece::Literal(b"A\\".to_vec())
            ]
        );
    }

    #[test]
    fn modifiers_choose_encoding_header_and_time_style() {
        let template = Template::parse("%v{hex}%k{base64}%h{trace}%T{iso}").unwrap();
        assert_eq!(
            template.pieces(),
            [
                Piece::Field(Field::Value(Encoding::Hex)),
                Piece::Field(Field::Key(Encoding::Base64)),
                Piece::Field(Field::Header("trace".into())),
                Piece::Field(Field::Timestamp(TimeStyle::Iso)),
            ]
        );
    }

    #[test]
    fn a_mistake_names_its_place_and_a_remedy() {
        for (text, says) in [
            ("%q", "unknown field %q at character 1"),
            ("ab%", "a per cent sign ends the text at character 3"),
            ("\\y", "unknown escape \\y"),
            ("\\x4", "two hexadecimal digits"),
            ("%v{hax}", "use {hex} or {base64}"),
            ("%v{hex", "never closed"),
            ("%p{hex}", "takes no modifier"),
            ("\\", "a backslash ends the text"),
        ] {
            let error = Template::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
