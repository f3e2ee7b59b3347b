//! Three brokers in one process, over loopback: founding, one view of the cluster, moving work, stopping one.

mod harness;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use harness::{PATIENCE, TestClient, at, batch, config, fetch_request, name, produce_request, values, within};
use streambus_broker::config::address::HostPort;
use streambus_broker::error::StartError;
use streambus_broker::lifecycle::State;
use streambus_broker::server::{BrokerEnv, RunningServer, Server};
use streambus_consensus::database::{DatabaseSource, MemoryDatabase};
use streambus_protocol::api::cluster::{
    ClusterDescribeRequest, ClusterDescribeResponse, DrainBrokerRequest, ElectLeaderRequest, LeaderChoice,
    ReassignRequest, RemoveBrokerRequest,
};
use streambus_protocol::api::fetch::{FetchRequest, FetchResponse};
use streambus_protocol::api::metadata::{MetadataRequest, MetadataResponse, PartitionLayout};
use streambus_protocol::api::offsets::{ListOffsetsRequest, OffsetQuery, OffsetsPartition};
use streambus_protocol::api::produce::Acks;
use streambus_protocol::api::session::ErrorBody;
use streambus_protocol::api::subscribe::{PushedBatches, SubscribePartition, SubscribeRequest, SubscribeResponse};
use streambus_protocol::api::topics::{
    CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest, DescribeTopicRequest, DescribeTopicResponse,
};
use streambus_protocol::api::{ApiKey, Listener};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, PartitionIndex, TopicId};
use tempfile::TempDir;
use tokio::time::Instant;

static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// Founders on addresses that no other test has: founders must know one another's before they listen.
struct Founders {
    network: [u8; 2],
    disks: BTreeMap<u32, TempDir>,
    /// Metadata that is kept in memory instead, by broker.
    metadata: BTreeMap<u32, MemoryDatabase>,
}

impl Founders {
    fn new(count: u32) -> Self {
        let running = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let mixed = std::process::id().wrapping_mul(0x9E37_79B1) ^ running.wrapping_mul(0x85EB_CA6B);
        let [first, second, ..] = mixed.to_be_bytes();
        let disks = (1..=count).map(|id| (id, tempfile::tempdir().expect("a directory"))).collect();
        Self { network: [first | 1, second], disks, metadata: BTreeMap::new() }
    }

    fn cluster_address(&self, id: u32) -> HostPort {
        let host = Ipv4Addr::new(127, self.network[0], self.network[1], u8::try_from(id).expect("few brokers"));
        HostPort { host: host.to_string(), port: 9094 }
    }

    /// Starts `id` on its disk, which may be another broker's.
    async fn start_on(&self, id: u32, disk: u32) -> Result<RunningServer, StartError> {
        let mut config = config(self.disks[&disk].path());
        config.broker.id = BrokerId::new(id);
        config.broker.rack = rack(id);
        config.cluster.listen = self.cluster_address(id);
        // Little stays in memory: what is read later comes from the disk.
        config.storage.tail_cache_bytes = 64 << 10;
        let founders: Vec<u32> = self.disks.keys().copied().collect();
        let peers: Vec<String> = founders.iter().map(|id| format!("{id}@{}", self.cluster_address(*id))).collect();
        config.cluster.peers = peers.join(",").parse().expect("peers");
        let metadata = self.metadata.get(&id).cloned().map_or(DatabaseSource::Directory, DatabaseSource::Memory);
        Server::start(config, BrokerEnv { metadata, ..BrokerEnv::system() }).await
    }

    async fn start(&self, id: u32) -> RunningServer {
        within(self.start_on(id, id)).await.unwrap_or_else(|error| panic!("broker {id}: {error}"))
    }

    async fn start_all(&self) -> BTreeMap<u32, RunningServer> {
        let ids: Vec<u32> = self.disks.keys().copied().collect();
        let started = join_all(ids.iter().map(|id| self.start(*id))).await;
        ids.into_iter().zip(started).collect()
    }
}

/// Where a broker stands: each in a rack of its own.
fn rack(id: u32) -> String {
    format!("rack-{id}")
}

async fn client(server: &RunningServer) -> TestClient {
    TestClient::connect(server.client_address()).await
}

async fn create(client: &mut TestClient, topic: &str, replication_factor: u16) -> CreateTopicResponse {
    let request = CreateTopicRequest {
        name: name(topic),
        partitions: 3,
        replication_factor,
        config: BTreeMap::new(),
        validate_only: false,
    };
    client.call(&request).await.expect("created")
}

