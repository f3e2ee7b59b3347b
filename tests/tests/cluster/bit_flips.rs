//! One flipped bit in one file of one broker, for every kind of file. It must be noticed; nothing damaged may be served;
//! a broker that cannot go on says which file and what to do; and nothing that was acknowledged is lost.

use std::path::PathBuf;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use streambus_client::{Record, Topic};
use streambus_tests::bit_flip::{Part, files, flip, verify_finds_damage};
use streambus_tests::cluster::{Options, PATIENCE};
use streambus_tests::load::LoadOptions;
use streambus_tests::patience::wait_for;
use streambus_tests::run::{Run, create_topic};
use streambus_tests::setting;

/// What `log verify` says to do about damage of what cannot be made anew.
const REMEDY: &str = "restore";

/// What becomes of the broker that starts on the damaged file.
enum End {
    /// It makes the file anew from others.
    Rebuilt,
    /// It serves what is whole, and gets the rest from another replica.
    Repaired,
    /// It ends and says these words, besides the file's name; its disk is then emptied.
    Refuses(&'static str),
}

fn start(name: &str) -> Run {
    // What recovery does not read the background check shall find soon.
    let more = ["storage.index_write_buffer_bytes=1MiB", "storage.scrub_rate=1GiB/s"];
    Run::start(name, &Options::default().with_small_segments().with(&more), &LoadOptions::default())
}

/// Writes more than a segment on every broker, so that there are sealed segments, checkpoints and tables of the index.
fn roll(run: &Run) {
    run.ask(async |bus| {
        create_topic(bus, "filler", &Topic::partitions(1).replicas(3)).await;
        let producer = bus.producer();
        for _ in 0..14 {
            let mut deliveries = Vec::new();
            for _ in 0..64 {
                let record = Record::new("filler", vec![0x5a; 60_000]);
                deliveries.push(producer.enqueue(record).await.expect("a healthy cluster takes records"));
            }
            for delivery in deliveries {
                delivery.await.expect("a healthy cluster takes records");
            }
        }
    });
}

/// Kills a broker in each cycle, flips a bit of the file that `choose` finds, and starts it again; then judges.
fn flip_while_stopped(name: &str, choose: impl Fn(&Run, u32) -> PathBuf, part: Part, end: &End) {
    let mut random = StdRng::seed_from_u64(setting::seed());
    let mut run = start(name);
    roll(&run);
    for cycle in 0..setting::cycles(1) {
        let id = run.cluster.ids()[(setting::seed() + cycle) as usize % 3];
        let at_us = run.cluster.kill_nine(id);
        run.wait_recovery(at_us);
        let file = choose(&run, id);
        let what = flip(&file, part, &mut random);
        run.cluster.recorder().fault(&what);
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        // A table of the index may be one that a crash has left: nobody reads it, nobody proves it.
        if !matches!(end, End::Rebuilt) || !name.ends_with(".sst") {
            let said = verify_finds_damage(run.cluster.data(id));
            assert!(said.contains(name) || said.contains("segment"), "{what}: verify names the file: {said}");
            if let End::Refuses(_) = end {
                assert!(said.contains(REMEDY), "{what}: {said}");
            }
        }
        let logged = run.cluster.log(id).len();
        run.cluster.start_broker(id);
        match end {
            End::Rebuilt => {
                run.cluster.wait_ready(id);
                // A table that can be opened is known to be damaged once it is read. Then the broker asks for a restart.
                if wait_checked(&run, id, logged) == Checked::Damaged {
                    run.cluster.terminate(id);
                    let logged = run.cluster.log(id).len();
                    run.cluster.start_broker(id);
                    run.cluster.wait_ready(id);
                    assert_eq!(wait_checked(&run, id, logged), Checked::Well, "{what}: a restart makes it good");
                }
            }
            End::Repaired => {
                run.cluster.wait_ready(id);
                wait_repaired(&run, id);
            }
            End::Refuses(remedy) => {
                let status = run.cluster.wait_exit(id);
                assert!(!status.success(), "{what}: it ended with {status}");
                let said = run.cluster.log(id)[logged..].to_owned();
                let folder = file.parent().and_then(|folder| folder.file_name()).and_then(|name| name.to_str());
                let names = said.contains(name) || folder.is_some_and(|folder| said.contains(folder));
                assert!(names && said.contains(remedy), "{what}: it names the file and the remedy:\n{said}");
                run.cluster.wipe(id);
                run.cluster.start_broker(id);
                run.cluster.wait_ready(id);
            }
        }
        run.wait_in_sync();
    }
    run.finish();
}

/// What the background check says of the index.
#[derive(Debug, PartialEq, Eq)]
enum Checked {
    Well,
    Damaged,
}

/// Waits until a broker has looked once at everything it has. Its log of this life begins at `logged`.
fn wait_checked(run: &Run, id: u32, logged: usize) -> Checked {
    let checked = wait_for(PATIENCE, || {
        if run.cluster.log(id)[logged..].contains("restart the broker to rebuild it") {
            return Some(Checked::Damaged);
        }
        // Counted at the end of a pass whose index is well.
        let metrics = run.cluster.page(id, "/metrics")?;
        metrics.lines().any(|line| counts(line, "streambus_storage_scrubbed_bytes_total")).then_some(Checked::Well)
    });
    checked.unwrap_or_else(|| panic!("broker {id} does not look at its files:\n{}", run.cluster.log_end(id)))
}

/// True when a line of the metrics says that something happened at least once.
fn counts(line: &str, name: &str) -> bool {
    line.strip_prefix(name).is_some_and(|value| value.starts_with(' ') && value.trim() != "0")
}

/// Waits until a broker has stored something anew and knows of no damage any more.
fn wait_repaired(run: &Run, id: u32) {
    let repaired = wait_for(PATIENCE, || {
        let metrics = run.cluster.page(id, "/metrics")?;
        let has_repaired = metrics.lines().any(|line| counts(line, "streambus_storage_repaired_batches_total"));
        let health = run.cluster.page(id, "/health")?;
        (has_repaired && !health.contains("checksums")).then_some(())
    });
    assert!(repaired.is_some(), "not repaired: {:?}\n{}", run.cluster.page(id, "/health"), run.cluster.log_end(id));
}

fn journal(run: &Run, id: u32) -> Vec<PathBuf> {
    let found = files(run.cluster.data(id), |name| name.starts_with("journal-"));
    assert!(found.len() > 1, "a sealed segment and one that grows: {found:?}");
    found
}

fn last(run: &Run, id: u32, folder: &str, wanted: impl Fn(&str) -> bool) -> PathBuf {
    let folder = run.cluster.data(id).join(folder);
    files(&folder, wanted).pop().unwrap_or_else(|| panic!("no such file in {}", folder.display()))
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_is_repaired() {
    let first = |run: &Run, id| journal(run, id).remove(0);
    flip_while_stopped("a bit of a sealed segment", first, Part::Any, &End::Repaired);
}

#[test]
fn a_flipped_bit_in_the_segment_that_grows_is_repaired() {
    let last = |run: &Run, id| journal(run, id).pop().expect("more than one");
    flip_while_stopped("a bit of the segment that grows", last, Part::Old, &End::Repaired);
}

#[test]
fn a_flipped_bit_in_a_checkpoint_is_made_good() {
    let checkpoint =
        |run: &Run, id| last(run, id, "", |name| name.starts_with("checkpoint-") && !name.ends_with(".tmp"));
    flip_while_stopped("a bit of the newest checkpoint", checkpoint, Part::Any, &End::Rebuilt);
}

#[test]
fn a_flipped_bit_in_a_table_of_the_index_is_made_good() {
    let table = |run: &Run, id| last(run, id, "index", |name| name.ends_with(".sst"));
    flip_while_stopped("a bit of a table of the index", table, Part::Any, &End::Rebuilt);
}

#[test]
fn a_flipped_bit_in_the_manifest_of_the_index_is_made_good() {
    let manifest = |run: &Run, id| last(run, id, "index", |name| name.starts_with("MANIFEST"));
    flip_while_stopped("a bit of the index's manifest", manifest, Part::Any, &End::Rebuilt);
}

#[test]
fn a_flipped_bit_that_hides_the_manifest_of_the_index_is_made_good() {
    let current = |run: &Run, id| last(run, id, "index", |name| name == "CURRENT");
    flip_while_stopped("a bit of the index's CURRENT", current, Part::Any, &End::Rebuilt);
}

#[test]
fn a_flipped_bit_in_the_log_of_the_metadata_is_refused() {
    let log = |run: &Run, id| last(run, id, "metadata/db", |name| name.ends_with(".log"));
    flip_while_stopped("a bit of the metadata's log", log, Part::Any, &End::Refuses("empty"));
}

/// Writes what a stopped broker has in its metadata's log to tables, as a broker does once that is megabytes, and says where
/// the last of them is.
fn table_of_the_metadata(run: &Run, id: u32) -> PathBuf {
    let path = run.cluster.data(id).join("metadata/db");
    let mut blocks = rocksdb::BlockBasedOptions::default();
    blocks.set_format_version(5);
    let mut options = rocksdb::Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_disable_auto_compactions(true);
    let names = ["default", "meta", "log", "sm"];
    let families = names.map(|name| rocksdb::ColumnFamilyDescriptor::new(name, options.clone()));
    let database = rocksdb::DB::open_cf_descriptors(&options, &path, families).expect("the metadata opens");
    for name in names {
        database.flush_cf(database.cf_handle(name).expect("a family")).expect("a table is written");
    }
    let tables = database.live_files().expect("the tables");
    let last = tables.into_iter().map(|table| table.name).max().expect("a table");
    path.join(last.trim_start_matches('/'))
}

/// Catches: rows that were deleted and are back, or a state with a hole, on a broker whose metadata's table is damaged.
#[test]
fn a_flipped_bit_in_a_table_of_the_metadata_is_refused() {
    flip_while_stopped("a bit of a table of the metadata", table_of_the_metadata, Part::Any, &End::Refuses("empty"));
}

#[test]
fn a_flipped_bit_in_the_manifest_of_the_metadata_is_refused() {
    let manifest = |run: &Run, id| last(run, id, "metadata/db", |name| name.starts_with("MANIFEST"));
    flip_while_stopped("a bit of the metadata's manifest", manifest, Part::Any, &End::Refuses("empty"));
}

#[test]
fn a_flipped_bit_that_hides_the_manifest_of_the_metadata_is_refused() {
    let current = |run: &Run, id| last(run, id, "metadata/db", |name| name == "CURRENT");
    flip_while_stopped("a bit of the metadata's CURRENT", current, Part::Any, &End::Refuses("empty"));
}

#[test]
fn a_flipped_bit_in_the_identity_of_the_metadata_is_refused() {
    let identity = |run: &Run, id| last(run, id, "metadata", |name| name == "identity");
    flip_while_stopped("a bit of the metadata's identity", identity, Part::Any, &End::Refuses("restore"));
}

#[test]
fn a_flipped_bit_in_the_identity_of_the_data_directory_is_refused() {
    let identity = |run: &Run, id| last(run, id, "", |name| name == "identity");
    flip_while_stopped("a bit of the data directory's identity", identity, Part::Any, &End::Refuses("restore"));
}
