//! The specification of [`IndexStore`] as a suite: every implementation runs it on an empty store.

use std::ops::ControlFlow;

use crate::index::{Change, IndexStore};

/// Checks `store`, which must be empty; panics at the first violation.
pub fn check(store: &dyn IndexStore) {
    order_of_changes(store);
    floor(store);
    scan(store);
    store.flush().expect("flush");
    store.verify().expect("verify");
}

fn put(key: &[u8], value: &[u8]) -> Change {
    Change::Put { key: key.to_vec(), value: value.to_vec() }
}

fn order_of_changes(store: &dyn IndexStore) {
    assert_eq!(store.get(b"a").expect("get"), None, "the store is empty");
    store.write(&[put(b"a", b"1"), put(b"a", b"2"), put(b"b", b"3")]).expect("write");
    assert_eq!(store.get(b"a").expect("get").as_deref(), Some(&b"2"[..]), "a later change wins");
    let delete = Change::DeleteRange { from: b"a".to_vec(), to: b"b".to_vec() };
    store.write(&[delete, put(b"aa", b"4")]).expect("write");
    assert_eq!(store.get(b"a").expect("get"), None, "the range starts with its first key");
    assert_eq!(store.get(b"b").expect("get").as_deref(), Some(&b"3"[..]), "and ends before its last");
    assert_eq!(store.get(b"aa").expect("get").as_deref(), Some(&b"4"[..]), "a put after a delete stays");
    let delete = Change::DeleteRange { from: b"c".to_vec(), to: b"d".to_vec() };
    store.write(&[put(b"c", b"5"), delete]).expect("write");
    assert_eq!(store.get(b"c").expect("get"), None, "a delete removes what an earlier change of its batch put");
    let empty = Change::DeleteRange { from: b"b".to_vec(), to: b"b".to_vec() };
    store.write(&[empty]).expect("an empty range");
    assert!(store.get(b"b").expect("get").is_some());
}

fn floor(store: &dyn IndexStore) {
    store.write(&[put(b"f2", b"2"), put(b"f4", b"4")]).expect("write");
    let floor = |key: &[u8], lowest: &[u8]| store.floor(key, lowest).expect("floor").map(|(key, _)| key);
    assert_eq!(floor(b"f3", b"f").as_deref(), Some(&b"f2"[..]));
    assert_eq!(floor(b"f4", b"f").as_deref(), Some(&b"f4"[..]), "the key itself counts");
    assert_eq!(floor(b"f9", b"f").as_deref(), Some(&b"f4"[..]));
    assert_eq!(floor(b"f1", b"f"), None, "nothing at or above the lowest key");
    assert_eq!(floor(b"f3", b"f3"), None);
}

fn scan(store: &dyn IndexStore) {
    store.write(&[put(b"s1", b"1"), put(b"s2", b"2"), put(b"s3", b"3")]).expect("write");
    let collect = |from: &[u8], to: &[u8], most: usize| {
        let mut found = Vec::new();
        let visit = &mut |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            if found.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        store.scan(from, to, visit).expect("scan");
        found.into_iter().map(|(key, _)| String::from_utf8(key).expect("text")).collect::<Vec<_>>()
    };
    assert_eq!(collect(b"s1", b"s3", 9), ["s1", "s2"], "half-open, in order");
    assert_eq!(collect(b"s", b"t", 2), ["s1", "s2"], "a visitor may stop");
    assert_eq!(collect(b"t", b"s", 9), [""; 0], "an inverted range is empty");
}
