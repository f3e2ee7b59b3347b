//! Paths and methods: the whole list of what this listener answers.

use hyper::Method;

use super::problem::{Problem, ProblemCode};
use super::query::percent_decoded;
use crate::config::suggestion::nearest;
use crate::metrics::label::Route;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Probe(Probe),
    Metrics,
    Build,
    Api(ApiTarget),
}

/// A question about this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Health,
    Live,
    Ready,
    Startup,
}

/// A call of the REST API. Names are as the client sent them, not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ApiTarget {
    Cluster,
    ClusterHealth,
    Brokers,
    Broker(String),
    ListTopics,
    CreateTopic,
    DescribeTopic(String),
    ChangeTopic(String),
    DeleteTopic(String),
    Produce(String),
    Consume(String),
}

impl Target {
    /// The label that metrics count it under.
    pub(super) fn label(&self) -> Route {
        match self {
            Self::Probe(_) => Route::Probe,
            Self::Metrics => Route::Metrics,
            Self::Build => Route::Build,
            Self::Api(api) => match api {
                ApiTarget::Cluster | ApiTarget::ClusterHealth | ApiTarget::Brokers | ApiTarget::Broker(_) => {
                    Route::Cluster
                }
                ApiTarget::ListTopics | ApiTarget::CreateTopic => Route::Topics,
                ApiTarget::DescribeTopic(_) | ApiTarget::ChangeTopic(_) | ApiTarget::DeleteTopic(_) => Route::Topic,
                ApiTarget::Produce(_) => Route::Produce,
                ApiTarget::Consume(_) => Route::Consume,
            },
        }
    }
}

/// Fixed paths, for "did you mean".
const FIXED: [&str; 13] = [
    "/health",
    "/health/live",
    "/health/ready",
    "/health/startup",
    "/healthz",
    "/livez",
    "/readyz",
    "/startupz",
    "/metrics",
    "/build",
    "/api/v1/cluster",
    "/api/v1/brokers",
    "/api/v1/topics",
];

/// Finds what `method` on `path` asks for. `HEAD` asks for what `GET` does; hyper leaves the body out.
pub(super) fn resolve(method: &Method, path: &str) -> Result<Target, Problem> {
    let is_get = method == Method::GET || method == Method::HEAD;
    let only_get = |target: Target| if is_get { Ok(target) } else { Err(not_allowed(method, path, "GET, HEAD")) };
    let segments: Vec<String> = path
        .trim_matches('/')
        .split('/')
        .map(percent_decoded)
        .collect::<Option<_>>()
        .ok_or_else(|| Problem::invalid(format!("the path '{path}' is not UTF-8 with percent encoding")))?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["health"] | ["healthz"] => only_get(Target::Probe(Probe::Health)),
        ["health", "live"] | ["livez"] => only_get(Target::Probe(Probe::Live)),
        ["health", "ready"] | ["readyz"] => only_get(Target::Probe(Probe::Ready)),
        ["health", "startup"] | ["startupz"] => only_get(Target::Probe(Probe::Startup)),
        ["metrics"] => only_get(Target::Metrics),
        ["build"] => only_get(Target::Build),
        ["api", "v1", "cluster"] => only_get(Target::Api(ApiTarget::Cluster)),
        ["api", "v1", "cluster", "health"] => only_get(Target::Api(ApiTarget::ClusterHealth)),
        ["api", "v1", "brokers"] => only_get(Target::Api(ApiTarget::Brokers)),
        ["api", "v1", "brokers", id] => only_get(Target::Api(ApiTarget::Broker((*id).to_owned()))),
        ["api", "v1", "topics"] => match *method {
            Method::POST => Ok(Target::Api(ApiTarget::CreateTopic)),
            _ if is_get => Ok(Target::Api(ApiTarget::ListTopics)),
            _ => Err(not_allowed(method, path, "GET, HEAD, POST")),
        },
        ["api", "v1", "topics", name] => match *method {
            Method::PATCH => Ok(Target::Api(ApiTarget::ChangeTopic((*name).to_owned()))),
            Method::DELETE => Ok(Target::Api(ApiTarget::DeleteTopic((*name).to_owned()))),
            _ if is_get => Ok(Target::Api(ApiTarget::DescribeTopic((*name).to_owned()))),
            _ => Err(not_allowed(method, path, "GET, HEAD, PATCH, DELETE")),
        },
        ["api", "v1", "topics", name, "records"] => match *method {
            Method::POST => Ok(Target::Api(ApiTarget::Produce((*name).to_owned()))),
            _ if is_get => Ok(Target::Api(ApiTarget::Consume((*name).to_owned()))),
            _ => Err(not_allowed(method, path, "GET, HEAD, POST")),
        },
        _ => Err(unknown_path(path)),
    }
}

