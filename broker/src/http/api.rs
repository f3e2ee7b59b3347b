//! The REST API, `/api/v1`: one file per resource. Each handler turns a request into a service call and its answer
//! into JSON; what may be done is the services' decision.

mod change_topic;
mod cluster;
mod consume;
mod json_record;
mod page;
mod partitioner;
mod produce;
mod produce_plan;
mod rfc3339;
mod topics;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body;
use hyper::{Request, Response};
use serde::de::DeserializeOwned;
use streambus_consensus::blocking;
use streambus_protocol::error_code::ErrorCode;
use streambus_protocol::ids::TopicName;

use super::HttpState;
use super::body::{self, Answer, BodyType, ReadBody};
use super::problem::Problem;
use super::query::Query;
use super::route::ApiTarget;
use crate::clock::Deadline;
use crate::service::Services;

/// Answers one call.
pub(super) async fn handle<B>(
    state: &HttpState,
    services: &Arc<Services>,
    target: ApiTarget,
    request: Request<B>,
    deadline: Deadline,
) -> Result<Response<Answer>, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let query = |known: &[&str]| Query::parse(head.uri.query(), known);
    match target {
        ApiTarget::Cluster => {
            query(&[])?;
            cluster::describe(services, deadline).await
        }
        ApiTarget::ClusterHealth => {
            query(&[])?;
            cluster::health(services, deadline).await
        }
        ApiTarget::Brokers => {
            query(&[])?;
            cluster::brokers(services, deadline).await
        }
        ApiTarget::Broker(id) => {
            query(&[])?;
            cluster::broker(services, &id, deadline).await
        }
        ApiTarget::ListTopics => topics::list(services, &query(topics::LIST_PARAMETERS)?, deadline).await,
        ApiTarget::CreateTopic => {
            query(&[])?;
            let body = document(state, &head.headers, body, deadline).await?;
            topics::create(services, &body.bytes, deadline).await
        }
        ApiTarget::DescribeTopic(name) => {
            query(&[])?;
            topics::describe(services, &topic_name(&name)?, deadline).await
        }
        ApiTarget::ChangeTopic(name) => {
            query(&[])?;
            let name = topic_name(&name)?;
            let body = document(state, &head.headers, body, deadline).await?;
            change_topic::change(services, &name, &body.bytes, deadline).await
        }
        ApiTarget::DeleteTopic(name) => {
            query(&[])?;
            topics::delete(services, &topic_name(&name)?, deadline).await
        }
        ApiTarget::Produce(name) => {
            let query = query(produce::PARAMETERS)?;
            let name = topic_name(&name)?;
            let body_type = BodyType::of(&head.headers)?;
            let body = body::read(state, body, deadline).await?;
            produce::produce(state, services, &name, &query, body_type, body, deadline).await
        }
        ApiTarget::Consume(name) => {
            let query = query(consume::PARAMETERS)?;
            consume::consume(state, services, &topic_name(&name)?, &query, deadline).await
        }
    }
}

fn topic_name(name: &str) -> Result<TopicName, Problem> {
    TopicName::new(name).map_err(|error| Problem::new(ErrorCode::InvalidTopicName, error.to_string()))
}

/// Reads the body of a request that takes one JSON document.
async fn document<B>(
    state: &HttpState,
    headers: &hyper::HeaderMap,
    body: B,
    deadline: Deadline,
) -> Result<ReadBody, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match BodyType::of(headers)? {
        BodyType::Json => body::read(state, body, deadline).await,
        BodyType::JsonLines => Err(Problem::invalid("one JSON document is expected: send 'application/json'")),
    }
}

/// Parses a document; unknown members, wrong types and bad syntax are refused with their place.
fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| Problem::invalid(format!("the body: {error}")))
}

/// Runs work that may keep a processor for long (parsing, decompressing, encoding) where it holds up nobody else.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    blocking::spawn(work).await.map_err(|error| {
        tracing::error!(%error, "an HTTP request's work ended without a result");
        Problem::new(ErrorCode::Internal, "the broker could not finish this request; its log has the cause")
    })
}
