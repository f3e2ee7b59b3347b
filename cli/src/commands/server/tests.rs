//! Where a broker's configuration comes from: flags as they are typed, files and their folders.

use clap::Parser as _;

use super::*;
use crate::args::{Cli, Command};

fn server_args(line: &str) -> Box<ServerArgs> {
    match Cli::try_parse_from(line.split(' ')).unwrap().command {
        Command::Server(args) => args,
        other => panic!("{other:?}"),
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What makes a broker one of three, said in each of the three ways, is the same configuration.
///
/// Catches a flag that sets another key than its file key and its variable, or that is taken and not passed on.
#[test]
fn the_settings_of_a_cluster_are_the_same_as_flags_as_file_keys_and_as_variables() {
    let args = server_args(
        "streambus server --broker-id 2 --data-dir /d/two --listen 10.0.0.2:9092 --cluster-listen 10.0.0.2:9094 \
         --http 10.0.0.2:8080 --peers 1@10.0.0.1:9094,2@10.0.0.2:9094,3@10.0.0.3:9094 --rack r2",
    );
    let file = "[broker]\nid = 2\nrack = \"r2\"\n[storage]\ndata_dir = \"/d/two\"\n\
                [client]\nlisten = \"10.0.0.2:9092\"\n[http]\nlisten = \"10.0.0.2:8080\"\n\
                [cluster]\nlisten = \"10.0.0.2:9094\"\n\
                peers = \"1@10.0.0.1:9094,2@10.0.0.2:9094,3@10.0.0.3:9094\"\n";
    let env = [
        ("STREAMBUS__BROKER__ID", "2"),
        ("STREAMBUS__BROKER__RACK", "r2"),
        ("STREAMBUS__STORAGE__DATA_DIR", "/d/two"),
        ("STREAMBUS__CLIENT__LISTEN", "10.0.0.2:9092"),
        ("STREAMBUS__HTTP__LISTEN", "10.0.0.2:8080"),
        ("STREAMBUS__CLUSTER__LISTEN", "10.0.0.2:9094"),
        ("STREAMBUS__CLUSTER__PEERS", "1@10.0.0.1:9094,2@10.0.0.2:9094,3@10.0.0.3:9094"),
    ];
    let config = |request| config::load(request).unwrap().into_config();
    let flags = config(LoadRequest { flags: args.flags(), ..LoadRequest::default() });
    let files = vec![(PathBuf::from("streambus.toml"), file.to_owned())];
    assert_eq!(config(LoadRequest { files, ..LoadRequest::default() }), flags);
    assert_eq!(config(LoadRequest { env: pairs(&env), ..LoadRequest::default() }), flags);
    // And each of them said something: nothing is equal because nothing arrived.
    assert_eq!((flags.broker.id.get(), flags.broker.rack.as_str()), (2, "r2"));
    let addresses = [flags.client.listen, flags.cluster.listen, flags.http.listen].map(|address| address.to_string());
    assert_eq!(addresses, ["10.0.0.2:9092", "10.0.0.2:9094", "10.0.0.2:8080"]);
    assert_eq!(flags.storage.data_dir, PathBuf::from("/d/two"));
    assert_ne!(flags.cluster.peers, BrokerConfig::default().cluster.peers);
}

/// Catches a folder that the document promises and nobody reads, and files read in another order than by name.
#[test]
fn the_file_then_its_conf_d_then_the_directory_each_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (beside, directory) = (folder.path().join("conf.d"), folder.path().join("more"));
    let main = folder.path().join("streambus.toml");
    std::fs::write(&main, "main").unwrap();
    let sources = |config_dir| Sources { config: Some(main.clone()), config_dir, set: Vec::new() };
    assert_eq!(files(&sources(None)).unwrap(), [(main.clone(), "main".to_owned())], "no conf.d is no mistake");

    for (folder, names) in [(&beside, ["20.toml", "10.toml", "note.txt"]), (&directory, ["b.toml", "a.toml", "c.bak"])]
    {
        std::fs::create_dir(folder).unwrap();
        for name in names {
            std::fs::write(folder.join(name), name).unwrap();
        }
    }
    let texts =
        |sources: &Sources| -> Vec<String> { files(sources).unwrap().into_iter().map(|(_, text)| text).collect() };
    assert_eq!(texts(&sources(None)), ["main", "10.toml", "20.toml"]);
    assert_eq!(texts(&sources(Some(directory.clone()))), ["main", "10.toml", "20.toml", "a.toml", "b.toml"]);
    let only = Sources { config_dir: Some(directory), ..Sources::default() };
    assert_eq!(texts(&only), ["a.toml", "b.toml"]);
    let missing = Sources { config_dir: Some(folder.path().join("none")), ..Sources::default() };
    assert!(files(&missing).unwrap_err().what.contains("cannot be read"));
}

/// Catches a line to try that calls another program than the one that runs, or asks another broker.
#[test]
fn the_lines_to_try_call_this_program_and_this_broker() {
    let text = |client: &str| {
        let (client, http) = (client.parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        ready_text("/src/target/release/streambus", client, http, Duration::from_millis(7))
    };
    let here = text("127.0.0.1:9092");
    let lines: Vec<&str> = here.lines().collect();
    assert_eq!(
        lines[0],
        format!("streambus {VERSION} is ready after 7 ms: clients 127.0.0.1:9092, HTTP 127.0.0.1:8080")
    );
    assert_eq!(lines[2], "  /src/target/release/streambus topic create orders --partitions 3");
    assert!(lines[3].contains("| /src/target/release/streambus produce orders"), "{here}");
    assert!(lines[4].starts_with("  /src/target/release/streambus consume orders"), "{here}");
    let elsewhere = text("127.0.0.1:9093");
    let asks_it = |line: &&str| line.contains("/src/target/release/streambus -b 127.0.0.1:9093 ");
    assert_eq!(elsewhere.lines().filter(asks_it).count(), 3, "{elsewhere}");
}
