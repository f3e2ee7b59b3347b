//! Where the broker stands between start and stop, and what is wrong with it now. Probes and doors read it.
//!
//! ```text
//! Starting -> Recovering -> Ready -> Draining -> Stopped
//!     \____________\_________\__________\-----> Failed(reason)
//! ```
//! A stop may be asked for at any time, so Draining is reachable from every state before it. Stopped and Failed are
//! final: a broker that comes back is a new process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// A stage of the broker's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Configuration is read, nothing is open yet.
    Starting,
    /// The data directory and the metadata are being recovered.
    Recovering,
    /// Requests are served.
    Ready,
    /// No new work is taken; what is in flight may finish.
    Draining,
    /// Everything is closed and on disk.
    Stopped,
    /// It cannot go on, for this reason.
    Failed(String),
}

impl State {
    /// Every state's name, in order; `Failed` without its reason.
    pub const NAMES: [&'static str; 6] = ["starting", "recovering", "ready", "draining", "stopped", "failed"];

    /// The name without the reason, for JSON and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Failed(_) => "failed",
        }
    }

    /// Whether a broker may go from here to `next` in one step.
    pub fn may_become(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Starting, Self::Recovering | Self::Draining | Self::Failed(_))
            | (Self::Recovering, Self::Ready | Self::Draining | Self::Failed(_))
            | (Self::Ready, Self::Draining | Self::Failed(_))
            | (Self::Draining, Self::Stopped | Self::Failed(_)) => true,
            (Self::Starting | Self::Recovering | Self::Ready | Self::Draining, _)
            | (Self::Stopped | Self::Failed(_), _) => false,
        }
    }

    /// True while probes should let the process live on: it is neither stopped nor failed.
    pub fn is_running(&self) -> bool {
        !matches!(self, Self::Stopped | Self::Failed(_))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) => write!(f, "failed: {reason}"),
            other => f.write_str(other.name()),
        }
    }
}

/// A step that [`State::may_become`] does not allow; the state is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a broker that is {from} cannot become {to}")]
pub struct IllegalTransition {
    /// Where it stands.
    pub from: State,
    /// Where it should have gone.
    pub to: State,
}

/// A part of the broker that can have a problem. Each has at most one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The data directory: read-only after a failed sync, full, damaged.
    Storage,
    /// The cluster metadata: no quorum, no controller.
    Metadata,
    /// This broker's place among the others.
    Cluster,
    /// Its replicas: one that stopped, one whose damage no other replica can repair.
    Replication,
    /// Logs on its disk that it is not known to hold, and that nothing proves to be superfluous.
    Strays,
    /// The listener for clients.
    Clients,
    /// The HTTP listener.
    Http,
}

impl Component {
    /// Every component, in the order of reports.
    pub const ALL: [Self; 7] =
        [Self::Storage, Self::Metadata, Self::Cluster, Self::Replication, Self::Strays, Self::Clients, Self::Http];

    /// The name in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Metadata => "metadata",
            Self::Cluster => "cluster",
            Self::Replication => "replication",
            Self::Strays => "strays",
            Self::Clients => "clients",
            Self::Http => "http",
        }
    }
}

/// Something that is wrong now and needs a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What has it.
    pub component: Component,
    /// What is wrong and what to do about it.
    pub message: String,
    /// True when this broker should get no traffic while it lasts. Never for a peer's trouble.
    pub blocks_ready: bool,
}

/// The broker's lifecycle, shared by everyone who reports or obeys it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    problems: Mutex<BTreeMap<Component, Problem>>,
}

impl Lifecycle {
    /// A broker that is starting.
    #[expect(clippy::new_without_default, reason = "a lifecycle is created once, by the composition root, on purpose")]
    pub fn new() -> Self {
        let (state, _) = watch::channel(State::Starting);
        Self { shared: Arc::new(Shared { state, problems: Mutex::default() }) }
    }

    /// Takes one step and wakes everyone who watches.
    ///
    /// # Errors
    /// The step is not allowed; nothing has changed. Setting the state the broker already has is such a step.
    pub fn set(&self, next: State) -> Result<(), IllegalTransition> {
        let mut refused = None;
        self.shared.state.send_if_modified(|state| {
            if state.may_become(&next) {
                *state = next.clone();
                return true;
            }
            refused = Some(state.clone());
            false
        });
        refused.map_or(Ok(()), |from| Err(IllegalTransition { from, to: next }))
    }

