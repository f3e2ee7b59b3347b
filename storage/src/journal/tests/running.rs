//! The commit thread and real directories. Waiting is for events, never for time.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::model::*;
use super::*;
use crate::clock::SystemClock;
use crate::disk::real::RealDisk;
use crate::latch::{Latch, LatchReason};

#[derive(Debug)]
enum Event {
    Committed(Vec<CommittedEntry>),
    Finished(CommitStats),
    Failed,
}

struct Told(Sender<Event>);

impl JournalObserver for Told {
    fn committed(&self, entries: &[CommittedEntry]) {
        let _ = self.0.send(Event::Committed(entries.to_vec()));
    }

    fn sealed(&self, _segment: SegmentId) {}

    fn failed(&self, _reason: &LatchReason) {
        let _ = self.0.send(Event::Failed);
    }

    fn commit_finished(&self, stats: CommitStats) {
        let _ = self.0.send(Event::Finished(stats));
    }
}

fn run(disk: Arc<dyn Disk>, config: &JournalConfig) -> (Journal, Receiver<Event>, usize) {
    let latch = Arc::new(Latch::new(Arc::new(SystemClock::new())));
    let mut replayed = 0;
    let mut replay = |_| {
        replayed += 1;
        ReplayDecision::Continue
    };
    let opened = Journal::open(disk, config.clone(), RecoverFrom::default(), latch, &mut replay);
    let (parts, report) = opened.expect("opens");
    assert_eq!(report.damaged, Vec::new());
    let (sender, receiver) = channel();
    (parts.run(Arc::new(Told(sender))).expect("starts"), receiver, replayed)
}

/// Catches a lost wake-up, a thread that does not end, and entries that close drops. Both ways of writing.
#[test]
fn many_appenders_are_all_committed_on_real_directories() {
    for buffered in [false, true] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let open = || -> Arc<dyn Disk> {
            let path = directory.path();
            Arc::new(if buffered { RealDisk::open_buffered(path) } else { RealDisk::open(path) }.expect("opens"))
        };
        let (journal, events, replayed) = run(open(), &small_config());
        assert_eq!(replayed, 0);
        std::thread::scope(|scope| {
            for log in 0..4 {
                let journal = &journal;
                scope.spawn(move || {
                    let mut base = 0;
                    while base < 100 {
                        let payload = batch(base, 1, 1, &[u8::try_from(log).expect("small"); 300]);
                        let new = NewEntry { kind: EntryKind::Batch, payload, ..entry(log, base, b"") };
                        match journal.append(new) {
                            Ok(_) => base += 1,
                            Err(AppendError::Busy { .. }) => std::thread::yield_now(),
                            Err(other) => panic!("{other}"),
                        }
                    }
                });
            }
        });
        journal.close();
        assert!(matches!(journal.append(entry(1, 1, b"")), Err(AppendError::Closed)));
        let reader = journal.reader();
        drop(journal);
        let mut seen = Vec::new();
        for event in events {
            if let Event::Committed(entries) = event {
                seen.extend(entries);
            }
        }
        assert_eq!(seen.len(), 400);
        assert!(seen.windows(2).all(|pair| pair[0].lsn.next() == pair[1].lsn));
        assert!(seen.iter().all(|told| reader.entry(told.location).expect("is valid").entry == *told));
        let (journal, _events, replayed) = run(open(), &small_config());
        assert_eq!(replayed, 400);
        journal.close();
    }
}

/// Catches an idle journal whose last commit stays without proof.
#[test]
fn an_idle_journal_proves_its_last_commit() {
    let config = JournalConfig { idle_marker_ms: 1, ..small_config() };
    let (journal, events, _) = run(Arc::new(disk()), &config);
    journal.append(entry(1, 1, b"x")).expect("appends");
    let mut entries = Vec::new();
    while entries.len() < 2 {
        if let Event::Finished(stats) = events.recv().expect("the thread runs") {
            entries.push(stats.entries);
        }
    }
    assert_eq!(entries, [1, 0], "one commit, then one marker");
    journal.close();
}

/// Catches appenders that wait for ever behind a dead commit thread.
#[test]
fn a_panicking_observer_latches_the_journal() {
    struct Panics(Sender<Event>);
    impl JournalObserver for Panics {
        fn committed(&self, _entries: &[CommittedEntry]) {
            panic!("the observer's defect");
        }
        fn sealed(&self, _segment: SegmentId) {}
        fn failed(&self, _reason: &LatchReason) {
            let _ = self.0.send(Event::Failed);
        }
    }
    let (parts, _, _, latch) = open(Arc::new(disk()), &small_config()).expect("opens");
    let (sender, events) = channel();
    let journal = parts.run(Arc::new(Panics(sender))).expect("starts");
    journal.append(entry(1, 1, b"x")).expect("appends");
    assert!(matches!(events.recv(), Ok(Event::Failed)));
    assert!(latch.is_set());
    assert!(matches!(journal.append(entry(1, 1, b"x")), Err(AppendError::ReadOnly(_))));
    journal.close();
}