async fn layout(client: &mut TestClient, topic: &str) -> Option<Vec<PartitionLayout>> {
    let metadata: MetadataResponse =
        client.call(&MetadataRequest { topics: Some(vec![name(topic)]) }).await.expect("metadata");
    metadata.topics.into_iter().next().and_then(|topic| topic.outcome.ok()).map(|layout| layout.partitions)
}

async fn describe(client: &mut TestClient) -> ClusterDescribeResponse {
    client.call(&ClusterDescribeRequest {}).await.expect("a description")
}

/// Asks again until `accepts`; the metadata reaches every broker, and nobody says when it reached this one.
async fn until<T>(mut ask: impl AsyncFnMut() -> T, accepts: impl Fn(&T) -> bool) -> T {
    within(async {
        loop {
            let answer = ask().await;
            if accepts(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

fn ids(brokers: &[u32]) -> Vec<BrokerId> {
    brokers.iter().copied().map(BrokerId::new).collect()
}

// Catches founders that each found a cluster of their own, a topic that only its creator's broker knows, and a default
// that would lose records with one disk.
#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_found_one_cluster_and_all_of_them_know_its_topics() {
    let founders = Founders::new(3);
    let servers = founders.start_all().await;
    let mut clusters = Vec::new();
    for (id, server) in &servers {
        let mut client = client(server).await;
        let created = create(&mut client, &format!("of-{id}"), 0).await;
        assert_eq!((created.partitions, created.replication_factor), (3, 3));
        clusters.push(describe(&mut client).await.cluster_id);
    }
    clusters.dedup();
    assert_eq!(clusters.len(), 1, "{clusters:?}");
    for server in servers.values() {
        let mut client = client(server).await;
        for id in servers.keys() {
            let topic = format!("of-{id}");
            let partitions = until(async || layout(&mut client, &topic).await, Option::is_some).await;
            for partition in partitions.expect("a layout") {
                let mut replicas = partition.replicas.clone();
                replicas.sort_unstable();
                assert_eq!(replicas, ids(&[1, 2, 3]));
                assert!(partition.leader.is_some());
            }
        }
        let described: DescribeTopicResponse =
            client.call(&DescribeTopicRequest { name: name("of-1") }).await.expect("described");
        let in_sync = described.config.iter().find(|entry| entry.key == "min.insync.replicas").expect("a setting");
        assert_eq!(in_sync.value, "2");
        // Each broker's disk is known to all once it has told the controller.
        let knows_disks = |state: &ClusterDescribeResponse| state.brokers.iter().all(|b| b.disk_free_bytes > 0);
        let state = until(async || describe(&mut client).await, knows_disks).await;
        assert!(state.controller.is_some());
        assert_eq!(state.brokers.len(), 3);
        for broker in &state.brokers {
            assert!(!broker.fenced && broker.is_voter, "{broker:?}");
            let address = founders.cluster_address(broker.endpoint.id.get());
            assert_eq!((&broker.cluster_host, broker.cluster_port), (&address.host, address.port));
        }
    }
}

// Catches a broker that denies a topic because it has not heard of it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_one_broker_made_exists_at_every_other_at_once() {
    let founders = Founders::new(3);
    let servers = founders.start_all().await;
    let mut clients = Vec::new();
    for server in servers.values() {
        clients.push(client(server).await);
    }
    for round in 0..30 {
        let topic = format!("round-{round}");
        create(&mut clients[round % 3], &topic, 3).await;
        assert!(layout(&mut clients[(round + 1) % 3], &topic).await.is_some(), "{topic} is denied");
        let described = clients[(round + 2) % 3].call(&DescribeTopicRequest { name: name(&topic) }).await;
        assert!(described.is_ok(), "{topic}: {described:?}");
    }
    let denied = clients[0].call(&DescribeTopicRequest { name: name("round-3o") }).await.expect_err("there is none");
    assert_eq!(denied.code, ErrorCode::UnknownTopic, "{denied:?}");
    assert!(denied.message.contains("round-3"), "it suggests what is near: {denied:?}");
}

// Catches a planned stop that leaves its partitions without a leader, and a broker that does not come back as itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stops_hands_its_leaderships_over_first_and_comes_back() {
    let founders = Founders::new(3);
    let mut servers = founders.start_all().await;
    let mut first = client(&servers[&1]).await;
    create(&mut first, "orders", 3).await;
    let leads = |id: u32| {
        move |layout: &Option<Vec<PartitionLayout>>| {
            layout.iter().flatten().any(|partition| partition.leader == Some(BrokerId::new(id)))
        }
    };
    until(async || layout(&mut first, "orders").await, leads(3)).await;
    let third = servers.remove(&3).expect("started");
    third.drain_and_stop(PATIENCE).await.expect("an orderly stop");
    let now = layout(&mut first, "orders").await.expect("a layout");
    for partition in &now {
        assert!(partition.leader.is_some_and(|leader| leader != BrokerId::new(3)), "{partition:?}");
    }
    servers.insert(3, founders.start(3).await);
    let state = describe(&mut first).await;
    let again = state.brokers.iter().find(|broker| broker.endpoint.id == BrokerId::new(3)).expect("known");
    assert!(!again.fenced && again.is_voter && again.leaders == 0, "{again:?}");
}

// Catches a cluster of one that cannot grow, that loses what it has when it does, and a lone voter that does not hear its
// own broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_grows_into_three_when_empty_peers_start_with_it() {
    let founders = Founders::new(3);
    let mut config = config(founders.disks[&1].path());
    config.broker.id = BrokerId::new(1);
    let lone = within(Server::start(config, BrokerEnv::system())).await.expect("alone");
    let mut client_of_one = client(&lone).await;
    create(&mut client_of_one, "orders", 1).await;
    let before = describe(&mut client_of_one).await.cluster_id;
    lone.drain_and_stop(PATIENCE).await.expect("an orderly stop");
    let servers = founders.start_all().await;
    for server in servers.values() {
        let mut client = client(server).await;
        let all_vote = |state: &ClusterDescribeResponse| {
            state.brokers.len() == 3 && state.brokers.iter().all(|broker| broker.is_voter && !broker.fenced)
        };
        let state = until(async || describe(&mut client).await, all_vote).await;
        assert_eq!(state.cluster_id, before);
        let kept = layout(&mut client, "orders").await.expect("it is still there");
        assert!(kept.iter().all(|partition| partition.leader == Some(BrokerId::new(1))), "{kept:?}");
    }
}

// Catches a leader that answers with an old end although others may have gone on without it, and one that refuses what
// nobody else holds, or goes on refusing when there is a controller again.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_controller_refuses_what_others_hold_too() {
    let founders = Founders::new(3);
    let mut servers = founders.start_all().await;
    let mut last = client(&servers[&1]).await;
    let (shared, own) = (create(&mut last, "shared", 3).await.id, create(&mut last, "own", 1).await.id);
    let only_here = |partition: &PartitionLayout| partition.replicas == ids(&[1]);
    let own_layout = until(async || layout(&mut last, "own").await, Option::is_some).await.expect("a layout");
    let own_index = own_layout.iter().find(|partition| only_here(partition)).expect("one for each broker").index;
    for id in [2, 3] {
        servers.remove(&id).expect("started").drain_and_stop(PATIENCE).await.expect("an orderly stop");
    }
    let latest = async |client: &mut TestClient, topic, partition| {
        let asked = vec![OffsetsPartition { topic, partition, query: OffsetQuery::Latest }];
        let answer = client.call(&ListOffsetsRequest { partitions: asked }).await.expect("an answer");
        answer.partitions.into_iter().next().expect("one").result
    };
    let first = PartitionIndex::new(0);
    let is_refused = |answer: &Result<_, ErrorBody>| {
        answer.as_ref().is_err_and(|error| error.code == ErrorCode::NotLeader && error.leader.is_none())
    };
    let refused = until(async || latest(&mut last, shared, first).await, is_refused).await.expect_err("refused");
    assert!(refused.message.contains("cluster.session_timeout"), "{}", refused.message);
    let of_own = latest(&mut last, own, own_index).await;
    assert!(of_own.is_ok(), "{of_own:?}: nobody else can have it");
    // Nor does it call the others ready, of which it has not heard since, or name a controller.
    let old = until(async || describe(&mut last).await, |cluster| cluster.silent == ids(&[2, 3])).await;
    assert!(old.without_quorum_ms.is_some_and(|time| time >= 2_000), "{old:?}");
    assert_eq!(old.controller, None);
    let states: Vec<&str> = old.brokers.iter().map(|broker| broker.state.as_str()).collect();
    assert_eq!(states, ["ready", "silent", "silent"]);
    // What it knows it says; what it does not know may exist all the same.
    assert!(layout(&mut last, "shared").await.is_some());
    let unsure = last.call(&DescribeTopicRequest { name: name("never-made") }).await.expect_err("nobody knows");
    assert_eq!(unsure.code, ErrorCode::NoController, "{unsure:?}");
    assert!(unsure.message.contains("never-made"), "{unsure:?}");
    let asked = MetadataRequest { topics: Some(vec![name("shared"), name("never-made")]) };
    let answer: MetadataResponse = last.call(&asked).await.expect("metadata");
    let outcomes: Vec<Option<ErrorCode>> =
        answer.topics.iter().map(|topic| topic.outcome.as_ref().err().map(|error| error.code)).collect();
    assert_eq!(outcomes, [None, Some(ErrorCode::NoController)]);
    servers.insert(2, founders.start(2).await);
    until(async || latest(&mut last, shared, first).await, |answer| !is_refused(answer)).await.ok();
    let now = until(async || describe(&mut last).await, |cluster| cluster.without_quorum_ms.is_none()).await;
    assert!(now.controller.is_some() && now.silent.is_empty(), "{now:?}");
}

