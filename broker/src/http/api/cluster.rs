//! The cluster and its brokers, as this broker sees them.

use hyper::{Response, StatusCode};
use serde::Serialize;
use streambus_protocol::api::cluster::{BrokerDescription, ClusterDescribeResponse};
use streambus_protocol::ids::BrokerId;

use super::super::body::{Answer, json};
use super::super::problem::{Problem, ProblemCode};
use crate::clock::Deadline;
use crate::service::Services;

/// `GET /cluster`.
pub(super) async fn describe(services: &Services, deadline: Deadline) -> Result<Response<Answer>, Problem> {
    let cluster = services.cluster.describe(deadline).await?;
    Ok(json(StatusCode::OK, &Cluster::new(&cluster)))
}

/// `GET /cluster/health`: a verdict, for people and scripts. Not a probe: it is about the whole cluster.
pub(super) async fn health(services: &Services, deadline: Deadline) -> Result<Response<Answer>, Problem> {
    let cluster = services.cluster.describe(deadline).await?;
    let own = services.cluster.health();
    let mut problems = own.problems;
    match cluster.without_quorum_ms {
        Some(time_ms) => problems.push(format!(
            "metadata: no controller that a majority answers was heard for {} s, and all this is as old; silent voters: {}",
            time_ms / 1_000,
            listed(&cluster.silent)
        )),
        None if cluster.controller.is_none() => problems.push("metadata: no controller is known".to_owned()),
        None => {}
    }
    for (count, what) in [
        (cluster.leaderless, "have no leader"),
        (cluster.under_min_isr, "have fewer in-sync replicas than their topic demands"),
        (cluster.under_replicated, "have fewer in-sync replicas than replicas"),
    ] {
        if count > 0 {
            problems.push(format!("partitions: {count} of {} {what}", cluster.partitions));
        }
    }
    let health = Health {
        healthy: own.ready && problems.is_empty(),
        asked_broker: services.cluster.broker_id().get(),
        asked_broker_state: own.state,
        brokers: cluster.brokers.len(),
        partitions: cluster.partitions,
        leaderless: cluster.leaderless,
        under_replicated: cluster.under_replicated,
        under_min_isr: cluster.under_min_isr,
        problems,
    };
    Ok(json(StatusCode::OK, &health))
}

fn listed(brokers: &[BrokerId]) -> String {
    match brokers {
        [] => "none known yet".to_owned(),
        brokers => brokers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// `GET /brokers`.
pub(super) async fn brokers(services: &Services, deadline: Deadline) -> Result<Response<Answer>, Problem> {
    let cluster = services.cluster.describe(deadline).await?;
    let items: Vec<Broker<'_>> = cluster.brokers.iter().map(Broker::new).collect();
    Ok(json(StatusCode::OK, &Brokers { total: items.len(), items }))
}

/// `GET /brokers/{id}`.
pub(super) async fn broker(services: &Services, id: &str, deadline: Deadline) -> Result<Response<Answer>, Problem> {
    let cluster = services.cluster.describe(deadline).await?;
    let wanted: u32 = id.parse().map_err(|_| Problem::invalid(format!("'{id}' is no broker id: it is a number")))?;
    match cluster.brokers.iter().find(|broker| broker.endpoint.id.get() == wanted) {
        Some(broker) => Ok(json(StatusCode::OK, &Broker::new(broker))),
        None => {
            let known: Vec<String> = cluster.brokers.iter().map(|broker| broker.endpoint.id.to_string()).collect();
            let detail = format!("no broker {wanted} is registered: there is {}", known.join(", "));
            Err(Problem::http(ProblemCode::UnknownPath, detail))
        }
    }
}

#[derive(Serialize)]
struct Cluster<'a> {
    cluster_id: String,
    controller: Option<u32>,
    metadata_term: u64,
    metadata_index: u64,
    topics: u32,
    partitions: u32,
    leaderless: u32,
    under_replicated: u32,
    under_min_isr: u32,
    brokers: Vec<Broker<'a>>,
}

impl<'a> Cluster<'a> {
    fn new(cluster: &'a ClusterDescribeResponse) -> Self {
        Self {
            cluster_id: cluster.cluster_id.to_string(),
            controller: cluster.controller.map(|id| id.get()),
            metadata_term: cluster.metadata_term,
            metadata_index: cluster.metadata_index,
            topics: cluster.topics,
            partitions: cluster.partitions,
            leaderless: cluster.leaderless,
            under_replicated: cluster.under_replicated,
            under_min_isr: cluster.under_min_isr,
            brokers: cluster.brokers.iter().map(Broker::new).collect(),
        }
    }
}

#[derive(Serialize)]
struct Health {
    healthy: bool,
    asked_broker: u32,
    asked_broker_state: String,
    brokers: usize,
    partitions: u32,
    leaderless: u32,
    under_replicated: u32,
    under_min_isr: u32,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Brokers<'a> {
    items: Vec<Broker<'a>>,
    total: usize,
}

#[derive(Serialize)]
struct Broker<'a> {
    id: u32,
    host: &'a str,
    port: u16,
    rack: Option<&'a str>,
    state: &'a str,
    version: &'a str,
    leaders: u32,
    replicas: u32,
    disk_used_bytes: u64,
    disk_free_bytes: u64,
}

impl<'a> Broker<'a> {
    fn new(broker: &'a BrokerDescription) -> Self {
        Self {
            id: broker.endpoint.id.get(),
            host: &broker.endpoint.host,
            port: broker.endpoint.port,
            rack: broker.endpoint.rack.as_deref(),
            state: &broker.state,
            version: &broker.version,
            leaders: broker.leaders,
            replicas: broker.replicas,
            disk_used_bytes: broker.disk_used_bytes,
            disk_free_bytes: broker.disk_free_bytes,
        }
    }
}
