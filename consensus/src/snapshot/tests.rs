//! Snapshot files: what is written is read back, and damage is found.

use streambus_protocol::ids::ClusterId;

use super::*;
use crate::cluster_state::Touched;
use crate::command::Command;
use crate::types::{LeaderId, RaftId};

fn meta(index: u64) -> SnapshotMeta {
    let leader_id = LeaderId { term: 2, node_id: RaftId::new(1) };
    SnapshotMeta { last_log_id: Some(LogId { leader_id, index }), ..SnapshotMeta::default() }
}

fn state(index: u64) -> ClusterState {
    let mut state = ClusterState::default();
    let command = Command::FoundCluster { cluster_id: ClusterId::from_bytes([3; 16]) };
    state.apply(index, &command, &mut Touched::new()).unwrap();
    state.advance(index);
    state
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Catches: bytes that change without a new version, or that depend on anything but state and position.
#[test]
fn snapshot_bytes_are_golden() {
    let hex: String = encode(&meta(5), &state(5)).iter().map(|b| format!("{b:02x}")).collect();
    let position = "01020000000000000001000000000000000500000000000000";
    let rows = format!("0100000000000000010000000119000000 02{}0000000000000000", "03".repeat(16)).replace(' ', "");
    assert_eq!(&hex[..hex.len() - 8], format!("53424d5302000000{position}000000000000000000{rows}"));
    assert_eq!(verify(&encode(&meta(5), &state(5))).unwrap(), (meta(5), state(5)));
}

/// Catches: any damaged snapshot that is accepted, or taken for an empty cluster.
#[test]
fn every_flip_and_every_cut_is_refused() {
    let good = encode(&meta(5), &state(5));
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&bad).is_err(), "bit {bit}");
    }
    for cut in 0..good.len() {
        assert!(verify(&good[..cut]).is_err(), "cut at {cut}");
    }
}

/// Catches: a damaged or empty snapshot file that starts as if there were none; the message must name the file.
#[test]
fn damaged_file_refuses_to_open() {
    let directory = tempfile::tempdir().unwrap();
    SnapshotStore::open(directory.path()).unwrap().save(&meta(5), &state(5)).unwrap();
    let name = files(directory.path()).remove(0);
    let path = directory.path().join(&name);
    for bytes in [Vec::new(), vec![0; 100], encode(&meta(5), &state(5))[..60].to_vec()] {
        fs::write(&path, bytes).unwrap();
        let error = SnapshotStore::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&name) && error.contains("damaged"), "{error}");
    }
}

/// Catches: leftovers of a crash that pile up or are taken for snapshots, and an older one that wins.
#[test]
fn newest_survives_and_leftovers_go() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = SnapshotStore::open(directory.path()).unwrap();
        store.save(&meta(5), &state(5)).unwrap();
        store.save(&meta(9), &state(9)).unwrap();
        // A builder that was overtaken by an installed snapshot.
        let late = store.save(&meta(7), &state(7)).unwrap();
        assert_eq!(verify(&late.snapshot.read_all().unwrap()).unwrap().0, meta(7), "it can still be read");
        assert_eq!(store.current().unwrap().meta, meta(9));
    }
    // A crash between writing the new file and removing the old, and one in the middle of writing.
    fs::write(directory.path().join(file_name(meta(3).last_log_id.as_ref())), encode(&meta(3), &state(3))).unwrap();
    fs::write(directory.path().join("1.partial"), b"half").unwrap();
    let store = SnapshotStore::open(directory.path()).unwrap();
    assert_eq!(store.current().unwrap().meta, meta(9));
    assert_eq!(files(directory.path()), [file_name(meta(9).last_log_id.as_ref())]);
}

/// Catches: a received snapshot that is installed although it is not the announced one.
#[test]
fn received_snapshot_must_be_the_announced_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(directory.path()).unwrap();
    let receive = |bytes: &[u8]| {
        let mut sink = store.receive().unwrap();
        for chunk in bytes.chunks(10) {
            sink.write(chunk).unwrap();
        }
        sink.finish().unwrap()
    };
    let good = encode(&meta(5), &state(5));
    assert!(store.adopt(&meta(6), &receive(&good)).is_err());
    assert!(store.adopt(&meta(5), &receive(&good[..good.len() - 1])).is_err());
    assert_eq!(store.adopt(&meta(5), &receive(&good)).unwrap(), state(5));
    assert_eq!(files(directory.path()).len(), 1, "received files do not stay");
    // What a start does with the one that a crash kept it from installing.
    let again = store.current().unwrap();
    store.adopt(&again.meta, &again.snapshot).unwrap();
    assert_eq!((store.made(), store.last_index()), (SnapshotCounts { built: 0, installed: 1, refused: 0 }, 5));
}

/// The names of the steps that were told, and after how many the power goes.
#[derive(Debug, Default)]
struct Told {
    steps: Mutex<Vec<String>>,
    power_for: Option<usize>,
}

impl FileSteps for Told {
    fn done(&self, step: FileStep<'_>) -> io::Result<()> {
        let mut steps = self.steps.lock();
        let name = format!("{step:?}");
        steps.push(name.split(|c: char| !c.is_alphabetic()).next().unwrap().to_owned());
        match self.power_for {
            Some(count) if steps.len() >= count => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }
}

/// Catches: a name that is made durable before the bytes, a former snapshot that goes before the new one is durable, and a
/// step that a simulated power cut cannot come after because nobody is told of it.
#[test]
fn a_snapshot_is_durable_before_it_has_its_name_and_before_the_former_one_goes() {
    let directory = tempfile::tempdir().unwrap();
    let told = Arc::new(Told::default());
    let store = SnapshotStore::open(directory.path()).unwrap().told_to(Some(Arc::clone(&told) as _));
    store.save(&meta(5), &state(5)).unwrap();
    assert_eq!(*told.steps.lock(), ["Written", "Synced", "Renamed", "NamesSynced"]);
    told.steps.lock().clear();
    store.save(&meta(9), &state(9)).unwrap();
    assert_eq!(*told.steps.lock(), ["Written", "Synced", "Renamed", "NamesSynced", "Removed"]);
}

/// Catches: a save that goes on after the power went, and a start that does not find a whole snapshot whenever it went.
#[test]
fn whenever_the_power_goes_a_whole_snapshot_is_left() {
    for power_for in 1..=5 {
        let directory = tempfile::tempdir().unwrap();
        SnapshotStore::open(directory.path()).unwrap().save(&meta(5), &state(5)).unwrap();
        let told = Arc::new(Told { power_for: Some(power_for), ..Told::default() });
        let store = SnapshotStore::open(directory.path()).unwrap().told_to(Some(Arc::clone(&told) as _));
        assert!(store.save(&meta(9), &state(9)).is_err());
        assert_eq!(told.steps.lock().len(), power_for, "nothing is done after that");
        let found = SnapshotStore::open(directory.path()).unwrap();
        let expected = if power_for < 3 { meta(5) } else { meta(9) };
        assert_eq!(found.current().unwrap().meta, expected, "{power_for} steps");
        assert_eq!(files(directory.path()), [file_name(expected.last_log_id.as_ref())]);
    }
}
