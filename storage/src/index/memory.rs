//! The ordered store as a map in memory: for tests and simulation. [`MemoryIndex::crash`] forgets what was not flushed.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::IndexError;
use crate::index::{Change, IndexStore, KeyValue, Visit};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// An [`IndexStore`] without files.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Map,
    /// What a crash leaves. Shared with nobody: an `Arc` only so that a flush without writes is free.
    flushed: Arc<Map>,
}

impl MemoryIndex {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses every write since the last flush, as a crash may.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        state.current = Map::clone(&state.flushed);
    }

    /// Loses everything, as a removed directory does.
    pub fn wipe(&self) {
        *self.state.lock() = State::default();
    }
}

impl IndexStore for MemoryIndex {
    fn write(&self, changes: &[Change]) -> Result<(), IndexError> {
        let mut state = self.state.lock();
        for change in changes {
            match change {
                Change::Put { key, value } => {
                    state.current.insert(key.clone(), value.clone());
                }
                Change::DeleteRange { from, to } if from < to => {
                    let doomed: Vec<_> =
                        state.current.range(from.clone()..to.clone()).map(|(k, _)| k.clone()).collect();
                    for key in doomed {
                        state.current.remove(&key);
                    }
                }
                Change::DeleteRange { .. } => {}
            }
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.state.lock().current.get(key).cloned())
    }

    fn floor(&self, key: &[u8], lowest: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        if lowest > key {
            return Ok(None);
        }
        let state = self.state.lock();
        let mut range = state.current.range::<[u8], _>((Bound::Included(lowest), Bound::Included(key)));
        Ok(range.next_back().map(|(k, v)| (k.clone(), v.clone())))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), IndexError> {
        if from >= to {
            return Ok(());
        }
        // A copy, so that a visitor may write.
        let state = self.state.lock();
        let found: Vec<_> = state
            .current
            .range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        drop(state);
        for (key, value) in found {
            if visit(&key, &value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        let mut state = self.state.lock();
        state.flushed = Arc::new(state.current.clone());
        Ok(())
    }

    fn verify(&self) -> Result<(), IndexError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::conformance;

    #[test]
    fn conforms() {
        conformance::check(&MemoryIndex::new());
    }

    // Catches a twin that is more durable than the real thing, which would hide lost index writes from every test.
    #[test]
    fn a_crash_loses_what_was_not_flushed() {
        let index = MemoryIndex::new();
        let put = |key: &[u8]| index.write(&[Change::Put { key: key.to_vec(), value: vec![1] }]).expect("write");
        put(b"a");
        index.flush().expect("flush");
        put(b"b");
        index.crash();
        assert!(index.get(b"a").expect("get").is_some());
        assert!(index.get(b"b").expect("get").is_none());
    }
}
