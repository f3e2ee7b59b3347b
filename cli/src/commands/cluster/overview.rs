//! `streambus cluster info` and `streambus cluster health`: the cluster at a glance.

use std::fmt::Write as _;

use serde::Serialize;
use streambus_protocol::api::cluster::ClusterDescribeResponse;
use streambus_protocol::ids::BrokerId;

use super::brokers::{self, BrokerItem};
use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Present};
use crate::session;

#[derive(Serialize)]
struct Item {
    cluster_id: String,
    healthy: bool,
    problems: Vec<String>,
    controller: Option<u32>,
    metadata_term: u64,
    metadata_index: u64,
    without_quorum_ms: Option<u64>,
    silent: Vec<u32>,
    topics: u32,
    partitions: u32,
    leaderless: u32,
    under_replicated: u32,
    under_min_isr: u32,
    reassigning: u32,
    brokers: Vec<BrokerItem>,
}

struct Cluster {
    state: ClusterDescribeResponse,
    verdict_first: bool,
}

impl Cluster {
    /// What is to be said first when the broker that was asked does not know how things are now.
    fn is_old(&self) -> Option<String> {
        let age_s = self.state.without_quorum_ms? / 1_000;
        let silent: Vec<String> = self.state.silent.iter().map(ToString::to_string).collect();
        let silent = match silent.as_slice() {
            [] => "it is asking which of the brokers that vote are there".to_owned(),
            silent => format!("these brokers that vote do not answer it: {}", silent.join(", ")),
        };
        Some(format!(
            "the broker that was asked has heard no controller with a majority for {age_s} s, and what is shown is as old; {silent}"
        ))
    }

    /// Everything that is not as it should be, worst first. Empty means healthy.
    fn problems(&self) -> Vec<String> {
        let c = &self.state;
        let mut problems = Vec::new();
        let is_old = self.is_old();
        if c.controller.is_none() && is_old.is_none() {
            problems.push("no controller: topics cannot be changed and leaders not elected".to_owned());
        }
        problems.extend(is_old);
        for (count, what) in [
            (c.leaderless, "have no leader: nothing can be read or written there"),
            (c.under_min_isr, "are under min.insync.replicas: acks=all is refused there"),
            (c.under_replicated, "are under-replicated"),
        ] {
            if count > 0 {
                problems.push(format!("{count} of {} partitions {what}", c.partitions));
            }
        }
        for broker in c.brokers.iter().filter(|broker| !brokers::is_well(broker) && !brokers::is_unknown(broker)) {
            let why =
                if broker.fenced { ": it was not heard of in time, or has not caught up since its start" } else { "" };
            problems.push(format!("broker {} is {}{why}", broker.endpoint.id, brokers::state(broker)));
        }
        problems
    }
}

impl Present for Cluster {
    type Item = Item;

    fn items(&self) -> Vec<Item> {
        let c = &self.state;
        let problems = self.problems();
        vec![Item {
            cluster_id: c.cluster_id.to_string(),
            healthy: problems.is_empty(),
            problems,
            controller: c.controller.map(BrokerId::get),
            metadata_term: c.metadata_term,
            metadata_index: c.metadata_index,
            without_quorum_ms: c.without_quorum_ms,
            silent: c.silent.iter().map(|id| id.get()).collect(),
            topics: c.topics,
            partitions: c.partitions,
            leaderless: c.leaderless,
            under_replicated: c.under_replicated,
            under_min_isr: c.under_min_isr,
            reassigning: c.reassigning,
            brokers: brokers::items(c),
        }]
    }

    fn is_list(&self) -> bool {
        false
    }

    fn text(&self, wide: bool) -> String {
        let c = &self.state;
        let controller = c.controller.map_or("none".to_owned(), |id| id.to_string());
        let mut text = String::new();
        if let Some(warning) = self.is_old().filter(|_| !self.verdict_first) {
            let _infallible = writeln!(text, "Old         {warning}");
        }
        if self.verdict_first {
            let problems = self.problems();
            match problems.first() {
                None => text.push_str("Healthy     yes\n"),
                Some(worst) => {
                    let _infallible = writeln!(text, "Healthy     NO: {worst}");
                    for problem in &problems[1..] {
                        let _infallible = writeln!(text, "            {problem}");
                    }
                }
            }
        }
        let _infallible =
            writeln!(text, "Cluster     {}  (term {}, controller {controller})", c.cluster_id, c.metadata_term);
        let _infallible = writeln!(
            text,
            "Topics      {}  partitions {}  leaderless {}  under-replicated {}  under min ISR {}  moving {}",
            c.topics, c.partitions, c.leaderless, c.under_replicated, c.under_min_isr, c.reassigning
        );
        text.push_str(&brokers::table(c, wide).render());
        text
    }

