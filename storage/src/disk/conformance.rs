//! The specification of [`Disk`] and [`DiskFile`](super::DiskFile), executable. Every implementation runs it.
//!
//! What only a loss of power can show (rules 2 and 3) is checked where power can be lost: in
//! [`faulty`](super::faulty)'s own tests.

#![allow(clippy::indexing_slicing, reason = "a panic is how a specification says that it is broken")]

use std::io::ErrorKind;
use std::sync::Arc;

use super::{Disk, OpenHow};
use crate::aligned::{AlignedBuffer, BLOCK_BYTES};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Checks every rule. `fresh` returns an empty directory each time.
///
/// # Panics
/// At the first rule that is broken.
pub fn check(fresh: &mut dyn FnMut() -> Arc<dyn Disk>) {
    names(&*fresh());
    opening(&*fresh());
    reading_and_writing(&*fresh());
    allocation(&*fresh());
    reserved_space(&*fresh());
    directory(&*fresh());
    open_files_outlive_their_names(&*fresh());
    small_files(&*fresh());
}

/// Checks an implementation that only reads: `reader` opens the directory that `writer`, which is empty yet, writes.
///
/// # Panics
/// When it reads wrong, or when anything changes.
pub fn check_read_only(writer: &dyn Disk, reader: &dyn Fn() -> Arc<dyn Disk>) {
    let file = writer.open("a", OpenHow::CreateNew).expect("creates");
    file.write_at_durably(0, filled(1, 2).blocks(2 * BLOCK_BYTES)).expect("writes");
    writer.write_file_atomically("b", b"small").expect("writes");
    let contents = || {
        let names = writer.list("").expect("lists");
        let read = |name: &String| (name.clone(), writer.read_file(name).expect("reads"));
        names.iter().map(read).collect::<Vec<_>>()
    };
    let before = contents();
    let disk = reader();
    names(&*disk);
    assert_eq!(disk.list("").expect("lists"), ["a", "b"]);
    assert!(disk.exists("a").expect("looks") && !disk.exists("c").expect("looks"));
    assert_eq!(disk.read_file("b").expect("reads"), b"small");
    assert_eq!(kind(disk.read_file("c")), Some(ErrorKind::NotFound));
    for how in [OpenHow::ReadOnly, OpenHow::Scan] {
        assert_eq!(kind(disk.open("c", how)), Some(ErrorKind::NotFound), "{how:?}");
        let file = disk.open("a", how).expect("opens");
        assert_eq!(file.len().expect("measures"), 2 * BLOCK);
        let mut block = filled(0, 1);
        file.read_at(BLOCK, block.as_mut_slice()).expect("reads");
        assert_eq!(block.as_slice(), filled(1, 1).as_slice(), "{how:?}");
        let refused = file.write_at_durably(0, filled(2, 1).blocks(BLOCK_BYTES));
        assert_eq!(kind(refused), Some(ErrorKind::PermissionDenied), "{how:?}");
        assert_eq!(kind(file.allocate(8 * BLOCK)), Some(ErrorKind::PermissionDenied), "{how:?}");
    }
    let refused = [
        ("create", kind(disk.open("c", OpenHow::CreateNew))),
        ("open for writing", kind(disk.open("a", OpenHow::Existing))),
        ("rename", kind(disk.rename("a", "c"))),
        ("remove", kind(disk.remove("a"))),
        ("replace", kind(disk.write_file_atomically("b", b"other"))),
        ("create small", kind(disk.write_file_atomically("c", b"new"))),
        ("sync", kind(disk.sync_dir())),
    ];
    for (operation, found) in refused {
        assert_eq!(found, Some(ErrorKind::PermissionDenied), "{operation}");
    }
    assert!(contents() == before, "something was changed");
}

fn filled(byte: u8, blocks: usize) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(blocks * BLOCK_BYTES);
    buffer.as_mut_slice().fill(byte);
    buffer
}

