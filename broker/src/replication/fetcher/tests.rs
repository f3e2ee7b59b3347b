//! What a fetcher asks its link for.

use futures::FutureExt;
use streambus_protocol::api::repair::{ReplicaRepairRequest, ReplicaRepairResponse};
use streambus_protocol::epoch::LeaderEpoch;
use streambus_protocol::timestamp::Timestamp;
use streambus_protocol::topic_config::Durability;
use streambus_storage::clock::ManualClock;
use streambus_storage::config::StoreConfig;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::*;
use crate::partition::fixture;
use crate::partition::role::{Leadership, Role};

const LEADER: BrokerId = BrokerId::new(2);

/// A link to a leader that begins a session and has no news from then on. Tells how long the leader is to wait for each
/// fetch, and how long the fetcher is to wait for the leader.
struct QuietLeader {
    asked: mpsc::UnboundedSender<(Duration, Duration)>,
}

impl PeerLink for QuietLeader {
    fn fetch(
        &self,
        _leader: BrokerId,
        request: ReplicaFetchRequest,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<ReplicaFetchResponse, LinkError>> {
        self.asked.send((Duration::from_millis(u64::from(request.wait_ms)), ttl)).expect("the test listens");
        if request.session != 0 {
            return futures::future::pending().boxed();
        }
        let begun = ReplicaFetchResponse { session: 7, sequence: request.sequence, partitions: Vec::new() };
        futures::future::ready(Ok(begun)).boxed()
    }

    fn repair(
        &self,
        _source: BrokerId,
        _request: ReplicaRepairRequest,
        _ttl: Duration,
    ) -> BoxFuture<'static, Result<ReplicaRepairResponse, LinkError>> {
        futures::future::pending().boxed()
    }

    fn progress(&self, _leader: BrokerId, _progress: ReplicaProgressRequest) -> bool {
        true
    }
}

// Catches a fetch that is given up when its leader is to answer it: the answer is still on its way then, so that a partition
// without news, and the first fetch of all, would never be answered in time; and one that outlives its leader for long.
#[tokio::test]
async fn a_fetch_is_waited_for_longer_than_its_leader_may_take() {
    let store = fixture::store(StoreConfig::default());
    let partition = fixture::partition(&store, 0, Durability::Sync);
    let role = Role {
        leadership: Leadership::There(LEADER),
        leader_epoch: LeaderEpoch::new(2),
        replicas: vec![BrokerId::new(1), LEADER],
        ..Role::clone(&partition.role())
    };
    partition.set_role(role, Duration::ZERO);
    let registration = Registration::new(BrokerId::new(1));
    registration.set(BrokerEpoch::new(1));
    let (asked, mut said) = mpsc::unbounded_channel();
    let env = FetcherEnv {
        link: Arc::new(QuietLeader { asked }),
        registration,
        settings: ReplicationSettings::default(),
        registry: Arc::new(Registry::new()),
        clock: Arc::new(ManualClock::new(Timestamp::from_millis(1))),
        trouble: Arc::default(),
    };
    let fetch_wait = env.settings.fetch_wait;
    let inbox = Arc::new(Inbox::default());
    inbox.assign(partition);
    let stop = CancellationToken::new();
    let fetching = TaskTracker::new().spawn(Fetcher::new(LEADER, env, inbox).run(stop.clone()));
    for expected in [Duration::ZERO, fetch_wait] {
        let next = tokio::time::timeout(Duration::from_secs(30), said.recv());
        let (wait, ttl) = next.await.expect("it asks").expect("it runs");
        assert_eq!(wait, expected);
        let grace = ttl.checked_sub(wait).expect("it gives up before its leader answers");
        assert!((Duration::from_secs(1)..=Duration::from_secs(10)).contains(&grace), "{grace:?} besides {wait:?}");
    }
    stop.cancel();
    fetching.await.expect("it ends");
}