// Catches a broker whose metadata has failed and that waits, before it ends, for an answer that it cannot get.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_metadata_ends_at_once() {
    let mut founders = Founders::new(3);
    let database = MemoryDatabase::new(|| Duration::ZERO);
    founders.metadata.insert(3, database.clone());
    let mut servers = founders.start_all().await;
    let mut first = client(&servers[&1]).await;
    database.crash(usize::MAX);
    // Something to put into the database that is gone. If this broker is the controller, nobody knows what became of it.
    let news = CreateTopicRequest {
        name: name("news"),
        partitions: 1,
        replication_factor: 1,
        config: BTreeMap::new(),
        validate_only: false,
    };
    first.call(&news).await.ok();
    let failed = servers.remove(&3).expect("started");
    let state = within(failed.stopped()).await;
    assert!(matches!(&state, State::Failed(reason) if reason.contains("metadata")), "{state:?}");
    let began = Instant::now();
    // It cannot be orderly; that it is over is what counts.
    failed.drain_and_stop(PATIENCE).await.ok();
    assert!(began.elapsed() < Duration::from_secs(9), "it took {:?}", began.elapsed());
}

/// A fetch of a topic's first partition, by a reader in `rack`.
fn read_from(topic: TopicId, offset: u64, rack: Option<String>) -> FetchRequest {
    FetchRequest { rack, ..fetch_request(topic, 0, offset, 2_000) }
}

