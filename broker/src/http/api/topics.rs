//! Topics: the list, one of them, creating, deleting.

use std::collections::BTreeMap;

use hyper::header::{HeaderValue, LOCATION};
use hyper::{Response, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};
use streambus_protocol::api::topics::{
    CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest, DescribeTopicResponse, TopicListing,
};
use streambus_protocol::ids::{BrokerId, TopicName};

use super::super::body::{Answer, json};
use super::super::problem::Problem;
use super::super::query::Query;
use super::{parsed, topic_name};
use crate::clock::Deadline;
use crate::service::Services;

/// What the list understands.
pub(super) const LIST_PARAMETERS: &[&str] = &["limit", "cursor", "search", "internal"];
/// Topics on a page.
const LIST_LIMIT_DEFAULT: usize = 100;
const LIST_LIMIT_MAX: usize = 1_000;

/// `GET /topics`: a page in the order of names. `search` is part of a name, in any case; internal topics are left out
/// unless asked for.
pub(super) async fn list(services: &Services, query: &Query, deadline: Deadline) -> Result<Response<Answer>, Problem> {
    let limit = query.number("limit", 1..=LIST_LIMIT_MAX)?.unwrap_or(LIST_LIMIT_DEFAULT);
    let with_internal = query.switch("internal")?;
    let topics = services.topics.list(deadline).await.topics;
    Ok(json(StatusCode::OK, &page(topics, query, with_internal, limit)))
}

fn page(mut topics: Vec<TopicListing>, query: &Query, with_internal: bool, limit: usize) -> TopicPage {
    let search = query.get("search").unwrap_or_default().to_lowercase();
    topics.retain(|topic| (with_internal || !topic.internal) && topic.name.as_str().to_lowercase().contains(&search));
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let total = topics.len();
    // The cursor is the last name of the page before: it stays right when topics come and go between two pages.
    if let Some(cursor) = query.get("cursor") {
        topics.retain(|topic| topic.name.as_str() > cursor);
    }
    let has_more = topics.len() > limit;
    topics.truncate(limit);
    let next = if has_more { topics.last().map(|topic| topic.name.to_string()) } else { None };
    let items = topics.into_iter().map(|topic| TopicItem {
        name: topic.name.to_string(),
        id: topic.id.to_string(),
        partitions: topic.partitions,
        replication_factor: topic.replication_factor,
        internal: topic.internal,
    });
    TopicPage { items: items.collect(), next, total }
}

/// `GET /topics/{t}`.
pub(super) async fn describe(
    services: &Services,
    name: &TopicName,
    deadline: Deadline,
) -> Result<Response<Answer>, Problem> {
    let topic = services.topics.describe_fully(&DescribeTopicRequest { name: name.clone() }, deadline).await?;
    Ok(json(StatusCode::OK, &Topic::from(topic)))
}

/// `POST /topics`.
pub(super) async fn create(services: &Services, body: &[u8], deadline: Deadline) -> Result<Response<Answer>, Problem> {
    let wanted: NewTopic = parsed(body)?;
    let name = topic_name(&wanted.name).map_err(|problem| problem.at("/name"))?;
    let validate_only = wanted.validate_only;
    let request = CreateTopicRequest {
        name: name.clone(),
        partitions: wanted.partitions,
        replication_factor: wanted.replication_factor,
        config: wanted.config.into_iter().map(|(key, value)| (key, value.0)).collect(),
        validate_only,
    };
    let created = services.topics.create(request, deadline).await?;
    let answer = CreatedTopic {
        name: name.to_string(),
        id: (!validate_only).then(|| created.id.to_string()),
        partitions: created.partitions,
        replication_factor: created.replication_factor,
    };
    if validate_only {
        return Ok(json(StatusCode::OK, &answer));
    }
    let mut answer = json(StatusCode::CREATED, &answer);
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/topics/{name}")) {
        answer.headers_mut().insert(LOCATION, location);
    }
    Ok(answer)
}

