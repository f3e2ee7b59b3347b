//! Databases that RocksDB has written, with one thing wrong.

use super::*;

fn database(folder: &Path) -> rocksdb::DB {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    let mut blocks = rocksdb::BlockBasedOptions::default();
    blocks.set_format_version(6);
    options.set_block_based_table_factory(&blocks);
    rocksdb::DB::open(&options, folder).unwrap()
}

fn flip(file: &Path, byte: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[byte] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// Catches: damage that is missed, or told of another file than the one that has it.
#[test]
fn damage_is_told_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(!has_database(path) && damaged_logs(path).unwrap().is_empty());
    let missing = path.join("missing");
    assert!(damaged_logs(&missing).unwrap().is_empty() && damaged_tables(&missing).unwrap().is_empty());
    let open = database(path);
    open.put(b"key", b"value").unwrap();
    open.flush().unwrap();
    let tables: Vec<String> = open.live_files().unwrap().into_iter().map(|file| file.name).collect();
    drop(open);
    assert!(has_database(path));
    assert_eq!((damaged_logs(path).unwrap(), damaged_tables(path).unwrap()), (Vec::new(), Vec::new()));

    let table = path.join(tables[0].trim_start_matches('/'));
    flip(&table, 3);
    let left_over = path.join("000001.sst");
    fs::write(&left_over, b"torn").unwrap();
    let damaged = damaged_tables(path).unwrap();
    let found: Vec<_> = damaged.iter().map(|damage| (&damage.file, damage.position, damage.is_of(&tables))).collect();
    assert_eq!(found, [(&left_over, 0, false), (&table, 0, true)]);

    // The kind of the manifest's first record: RocksDB reads it for ever.
    let manifest = names(path).unwrap().into_iter().find(|name| name.starts_with(MANIFEST)).unwrap();
    flip(&path.join(&manifest), 6);
    let damaged = damaged_logs(path).unwrap();
    assert_eq!((damaged.len(), &damaged[0].file, damaged[0].position), (1, &path.join(&manifest), 0));
    flip(&path.join(&manifest), 6);

    for wrong in ["MANIFEST-900000\n", "MANIFEST-\n", "", "LOCK\n", "MANIFEST-../LOCK\n", manifest.as_str()] {
        fs::write(path.join(CURRENT), wrong).unwrap();
        assert_eq!(damaged_logs(path).unwrap()[0].file, path.join(CURRENT), "{wrong:?}");
    }
    fs::write(path.join(CURRENT), format!("{manifest}\n")).unwrap();
    assert!(damaged_logs(path).unwrap().is_empty());
}
