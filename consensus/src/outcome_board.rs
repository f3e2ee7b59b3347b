//! Where a proposer finds the outcome of a command that another node appended for it.
//!
//! Every node applies every entry and comes to the same answer, so the controller only has to say at which index a
//! forwarded command stands. Its proposer waits until its own state machine is there and reads the answer here: what
//! it proposed is then in its own image too. Answers are kept only while somebody may ask for one.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::outcome::Reply;

/// Answers kept at once. A proposer that lets this many entries pass gets an unknown outcome.
const REPLIES_MAX: usize = 4096;

/// The newest answers of this node's state machine. Cheap to clone; all clones are one board.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutcomeBoard {
    board: Arc<Mutex<Board>>,
}

#[derive(Debug, Default)]
struct Board {
    readers: usize,
    replies: BTreeMap<u64, Reply>,
}

/// Somebody who will ask for an answer. From now on none is missed.
#[derive(Debug)]
pub(crate) struct OutcomeReader {
    board: Arc<Mutex<Board>>,
}

impl OutcomeBoard {
    /// Begins to keep answers. To be called before the command is sent anywhere.
    pub(crate) fn reader(&self) -> OutcomeReader {
        self.board.lock().readers += 1;
        OutcomeReader { board: Arc::clone(&self.board) }
    }

    /// Called by the state machine for every entry, before the image that contains it is published.
    pub(crate) fn post(&self, index: u64, reply: &Reply) {
        let mut board = self.board.lock();
        if board.readers == 0 {
            return;
        }
        board.replies.insert(index, reply.clone());
        if board.replies.len() > REPLIES_MAX {
            board.replies.pop_first();
        }
    }
}

impl OutcomeReader {
    /// The answer to the entry at `index`, once it is applied. None when it was never applied one by one: a snapshot
    /// brought this node past it.
    pub(crate) fn read(&self, index: u64) -> Option<Reply> {
        self.board.lock().replies.get(&index).cloned()
    }
}

impl Drop for OutcomeReader {
    fn drop(&mut self) {
        let mut board = self.board.lock();
        board.readers -= 1;
        if board.readers == 0 {
            board.replies.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: answers that pile up with nobody to read them, or vanish while somebody still reads.
    #[test]
    fn answers_are_kept_exactly_while_somebody_reads() {
        let board = OutcomeBoard::default();
        board.post(1, &Reply::Nothing);
        let (one, other) = (board.reader(), board.reader());
        assert_eq!(one.read(1), None);
        board.post(2, &Reply::Nothing);
        drop(other);
        assert_eq!(one.read(2), Some(Reply::Nothing));
        for index in 3..3 + REPLIES_MAX as u64 {
            board.post(index, &Reply::Nothing);
        }
        assert_eq!(one.read(2), None, "the oldest goes first");
        drop(one);
        assert!(board.board.lock().replies.is_empty());
    }
}