// KIP-392. Catches a leader that sends nobody to the near replica, a follower that answers who did not ask for it, shows
// what is not committed or calls out of range what only its leader has, and streams that outlive their leadership.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_served_by_the_replica_in_its_rack() {
    let founders = Founders::new(3);
    let mut servers = founders.start_all().await;
    let mut by = BTreeMap::new();
    for (id, server) in &servers {
        by.insert(*id, client(server).await);
    }
    let first = by.get_mut(&1).expect("connected");
    let topic = create(first, "near", 3).await.id;
    let layout = until(async || layout(first, "near").await, Option::is_some).await.expect("a layout");
    let leader = layout[0].leader.expect("a leader").get();
    let follower = leader % 3 + 1;
    let there = || Some(rack(follower));
    let written = ["a", "b", "c"];
    for value in written {
        let request = produce_request(topic, 0, Acks::All, batch(&[value], None));
        let to_leader = async || by.get_mut(&leader).expect("connected").call(&request).await.expect("an answer");
        until(to_leader, |answer| answer.partitions[0].result.is_ok()).await;
    }
    let at_leader = by.get_mut(&leader).expect("connected");
    let sent_on = |answer: &FetchResponse| {
        let hint = answer.partitions[0].result.as_ref().err().filter(|error| error.code == ErrorCode::NearerReplica);
        hint.and_then(|error| error.leader).is_some_and(|hint| hint.leader == BrokerId::new(follower))
    };
    // All three are in sync once the leader has heard them.
    until(async || at_leader.fetch(&read_from(topic, 0, there())).await, sent_on).await;
    for rack in [None, Some(rack(leader)), Some("elsewhere".to_owned())] {
        assert_eq!(values(&at_leader.fetch(&read_from(topic, 0, rack)).await.partitions[0]), written);
    }
    let at_follower = by.get_mut(&follower).expect("connected");
    let all = |answer: &FetchResponse| answer.partitions[0].result.is_ok() && values(&answer.partitions[0]) == written;
    until(async || at_follower.fetch(&read_from(topic, 0, there())).await, all).await;
    let refused = async |client: &mut TestClient, offset, rack| {
        let answer = client.fetch(&read_from(topic, offset, rack)).await;
        answer.partitions.into_iter().next().expect("one").result.expect_err("refused").code
    };
    assert_eq!(refused(at_follower, 0, None).await, ErrorCode::NotLeader, "nobody asked for a follower");
    assert_eq!(refused(at_follower, 99, there()).await, ErrorCode::OffsetNotAvailable, "its leader may have it");

    let partitions = vec![SubscribePartition {
        topic,
        partition: PartitionIndex::new(0),
        offset: at(3),
        leader_epoch: layout[0].leader_epoch,
    }];
    let request = SubscribeRequest { subscription: 1, credit_bytes: 1 << 20, partitions, rack: there() };
    let stream = at_follower.send(&request).await;
    let opened: SubscribeResponse = at_follower.response(stream).await.expect("an answer");
    assert!(opened.partitions[0].2.is_ok(), "{opened:?}");
    let request = produce_request(topic, 0, Acks::All, batch(&["d"], None));
    by.get_mut(&leader).expect("connected").call(&request).await.expect("an answer");
    let at_follower = by.get_mut(&follower).expect("connected");
    let push: PushedBatches = at_follower.push(stream).await;
    assert_eq!(values(&push.partitions[0]), ["d"]);
    servers.remove(&leader).expect("started").drain_and_stop(PATIENCE).await.expect("an orderly stop");
    let push: PushedBatches = at_follower.push(stream).await;
    assert!(push.partitions[0].result.is_err(), "the leadership ended: {push:?}");
}

