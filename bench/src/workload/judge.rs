//! The judge beside the readers: a task that looks at every record that came, so that the check costs the reading no time
//! of its own, and memory only for what waits to be looked at.

use streambus_client::ConsumedRecord;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::census::Census;
use crate::integrity::Ledger;

/// Batches of records that may wait; then the readers wait.
const WAITING_MAX: usize = 4;

/// What records are judged by.
pub(crate) trait Judge: Send + 'static {
    /// Looks at a record; records come in the order of their partition.
    fn look(&mut self, record: &ConsumedRecord);
}

impl Judge for Ledger {
    fn look(&mut self, record: &ConsumedRecord) {
        self.read(record.partition, record.value.as_deref().unwrap_or_default());
    }
}

impl Judge for Census {
    fn look(&mut self, record: &ConsumedRecord) {
        self.read(record.partition, record.offset, record.value.as_deref().unwrap_or_default());
    }
}

/// Starts `judge` among `tasks`; it ends when every sender is gone.
pub(crate) fn start<J: Judge>(mut judge: J, tasks: &mut JoinSet<J>) -> mpsc::Sender<Vec<ConsumedRecord>> {
    let (sender, mut arriving) = mpsc::channel::<Vec<ConsumedRecord>>(WAITING_MAX);
    tasks.spawn(async move {
        while let Some(records) = arriving.recv().await {
            records.iter().for_each(|record| judge.look(record));
        }
        judge
    });
    sender
}
