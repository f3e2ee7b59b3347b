//! One request from its head to its answer: id, route, deadline, handler, metrics.

use std::fmt;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hyper::body::Body;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;

use super::body::{Answer, json, with_body};
use super::problem::{Problem, ProblemCode};
use super::route::{Target, resolve};
use super::{HttpState, api, probe};
use crate::clock::Deadline;
use crate::metrics::label::Route;
use streambus_protocol::error_code::ErrorCode;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client's own request id is taken over up to this length.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Answers `request`; refusals are answers too.
pub(super) async fn answer<B>(state: &HttpState, request: Request<B>) -> Response<Answer>
where
    B: Body<Data = Bytes>,
    B::Error: fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let begun = state.clock.monotonic();
    let request_id = request_id(state, request.headers());
    let target = resolve(request.method(), request.uri().path());
    let label = target.as_ref().map_or(Route::Unknown, Target::label);
    let outcome = match target {
        Ok(target) => handle(state, target, request).await,
        Err(problem) => Err(problem),
    };
    let mut answer = outcome.unwrap_or_else(|problem| {
        let (code, detail) = (problem.code.as_str(), &problem.detail);
        tracing::debug!(request_id, code, detail, "refused an HTTP request");
        problem.into_answer(&request_id)
    });
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        answer.headers_mut().insert(REQUEST_ID, id);
    }
    let took = state.clock.monotonic().saturating_sub(begun);
    state.metrics.http_request(label, answer.status().as_u16(), took);
    answer
}

async fn handle<B>(state: &HttpState, target: Target, request: Request<B>) -> Result<Response<Answer>, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match target {
        Target::Probe(probe) => Ok(probe::answer(probe, &state.lifecycle)),
        Target::Metrics => {
            let text = state.metrics.render().map_err(|error| {
                tracing::error!(%error, "the metrics could not be rendered");
                Problem::new(ErrorCode::Internal, "the metrics could not be rendered")
            })?;
            Ok(with_body(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into()))
        }
        Target::Build => Ok(json(StatusCode::OK, &Build::THIS)),
        Target::Api(target) => {
            check_host(state, request.headers())?;
            let Some(services) = state.services.get() else {
                let stage = state.lifecycle.get();
                return Err(Problem::new(ErrorCode::NotReady, format!("the broker is {stage}: try again soon")));
            };
            let deadline = Deadline::after(state.config.request_timeout);
            api::handle(state, services, target, request, deadline).await
        }
    }
}

/// While only this machine can connect, a foreign name in `Host` means that a web page had its own name resolve to
/// this machine (DNS rebinding) and now speaks to us as if we were its server.
fn check_host(state: &HttpState, headers: &HeaderMap) -> Result<(), Problem> {
    if !state.config.listen.is_loopback() {
        return Ok(());
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_ours = name.is_empty() || name == "localhost" || name.parse::<std::net::IpAddr>().is_ok();
    if is_ours {
        return Ok(());
    }
    Err(Problem::http(
        ProblemCode::ForeignHost,
        format!("this broker listens on {} only and does not answer as '{name}'", state.config.listen),
    ))
}

/// The client's id when it is harmless to repeat, else one of our own.
fn request_id(state: &HttpState, headers: &HeaderMap) -> String {
    let is_harmless = |id: &&str| {
        !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
    };
    match headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_harmless) {
        Some(id) => id.to_owned(),
        None => format!("{:016x}-{}", state.id_seed, state.requests.fetch_add(1, Ordering::Relaxed)),
    }
}

/// What this binary is.
#[derive(Serialize)]
struct Build {
    name: &'static str,
    version: &'static str,
    target_os: &'static str,
    target_arch: &'static str,
}

impl Build {
    const THIS: Self = Self {
        name: "streambus",
        version: env!("CARGO_PKG_VERSION"),
        target_os: std::env::consts::OS,
        target_arch: std::env::consts::ARCH,
    };
}
