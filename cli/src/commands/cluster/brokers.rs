//! `streambus cluster brokers`: one line for each registered broker.

use serde::Serialize;
use streambus_protocol::api::cluster::{BrokerDescription, ClusterDescribeResponse};

use crate::args::Global;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Present};
use crate::session;
use crate::table::{Column, Table, bytes_shown, grouped};

/// A broker in JSON.
#[derive(Serialize)]
pub struct BrokerItem {
    id: u32,
    host: String,
    port: u16,
    cluster_host: String,
    cluster_port: u16,
    rack: Option<String>,
    state: String,
    fenced: bool,
    draining: bool,
    epoch: u64,
    version: String,
    controller: bool,
    voter: bool,
    metadata_lag: Option<u64>,
    leaders: u32,
    replicas: u32,
    reassigning: u32,
    disk_used_bytes: u64,
    disk_free_bytes: u64,
}

/// What a broker is doing, in one word.
pub fn state(broker: &BrokerDescription) -> &str {
    match broker {
        BrokerDescription { fenced: true, .. } => "fenced",
        BrokerDescription { in_controlled_shutdown: true, .. } => "stopping",
        BrokerDescription { draining: true, .. } => "draining",
        _ => &broker.state,
    }
}

/// True when there is nothing to see to.
pub fn is_well(broker: &BrokerDescription) -> bool {
    state(broker) == "ready"
}

/// True when the broker that was asked cannot say how this one is.
pub fn is_unknown(broker: &BrokerDescription) -> bool {
    state(broker) == "unknown"
}

/// The brokers in JSON.
pub fn items(cluster: &ClusterDescribeResponse) -> Vec<BrokerItem> {
    let item = |broker: &BrokerDescription| BrokerItem {
        id: broker.endpoint.id.get(),
        host: broker.endpoint.host.clone(),
        port: broker.endpoint.port,
        cluster_host: broker.cluster_host.clone(),
        cluster_port: broker.cluster_port,
        rack: broker.endpoint.rack.clone(),
        state: state(broker).to_owned(),
        fenced: broker.fenced,
        draining: broker.draining,
        epoch: broker.epoch.get(),
        version: broker.version.clone(),
        controller: cluster.controller == Some(broker.endpoint.id),
        voter: broker.is_voter,
        metadata_lag: broker.metadata_lag,
        leaders: broker.leaders,
        replicas: broker.replicas,
        reassigning: broker.reassigning,
        disk_used_bytes: broker.disk_used_bytes,
        disk_free_bytes: broker.disk_free_bytes,
    };
    cluster.brokers.iter().map(item).collect()
}

/// The brokers for people; the controller has a star.
pub fn table(cluster: &ClusterDescribeResponse, wide: bool) -> Table {
    let mut columns = vec![
        Column::Text("BROKER"),
        Column::Text("ADDRESS"),
        Column::Text("RACK"),
        Column::Text("STATE"),
        Column::Number("LEADERS"),
        Column::Number("REPLICAS"),
        Column::Number("DATA"),
        Column::Number("DISK FREE"),
        Column::Text("VERSION"),
    ];
    if wide {
        columns.extend([
            Column::Text("CLUSTER ADDRESS"),
            Column::Number("EPOCH"),
            Column::Text("VOTES"),
            Column::Number("METADATA LAG"),
            Column::Number("MOVING"),
        ]);
    }
    let mut table = Table::new(&columns);
    for broker in items(cluster) {
        let mut row = vec![
            format!("{}{}", broker.id, if broker.controller { "*" } else { "" }),
            format!("{}:{}", broker.host, broker.port),
            broker.rack.unwrap_or_else(|| "-".to_owned()),
            broker.state,
            broker.leaders.to_string(),
            broker.replicas.to_string(),
            bytes_shown(broker.disk_used_bytes),
            bytes_shown(broker.disk_free_bytes),
            broker.version,
        ];
        if wide {
            let own = if broker.cluster_port == 0 {
                "-".to_owned()
            } else {
                format!("{}:{}", broker.cluster_host, broker.cluster_port)
            };
            row.extend([
                own,
                broker.epoch.to_string(),
                if broker.voter { "yes" } else { "no" }.to_owned(),
                broker.metadata_lag.map_or("-".to_owned(), grouped),
                broker.reassigning.to_string(),
            ]);
        }
        table.row(row);
    }
    table
}

struct Brokers(ClusterDescribeResponse);

impl Present for Brokers {
    type Item = BrokerItem;

    fn items(&self) -> Vec<BrokerItem> {
        items(&self.0)
    }

    fn is_list(&self) -> bool {
        true
    }

    fn text(&self, wide: bool) -> String {
        table(&self.0, wide).render()
    }

    fn names(&self) -> Vec<String> {
        self.0.brokers.iter().map(|broker| broker.endpoint.id.to_string()).collect()
    }
}

/// Lists the brokers.
pub async fn run(global: &Global) -> Result<Exit, Failure> {
    let client = session::connect(global).await?;
    let state = client.admin().describe_cluster().await.map_err(|error| session::from_client(&error))?;
    Output::stdout().present(&Brokers(state), global.output)?;
    Ok(Exit::Ok)
}
