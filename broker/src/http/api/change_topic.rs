//! Changing a topic: its configuration, as a merge patch (RFC 7396), and its number of partitions.

use std::collections::BTreeMap;

use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use streambus_protocol::api::topics::{AddPartitionsRequest, AlterTopicRequest, DescribeTopicRequest};
use streambus_protocol::ids::TopicName;

use super::super::body::{Answer, json};
use super::super::problem::Problem;
use super::parsed;
use super::topics::ConfigValue;
use crate::clock::Deadline;
use crate::service::Services;

/// `PATCH /topics/{t}`. Partitions are added after the configuration is changed, so that a refusal of the former says
/// that the latter is done.
pub(super) async fn change(
    services: &Services,
    name: &TopicName,
    body: &[u8],
    deadline: Deadline,
) -> Result<Response<Answer>, Problem> {
    let change: TopicChange = parsed(body)?;
    if change.config.is_empty() && change.partitions.is_none() {
        return Err(Problem::invalid(
            "nothing to change: give 'config' (null returns a key to its default) or 'partitions'",
        ));
    }
    let changes_config = !change.config.is_empty();
    if changes_config {
        let (set, remove) = split(change.config);
        services.topics.alter(AlterTopicRequest { name: name.clone(), set, remove }, deadline).await?;
    }
    if let Some(total) = change.partitions {
        let request = AddPartitionsRequest { name: name.clone(), total };
        services.topics.add_partitions(request, deadline).await.map_err(|error| {
            let mut problem = Problem::from(error).at("/partitions");
            if changes_config {
                problem.detail.push_str("; the configuration was changed before");
            }
            problem
        })?;
    }
    let topic = services.topics.describe(&DescribeTopicRequest { name: name.clone() }, deadline).await?;
    let changed = ChangedTopic {
        name: topic.name.to_string(),
        partitions: topic.partitions.len(),
        config: topic.config.into_iter().filter(|entry| !entry.is_default).map(|e| (e.key, e.value)).collect(),
    };
    Ok(json(StatusCode::OK, &changed))
}

fn split(config: BTreeMap<String, Option<ConfigValue>>) -> (BTreeMap<String, String>, Vec<String>) {
    let (mut set, mut remove) = (BTreeMap::new(), Vec::new());
    for (key, value) in config {
        match value {
            Some(value) => {
                set.insert(key, value.0);
            }
            None => remove.push(key),
        }
    }
    (set, remove)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicChange {
    #[serde(default)]
    config: BTreeMap<String, Option<ConfigValue>>,
    partitions: Option<u32>,
}

/// What differs from the defaults after the change.
#[derive(Serialize)]
struct ChangedTopic {
    name: String,
    partitions: usize,
    config: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_removes_and_anything_else_sets() {
        let change: TopicChange =
            parsed(br#"{"config":{"retention.ms":1000,"durability":null,"retention.bytes":"-1"}}"#).expect("legal");
        let (set, remove) = split(change.config);
        assert_eq!(remove, ["durability"]);
        assert_eq!(set.get("retention.ms").map(String::as_str), Some("1000"));
        assert_eq!(set.len(), 2);
        assert!(parsed::<TopicChange>(br#"{"retention.ms":1}"#).is_err(), "a key outside 'config' is a mistake");
    }
}
