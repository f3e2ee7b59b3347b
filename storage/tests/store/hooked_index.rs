//! An index that does what a test tells it before each call: answer with an error, panic, or let something else happen
//! in between.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use streambus_storage::error::IndexError;
use streambus_storage::index::memory::MemoryIndex;
use streambus_storage::index::{Change, IndexStore, KeyValue, Visit};

/// The call that is about to be made.
pub enum Call<'a> {
    Write(&'a [Change]),
    Read,
    Flush,
}

type Hook = Box<dyn FnMut(Call<'_>) -> Result<(), IndexError> + Send>;

pub struct HookedIndex {
    inner: Arc<MemoryIndex>,
    hook: Mutex<Option<Hook>>,
}

impl HookedIndex {
    pub fn new(inner: Arc<MemoryIndex>) -> Arc<Self> {
        Arc::new(Self { inner, hook: Mutex::new(None) })
    }

    pub fn hook(&self, hook: impl FnMut(Call<'_>) -> Result<(), IndexError> + Send + 'static) {
        *self.hook.lock() = Some(Box::new(hook));
    }

    pub fn unhook(&self) {
        *self.hook.lock() = None;
    }

    /// The hook is away while it runs: what it does calls the index undisturbed.
    fn before(&self, call: Call<'_>) -> Result<(), IndexError> {
        let hook = self.hook.lock().take();
        let Some(mut hook) = hook else { return Ok(()) };
        let outcome = hook(call);
        self.hook.lock().get_or_insert(hook);
        outcome
    }
}

impl fmt::Debug for HookedIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookedIndex")
    }
}

impl IndexStore for HookedIndex {
    fn write(&self, changes: &[Change]) -> Result<(), IndexError> {
        self.before(Call::Write(changes))?;
        self.inner.write(changes)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.before(Call::Read)?;
        self.inner.get(key)
    }

    fn floor(&self, key: &[u8], lowest: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        self.before(Call::Read)?;
        self.inner.floor(key, lowest)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), IndexError> {
        self.before(Call::Read)?;
        self.inner.scan(from, to, visit)
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.before(Call::Flush)?;
        self.inner.flush()
    }

    fn verify(&self) -> Result<(), IndexError> {
        self.inner.verify()
    }
}
