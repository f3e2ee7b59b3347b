//! Reads records from a byte stream as a plan says. Streams: it holds one block and the record it is in, never the file.

use std::io::{self, Read};
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use streambus_protocol::limits::BATCH_BYTES_MAX;

use super::plan::{InputPlan, InputRecord, Match};

/// Bytes asked of the source at a time.
const BLOCK_BYTES: usize = 128 * 1024;
/// The longest record of input: no topic takes a larger batch, and hexadecimal doubles a value.
const RECORD_INPUT_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX + 64 * 1024;

/// Why no record came out.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The source failed.
    #[error("reading the input failed: {0}")]
    Io(#[from] io::Error),
    /// A record does not fit the format. When `can_continue`, the next call goes on behind it.
    #[error("{unit} {number}: {problem}")]
    Bad {
        /// `line` when records end with a line feed, else `record`.
        unit: &'static str,
        /// Counted from 1.
        number: u64,
        /// What is wrong with it.
        problem: String,
        /// False when nothing says where the next record starts.
        can_continue: bool,
    },
}

/// An iterator of records over a byte stream.
#[derive(Debug)]
pub struct InputReader<R> {
    source: R,
    plan: InputPlan,
    buffer: BytesMut,
    /// Bytes at the start of the buffer that are known not to hold the start of a terminator.
    scanned: usize,
    at_end: bool,
    number: u64,
    bytes_read: u64,
    spans: Vec<Range<usize>>,
    /// The rest of an over-long record is being dropped.
    discarding: bool,
    finished: bool,
}

impl<R: Read> InputReader<R> {
    /// Reads `source` by `plan`.
    pub fn new(source: R, plan: InputPlan) -> Self {
        Self {
            source,
            plan,
            buffer: BytesMut::new(),
            scanned: 0,
            at_end: false,
            number: 0,
            bytes_read: 0,
            spans: Vec::new(),
            discarding: false,
            finished: false,
        }
    }