// Catches admin calls that only the controller answers, and answers without their reason.
#[tokio::test(flavor = "multi_thread")]
async fn work_is_moved_from_any_broker_and_refusals_say_why() {
    let founders = Founders::new(3);
    let servers = founders.start_all().await;
    let mut by = Vec::new();
    for server in servers.values() {
        by.push(client(server).await);
    }
    let topic = create(&mut by[0], "orders", 2).await.id;
    let partition = PartitionIndex::new(0);
    let before = layout(&mut by[0], "orders").await.expect("a layout")[0].clone();
    let (old, new) = (before.leader.expect("a leader"), before.replicas[1]);
    let mut leader = client(&servers[&old.get()]).await;
    let request = produce_request(topic, 0, Acks::All, batch(&["x".repeat(20_000).as_str()], None));
    let written = async || leader.call(&request).await.expect("an answer");
    until(written, |answer| answer.partitions[0].result.is_ok()).await;
    for client in &mut by {
        until(async || layout(client, "orders").await, Option::is_some).await;
        let elect = |choice| ElectLeaderRequest { topic: name("orders"), partition, choice };
        let moved = client.call(&elect(LeaderChoice::Broker(new))).await.expect("elected");
        assert_eq!(moved.leader, new);
        assert!(moved.leader_epoch > before.leader_epoch);
        let back = client.call(&elect(LeaderChoice::Preferred)).await.expect("elected");
        assert_eq!(back.leader, old);

        let outsider = BrokerId::new((1..=3).find(|id| !before.replicas.contains(&BrokerId::new(*id))).expect("one"));
        let refused = client.call(&elect(LeaderChoice::Broker(outsider))).await.expect_err("no replica");
        assert_eq!(refused.code, ErrorCode::InvalidAssignment, "{refused}");
        let reassign = |replicas| ReassignRequest { topic: name("orders"), partition, replicas, throttle: None };
        for wrong in [vec![], ids(&[1, 1]), ids(&[1, 9])] {
            let refused = client.call(&reassign(Some(wrong))).await.expect_err("no assignment");
            assert_eq!(refused.code, ErrorCode::InvalidAssignment, "{refused}");
        }
        let limited = ReassignRequest { throttle: Some(1), ..reassign(None) };
        assert_eq!(client.call(&limited).await.expect_err("no move").code, ErrorCode::InvalidRequest);
        // Nobody is drained: it says what there would be to do, also of what others lead.
        let held = DrainBrokerRequest { broker: new, draining: false };
        let measured = async || client.call(&held).await.expect("progress");
        let progress = until(measured, |progress| progress.unmeasured == 0).await;
        assert!(progress.bytes_left >= 20_000, "{progress:?}");
        let refused = client.call(&reassign(None)).await.expect_err("nothing moves");
        assert_eq!(refused.code, ErrorCode::NoReassignment, "{refused}");
        let unknown = DrainBrokerRequest { broker: BrokerId::new(9), draining: true };
        assert_eq!(client.call(&unknown).await.expect_err("unknown").code, ErrorCode::UnknownBroker);
        let alive = RemoveBrokerRequest { broker: BrokerId::new(3) };
        assert_eq!(client.call(&alive).await.expect_err("alive").code, ErrorCode::BrokerNotEmpty);
        let drain = |draining| DrainBrokerRequest { broker: BrokerId::new(2), draining };
        let progress = client.call(&drain(true)).await.expect("draining");
        assert!(progress.replicas_left > 0);
        assert!(describe(client).await.brokers.iter().any(|broker| broker.draining));
        client.call(&drain(false)).await.expect("serving again");
    }
}