fn kind<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn names(disk: &dyn Disk) {
    for name in ["", ".", "..", "a/b", "/a", "a\0"] {
        assert_eq!(kind(disk.open(name, OpenHow::CreateNew)), Some(ErrorKind::InvalidInput), "open {name:?}");
        assert_eq!(kind(disk.rename("a", name)), Some(ErrorKind::InvalidInput), "rename {name:?}");
        assert_eq!(kind(disk.remove(name)), Some(ErrorKind::InvalidInput), "remove {name:?}");
        assert_eq!(kind(disk.exists(name)), Some(ErrorKind::InvalidInput), "exists {name:?}");
        assert_eq!(kind(disk.write_file_atomically(name, b"")), Some(ErrorKind::InvalidInput), "write {name:?}");
    }
}

fn opening(disk: &dyn Disk) {
    for how in [OpenHow::Existing, OpenHow::ReadOnly, OpenHow::Scan] {
        assert_eq!(kind(disk.open("a", how)), Some(ErrorKind::NotFound), "{how:?}");
    }
    let file = disk.open("a", OpenHow::CreateNew).expect("creates");
    assert!(file.is_empty().expect("measures"), "a new file is empty");
    assert_eq!(file.write_mode(), disk.write_mode());
    assert_eq!(kind(disk.open("a", OpenHow::CreateNew)), Some(ErrorKind::AlreadyExists));
    file.write_at_durably(0, filled(1, 1).blocks(BLOCK_BYTES)).expect("writes");
    for how in [OpenHow::ReadOnly, OpenHow::Scan] {
        let read_only = disk.open("a", how).expect("opens");
        let refused = read_only.write_at_durably(0, filled(2, 1).blocks(BLOCK_BYTES));
        assert_eq!(kind(refused), Some(ErrorKind::PermissionDenied), "{how:?}");
        assert_eq!(kind(read_only.allocate(BLOCK * 4)), Some(ErrorKind::PermissionDenied), "{how:?}");
        let mut aligned = filled(0, 1);
        read_only.read_at(0, aligned.as_mut_slice()).expect("reads");
        assert_eq!(aligned.as_slice(), filled(1, 1).as_slice(), "{how:?} reads what was written");
    }
}