    /// Bytes taken from the source so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The number of the last record, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The unit that [`InputReader::number`] counts: `line` or `record`.
    pub fn unit(&self) -> &'static str {
        if self.plan.terminator() == Some(b"\n") && !self.plan.is_sized() { "line" } else { "record" }
    }

    /// The next record, `None` at the end.
    pub fn next_record(&mut self) -> Result<Option<InputRecord>, InputError> {
        if self.finished {
            return Ok(None);
        }
        if self.plan.is_sized() { self.next_sized() } else { self.next_delimited() }
    }

    /// True when the next record is not in memory yet, so that asking for it may wait for the source.
    pub fn must_wait(&mut self) -> bool {
        if self.finished || self.at_end {
            return false;
        }
        if self.plan.is_sized() {
            let mut spans = std::mem::take(&mut self.spans);
            let found = self.plan.find(&self.buffer, false, &mut spans);
            self.spans = spans;
            return matches!(found, Ok(Match::NeedMore));
        }
        self.find_line().is_none()
    }

    fn bad(&self, problem: String, can_continue: bool) -> InputError {
        InputError::Bad { unit: self.unit(), number: self.number, problem, can_continue }
    }

    fn next_delimited(&mut self) -> Result<Option<InputRecord>, InputError> {
        loop {
            if let Some((line, consumed)) = self.find_line() {
                let whole = self.buffer.split_to(consumed).freeze();
                self.scanned = 0;
                if std::mem::take(&mut self.discarding) {
                    continue;
                }
                self.number += 1;
                return self.read_line(whole.slice(..line)).map(Some);
            }
            if self.discarding || self.buffer.len() > RECORD_INPUT_BYTES_MAX {
                let keep = self.plan.terminator().map_or(0, |terminator| terminator.len() - 1).min(self.buffer.len());
                let _dropped = self.buffer.split_to(self.buffer.len() - keep);
                self.scanned = 0;
                if !std::mem::replace(&mut self.discarding, true) {
                    self.number += 1;
                    let problem = format!("longer than {RECORD_INPUT_BYTES_MAX} bytes");
                    return Err(self.bad(problem, true));
                }
            }
            if self.at_end {
                self.finished = true;
                // A last record may lack its terminator; nothing after a terminator is no record.
                if self.buffer.is_empty() || self.discarding {
                    return Ok(None);
                }
                self.number += 1;
                let line = self.buffer.split().freeze();
                return self.read_line(line).map(Some);
            }
            self.fill()?;
        }
    }

    /// The length of the first line in the buffer and of it with its terminator.
    fn find_line(&mut self) -> Option<(usize, usize)> {
        let terminator = self.plan.terminator()?;
        let unseen = self.buffer.get(self.scanned..)?;
        let found = match terminator {
            [byte] => memchr::memchr(*byte, unseen),
            bytes => memmem::find(unseen, bytes),
        };
        match found {
            Some(at) => {
                let (line, whole) = (self.scanned + at, self.scanned + at + terminator.len());
                // Looked for again, it is found at once.
                self.scanned = line;
                Some((line, whole))
            }
            None => {
                self.scanned = self.buffer.len().saturating_sub(terminator.len() - 1);
                None
            }
        }
    }

    fn read_line(&mut self, line: Bytes) -> Result<InputRecord, InputError> {
        let mut spans = std::mem::take(&mut self.spans);
        let outcome = self.plan.find(&line, true, &mut spans).and_then(|_| self.plan.build(&line, &spans));
        self.spans = spans;
        outcome.map_err(|problem| self.bad(problem, true))
    }

    fn next_sized(&mut self) -> Result<Option<InputRecord>, InputError> {
        loop {
            if self.at_end && self.buffer.is_empty() {
                self.finished = true;
                return Ok(None);
            }
            let mut spans = std::mem::take(&mut self.spans);
            let found = self.plan.find(&self.buffer, self.at_end, &mut spans);
            self.spans = spans;
            match found {
                Ok(Match::Done(consumed)) => {
                    self.number += 1;
                    let whole = self.buffer.split_to(consumed).freeze();
                    return self.plan.build(&whole, &self.spans).map(Some).map_err(|problem| self.bad(problem, true));
                }
                Ok(Match::NeedMore) if self.buffer.len() <= RECORD_INPUT_BYTES_MAX => self.fill()?,
                Ok(Match::NeedMore) => {
                    self.finished = true;
                    self.number += 1;
                    return Err(self.bad(format!("longer than {RECORD_INPUT_BYTES_MAX} bytes"), false));
                }
                Err(problem) => {
                    self.finished = true;
                    self.number += 1;
                    return Err(self.bad(problem, false));
                }
            }
        }
    }

    fn fill(&mut self) -> Result<(), InputError> {
        let filled = self.buffer.len();
        self.buffer.resize(filled + BLOCK_BYTES, 0);
        let outcome = loop {
            match self.source.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(filled + outcome.as_ref().copied().unwrap_or(0));
        let read = outcome?;
        self.at_end = read == 0;
        self.bytes_read += u64::try_from(read).unwrap_or(u64::MAX);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::print::RecordView;
    use super::super::template::Template;
    use super::*;

    /// Gives at most `step` bytes a read, so that every boundary falls inside a record once.
    struct Dribble<'a> {
        bytes: &'a [u8],
        step: usize,
    }

    impl Read for Dribble<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.step.min(self.bytes.len()).min(buf.len());
            let (now, later) = self.bytes.split_at(n);
            buf[..n].copy_from_slice(now);
            self.bytes = later;
            Ok(n)
        }
    }

    fn read_all(format: &str, input: &[u8], step: usize) -> Vec<Result<InputRecord, String>> {
        let plan = InputPlan::new(format, false).unwrap();
        let mut reader = InputReader::new(Dribble { bytes: input, step }, plan);
        let mut records = Vec::new();
        loop {
            match reader.next_record() {
                Ok(Some(record)) => records.push(Ok(record)),
                Ok(None) => return records,
                Err(error) => {
                    let ends = matches!(error, InputError::Bad { can_continue: false, .. } | InputError::Io(_));
                    records.push(Err(error.to_string()));
                    if ends {
                        return records;
                    }
                }
            }
        }
    }

    fn pair(key: &str, value: &str) -> Result<InputRecord, String> {
        let bytes = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
        Ok(InputRecord { key: bytes(key), value: bytes(value), ..InputRecord::default() })
    }

    #[test]
    fn lines_split_at_the_first_separator_and_the_last_may_lack_its_end() {
        for step in [1, 2, 3, 1_000] {
            let read = read_all("%k\\t%v\\n", b"a\t1\nb\t2\t3\n\t\nc\t4", step);
            assert_eq!(read, [pair("a", "1"), pair("b", "2\t3"), pair("", ""), pair("c", "4")]);
        }
    }

    #[test]
    fn a_line_without_separator_is_named_and_the_rest_goes_on() {
        let read = read_all("%k\\t%v\\n", b"a\t1\nno tab\nb\t2\n", 5);
        assert_eq!(read[1], Err("line 2: separator '\\t' is missing after the key".to_owned()));
        assert_eq!(read[2], pair("b", "2"));
    }

    #[test]
    fn an_over_long_line_is_refused_once_and_does_not_swallow_its_neighbour() {
        let mut input = vec![b'x'; RECORD_INPUT_BYTES_MAX + BLOCK_BYTES * 2];
        input.extend_from_slice(b"\nshort\n");
        let read = read_all("%v\\n", &input, 1 << 20);
        assert!(read[0].as_ref().unwrap_err().contains("longer than"), "{:?}", read[0].as_ref().err());
        assert_eq!(read[1].as_ref().unwrap().value.as_deref(), Some(&b"short"[..]));
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn without_a_final_literal_the_whole_input_is_one_record() {
        let read = read_all("%v", b"two\nlines\n", 3);
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].as_ref().unwrap().value.as_deref(), Some(&b"two\nlines\n"[..]));
    }

    #[test]
    fn every_field_is_read_from_where_it_stands() {
        let read = read_all(
            "%t %p %o %T{iso} %h{id} %h|%k{hex}=%v{base64};\\n",
            b"orders 3 99 2026-11-21T00:00:00.000Z 7 a=1,b|6b31=aGVsbG8=;\n",
            7,
        );
        let record = read[0].as_ref().unwrap();
        assert_eq!(record.topic.as_deref(), Some("orders"));
        assert_eq!((record.partition, record.timestamp), (Some(3), Some(1_795_219_200_000)));
        assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"k1"[..]), Some(&b"hello"[..])));
        let header = |name: &str, value: Option<&'static str>| (name.to_owned(), value.map(Bytes::from));
        assert_eq!(record.headers, [header("id", Some("7")), header("a", Some("1")), header("b", None)]);
    }

    #[test]
    fn wrong_numbers_and_encodings_are_refused_not_guessed() {
        for (format, input, says) in [
            ("%p %v\\n", "x 1\n", "'x' is no partition number"),
            ("%v{hex}\\n", "abc\n", "not hexadecimal"),
            ("%v{base64}\\n", "!!\n", "not base64"),
            ("%T %v\\n", "soon 1\n", "is no time"),
            ("%V %v\\n", "9 abc\n", "cut short"),
            ("%V %v\\n", "x abc\n", "value length is no number"),
            ("%V %v\\n", "2 abc\n", "separator '\\n' is missing at the end"),
        ] {
            let read = read_all(format, input.as_bytes(), 4);
            let error = read[0].as_ref().unwrap_err();
            assert!(error.contains(says), "{format}: {error}");
        }
    }

    fn field_bytes(terminators: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(move |bytes| bytes.into_iter().filter(|b| !terminators.contains(b)).collect())
    }

    fn printed(format: &str, records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let template = Template::parse(format).unwrap();
        let mut out = Vec::new();
        for (key, value) in records {
            let view = RecordView {
                topic: "t",
                partition: 1,
                offset: 2,
                timestamp: 3,
                key: Some(key),
                value: Some(value),
                headers: &[],
            };
            template.print(&view, &mut out);
        }
        out
    }

    fn check_round_trip(format: &str, records: &[(Vec<u8>, Vec<u8>)], step: usize) {
        let read: Vec<(Vec<u8>, Vec<u8>)> = read_all(format, &printed(format, records), step)
            .into_iter()
            .map(|record| record.unwrap())
            .map(|record| (record.key.unwrap().to_vec(), record.value.unwrap().to_vec()))
            .collect();
        assert_eq!(read, records, "{format}");
    }

    proptest! {
        /// Catches bytes lost or moved between fields: what `consume` prints, `produce` reads, for delimited formats
        /// as long as the data does not contain the separators.
        #[test]
        fn delimited_round_trip(
            records in proptest::collection::vec((field_bytes(b"\t\n"), field_bytes(b"\n")), 0..8), step in 1_usize..64,
        ) {
            check_round_trip("%p %o\\t%k\\t%v\\n", &records, step);
        }

        /// The same for any bytes at all, with lengths or encodings that make separators irrelevant.
        #[test]
        fn any_bytes_round_trip(
            records in proptest::collection::vec((field_bytes(b""), field_bytes(b"")), 0..8), step in 1_usize..64,
        ) {
            check_round_trip("%K %V %k%v\\n", &records, step);
            check_round_trip("%k{hex} %v{base64}\\r\\n", &records, step);
            check_round_trip("%V:%K %v{hex}%k{base64}", &records, step);
        }
    }
}
