//! What a stopped broker has on disk: the output of `streambus log dump`, replayed into the batches of each partition.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::process::binary;

/// One batch on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// Its first offset.
    pub base: u64,
    /// The offset after its last.
    pub end: u64,
    /// The leader epoch that wrote it.
    pub epoch: u64,
    /// Its size.
    pub bytes: u64,
    /// CRC-32C of all its bytes.
    pub checksum: u32,
}

/// One partition's log as its replica holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogDump {
    batches: BTreeMap<u64, StoredBatch>,
    start: u64,
    /// Offsets `base..end` from which compaction by key has taken records: another replica need not have done so yet.
    compacted: Vec<(u64, u64)>,
}

impl LogDump {
    /// A log of these batches, for planted histories.
    pub fn of(batches: Vec<StoredBatch>) -> Self {
        let batches = batches.into_iter().map(|batch| (batch.base, batch)).collect();
        Self { batches, ..Self::default() }
    }

    /// True when compaction by key may have taken records of a batch with these offsets.
    pub fn is_compacted(&self, base: u64, end: u64) -> bool {
        self.compacted.iter().any(|(from, to)| *from < end && base < *to)
    }

    /// The batches in offset order.
    pub fn batches(&self) -> impl Iterator<Item = &StoredBatch> {
        self.batches.values()
    }

    /// The first offset that the log still has.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The offset after the last batch.
    pub fn end(&self) -> u64 {
        self.batches.last_key_value().map_or(self.start, |(_, batch)| batch.end)
    }

    fn append(&mut self, batch: StoredBatch) {
        self.batches.insert(batch.base, batch);
    }

    /// A batch stored anew. Compaction for space keeps every byte; compaction by key does not.
    fn rewrite(&mut self, batch: StoredBatch) {
        if self.batches.insert(batch.base, batch) == Some(batch) {
            return;
        }
        self.batches.retain(|base, known| *base == batch.base || known.end <= batch.base || batch.end <= *base);
        self.compacted.push((batch.base, batch.end));
    }

    fn truncate(&mut self, end: u64) {
        self.batches.retain(|_, batch| batch.base < end);
        self.compacted.retain(|(base, _)| *base < end);
    }

    fn trim(&mut self, start: u64) {
        self.start = self.start.max(start);
        self.batches.retain(|_, batch| batch.end > start);
    }
}

/// `streambus log verify` of a stopped broker's data directory.
///
/// # Errors
///
/// The tool's own words about the damage.
pub fn verify(data: &Path) -> Result<(), String> {
    offline("verify", data).map(drop)
}

/// Every partition's log, by `TOPIC-ID/PARTITION`, of a data directory whose broker is stopped.
///
/// # Errors
///
/// The tool's own words when the directory cannot be dumped or holds damage.
pub fn dump(data: &Path) -> Result<BTreeMap<String, LogDump>, String> {
    replay(&offline("dump", data)?)
}

/// What `streambus log` prints, always the healthy one's.
pub(crate) fn offline(command: &str, data: &Path) -> Result<String, String> {
    let output = Command::new(binary()).args(["log", command]).arg(data).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let end: Vec<&str> = text.lines().rev().take(5).collect();
    Err(format!("log {command} of {}: {said} {}", data.display(), end.join("; ")))
}