/// A gauge of a broker.
fn gauge(server: &RunningServer, name: &str) -> Option<u64> {
    let text = server.metrics().expect("it runs").render().expect("renders");
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Logs on the disk of `server`, and how many of them are in quarantine.
fn logs_of(server: &RunningServer) -> (Option<u64>, Option<u64>) {
    (gauge(server, "streambus_storage_logs "), gauge(server, "streambus_storage_stray_logs "))
}

/// Writes `value` to the first partition of a topic, whoever leads it, until it is taken.
async fn write(by: &mut BTreeMap<u32, TestClient>, topic: TopicId, value: &str) {
    let request = produce_request(topic, 0, Acks::All, batch(&[value], None));
    let written = async || {
        let mut is_taken = false;
        for client in by.values_mut() {
            let answer = client.call(&request).await.expect("an answer");
            is_taken |= answer.partitions[0].result.is_ok();
            if is_taken {
                break;
            }
        }
        is_taken
    };
    until(written, |is_taken| *is_taken).await;
}

/// A new leader shows records once its followers have told it that they are committed.
fn has_records(answer: &FetchResponse) -> bool {
    answer.partitions[0].result.is_ok() && !values(&answer.partitions[0]).is_empty()
}

// Trap 21. Catches a log that stays for ever because its broker was down when the topic was deleted, and a broker that leads
// a topic of the same name with the old one's records.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_and_created_anew_while_a_broker_is_down_begins_empty_there() {
    let founders = Founders::new(3);
    let mut servers = founders.start_all().await;
    let mut by = BTreeMap::new();
    for (id, server) in &servers {
        by.insert(*id, client(server).await);
    }
    let old = create(by.get_mut(&1).expect("connected"), "again", 3).await.id;
    let other = create(by.get_mut(&1).expect("connected"), "other", 3).await.id;
    until(async || logs_of(&servers[&3]), |logs| *logs == (Some(6), Some(0))).await;
    write(&mut by, old, "old").await;
    write(&mut by, other, "kept").await;
    by.remove(&3).expect("connected");
    servers.remove(&3).expect("started").drain_and_stop(PATIENCE).await.expect("an orderly stop");
    let first = by.get_mut(&1).expect("connected");
    first.call(&DeleteTopicRequest { name: name("again") }).await.expect("deleted");
    let created = until(
        async || {
            let request = CreateTopicRequest {
                name: name("again"),
                partitions: 1,
                replication_factor: 2,
                config: BTreeMap::new(),
                validate_only: false,
            };
            first.call(&request).await
        },
        Result::is_ok,
    );
    let new = created.await.expect("created anew").id;
    write(&mut by, new, "new").await;

    servers.insert(3, founders.start(3).await);
    // Three partitions of the other topic; the new one is on the others, which were there when it was created.
    until(async || logs_of(&servers[&3]), |logs| *logs == (Some(3), Some(0))).await;
    let first = by.get_mut(&1).expect("connected");
    let replicas = Some(ids(&[3, 1, 2]));
    let reassign =
        ReassignRequest { topic: name("again"), partition: PartitionIndex::new(0), replicas, throttle: None };
    first.call(&reassign).await.expect("it moves");
    let lead = ElectLeaderRequest {
        topic: name("again"),
        partition: PartitionIndex::new(0),
        choice: LeaderChoice::Broker(BrokerId::new(3)),
    };
    until(async || first.call(&lead).await, Result::is_ok).await.expect("it is in sync");
    let mut third = client(&servers[&3]).await;
    let read = async || third.fetch(&fetch_request(new, 0, 0, 100)).await;
    let answer = until(read, has_records).await;
    assert_eq!(values(&answer.partitions[0]), ["new"]);
    let of_old = third.fetch(&fetch_request(old, 0, 0, 0)).await;
    let refused = of_old.partitions.into_iter().next().expect("one").result.expect_err("it is gone");
    assert_eq!(refused.code, ErrorCode::UnknownTopicId);
    assert_eq!(logs_of(&servers[&3]), (Some(4), Some(0)));
}

