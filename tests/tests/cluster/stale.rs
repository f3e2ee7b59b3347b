//! What the past may not do: clients and brokers that name an epoch which is over, or not there yet, and brokers that were
//! removed. Asked by hand, under load, which goes on.

use bytes::Bytes;
use streambus_client::LeaderChoice;
use streambus_protocol::api::fetch::{FetchPartition, FetchRequest};
use streambus_protocol::api::peer::{PeerHandshakeRequest, PeerLane, RaftCallRequest};
use streambus_protocol::api::produce::{Acks, ProducePartition, ProduceRequest};
use streambus_protocol::api::replica::{ReplicaFetchPartition, ReplicaFetchRequest};
use streambus_protocol::api::session::{ErrorBody, HandshakeRequest};
use streambus_protocol::batch::{BatchBuilder, BatchOptions, UnverifiedBatch};
use streambus_protocol::epoch::{BrokerEpoch, LeaderEpoch};
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::{BrokerId, ClusterId, PartitionIndex, TopicId};
use streambus_protocol::offset::Offset;
use streambus_protocol::record::Record;
use streambus_protocol::timestamp::Timestamp;
use streambus_tests::cluster::{Options, PATIENCE};
use streambus_tests::load::LoadOptions;
use streambus_tests::patience::wait_for;
use streambus_tests::raw_caller::RawCaller;
use streambus_tests::run::Run;

const PARTITION: PartitionIndex = PartitionIndex::new(0);

fn cluster_id(run: &Run) -> ClusterId {
    run.ask(async |bus| bus.cluster_id()).expect("a connected client knows the cluster")
}

/// A client's connection to one broker.
fn client(run: &Run, broker: u32) -> RawCaller {
    let hello = HandshakeRequest {
        client_id: "from the past".to_owned(),
        software_name: "by hand".to_owned(),
        software_version: "0".to_owned(),
        cluster_id: Some(cluster_id(run)),
    };
    let mut caller = RawCaller::connect(run.cluster.client_address(broker)).expect("a connection");
    caller.call(&hello).expect("an answer").expect("clients are welcome");
    caller
}

/// A connection to one broker that says it is another broker's; also the raft id of the one that answers.
fn peer(run: &Run, from: u32, to: u32, lane: PeerLane) -> (RawCaller, u64) {
    let hello = PeerHandshakeRequest {
        cluster_id: Some(cluster_id(run)),
        broker_id: BrokerId::new(from),
        expected: Some(BrokerId::new(to)),
        lane,
        raft_id: None,
        broker_epoch: None,
        software_version: "0".to_owned(),
    };
    let mut caller = RawCaller::connect(run.cluster.cluster_address(to)).expect("a connection");
    let answer = caller.call(&hello).expect("an answer").expect("it says that it is of this cluster");
    (caller, answer.raft_id.expect("a member has a raft id"))
}

fn produce(caller: &mut RawCaller, topic: TopicId, leader_epoch: LeaderEpoch) -> ErrorBody {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let record = Record::new(Bytes::from_static(b"must never be stored"), Timestamp::from_millis(1));
    builder.push(&record).expect("room");
    let batch = UnverifiedBatch::new(builder.build().expect("a batch"));
    let partition = ProducePartition { topic, partition: PARTITION, leader_epoch, batch };
    let request = ProduceRequest { acks: Acks::All, partitions: vec![partition] };
    let mut answer = caller.call(&request).expect("an answer").expect("the request itself is sound");
    answer.partitions.remove(0).result.expect_err("nothing is appended in another epoch")
}

fn fetch(caller: &mut RawCaller, topic: TopicId, leader_epoch: LeaderEpoch) -> ErrorBody {
    let (partition, offset) = (PARTITION, Offset::ZERO);
    let wanted = FetchPartition { topic, partition, offset, bytes_max: 1_024, leader_epoch };
    let request = FetchRequest { wait_ms: 0, bytes_min: 0, bytes_max: 1_024, partitions: vec![wanted], rack: None };
    let mut answer = caller.call(&request).expect("an answer").expect("the request itself is sound");
    answer.partitions.remove(0).result.expect_err("nothing is read in another epoch")
}

fn replica_fetch(
    topic: TopicId,
    from: u32,
    broker_epoch: BrokerEpoch,
    leader_epoch: LeaderEpoch,
) -> ReplicaFetchRequest {
    let position = ReplicaFetchPartition {
        topic,
        partition: PARTITION,
        leader_epoch,
        fetch_offset: Offset::ZERO,
        durable_end: Offset::ZERO,
        accepted_end: Offset::ZERO,
        last_fetched_epoch: LeaderEpoch::UNKNOWN,
        log_start: Offset::ZERO,
        known_high_watermark: Offset::ZERO,
        bytes_max: 1_024,
    };
    ReplicaFetchRequest {
        broker: BrokerId::new(from),
        broker_epoch,
        session: 0,
        sequence: 0,
        wait_ms: 0,
        bytes_max: 1_024,
        changed: vec![position],
        forgotten: Vec::new(),
    }
}

