//! The product: what a broker does, in domain types. Doors translate their wire to these calls and back; a rule that
//! exists in a door is a bug.

pub mod assignment;
pub mod cluster;
pub mod directory;
pub mod fetch;
pub mod leader_states;
pub(crate) mod nearest;
pub mod offsets;
pub mod produce;
pub mod producer_ids;
pub mod reader;
pub mod refusal;
pub mod strays;
pub mod subscribe;
pub(crate) mod topic_description;
pub mod topics;

use std::sync::Arc;

use assignment::AssignmentService;
use cluster::ClusterService;
use fetch::FetchService;
use offsets::OffsetService;
use produce::ProduceService;
use producer_ids::ProducerIdService;
use strays::StrayService;
use subscribe::SubscribeService;
use topics::TopicService;

/// Every service of one broker.
#[derive(Debug)]
pub struct Services {
    /// Creating, changing and describing topics.
    pub topics: TopicService,
    /// Appending.
    pub produce: ProduceService,
    /// Identities for idempotent producers.
    pub producer_ids: ProducerIdService,
    /// Reading on demand.
    pub fetch: FetchService,
    /// Reading as a stream.
    pub subscribe: Arc<SubscribeService>,
    /// Finding offsets.
    pub offsets: OffsetService,
    /// Moving partitions and leaderships between brokers.
    pub assignment: AssignmentService,
    /// Metadata, cluster state and health.
    pub cluster: ClusterService,
    /// Logs in quarantine.
    pub strays: StrayService,
}