// Catches disks that fill with what was moved off them.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_moved_leaves_no_log_behind() {
    let founders = Founders::new(3);
    let servers = founders.start_all().await;
    let mut by = BTreeMap::new();
    for (id, server) in &servers {
        by.insert(*id, client(server).await);
    }
    let topic = create(by.get_mut(&1).expect("connected"), "moved", 2).await.id;
    write(&mut by, topic, "kept").await;
    let first = by.get_mut(&1).expect("connected");
    let before = layout(first, "moved").await.expect("a layout")[0].replicas.clone();
    let joins = (1..=3).find(|id| !before.contains(&BrokerId::new(*id))).expect("one of three");
    let (leaves, stays) = (before[0].get(), before[1].get());
    let counts = async || [leaves, stays, joins].map(|id| logs_of(&servers[&id]).0);
    until(counts, |logs| *logs == [Some(2); 3]).await;
    let replicas = Some(ids(&[stays, joins]));
    let partition = PartitionIndex::new(0);
    let reassign = ReassignRequest { topic: name("moved"), partition, replicas, throttle: None };
    first.call(&reassign).await.expect("it moves");
    until(counts, |logs| *logs == [Some(1), Some(2), Some(3)]).await;
    assert_eq!(logs_of(&servers[&leaves]).1, Some(0), "nothing is in doubt");
    let lead =
        ElectLeaderRequest { topic: name("moved"), partition, choice: LeaderChoice::Broker(BrokerId::new(joins)) };
    until(async || first.call(&lead).await, Result::is_ok).await.expect("it is in sync");
    let newcomer = by.get_mut(&joins).expect("connected");
    let read = async || newcomer.fetch(&fetch_request(topic, 0, 0, 100)).await;
    let answer = until(read, has_records).await;
    assert_eq!(values(&answer.partitions[0]), ["kept"]);
}

// Catches a disk of one broker that serves another, and a cluster that is taken for one's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_disk_is_refused_with_its_reason() {
    let founders = Founders::new(3);
    let mut servers = founders.start_all().await;
    let second = servers.remove(&2).expect("started");
    second.drain_and_stop(PATIENCE).await.expect("an orderly stop");
    let refused = within(founders.start_on(4, 2)).await.expect_err("the disk of broker 2");
    let text = refused.to_string();
    assert!(text.contains("broker 4") && text.contains("broker 2"), "{text}");
}

// Catches a vote, or a follower's fetch, that comes in where clients come in.
#[tokio::test]
async fn every_peer_api_is_refused_on_the_client_listener() {
    let broker = harness::TestBroker::start().await;
    for api in ApiKey::ALL.iter().filter(|api| api.listener() == Listener::Cluster) {
        for says_hello in [false, true] {
            let mut client = TestClient::connect_preface(broker.address()).await;
            if says_hello {
                client.handshake().await.expect("welcome");
            }
            client.send_bytes(&bare_request(*api)).await;
            let frame = client.receive().await.expect("an answer");
            let error = streambus_protocol::api::decode_error(&frame).expect("an error");
            assert_eq!(error.code, ErrorCode::ClusterListenerOnly, "{api:?}");
            assert!(client.receive().await.is_none(), "{api:?} leaves the connection open");
        }
    }
    broker.stop().await.expect("an orderly stop");
}

/// A request of `api` without a body; what is refused for its number is refused before its body is looked at.
fn bare_request(api: ApiKey) -> Vec<u8> {
    let mut frame = vec![0; 24];
    frame[..4].copy_from_slice(&20_u32.to_le_bytes());
    frame[8] = api.to_wire();
    frame[9] = 1;
    frame[12] = 77;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

// Catches an acknowledgement that counts fewer disks than it says, and a record that is gone with the broker that
// acknowledged it.
#[tokio::test(flavor = "multi_thread")]
async fn what_three_brokers_acknowledged_is_there_when_one_of_them_dies() {
    let founders = Founders::new(3);
    let mut servers = founders.start_all().await;
    let mut first = client(&servers[&1]).await;
    let topic = create(&mut first, "orders", 3).await.id;
    let led = until(
        async || layout(&mut first, "orders").await,
        |layout| layout.iter().flatten().any(|partition| partition.leader == Some(BrokerId::new(2))),
    );
    let partition = led.await.into_iter().flatten().find(|p| p.leader == Some(BrokerId::new(2))).expect("one").index;
    let mut leader = client(&servers[&2]).await;
    let produced = until(
        async || leader.produce(topic, partition.get(), &["a", "b"]).await,
        // Until it has taken up its part and its followers have fetched for the first time.
        |produced| produced.is_ok(),
    );
    let receipt = produced.await.expect("acknowledged").receipt;
    assert!(receipt.durable >= 2 && receipt.replicas >= receipt.durable, "{receipt:?}");
    // Dropped, it ends as a crash would.
    drop(servers.remove(&2));
    let moved = until(
        async || layout(&mut first, "orders").await,
        |layout| {
            layout.iter().flatten().all(|partition| partition.leader.is_some_and(|leader| leader != BrokerId::new(2)))
        },
    );
    let now = moved.await.expect("a layout");
    let heir = now[usize::try_from(partition.get()).expect("small")].leader.expect("a leader");
    let mut heir = client(&servers[&heir.get()]).await;
    let read = until(
        async || {
            let response = heir.fetch(&harness::fetch_request(topic, partition.get(), 0, 100)).await;
            response.partitions.first().filter(|outcome| outcome.result.is_ok()).map(harness::values)
        },
        |values| values.as_ref().is_some_and(|values| values.len() >= 2),
    );
    assert_eq!(read.await.expect("records"), ["a", "b"]);
}

/// Flips a bit in every copy of `text` in the journal of `disk`.
fn decay(disk: &std::path::Path, text: &str) {
    use std::os::unix::fs::FileExt;

    let mut flipped = 0;
    for entry in std::fs::read_dir(disk).expect("list") {
        let path = entry.expect("entry").path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-")) {
            continue;
        }
        let bytes = std::fs::read(&path).expect("read");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
        let found =
            |from: usize| bytes[from..].windows(text.len()).position(|w| w == text.as_bytes()).map(|at| from + at);
        let mut next = found(0);
        while let Some(at) = next {
            file.write_all_at(&[bytes[at] ^ 4], at as u64).expect("written");
            flipped += 1;
            next = found(at + 1);
        }
        file.sync_all().expect("synced");
    }
    assert!(flipped > 0, "{text} is not on the disk");
}