/// Replays the lines of a dump.
///
/// # Errors
///
/// The line that could not be understood, or says damage that no later line repairs.
pub fn replay(text: &str) -> Result<BTreeMap<String, LogDump>, String> {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut logs: BTreeMap<String, LogDump> = BTreeMap::new();
    // Damaged batches, by log and offsets, until a repair of them comes.
    let mut damaged: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for line in text.lines() {
        if line.starts_with("segment ") || line.starts_with("torn ") {
            continue;
        }
        let not_understood = || format!("line not understood: {line}");
        let fields: BTreeMap<&str, &str> = line.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        let number = |key: &str| fields.get(key).and_then(|text| text.parse::<u64>().ok()).ok_or_else(not_understood);
        let kind = line.split_whitespace().find(|word| !word.contains('=')).ok_or_else(not_understood)?;
        let id = *fields.get("log").ok_or_else(not_understood)?;
        if kind == "created" {
            let partition = *fields.get("partition").ok_or_else(not_understood)?;
            names.insert(id.to_owned(), partition.to_owned());
            logs.insert(partition.to_owned(), LogDump::default());
            continue;
        }
        if kind == "committed" {
            continue;
        }
        if let ("DAMAGED", Some(offsets)) = (kind, fields.get("offsets")) {
            damaged.insert((id, offsets), line);
            continue;
        }
        let name = names.get(id).ok_or_else(|| format!("an entry of a log that was not created: {line}"))?;
        let log = logs.entry(name.clone()).or_default();
        match kind {
            "batch" | "repair" | "rewrite" => {
                if kind == "repair"
                    && let Some(offsets) = fields.get("offsets")
                {
                    damaged.remove(&(id, offsets));
                }
                let range =
                    fields.get("offsets").and_then(|range| range.split_once("..")).ok_or_else(not_understood)?;
                let at = |text: &str| text.parse::<u64>().map_err(|_| not_understood());
                let checksum = fields.get("crc32c").and_then(|text| u32::from_str_radix(text, 16).ok());
                let batch = StoredBatch {
                    base: at(range.0)?,
                    end: at(range.1)?,
                    epoch: number("epoch")?,
                    bytes: number("bytes")?,
                    checksum: checksum.ok_or_else(not_understood)?,
                };
                if kind == "rewrite" { log.rewrite(batch) } else { log.append(batch) }
            }
            "truncate" => log.truncate(number("end")?),
            "trim" => log.trim(number("start")?),
            "epoch" => {}
            "deleted" => {
                logs.remove(name);
            }
            _ => return Err(not_understood()),
        }
    }
    damaged.into_values().next().map_or(Ok(logs), |line| Err(format!("damaged and not repaired: {line}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "segment 1
lsn=0 segment=1 position=8256 log=0 created partition=aa/0
lsn=1 segment=1 position=8360 log=0 epoch epoch=0 start=0
lsn=2 segment=1 position=9000 log=0 batch offsets=0..3 epoch=0 bytes=69 crc32c=0000000a time=1 records=3
lsn=3 segment=1 position=9100 log=0 batch offsets=3..5 epoch=0 bytes=70 crc32c=0000000b time=1 records=2
segment 2
lsn=4 segment=2 position=9100 log=0 truncate end=3
lsn=5 segment=2 position=9200 log=0 batch offsets=3..4 epoch=2 bytes=71 crc32c=0000000c time=1 records=1
lsn=6 segment=2 position=9300 log=1 created partition=bb/0
lsn=7 segment=2 position=9400 log=1 deleted
lsn=8 segment=2 position=9500 log=0 committed end=4
torn segment=2 position=9600 bytes=4096
";

    #[test]
    fn truncations_and_deletions_are_replayed() {
        let logs = replay(DUMP).expect("a dump");
        assert_eq!(logs.keys().collect::<Vec<_>>(), ["aa/0"]);
        let log = &logs["aa/0"];
        assert_eq!(log.end(), 4);
        let ends: Vec<_> = log.batches().map(|batch| (batch.base, batch.end, batch.epoch, batch.checksum)).collect();
        assert_eq!(ends, [(0, 3, 0, 10), (3, 4, 2, 12)]);
    }

    // Catches a replica that was compacted and is taken for one that lost batches.
    #[test]
    fn batches_stored_anew_take_the_place_of_others() {
        let more =
            "lsn=9 segment=2 position=9600 log=0 batch offsets=4..6 epoch=2 bytes=72 crc32c=0000000d time=1 records=2
lsn=10 segment=2 position=9700 log=0 rewrite offsets=0..3 epoch=0 bytes=69 crc32c=0000000a time=1 records=3
lsn=11 segment=2 position=9800 log=0 repair offsets=4..6 epoch=2 bytes=72 crc32c=0000000d time=1 records=2
lsn=12 segment=2 position=9900 log=0 rewrite offsets=3..6 epoch=2 bytes=61 crc32c=0000000e time=1 records=0
";
        let logs = replay(&format!("{DUMP}{more}")).expect("a dump");
        let log = &logs["aa/0"];
        let ends: Vec<_> = log.batches().map(|batch| (batch.base, batch.end, batch.checksum)).collect();
        assert_eq!(ends, [(0, 3, 10), (3, 6, 14)]);
        assert!(!log.is_compacted(0, 3) && log.is_compacted(4, 5));
    }

    #[test]
    fn a_trim_moves_the_start_and_damage_is_an_error() {
        let trimmed = format!("{DUMP}lsn=9 segment=2 position=9700 log=0 trim start=3\n");
        let logs = replay(&trimmed).expect("a dump");
        assert_eq!((logs["aa/0"].start(), logs["aa/0"].end()), (3, 4));
        for place in ["", " offsets=3..4"] {
            let damaged = format!("{DUMP}DAMAGED segment=2 position=1 length=2 log=0{place} what=\"x\"\n");
            assert!(replay(&damaged).is_err());
        }
    }

    #[test]
    fn a_repair_stands_for_the_batch_that_is_damaged() {
        let batch =
            "lsn=2 segment=1 position=9000 log=0 batch offsets=0..3 epoch=0 bytes=69 crc32c=0000000a time=1 records=3";
        let damaged = DUMP.replace(batch, "DAMAGED segment=1 position=9000 length=69 log=0 offsets=0..3 what=\"x\"");
        assert!(replay(&damaged).is_err());
        let repair = "lsn=9 segment=2 position=9700 log=0 repair offsets=0..3 epoch=0 bytes=69 crc32c=0000000a\n";
        assert_eq!(replay(&(damaged + repair)), replay(DUMP));
    }
}
