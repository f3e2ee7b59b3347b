//! Three brokers that one kind of source tells everything: configuration files alone, or the environment alone. They make
//! the cluster that flags make, and clients find it although the first address they were given is dead.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use streambus_cli::clock::Elapsed;

use crate::process::{Broker, Ended, streambus};

const IDS: [u8; 3] = [1, 2, 3];
const PATIENCE: Duration = Duration::from_secs(60);

/// Three brokers at a time are enough for a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Where a broker stands: two in one rack, one in another.
fn rack(id: u8) -> &'static str {
    if id == 3 { "west" } else { "east" }
}

/// The brokers' network, which no other test has: founders must know one another's addresses before they listen.
struct Network([u8; 2]);

impl Network {
    fn new(number: u32) -> Self {
        let mixed = std::process::id().wrapping_mul(0x9E37_79B1) ^ number.wrapping_mul(0x85EB_CA6B);
        let [first, second, ..] = mixed.to_be_bytes();
        Self([first | 1, second])
    }

    fn host(&self, id: u8) -> String {
        let [first, second] = self.0;
        format!("127.{first}.{second}.{id}")
    }

    fn peers(&self) -> String {
        IDS.map(|id| format!("{id}@{}:9094", self.host(id))).join(",")
    }

    /// Starts the three, each by `start`, and waits until all of them say that they are ready.
    fn start(&self, start: impl Fn(u8) -> Broker + Sync) -> Vec<Broker> {
        std::thread::scope(|scope| {
            let starting = IDS.map(|id| {
                scope.spawn({
                    let start = &start;
                    move || start(id)
                })
            });
            starting.map(|broker| broker.join().unwrap()).into()
        })
    }
}

fn json(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}", ended.stdout))
}

/// The brokers as the cluster shows them, once all are ready.
fn ready_brokers(addresses: &str) -> Vec<Value> {
    let began = Elapsed::start();
    loop {
        let shown = json(&streambus(&["-b", addresses, "cluster", "brokers", "-o", "json"], ""));
        let brokers = shown.as_array().unwrap();
        if brokers.len() == IDS.len() && brokers.iter().all(|broker| broker["state"] == "ready") {
            return brokers.clone();
        }
        assert!(began.get() < PATIENCE, "they are not all ready: {shown}");
    }
}

/// What three brokers have to be, however they were told it. The first of them dies on the way.
fn check(network: &Network, mut brokers: Vec<Broker>) {
    let addresses = brokers.iter().map(|broker| broker.address.as_str()).collect::<Vec<_>>().join(",");
    let run = |args: &[&str], input: &str| streambus(&[&["-b", addresses.as_str()], args].concat(), input);
    for (id, broker) in IDS.into_iter().zip(ready_brokers(&addresses)) {
        assert_eq!((broker["id"].as_u64(), broker["rack"].as_str()), (Some(id.into()), Some(rack(id))), "{broker}");
        let own = (broker["cluster_host"].as_str(), broker["cluster_port"].as_u64());
        assert_eq!(own, (Some(network.host(id).as_str()), Some(9094)), "{broker}");
    }
    let table = run(&["cluster", "brokers"], "").stdout;
    assert!(table.contains("RACK") && table.contains("east") && table.contains("west"), "{table}");

    let spread = run(&["topic", "create", "spread", "--partitions", "6", "--replicas", "2"], "");
    assert_eq!(spread.code, 0, "{}", spread.stderr);
    let spread = json(&run(&["topic", "describe", "spread", "-o", "json"], ""));
    for partition in spread["partitions"].as_array().unwrap() {
        let replicas = partition["replicas"].as_array().unwrap();
        assert_eq!(replicas.len(), 2, "{partition}");
        assert!(replicas.contains(&3.into()), "both in the eastern rack: {partition}");
    }

    let kept = run(&["topic", "create", "kept", "--partitions", "3", "--replicas", "3"], "");
    assert_eq!(kept.code, 0, "{}", kept.stderr);
    // Dropped, it dies as by kill -9; its address is still the first of those that clients are given.
    drop(brokers.remove(0));
    let lines: String = (0..30).map(|n| format!("key-{n}\tvalue-{n}\n")).collect();
    let produced = run(&["produce", "kept", "-f", "%k\\t%v\\n"], &lines);
    assert_eq!(produced.code, 0, "{}", produced.stderr);
    let consumed = run(&["consume", "kept", "-e", "-f", "%k\\t%v\\n"], "");
    assert_eq!(consumed.code, 0, "{}", consumed.stderr);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(sorted(&consumed.stdout), sorted(&lines));
    // Which address is asked first is left to chance.
    for _ in 0..4 {
        let described = json(&run(&["topic", "describe", "kept", "-o", "json"], ""));
        assert_eq!(described["partitions"].as_array().unwrap().len(), 3, "{described}");
    }
}

fn data(folder: &Path, id: u8) -> String {
    folder.join(format!("broker-{id}")).to_str().unwrap().to_owned()
}

/// Catches: a key of a file that a broker of several does not heed, a rack that is told and neither shown nor obeyed, and
/// a client that stays with the first of its addresses.
#[test]
fn files_alone_make_a_cluster_of_three() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (folder, network) = (tempfile::tempdir().unwrap(), Network::new(1));
    let peers = network.peers();
    let brokers = network.start(|id| {
        let (host, rack, data) = (network.host(id), rack(id), data(folder.path(), id));
        let text = format!(
            "[broker]\nid = {id}\nrack = \"{rack}\"\n[storage]\ndata_dir = \"{data}\"\n[client]\nlisten = \"{host}:0\"\n\
             [http]\nlisten = \"{host}:0\"\n[cluster]\nlisten = \"{host}:9094\"\npeers = \"{peers}\"\n"
        );
        let file = folder.path().join(format!("broker-{id}.toml"));
        std::fs::write(&file, text).unwrap();
        Broker::told(&["--config", file.to_str().unwrap()], &[])
    });
    check(&network, brokers);
}

/// Catches: a variable of a broker of several that is not heeded, and what the test of files catches.
#[test]
fn the_environment_alone_makes_a_cluster_of_three() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (folder, network) = (tempfile::tempdir().unwrap(), Network::new(2));
    let brokers = network.start(|id| {
        let host = network.host(id);
        let variables = [
            ("STREAMBUS__BROKER__ID", id.to_string()),
            ("STREAMBUS__BROKER__RACK", rack(id).to_owned()),
            ("STREAMBUS__STORAGE__DATA_DIR", data(folder.path(), id)),
            ("STREAMBUS__CLIENT__LISTEN", format!("{host}:0")),
            ("STREAMBUS__HTTP__LISTEN", format!("{host}:0")),
            ("STREAMBUS__CLUSTER__LISTEN", format!("{host}:9094")),
            ("STREAMBUS__CLUSTER__PEERS", network.peers()),
        ];
        Broker::told(&[], &variables)
    });
    check(&network, brokers);
}
