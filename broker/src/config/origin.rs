//! Where a value came from, precise enough to go there and change it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing set it.
    Default,
    /// A place in a configuration file.
    File(FilePlace),
    /// An environment variable of this name.
    Env(String),
    /// A flag of this name, without dashes.
    Flag(String),
}

/// A stretch of one line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlace {
    /// The file, as it was named to us.
    pub path: PathBuf,
    /// Line number from 1.
    pub line: usize,
    /// Column in characters from 1.
    pub column: usize,
    /// Characters to underline; at least 1 and never past the line's end by more than one.
    pub width: usize,
    /// The whole line without its line break.
    pub text: String,
}

impl FilePlace {
    /// The place of the byte range `span` of `text`. A span outside the text names the text's end.
    pub fn new(path: &Path, text: &str, span: Range<usize>) -> Self {
        let start = floor_boundary(text, span.start);
        let end = floor_boundary(text, span.end.max(start));
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = text.get(line_start..).unwrap_or_default();
        let line = rest.lines().next().unwrap_or_default();
        let column = text.get(line_start..start).unwrap_or_default().chars().count() + 1;
        let spanned = text.get(start..end).unwrap_or_default();
        let width = spanned.lines().next().unwrap_or_default().chars().count().max(1);
        Self { path: path.to_owned(), line: before.matches('\n').count() + 1, column, width, text: line.to_owned() }
    }
}

/// The last character boundary at or before `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => write!(f, "file {}:{}:{}", place.path.display(), place.line, place.column),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// As text, the way people see it.
impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_not_bytes() {
        let text = "# über\n[ä]\nx = 1\n";
        let at = text.find('x').expect("x is there");
        let place = FilePlace::new(Path::new("f"), text, at..at + 1);
        assert_eq!((place.line, place.column, place.text.as_str()), (3, 1, "x = 1"));
        let at = text.find('b').expect("b is there");
        assert_eq!(FilePlace::new(Path::new("f"), text, at..at + 1).column, 4);
    }

    #[test]
    fn a_span_outside_the_text_or_inside_a_character_does_not_panic() {
        let place = FilePlace::new(Path::new("f"), "ä", 1..9);
        assert_eq!((place.line, place.column), (1, 1));
        let place = FilePlace::new(Path::new("f"), "a\n", 7..9);
        assert_eq!((place.line, place.column, place.width), (2, 1, 1));
    }
}