fn repaired_batches(server: &RunningServer) -> u64 {
    let text = server.metrics().expect("running").render().expect("metrics");
    let line =
        text.lines().find(|line| line.starts_with("streambus_storage_repaired_batches_total ")).expect("counted");
    line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok()).expect("a number") as u64
}

// Catches a bit that decays on one disk and costs the record although two others have it: on the leader, where a reader
// meets it, and on a follower, whose recovery finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_on_one_disk_is_repaired_from_another() {
    let founders = Founders::new(3);
    let mut servers = founders.start_all().await;
    let mut first = client(&servers[&1]).await;
    let topic = create(&mut first, "orders", 3).await.id;
    let led = until(
        async || layout(&mut first, "orders").await,
        |layout| layout.iter().flatten().any(|partition| partition.leader == Some(BrokerId::new(2))),
    );
    let index = led.await.into_iter().flatten().find(|p| p.leader == Some(BrokerId::new(2))).expect("one").index;
    let partition = index.get();
    let mut leader = client(&servers[&2]).await;
    let values: Vec<String> = (0..40).map(|n| format!("value-{n:04}-{}", "x".repeat(8_000))).collect();
    for value in &values {
        // Until it has taken up its part and its followers have fetched for the first time.
        let refused =
            |code| matches!(code, ErrorCode::NotEnoughReplicas | ErrorCode::LeaderNotAvailable | ErrorCode::NotReady);
        let produced = async || leader.produce(topic, partition, &[value]).await;
        let produced = until(produced, |produced| !produced.as_ref().is_err_and(|error| refused(error.code))).await;
        produced.expect("acknowledged");
    }
    let all = async |client: &mut TestClient| {
        let mut read: Vec<String> = Vec::new();
        while read.len() < values.len() {
            let request = harness::fetch_request(topic, partition, read.len() as u64, 100);
            let outcome = client.fetch(&request).await.partitions.into_iter().next().expect("an outcome");
            if outcome.result.is_err() {
                return Err(outcome.result.expect_err("a refusal").code);
            }
            read.extend(harness::values(&outcome));
        }
        Ok(read)
    };

    decay(founders.disks[&2].path(), "value-0005-");
    let read = until(async || all(&mut leader).await, Result::is_ok).await;
    assert!(read.expect("readable") == values, "the leader has other records than before");
    assert_eq!(repaired_batches(&servers[&2]), 1);

    let third = servers.remove(&3).expect("started");
    third.drain_and_stop(PATIENCE).await.expect("an orderly stop");
    for number in ["0010", "0011", "0039"] {
        decay(founders.disks[&3].path(), &format!("value-{number}-"));
    }
    servers.insert(3, founders.start(3).await);
    until(async || repaired_batches(&servers[&3]), |repaired| *repaired == 3).await;
    let in_sync = |layout: &Option<Vec<PartitionLayout>>| layout.iter().flatten().all(|p| p.isr.len() == 3);
    until(async || layout(&mut first, "orders").await, in_sync).await;
    let choice = LeaderChoice::Broker(BrokerId::new(3));
    first.call(&ElectLeaderRequest { topic: name("orders"), partition: index, choice }).await.expect("elected");
    let mut third = client(&servers[&3]).await;
    let read = until(async || all(&mut third).await, Result::is_ok).await;
    assert!(read.expect("readable") == values, "the repaired disk has other records than before");
    until(async || servers[&3].lifecycle().problems(), Vec::is_empty).await;
}
