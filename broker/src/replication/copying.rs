//! Which leader each partition here is copied from, and the fetchers that do it: one per leader.

use std::collections::HashMap;
use std::sync::Arc;

use streambus_protocol::ids::{BrokerId, PartitionId};
use streambus_storage::clock::Clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::partition::registry::Registry;
use crate::partition::role::Leadership;
use crate::replication::fetcher::{Fetcher, FetcherEnv, Inbox};
use crate::replication::peer_link::PeerLink;
use crate::replication::registration::Registration;
use crate::replication::settings::ReplicationSettings;

/// Follows the roles of the partitions here with fetchers.
pub struct Copying {
    registry: Arc<Registry>,
    env: FetcherEnv,
    assigned: HashMap<PartitionId, BrokerId>,
    fetchers: HashMap<BrokerId, Arc<Inbox>>,
}

impl Copying {
    /// Copies partitions of `registry` over `link`.
    pub fn new(
        registry: Arc<Registry>,
        link: Arc<dyn PeerLink>,
        registration: Registration,
        settings: ReplicationSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let env = FetcherEnv {
            link,
            registration,
            settings,
            registry: Arc::clone(&registry),
            clock,
            trouble: Arc::default(),
        };
        Self { registry, env, assigned: HashMap::new(), fetchers: HashMap::new() }
    }

    /// Runs until `stop`, and then until every fetcher has ended.
    pub async fn run(mut self, stop: CancellationToken) {
        let roles = self.registry.watch_roles();
        // Dropped with this future, the set ends every fetcher.
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a fetcher ended: its partitions are no longer copied");
                    }
                }
                () = roles.added() => {
                    for id in roles.take() {
                        self.assign(id, &mut tasks, &stop);
                    }
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    fn assign(&mut self, id: PartitionId, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let partition = self.registry.get(id);
        let leader = partition.as_ref().and_then(|partition| match partition.role().leadership {
            Leadership::There(leader) => Some(leader),
            Leadership::Here | Leadership::Nobody => None,
        });
        let former = match leader {
            Some(leader) => self.assigned.insert(id, leader),
            None => self.assigned.remove(&id),
        };
        if let Some(former) = former.filter(|former| Some(*former) != leader)
            && let Some(inbox) = self.fetchers.get(&former)
        {
            inbox.take_away(id);
        }
        if let (Some(leader), Some(partition)) = (leader, partition) {
            let inbox = self.fetchers.entry(leader).or_insert_with(|| {
                let inbox = Arc::new(Inbox::default());
                tasks.spawn(Fetcher::new(leader, self.env.clone(), Arc::clone(&inbox)).run(stop.clone()));
                inbox
            });
            inbox.assign(partition);
        }
    }
}

impl std::fmt::Debug for Copying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copying").field("partitions", &self.assigned.len()).finish_non_exhaustive()
    }
}