fn not_allowed(method: &Method, path: &str, allow: &'static str) -> Problem {
    Problem::http(ProblemCode::MethodNotAllowed(allow), format!("{method} is not served at {path}: use {allow}"))
}

fn unknown_path(path: &str) -> Problem {
    let shown: String = path.chars().take(200).collect();
    let hint = nearest(path, FIXED).map_or_else(
        || "the API is under /api/v1 (cluster, brokers, topics), probes under /health".to_owned(),
        |known| format!("did you mean {known}?"),
    );
    Problem::http(ProblemCode::UnknownPath, format!("nothing is served at {shown}: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_path_leads_somewhere() {
        for (method, path, expected) in [
            (Method::GET, "/health", Target::Probe(Probe::Health)),
            (Method::HEAD, "/healthz", Target::Probe(Probe::Health)),
            (Method::GET, "/health/live", Target::Probe(Probe::Live)),
            (Method::GET, "/livez", Target::Probe(Probe::Live)),
            (Method::GET, "/health/ready/", Target::Probe(Probe::Ready)),
            (Method::GET, "/readyz", Target::Probe(Probe::Ready)),
            (Method::GET, "/health/startup", Target::Probe(Probe::Startup)),
            (Method::GET, "/startupz", Target::Probe(Probe::Startup)),
            (Method::GET, "/metrics", Target::Metrics),
            (Method::GET, "/build", Target::Build),
            (Method::GET, "/api/v1/cluster", Target::Api(ApiTarget::Cluster)),
            (Method::GET, "/api/v1/cluster/health", Target::Api(ApiTarget::ClusterHealth)),
            (Method::GET, "/api/v1/brokers", Target::Api(ApiTarget::Brokers)),
            (Method::GET, "/api/v1/brokers/1", Target::Api(ApiTarget::Broker("1".to_owned()))),
            (Method::GET, "/api/v1/topics", Target::Api(ApiTarget::ListTopics)),
            (Method::POST, "/api/v1/topics", Target::Api(ApiTarget::CreateTopic)),
            (Method::GET, "/api/v1/topics/a%2Eb", Target::Api(ApiTarget::DescribeTopic("a.b".to_owned()))),
            (Method::PATCH, "/api/v1/topics/t", Target::Api(ApiTarget::ChangeTopic("t".to_owned()))),
            (Method::DELETE, "/api/v1/topics/t", Target::Api(ApiTarget::DeleteTopic("t".to_owned()))),
            (Method::POST, "/api/v1/topics/t/records", Target::Api(ApiTarget::Produce("t".to_owned()))),
            (Method::GET, "/api/v1/topics/t/records", Target::Api(ApiTarget::Consume("t".to_owned()))),
        ] {
            assert_eq!(resolve(&method, path), Ok(expected), "{method} {path}");
        }
    }

    #[test]
    fn what_is_not_served_says_what_is() {
        let unknown = resolve(&Method::GET, "/api/v1/topcis").expect_err("no such path");
        assert_eq!(
            (unknown.code, unknown.detail.contains("did you mean /api/v1/topics?")),
            (ProblemCode::UnknownPath, true)
        );
        let method = resolve(&Method::PUT, "/api/v1/topics/t").expect_err("no such method");
        assert_eq!(method.code, ProblemCode::MethodNotAllowed("GET, HEAD, PATCH, DELETE"));
        assert!(resolve(&Method::POST, "/health/live").is_err());
        assert_eq!(
            resolve(&Method::GET, "/api/v1/topics/%ff").expect_err("not UTF-8").code.as_str(),
            "INVALID_REQUEST"
        );
    }
}