    /// The state now.
    pub fn get(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// Follows the state; the receiver starts with the one now.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// Waits until the broker is ready, or cannot become so any more.
    ///
    /// # Errors
    /// The state that cannot lead to Ready.
    pub async fn ready(&self) -> Result<(), State> {
        let mut watch = self.watch();
        let reached = watch.wait_for(|state| !matches!(state, State::Starting | State::Recovering)).await;
        match reached.as_deref() {
            Ok(State::Ready) => Ok(()),
            Ok(other) => Err(other.clone()),
            // `self` holds the sender, so the channel cannot have closed while we borrow it.
            Err(_) => Err(self.get()),
        }
    }

    /// Reports a problem in place of the component's earlier one.
    pub fn report(&self, problem: Problem) {
        self.shared.problems.lock().insert(problem.component, problem);
    }

    /// Takes back what `component` reported.
    pub fn clear(&self, component: Component) {
        self.shared.problems.lock().remove(&component);
    }

    /// What is wrong now, in the order of [`Component::ALL`].
    pub fn problems(&self) -> Vec<Problem> {
        self.shared.problems.lock().values().cloned().collect()
    }

    /// Why this broker should get no traffic; empty when it should.
    pub fn unready_reasons(&self) -> Vec<String> {
        let state = self.get();
        let stage = (state != State::Ready).then(|| format!("the broker is {state}"));
        let blocking = self.problems().into_iter().filter(|problem| problem.blocks_ready);
        stage.into_iter().chain(blocking.map(|p| format!("{}: {}", p.component.name(), p.message))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> [State; 6] {
        [
            State::Starting,
            State::Recovering,
            State::Ready,
            State::Draining,
            State::Stopped,
            State::Failed("disk".to_owned()),
        ]
    }

    /// All 36 steps against the drawing: catches a broker that turns ready without recovery, or comes back from a stop.
    #[test]
    fn only_the_drawn_steps_are_legal() {
        let legal = [
            ("starting", "recovering"),
            ("starting", "draining"),
            ("starting", "failed"),
            ("recovering", "ready"),
            ("recovering", "draining"),
            ("recovering", "failed"),
            ("ready", "draining"),
            ("ready", "failed"),
            ("draining", "stopped"),
            ("draining", "failed"),
        ];
        for from in states() {
            for to in states() {
                assert_eq!(from.may_become(&to), legal.contains(&(from.name(), to.name())), "{from} -> {to}");
            }
        }
    }

    #[test]
    fn a_refused_step_changes_nothing_and_wakes_nobody() {
        let lifecycle = Lifecycle::new();
        let mut watch = lifecycle.watch();
        watch.mark_unchanged();
        let refused = lifecycle.set(State::Ready);
        assert_eq!(refused, Err(IllegalTransition { from: State::Starting, to: State::Ready }));
        assert_eq!(lifecycle.get(), State::Starting);
        assert!(!watch.has_changed().expect("the lifecycle lives"));
        lifecycle.set(State::Recovering).expect("legal");
        assert!(watch.has_changed().expect("the lifecycle lives"));
    }

    #[tokio::test]
    async fn waiting_for_ready_ends_when_it_cannot_come() {
        let lifecycle = Lifecycle::new();
        let (outcome, ()) = tokio::join!(lifecycle.ready(), async {
            lifecycle.set(State::Failed("no disk".to_owned())).expect("legal");
        });
        assert_eq!(outcome, Err(State::Failed("no disk".to_owned())));

        let lifecycle = Lifecycle::new();
        let (outcome, ()) = tokio::join!(lifecycle.ready(), async {
            lifecycle.set(State::Recovering).expect("legal");
            lifecycle.set(State::Ready).expect("legal");
        });
        assert_eq!(outcome, Ok(()));
    }

    #[test]
    fn a_component_has_one_problem_at_a_time_and_can_recover() {
        let lifecycle = Lifecycle::new();
        lifecycle.set(State::Recovering).expect("legal");
        lifecycle.set(State::Ready).expect("legal");
        let problem = |message: &str, blocks_ready| Problem {
            component: Component::Storage,
            message: message.to_owned(),
            blocks_ready,
        };
        lifecycle.report(problem("nearly full", false));
        assert!(lifecycle.unready_reasons().is_empty(), "a warning takes no traffic away");
        lifecycle.report(problem("read-only", true));
        assert_eq!(lifecycle.problems().len(), 1);
        assert_eq!(lifecycle.unready_reasons(), ["storage: read-only"]);
        lifecycle.clear(Component::Storage);
        assert!(lifecycle.unready_reasons().is_empty());
    }
}