fn reading_and_writing(disk: &dyn Disk) {
    let file = disk.open("a", OpenHow::CreateNew).expect("creates");
    file.allocate(8 * BLOCK).expect("allocates");
    file.write_at_durably(BLOCK, filled(7, 2).blocks(2 * BLOCK_BYTES)).expect("writes");
    let mut around = vec![9; 4 * BLOCK_BYTES];
    file.read_at(0, &mut around).expect("reads");
    assert!(around[..BLOCK_BYTES].iter().all(|byte| *byte == 0), "a write leaves the bytes before it alone");
    assert!(around[BLOCK_BYTES..3 * BLOCK_BYTES].iter().all(|byte| *byte == 7), "a read sees the write");
    assert!(around[3 * BLOCK_BYTES..].iter().all(|byte| *byte == 0), "a write leaves the bytes behind it alone");
    let mut odd = [0; 13];
    file.read_at(3 * BLOCK - 5, &mut odd).expect("reads unaligned");
    assert_eq!(odd, [7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.write_at_durably(2 * BLOCK, filled(8, 1).blocks(BLOCK_BYTES)).expect("overwrites");
    file.read_at(3 * BLOCK - 5, &mut odd).expect("reads again");
    assert_eq!(odd[..5], [8; 5], "a read sees the newest write");
    assert_eq!(kind(file.read_at(8 * BLOCK - 1, &mut [0; 2])), Some(ErrorKind::UnexpectedEof));
    assert_eq!(kind(file.read_at(u64::MAX / 4, &mut [0; 2])), Some(ErrorKind::UnexpectedEof));
    let unaligned = file.write_at_durably(1, filled(1, 1).blocks(BLOCK_BYTES));
    assert_eq!(kind(unaligned), Some(ErrorKind::InvalidInput));
    file.sync().expect("syncs");
}

fn allocation(disk: &dyn Disk) {
    let file = disk.open("a", OpenHow::CreateNew).expect("creates");
    file.write_at_durably(0, filled(3, 1).blocks(BLOCK_BYTES)).expect("writes past the end");
    assert_eq!(file.len().expect("measures"), BLOCK, "a write past the end grows the file");
    file.allocate(4 * BLOCK).expect("allocates");
    assert_eq!(file.len().expect("measures"), 4 * BLOCK);
    let mut bytes = vec![9; 4 * BLOCK_BYTES];
    file.read_at(0, &mut bytes).expect("reads");
    assert!(bytes[..BLOCK_BYTES].iter().all(|byte| *byte == 3), "allocation keeps what is there");
    assert!(bytes[BLOCK_BYTES..].iter().all(|byte| *byte == 0), "allocated bytes read as zeros");
    file.allocate(BLOCK).expect("allocates less");
    assert_eq!(file.len().expect("measures"), 4 * BLOCK, "allocation never shrinks");
    assert!(disk.free_bytes().expect("known") > 0);
}

fn reserved_space(disk: &dyn Disk) {
    const BLOCKS: u64 = 512;
    const WRITTEN: [u64; 4] = [0, 1, 200, 400];
    let file = disk.open("a", OpenHow::CreateNew).expect("creates");
    file.allocate(BLOCKS * BLOCK).expect("allocates");
    for block in WRITTEN {
        file.write_at_durably(block * BLOCK, filled(6, 1).blocks(BLOCK_BYTES)).expect("writes");
    }
    for how in [OpenHow::Existing, OpenHow::ReadOnly, OpenHow::Scan] {
        let file = disk.open("a", how).expect("opens");
        for block in 0..BLOCKS {
            let at = block * BLOCK + 7;
            let written = file.written_from(at).expect("looks");
            let next =
                WRITTEN.iter().map(|block| block * BLOCK).find(|from| from + BLOCK > at).unwrap_or(BLOCKS * BLOCK);
            assert!(
                (at..=next.max(at)).contains(&written),
                "{how:?}: what was written at {next} is passed over from {at}"
            );
        }
        let behind = (BLOCKS + 1) * BLOCK;
        assert_eq!(file.written_from(behind).expect("looks"), behind, "{how:?}: nothing is before where one looks");
    }
}

fn directory(disk: &dyn Disk) {
    assert_eq!(disk.list("").expect("lists"), Vec::<String>::new(), "a fresh directory is empty");
    for name in ["b-2", "a-1", "b-1"] {
        disk.open(name, OpenHow::CreateNew).expect("creates");
    }
    assert_eq!(disk.list("b-").expect("lists"), ["b-1", "b-2"], "listing filters and sorts");
    disk.rename("b-1", "c-1").expect("renames");
    assert!(!disk.exists("b-1").expect("looks") && disk.exists("c-1").expect("looks"));
    disk.open("c-1", OpenHow::Existing)
        .expect("opens")
        .write_at_durably(0, filled(4, 1).blocks(BLOCK_BYTES))
        .expect("writes");
    disk.rename("c-1", "b-2").expect("replaces");
    assert_eq!(disk.read_file("b-2").expect("reads"), filled(4, 1).as_slice(), "a rename replaces its target");
    assert_eq!(kind(disk.rename("none", "x")), Some(ErrorKind::NotFound));
    disk.remove("a-1").expect("removes");
    assert_eq!(kind(disk.remove("a-1")), Some(ErrorKind::NotFound));
    disk.sync_dir().expect("syncs");
    assert_eq!(disk.list("").expect("lists"), ["b-2"]);
}

fn open_files_outlive_their_names(disk: &dyn Disk) {
    let file = disk.open("a", OpenHow::CreateNew).expect("creates");
    disk.rename("a", "b").expect("renames");
    file.write_at_durably(0, filled(5, 1).blocks(BLOCK_BYTES)).expect("writes to the renamed file");
    assert_eq!(disk.read_file("b").expect("reads"), filled(5, 1).as_slice(), "the write followed the file");
    disk.remove("b").expect("removes");
    let mut byte = [0];
    file.read_at(0, &mut byte).expect("reads the removed file");
    assert_eq!(byte, [5]);
}

fn small_files(disk: &dyn Disk) {
    assert_eq!(kind(disk.read_file("a")), Some(ErrorKind::NotFound));
    disk.write_file_atomically("a", b"one").expect("writes");
    disk.write_file_atomically("a", b"2").expect("replaces");
    assert_eq!(disk.read_file("a").expect("reads"), b"2");
    assert_eq!(disk.list("").expect("lists"), ["a"], "no temporary file is left");
}
