//! Damage to the files of a stopped broker, where the offline tools say that something lies.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::dump::offline;

/// Behind an entry's header, within its batch.
const INTO_THE_BATCH: u64 = 200;

/// Flips one bit of a batch in the journal of `data`, at `fraction` of its batches; says which.
///
/// Panics when there is no batch to damage: the test would prove nothing.
pub fn flip_a_bit(data: &Path, fraction: f64) -> String {
    let dump = offline("dump", data).expect("an undamaged journal");
    let batches: Vec<&str> = dump.lines().filter(|line| line.contains(" batch ")).collect();
    let at = ((batches.len() as f64 * fraction) as usize).min(batches.len().saturating_sub(1));
    let line = batches.get(at).expect("a batch");
    let number = |key: &str| -> u64 {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(key));
        value.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {key} in {line}"))
    };
    let position = number("position=") + INTO_THE_BATCH.min(number("bytes=") / 2);
    let file = data.join(format!("journal-{:016x}.seg", number("segment=")));
    let file = OpenOptions::new().read(true).write(true).open(&file).expect("the segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).expect("it can be read");
    byte[0] ^= 1;
    file.write_all_at(&byte, position).expect("it can be written");
    file.sync_all().expect("it can be synced");
    format!("batch {at} of {}: {line}", batches.len())
}
