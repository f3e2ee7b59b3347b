//! A flipped bit in a file, as disks and memories make them, and whether the offline tool notices it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::Rng;

use crate::process::binary;

/// Which part of what is written in a file the bit lies in. Zeros do not count as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Anywhere.
    Any,
    /// In the first half, which is old.
    Old,
}

/// Flips one bit of a byte of `file` that is not zero. Says where.
pub fn flip(file: &Path, part: Part, random: &mut impl Rng) -> String {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let candidates = match part {
        Part::Any => &written[..],
        Part::Old => &written[..written.len() / 2],
    };
    assert!(!candidates.is_empty(), "{} holds nothing", file.display());
    let at = candidates[random.random_range(0..candidates.len())];
    let bit = random.random_range(0..8);
    let flipped = [bytes[at] ^ (1 << bit)];
    let opened = OpenOptions::new().write(true).open(file).expect("the file can be opened");
    opened.write_all_at(&flipped, at as u64).expect("the file can be written");
    opened.sync_all().expect("the file can be synced");
    format!("bit {bit} of byte {at} of {}", file.display())
}

/// The files of `folder` whose names satisfy `wanted`, in the order of their names.
pub fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.is_file() && path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted))
        .collect();
    found.sort_unstable();
    found
}

/// What `streambus log verify` says of a stopped broker's data directory that is damaged; fails the test when it does not
/// exit with 1.
pub fn verify_finds_damage(data: &Path) -> String {
    let output = Command::new(binary()).args(["log", "verify"]).arg(data).output().expect("the binary runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(output.status.code(), Some(1), "log verify: {text}");
    text
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn one_bit_changes_in_the_part_that_was_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        let before = [0, 0, 1, 2, 0, 3, 4, 0];
        for seed in 0..50 {
            std::fs::write(&file, before).expect("written");
            flip(&file, Part::Old, &mut StdRng::seed_from_u64(seed));
            let after = std::fs::read(&file).expect("read");
            let changed: Vec<usize> = (0..8).filter(|at| before[*at] != after[*at]).collect();
            assert!(matches!(changed[..], [2 | 3]), "{changed:?}");
            let bits: u32 = before.iter().zip(&after).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(bits, 1);
        }
        assert_eq!(files(folder.path(), |name| name.starts_with("fi")), [file]);
    }
}