/// `DELETE /topics/{t}`.
pub(super) async fn delete(
    services: &Services,
    name: &TopicName,
    deadline: Deadline,
) -> Result<Response<Answer>, Problem> {
    let deleted = services.topics.delete(DeleteTopicRequest { name: name.clone() }, deadline).await?;
    Ok(json(StatusCode::OK, &DeletedTopic { name: name.to_string(), id: deleted.id.to_string() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTopic {
    name: String,
    /// 0 = the broker's default.
    #[serde(default)]
    partitions: u32,
    /// 0 = the broker's default.
    #[serde(default)]
    replication_factor: u16,
    #[serde(default)]
    config: BTreeMap<String, ConfigValue>,
    #[serde(default)]
    validate_only: bool,
}

/// A configuration value: text, or a number or switch that stands for its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigValue(pub(super) String);

impl<'de> Deserialize<'de> for ConfigValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a configuration value: text, a whole number, true or false")]
        enum Scalar {
            Text(String),
            Number(i64),
            Switch(bool),
        }
        Ok(Self(match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => text,
            Scalar::Number(number) => number.to_string(),
            Scalar::Switch(switch) => switch.to_string(),
        }))
    }
}

#[derive(Serialize)]
struct TopicPage {
    items: Vec<TopicItem>,
    next: Option<String>,
    total: usize,
}

#[derive(Serialize)]
struct TopicItem {
    name: String,
    id: String,
    partitions: u32,
    replication_factor: u16,
    internal: bool,
}

#[derive(Serialize)]
struct CreatedTopic {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    partitions: u32,
    replication_factor: u16,
}

#[derive(Serialize)]
struct DeletedTopic {
    name: String,
    id: String,
}

#[derive(Serialize)]
struct Topic {
    name: String,
    id: String,
    config: Vec<Config>,
    partitions: Vec<Partition>,
}

#[derive(Serialize)]
struct Config {
    key: String,
    value: String,
    is_default: bool,
}

#[derive(Serialize)]
struct Partition {
    partition: u32,
    leader: Option<u32>,
    leader_epoch: u32,
    replicas: Vec<u32>,
    isr: Vec<u32>,
    elr: Vec<u32>,
    log_start: u64,
    high_watermark: u64,
    log_end: u64,
    size_bytes: u64,
    /// Half-open ranges of offsets.
    damaged: Vec<[u64; 2]>,
}

impl From<DescribeTopicResponse> for Topic {
    fn from(topic: DescribeTopicResponse) -> Self {
        let numbers = |ids: Vec<BrokerId>| ids.into_iter().map(BrokerId::get).collect();
        let config = topic.config.into_iter();
        Self {
            name: topic.name.to_string(),
            id: topic.id.to_string(),
            config: config.map(|e| Config { key: e.key, value: e.value, is_default: e.is_default }).collect(),
            partitions: topic
                .partitions
                .into_iter()
                .map(|partition| Partition {
                    partition: partition.layout.index.get(),
                    leader: partition.layout.leader.map(BrokerId::get),
                    leader_epoch: partition.layout.leader_epoch.get(),
                    replicas: numbers(partition.layout.replicas),
                    isr: numbers(partition.layout.isr),
                    elr: numbers(partition.elr),
                    log_start: partition.log_start.get(),
                    high_watermark: partition.high_watermark.get(),
                    log_end: partition.log_end.get(),
                    size_bytes: partition.size_bytes,
                    damaged: partition.damaged.iter().map(|(base, end)| [base.get(), end.get()]).collect(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use streambus_protocol::ids::TopicId;

    use super::*;

    fn listing(name: &str) -> TopicListing {
        TopicListing {
            name: TopicName::new(name).expect("a legal name"),
            id: TopicId::from_bytes([1; 16]),
            partitions: 1,
            replication_factor: 1,
            internal: name.starts_with("__"),
        }
    }

    fn pages(query: &str, limit: usize) -> (Vec<String>, Option<String>, usize) {
        let topics = ["b", "__offsets", "orders-2", "a", "Orders-1"].map(listing).to_vec();
        let query = Query::parse(Some(query), LIST_PARAMETERS).expect("legal");
        let with_internal = query.switch("internal").expect("legal");
        let page = page(topics, &query, with_internal, limit);
        (page.items.into_iter().map(|item| item.name).collect(), page.next, page.total)
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repeat() {
        assert_eq!(pages("", 3), (vec!["Orders-1".into(), "a".into(), "b".into()], Some("b".into()), 4));
        assert_eq!(pages("cursor=b", 3), (vec!["orders-2".into()], None, 4));
        assert_eq!(pages("cursor=aa", 1).0, ["b"], "a topic that was deleted in between is no reason to start over");
    }

    #[test]
    fn search_ignores_case_and_internal_topics_are_asked_for() {
        assert_eq!(pages("search=ORDERS", 9).0, ["Orders-1", "orders-2"]);
        assert_eq!(pages("search=offsets", 9).2, 0);
        assert_eq!(pages("search=offsets&internal=true", 9).0, ["__offsets"]);
    }

    #[test]
    fn a_new_topic_is_read_and_unknown_members_are_refused() {
        let topic: NewTopic =
            parsed(br#"{"name":"t","partitions":3,"config":{"retention.ms":5,"durability":"async","x":true}}"#)
                .expect("legal");
        let config: Vec<_> = topic.config.iter().map(|(key, value)| (key.as_str(), value.0.as_str())).collect();
        assert_eq!(config, [("durability", "async"), ("retention.ms", "5"), ("x", "true")]);
        for body in
            [r#"{"name":"t","partitons":3}"#, r#"{"partitions":3}"#, r#"{"name":"t","config":{"a":{}}}"#, "[]", ""]
        {
            assert!(parsed::<NewTopic>(body.as_bytes()).is_err(), "{body}");
        }
    }
}