#[test]
fn clients_and_replicas_of_another_epoch_are_refused() {
    let run = Run::start("epochs that are over", &Options::default(), &LoadOptions::default());
    // Twice, so that an epoch before the current one was once in force.
    let mut current = LeaderEpoch::new(0);
    for _ in 0..2 {
        let leader = run.leaders()[&0];
        let to = run.cluster.ids().into_iter().find(|id| *id != leader).expect("three brokers");
        let moved = run.ask(async |bus| {
            let to = LeaderChoice::Broker(BrokerId::new(to));
            bus.admin().elect_leader("proof", PARTITION.get(), to).timeout(PATIENCE).await
        });
        current = moved.expect("a replica in sync may lead").leader_epoch;
        run.leader_where(0, |now| now == to);
        run.wait_acks(200);
    }
    let leader = run.leaders()[&0];
    let topic = run.ask(async |bus| bus.admin().describe_topic("proof").await).expect("it is there").id;
    let (old, new) = (LeaderEpoch::new(current.get() - 1), LeaderEpoch::new(current.get() + 1_000));

    let mut caller = client(&run, leader);
    for (epoch, code) in [(old, ErrorCode::FencedLeaderEpoch), (new, ErrorCode::UnknownLeaderEpoch)] {
        for refused in [produce(&mut caller, topic, epoch), fetch(&mut caller, topic, epoch)] {
            assert_eq!(refused.code, code, "{refused:?}");
            let says = refused.message.contains(&epoch.to_string()) && refused.message.contains(&current.to_string());
            assert!(says, "it names both epochs: {refused:?}");
        }
    }
    // Who does not lead says who does.
    let follower = run.cluster.ids().into_iter().find(|id| *id != leader).expect("three brokers");
    let refused = produce(&mut client(&run, follower), topic, current);
    assert_eq!(refused.code, ErrorCode::NotLeader, "{refused:?}");
    assert_eq!(refused.leader.map(|hint| hint.leader.get()), Some(leader), "{refused:?}");

    // As the follower, in the life it has now, under a leadership that is over; and in a life that is over.
    let brokers = run.wait_cluster("brokers", |_| true).brokers;
    let epoch = brokers.iter().find(|b| b.endpoint.id.get() == follower).expect("it is registered").epoch;
    let (mut caller, _) = peer(&run, follower, leader, PeerLane::Replication);
    let answer = caller.call(&replica_fetch(topic, follower, epoch, old)).expect("an answer").expect("a session");
    let refused = answer.partitions[0].result.as_ref().expect_err("an old leadership is not followed");
    assert_eq!(refused.code, ErrorCode::FencedLeaderEpoch, "{refused:?}");
    let former = BrokerEpoch::new(epoch.get() - 1);
    let refused = caller.call(&replica_fetch(topic, follower, former, current)).expect("an answer");
    let refused = refused.expect_err("a former life of a broker is no replica");
    assert_eq!(refused.code, ErrorCode::StaleBrokerEpoch, "{refused:?}");
    assert!(refused.message.contains(&epoch.to_string()), "it names the life there is: {refused:?}");
    drop(caller);
    // The real follower lost its session to this one, and begins another.
    run.wait_acks(500);
    run.wait_in_sync();
    run.finish();
}

#[test]
fn a_removed_broker_gets_no_answer_to_votes_and_entries() {
    let mut run =
        Run::start("votes of a removed node", &Options { spares: 1, ..Options::default() }, &LoadOptions::default());
    let joined = run.cluster.spares()[0];
    run.cluster.join(joined);
    run.cluster.wait_ready(joined);
    let (leaving, other) = (2, 3);
    let (_, leaving_raft) = peer(&run, other, leaving, PeerLane::Log);
    run.cluster.command_well(PATIENCE, &["cluster", "drain", "2"]);
    assert!(run.cluster.terminate(leaving).success());
    run.cluster.command_well(PATIENCE, &["cluster", "decommission", "2", "--yes", "--wait", "30s"]);
    run.cluster.retire(leaving);
    run.wait_voters(&[1, 3, 4]);
    let term = run.wait_cluster("a controller", |cluster| cluster.controller.is_some()).metadata_term;

    // Entries, a vote and a pre-vote, as the metadata layer numbers them; who speaks to whom comes first.
    let (mut caller, other_raft) = peer(&run, leaving, other, PeerLane::Log);
    for rpc in 1..=3 {
        let mut bytes = cluster_id(&run).as_bytes().to_vec();
        bytes.extend(leaving_raft.to_le_bytes());
        bytes.extend(other_raft.to_le_bytes());
        let request = RaftCallRequest { rpc, bytes: bytes.into() };
        // It may hear a moment later than others that the membership has changed; till then it reads on, and there is no more.
        let refused = wait_for(PATIENCE, || {
            let refused = caller.call(&request).expect("an answer").expect_err("a removed node is not heard");
            (refused.code != ErrorCode::MalformedRequest).then_some(refused)
        });
        let refused = refused.expect("it hears of the change");
        assert_eq!(refused.code, ErrorCode::UnknownBroker, "{refused:?}");
        assert!(refused.message.contains("was removed"), "it says why: {refused:?}");
    }
    let now = run.wait_cluster("a controller", |cluster| cluster.controller.is_some()).metadata_term;
    assert_eq!(now, term, "the term stays");
    run.finish();
}
