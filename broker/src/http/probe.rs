//! Probes: questions about this process alone. A peer's trouble never makes them red.

use hyper::{Response, StatusCode};
use serde::Serialize;

use super::body::{Answer, json};
use super::route::Probe;
use crate::lifecycle::{Lifecycle, State};

/// Answers without any disk, peer or lock that could be held for long.
pub(super) fn answer(probe: Probe, lifecycle: &Lifecycle) -> Response<Answer> {
    match probe {
        Probe::Health => json(StatusCode::OK, &health(lifecycle)),
        // That this line runs is the answer: the runtime is alive.
        Probe::Live => json(StatusCode::OK, &Verdict { ok: true, reasons: Vec::new() }),
        Probe::Ready => verdict(lifecycle.unready_reasons()),
        Probe::Startup => verdict(match lifecycle.get() {
            State::Ready | State::Draining | State::Stopped => Vec::new(),
            state @ (State::Starting | State::Recovering | State::Failed(_)) => vec![format!("the broker is {state}")],
        }),
    }
}

fn verdict(reasons: Vec<String>) -> Response<Answer> {
    let ok = reasons.is_empty();
    json(if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &Verdict { ok, reasons })
}

fn health(lifecycle: &Lifecycle) -> Health {
    let state = lifecycle.get();
    let reasons = lifecycle.unready_reasons();
    let problems = lifecycle.problems().into_iter().map(|problem| HealthProblem {
        component: problem.component.name(),
        message: problem.message,
        blocks_ready: problem.blocks_ready,
    });
    Health {
        state: state.name(),
        reason: if let State::Failed(reason) = &state { Some(reason.clone()) } else { None },
        ready: reasons.is_empty(),
        version: env!("CARGO_PKG_VERSION"),
        problems: problems.collect(),
    }
}

#[derive(Serialize)]
struct Verdict {
    ok: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

#[derive(Serialize)]
struct Health {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    ready: bool,
    version: &'static str,
    problems: Vec<HealthProblem>,
}

#[derive(Serialize)]
struct HealthProblem {
    component: &'static str,
    message: String,
    blocks_ready: bool,
}
