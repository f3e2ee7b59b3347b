//! Bodies in and out: what is answered, and reading a request's body within its limits.

use std::fmt;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use streambus_protocol::error_code::ErrorCode;

use super::HttpState;
use super::budget::BudgetPermit;
use super::problem::{Problem, ProblemCode};
use crate::clock::Deadline;

/// An answer's body: complete before its first byte is sent, so that an error never comes behind a 200.
pub(super) type Answer = Full<Bytes>;

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Answer> {
    with_body(status, "application/json", bytes_of(value))
}

/// A JSON answer whose bytes give `permit` back when they have been sent.
pub(super) fn json_within(status: StatusCode, value: &impl Serialize, permit: BudgetPermit) -> Response<Answer> {
    with_body(status, "application/json", permit.hold(bytes_of(value)))
}

/// An answer of any type.
pub(super) fn with_body(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Response<Answer> {
    let mut answer = Response::new(Full::new(bytes));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Everything here is about now.
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// `value` as one line of JSON. Our own types serialise: they have string keys and no failing parts.
pub(super) fn bytes_of(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer could not be written as JSON");
        b"null".to_vec()
    });
    text.push(b'\n');
    text.into()
}

/// The two JSON types of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyType {
    /// One document.
    Json,
    /// One document a line.
    JsonLines,
}

impl BodyType {
    /// The request's type. A body must say that it is JSON: a browser sends that to a foreign host only after asking,
    /// and we never answer that question, so that no web page can write to a broker on somebody's machine.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Ok(Self::Json),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/jsonlines" => {
                Ok(Self::JsonLines)
            }
            _ => Err(Problem::http(
                ProblemCode::UnsupportedMediaType,
                format!(
                    "content-type '{declared}' is not read here: send 'application/json', or 'application/x-ndjson' \
                     for one JSON document a line"
                ),
            )),
        }
    }
}

/// A request's body with its place in the budget.
#[derive(Debug)]
pub(super) struct ReadBody {
    pub(super) bytes: Bytes,
    /// Given back when the request has been answered.
    pub(super) _permit: BudgetPermit,
}

/// Reads the whole body. Its place in the budget is taken before its first byte is.
pub(super) async fn read<B>(state: &HttpState, body: B, deadline: Deadline) -> Result<ReadBody, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let max = state.config.body_bytes_max;
    let too_large = || {
        let detail = format!("the body is larger than `http.body_bytes_max` ({max} bytes): send it in parts");
        Problem::new(ErrorCode::RequestTooLarge, detail)
    };
    let declared = body.size_hint();
    if declared.lower() > max {
        return Err(too_large());
    }
    let permit = state.budget.take(declared.upper().unwrap_or(max).min(max))?;
    let limited = Limited::new(body, usize::try_from(max).unwrap_or(usize::MAX));
    match deadline.limit(limited.collect()).await {
        Some(Ok(whole)) => Ok(ReadBody { bytes: whole.to_bytes(), _permit: permit }),
        Some(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Some(Err(error)) => Err(Problem::new(ErrorCode::MalformedRequest, format!("the body did not arrive: {error}"))),
        None => Err(Problem::invalid("the body did not arrive within `http.request_timeout`; nothing was done")),
    }
}