    fn names(&self) -> Vec<String> {
        vec![self.state.cluster_id.to_string()]
    }
}

/// Shows the cluster; with `verdict_first`, whether it is as it should be.
pub async fn run(global: &Global, verdict_first: bool) -> Result<Exit, Failure> {
    let client = session::connect(global).await?;
    let state = client.admin().describe_cluster().await.map_err(|error| session::from_client(&error))?;
    let cluster = Cluster { state, verdict_first };
    Output::stdout().present(&cluster, global.output)?;
    let healthy = cluster.problems().is_empty();
    Ok(if verdict_first && !healthy { Exit::Unhealthy } else { Exit::Ok })
}

#[cfg(test)]
mod tests {
    use streambus_protocol::api::cluster::BrokerDescription;
    use streambus_protocol::api::metadata::BrokerEndpoint;
    use streambus_protocol::epoch::BrokerEpoch;
    use streambus_protocol::ids::ClusterId;

    use super::*;

    fn cluster(leaderless: u32, controller: Option<BrokerId>) -> Cluster {
        let state = ClusterDescribeResponse {
            cluster_id: ClusterId::from_bytes([1; 16]),
            controller,
            metadata_term: 4,
            metadata_index: 9,
            without_quorum_ms: None,
            silent: Vec::new(),
            brokers: Vec::new(),
            topics: 1,
            partitions: 3,
            leaderless,
            under_replicated: 0,
            under_min_isr: 0,
            reassigning: 0,
        };
        Cluster { state, verdict_first: true }
    }

    #[test]
    fn health_is_one_sentence_first_and_names_what_is_wrong() {
        assert!(cluster(0, Some(BrokerId::new(1))).text(false).starts_with("Healthy     yes\n"));
        let text = cluster(2, Some(BrokerId::new(1))).text(false);
        assert!(text.starts_with("Healthy     NO: 2 of 3 partitions have no leader"), "{text}");
        assert!(cluster(0, None).problems()[0].contains("no controller"));
    }

    fn broker(id: u32, fenced: bool, draining: bool) -> BrokerDescription {
        BrokerDescription {
            endpoint: BrokerEndpoint { id: BrokerId::new(id), host: format!("b{id}"), port: 9092, rack: None },
            cluster_host: format!("b{id}"),
            cluster_port: 9192,
            epoch: BrokerEpoch::new(7),
            fenced,
            in_controlled_shutdown: false,
            draining,
            is_voter: true,
            metadata_lag: None,
            state: "ready".to_owned(),
            version: "1".to_owned(),
            leaders: 1,
            replicas: 3,
            reassigning: 0,
            disk_used_bytes: 0,
            disk_free_bytes: 0,
        }
    }

    // Catches a kind of trouble that health passes over, and the worst of several that comes last.
    #[test]
    fn everything_that_is_wrong_is_named_worst_first() {
        let mut cluster = cluster(1, Some(BrokerId::new(1)));
        cluster.state.under_min_isr = 2;
        cluster.state.under_replicated = 3;
        cluster.state.brokers = vec![broker(1, false, false), broker(2, true, false), broker(3, false, true)];
        let problems = cluster.problems();
        let parts = [
            "have no leader",
            "acks=all is refused",
            "under-replicated",
            "broker 2 is fenced: ",
            "broker 3 is draining",
        ];
        assert_eq!(problems.len(), parts.len(), "{problems:?}");
        for (problem, part) in problems.iter().zip(parts) {
            assert!(problem.contains(part), "{part:?} is not in its place: {problems:?}");
        }
        let text = cluster.text(false);
        assert!(text.starts_with("Healthy     NO: 1 of 3 partitions have no leader"), "{text}");
        let json = serde_json::to_value(&cluster.items()[0]).unwrap();
        assert_eq!((&json["healthy"], &json["brokers"][1]["state"]), (&false.into(), &"fenced".into()));
        cluster.state =
            ClusterDescribeResponse { leaderless: 0, under_min_isr: 0, under_replicated: 0, ..cluster.state };
        assert!(cluster.problems()[0].starts_with("broker 2 is fenced"), "{:?}", cluster.problems());
    }

    // Catches a verdict over what was true before the majority went.
    #[test]
    fn what_a_broker_without_a_majority_shows_is_called_old() {
        let mut cluster = cluster(0, None);
        cluster.state.without_quorum_ms = Some(73_000);
        let asking = cluster.text(false);
        assert!(asking.starts_with("Healthy     NO: ") && asking.contains("majority for 73 s"), "{asking}");
        cluster.state.silent = vec![BrokerId::new(2), BrokerId::new(3)];
        let problems = cluster.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("do not answer it: 2, 3"), "{problems:?}");
        cluster.verdict_first = false;
        let info = cluster.text(false);
        assert!(info.starts_with("Old         the broker that was asked"), "{info}");
    }
}
